"""Chooses among optional accelerators for each operation, which is declared next to its kernels.

For each operation, each accelerator is tested once per process on a small problem against the
reference in plain torch. An accelerator that is missing, cannot be loaded or compiled, or returns
other numbers is skipped for this operation, with a reason.
"""

import importlib
import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from dreamfusion.utils.errors import UserError, one_line

ACCELERATORS = ("numba", "triton", "tinycudann", "nerfacc", "gsplat")
NOT_INSTALLED = "not installed"


class AcceleratorError(UserError):
    """An accelerator that the user requested cannot be used."""


@dataclass(frozen=True, eq=False)
class Operation:
    """An operation that accelerators can perform instead of plain torch.

    name: in messages. setting: the setting that chooses the accelerator.
    order: accelerators that "auto" tries, by kind of device, best first; then the reference.
    kernels: by accelerator, a function that imports and returns its kernel.
    self_test: runs a kernel on a device on a small problem; raises if it and the reference differ.
    """

    name: str
    setting: str
    order: Mapping[str, tuple[str, ...]]
    kernels: Mapping[str, Callable[[], Callable[..., Any]]]
    self_test: Callable[[Callable[..., Any], str], object]


def interpreted() -> bool:
    """Whether Triton interprets its kernels (TRITON_INTERPRET=1), which works on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@lru_cache
def probe(operation: Operation, name: str) -> str | None:
    """Test an accelerator, one of ACCELERATORS, for an operation. Returns None if it works, else
    one line on why it cannot be used. Results are cached per process (`probe.cache_clear()` resets
    them). Raises ValueError for an accelerator without a kernel, but not for a broken one."""
    if name not in operation.kernels:
        raise ValueError(
            f"{operation.name} is done by one of {', '.join(operation.kernels)}, not {name!r}"
        )
    if importlib.util.find_spec(name) is None:
        return NOT_INSTALLED
    on_gpu = name != "numba" and not (name == "triton" and interpreted())
    if on_gpu and not torch.cuda.is_available():
        return "needs an NVIDIA GPU, and torch finds none"
    try:
        importlib.import_module(name)
        # The caller may be rendering an image without gradients.
        with torch.inference_mode(False), torch.enable_grad():
            operation.self_test(operation.kernels[name](), "cuda" if on_gpu else "cpu")
    # Compiled packages raise many kinds of errors: ImportError, OSError, RuntimeError of a driver,
    # CalledProcessError of a compiler.
    except Exception as error:
        return one_line(f"{type(error).__name__}: {error}", 160)
    return None


def choose(
    operation: Operation,
    requested: str,
    device_type: str,
    *,
    dtype: torch.dtype = torch.float32,
    unfit: tuple[str, ...] = (),
) -> str:
    """The accelerator for an operation on a kind of device: `requested`; for "auto" the first
    usable one, else "reference", which is plain torch.

    dtype: of the tensors; accelerators support float32 only. unfit: accelerators that "auto" must
    not choose. Raises AcceleratorError if `requested` cannot be used, and ValueError if it does not
    support the dtype.
    """
    if requested == "reference" or (requested == "auto" and dtype != torch.float32):
        return "reference"
    if requested == "auto":
        candidates = (n for n in operation.order.get(device_type, ()) if n not in unfit)
        return next((n for n in candidates if probe(operation, n) is None), "reference")
    if (problem := probe(operation, requested)) is not None:
        raise AcceleratorError(
            f"{requested} cannot be used: {problem}; install or repair it, or set "
            f"{operation.setting}=auto"
        )
    # The interpreter accepts tensors on any device.
    anywhere = requested == "triton" and interpreted()
    if requested not in operation.order.get(device_type, ()) and not anywhere:
        raise AcceleratorError(
            f"{requested} does not run on {device_type}; set {operation.setting}=auto"
        )
    if dtype != torch.float32:
        raise ValueError(f"{requested} supports {operation.name} in float32 only, not {dtype}")
    return requested


def skipped(operation: Operation, requested: str, device_type: str, chosen: str) -> tuple[str, ...]:
    """One line for each installed accelerator that "auto" skipped before `chosen`."""
    if requested != "auto":
        return ()
    order = operation.order.get(device_type, ())
    before = order[: order.index(chosen)] if chosen in order else order
    problems = {name: probe(operation, name) for name in before}
    return tuple(
        f"{name} is installed but cannot be used for {operation.name}: {problem}"
        for name, problem in problems.items()
        if problem not in (None, NOT_INSTALLED)
    )


def check_close(what: str, found: Tensor, expected: Tensor) -> None:
    """For self-tests: raise RuntimeError unless two tensors agree to 1e-3. what: their name."""
    worst = float((found - expected).abs().max())
    if not worst <= 1e-3:
        raise RuntimeError(f"its {what} differs from the reference's by {worst:g}")
