"""Random numbers of a batch: from one generator, or from one for each of its parts.

With one for each, a part gets the same numbers whichever other parts are computed beside it, so
that a batch split over processes is the same as whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Generators = torch.Generator | Sequence[torch.Generator]


def rand(shape: Sequence[int], generators: Generators, dtype: torch.dtype | None = None) -> Tensor:
    """Uniform in [0, 1), on the CPU. Several generators share the first axis equally."""
    return torch.cat(
        [torch.rand(part, generator=g, dtype=dtype) for part, g in _parts(shape, generators)]
    )


def randn(shape: Sequence[int], generators: Generators) -> Tensor:
    """Standard normal, on the CPU. Several generators share the first axis equally."""
    return torch.cat([torch.randn(part, generator=g) for part, g in _parts(shape, generators)])


def randint(low: int, high: int, shape: Sequence[int], generators: Generators) -> Tensor:
    """Whole numbers from low to high - 1, on the CPU, as `rand`."""
    return torch.cat(
        [torch.randint(low, high, part, generator=g) for part, g in _parts(shape, generators)]
    )


def _parts(
    shape: Sequence[int], generators: Generators
) -> list[tuple[tuple[int, ...], torch.Generator]]:
    if isinstance(generators, torch.Generator):
        generators = [generators]
    if len(generators) == 0 or shape[0] % len(generators):
        raise ValueError(f"{len(generators)} generators cannot share {shape[0]} items equally")
    part = (shape[0] // len(generators), *shape[1:])
    return [(part, generator) for generator in generators]
