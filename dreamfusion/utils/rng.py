"""Random numbers for a batch, from one generator or from one per part of the batch.

With one generator per part, a batch gets the same numbers when it is split over processes.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

Generators = torch.Generator | Sequence[torch.Generator]


def rand(shape: Sequence[int], generators: Generators, dtype: torch.dtype | None = None) -> Tensor:
    """Uniform numbers in [0, 1), on the CPU. Several generators share the first axis equally.
    Raises ValueError if that is not possible."""
    return _cat(partial(torch.rand, dtype=dtype), shape, generators)


def randn(shape: Sequence[int], generators: Generators) -> Tensor:
    """Standard normal numbers, on the CPU; see `rand`."""
    return _cat(torch.randn, shape, generators)


def randint(low: int, high: int, shape: Sequence[int], generators: Generators) -> Tensor:
    """Integers from low to high - 1, on the CPU; see `rand`."""
    return _cat(partial(torch.randint, low, high), shape, generators)


def _cat(draw: Callable[..., Tensor], shape: Sequence[int], generators: Generators) -> Tensor:
    if isinstance(generators, torch.Generator):
        generators = [generators]
    if len(generators) == 0 or shape[0] % len(generators):
        raise ValueError(f"{len(generators)} generators cannot share {shape[0]} items equally")
    part = (shape[0] // len(generators), *shape[1:])
    return torch.cat([draw(part, generator=generator) for generator in generators])
