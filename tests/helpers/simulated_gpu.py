"""A simulated GPU, for machines without one.

    with SimulatedGpu() as gpu:
        prior = load_prior(folder, device="cuda:1")
    gpu.waits       # Counter: what made the CPU wait for the GPU, and where

A `SimulatedTensor` has its values on the CPU and reports that it is on a GPU. Operators raise for
tensors on different devices, as on a real GPU. For torch's C++ code, the tensor is on the "meta"
device, which supports indices and needs no driver: "meta:1" in C++ is "cuda:1" in Python; "meta"
without an index is not changed.

It does not simulate compilation, speed and rounding of kernels.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torchgen
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torchgen.gen import parse_native_yaml
from torchgen.model import DispatchKey

from tests.helpers import ROOT

CPU = torch.device("cpu")
# The CPU needs the result of these operators, and waits for all queued work of the GPU.
WAITS = {
    "_local_scalar_dense", "nonzero", "masked_select", "equal", "bincount", "_unique2",
    "unique_dim", "unique_consecutive", "repeat_interleave.Tensor",
}  # fmt: skip
# Other arguments of these operators may be on the CPU.
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
FILLING = {"masked_fill", "masked_fill_", "index_fill", "index_fill_"}


class DeviceMismatch(RuntimeError):
    """The error of a GPU for tensors on different devices."""


class SimulatedTensor(Tensor):
    """numbers: the values, on the CPU. there: the simulated device."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, numbers: Tensor, there: torch.device) -> SimulatedTensor:
        return Tensor._make_wrapper_subclass(
            cls, numbers.shape, strides=numbers.stride(), dtype=numbers.dtype,
            device=torch.device("meta", there.index),
        )  # fmt: skip

    def __init__(self, numbers: Tensor, there: torch.device) -> None:
        self.numbers, self.there = numbers, there

    @property
    def device(self) -> torch.device:
        return self.there

    @property
    def is_cuda(self) -> bool:
        return self.there.type == "cuda"

    @property
    def is_mps(self) -> bool:
        return self.there.type == "mps"

    is_cpu = is_meta = property(lambda self: False)

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, value: SimulatedTensor) -> None:
        torch._C.TensorBase.data.__set__(self, value)
        self.numbers, self.there = value.numbers, value.there

    def get_device(self) -> int:
        return self.there.index

    def cpu(self) -> Tensor:
        return self.to("cpu")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *args: object, **kwargs: object) -> None:
        raise TypeError(
            f"can't convert {self.there} device type tensor to numpy. Use Tensor.cpu() to copy the "
            "tensor to host memory first."
        )

    __array__ = numpy

    def __repr__(self) -> str:
        return f"{self.numbers!r} on {self.there}"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert SimulatedGpu.here is not None, "a simulated tensor outlives its GPU"
        return SimulatedGpu.here.run(func, args, kwargs or {})


class SimulatedGpu:
    """A context manager that simulates GPUs; not reentrant.

    kind: "cuda" or "mps". devices: their number. free: bytes of free memory to report. bfloat16:
    whether they support it. current: index of the current one. waits: how often the CPU waited, by
    (reason, "file:line function"). kernels: the kernels that ran on each device.
    """

    here: SimulatedGpu | None = None

    def __init__(
        self, kind: str = "cuda", *, devices: int = 2, free: int = 70 << 30, bfloat16: bool = True
    ) -> None:
        self.kind, self.devices, self.free, self.bfloat16 = kind, devices, free, bfloat16
        self.current = 0
        self.waits: Counter[tuple[str, str]] = Counter()
        self.kernels: Counter[tuple[str, str]] = Counter()

    def __enter__(self) -> SimulatedGpu:
        assert SimulatedGpu.here is None
        self._stack = stack = ExitStack()
        SimulatedGpu.here = self
        stack.callback(setattr, SimulatedGpu, "here", None)
        for module, name, value in self._world():
            stack.enter_context(mock.patch.object(module, name, value, create=module is torch._C))
        # Makes torch.tensor(..., device="cuda") create a tensor on the CPU and then copy it.
        stack.callback(torch._C._set_only_lift_cpu_tensors, torch._C._only_lift_cpu_tensors())
        torch._C._set_only_lift_cpu_tensors(True)
        # Keep the backward pass in this thread, in which the mode is active.
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(_Mode())
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _world(self) -> list[tuple[Any, str, Any]]:
        """Torch's functions that report GPUs: (module, name, value)."""
        of_tensors = [(Tensor, "to", self._to), (Tensor, "pin_memory", _pin_memory)]
        if self.kind == "mps":
            return [(torch.backends.mps, "is_available", lambda: True), *of_tensors]

        def exchange(index: int) -> int:
            before, self.current = self.current, index if index >= 0 else self.current
            return before

        fakes = {
            "_lazy_init": lambda: None,
            "is_available": lambda: True,
            "device_count": lambda: self.devices,
            "current_device": lambda: self.current,
            "_exchange_device": exchange,
            "_maybe_exchange_device": exchange,
            "is_bf16_supported": lambda including_emulation=True: self.bfloat16,
            "mem_get_info": lambda device=None: (self.free, 80 << 30),
            "get_device_name": lambda device=None: "a simulated GPU",
            "get_device_capability": lambda device=None: (9, 0),
            "synchronize": lambda device=None: self._wait("synchronize"),
            "empty_cache": lambda: None,
            "reset_peak_memory_stats": lambda device=None: None,
            "max_memory_allocated": lambda device=None: 0,
            "is_current_stream_capturing": lambda: False,
        }
        of_cuda = [(torch.cuda, name, value) for name, value in fakes.items()]
        # A build with CUDA reports an accelerator even without a driver, which optimisers query.
        no_accelerator = (torch.accelerator, "current_accelerator", lambda *_, **__: None)
        return [*of_cuda, (torch._C, "_cuda_setDevice", exchange), no_accelerator, *of_tensors]

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run an operator on the values. Results are on the simulated GPU of the operands."""
        name = func._schema.name.removeprefix("aten::")
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        asked = kwargs.get("device")
        if asked is not None and self._named(asked).type == self.kind:
            place: torch.device | None = self._named(asked)
            kwargs = {**kwargs, "device": CPU}
        elif asked is not None:
            place = None
        elif name == "copy_":
            place = args[0].device if isinstance(args[0], SimulatedTensor) else None
        else:
            place = self._place(func, name, tensors)
        on_gpu = any(isinstance(tensor, SimulatedTensor) for tensor in tensors)
        if (
            place is not None
            and self.kind == "mps"
            and str(func).removeprefix("aten.") in unknown_to_mps()
        ):
            raise NotImplementedError(
                f"The operator 'aten::{name}' is not currently implemented for the MPS device."
            )
        if on_gpu or place is not None:
            self._account(func, name, args, kwargs, tensors, place)
        mine = {id(t.numbers): t for t in tensors if isinstance(t, SimulatedTensor)}
        plain = tree_map_only(SimulatedTensor, lambda t: t.numbers, (args, kwargs))
        out = func(*plain[0], **plain[1])
        if place is None:
            return out

        def come(result: Tensor) -> Tensor:
            if self.kind == "mps" and result.dtype == torch.float64:
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
            # A tensor that was changed in place keeps its identity.
            found = mine.get(id(result))
            return SimulatedTensor(result, place) if found is None else found

        return tree_map_only(Tensor, come, out)

    def _place(self, func: Any, name: str, tensors: list[Tensor]) -> torch.device | None:
        """The GPU on which an operator runs, None for the CPU. Raises DeviceMismatch."""
        places = {tensor.device for tensor in tensors}
        gpus = places - {CPU, torch.device("meta")}
        if not gpus:
            return None
        strangers = [t for t in tensors if t.device.type == "cpu"]
        # A scalar on the CPU is accepted by elementwise operators on any device.
        small = all(tensor.dim() == 0 for tensor in strangers)
        one_by_one = torch.Tag.pointwise in func.tags or name in FILLING
        mixes = name in INDEXING or (small and one_by_one)
        if len(gpus) > 1 or (strangers and not mixes):
            found = ", ".join(f"{tuple(t.shape)} on {t.device}" for t in tensors)
            raise DeviceMismatch(
                f"Expected all tensors to be on the same device, but {name} got {found}"
            )
        return gpus.pop()

    def _account(
        self, func: Any, name: str, args: Any, kwargs: dict[str, Any], tensors: list[Tensor],
        place: torch.device | None,
    ) -> None:  # fmt: skip
        """Count the operator, and synchronisations of the CPU."""
        if not func.is_view:
            self.kernels[str(place), name] += 1
        if name in ("_to_copy", "copy_"):
            self._account_copy(name, args, kwargs, place)
        elif name in WAITS or f"{name}.{func._overloadname}" in WAITS:
            self._wait(name)
        elif name in INDEXING:
            indices = [index for index in args[1] if index is not None]
            by_mask = any(index.dtype == torch.bool for index in indices)
            # Filling with a scalar does not need the number of selected elements.
            filled = name != "index" and args[2].numel() == 1 and not any(args[3:4])
            if (by_mask and not filled) or any(index.device == CPU for index in indices):
                self._wait(f"{name} by {'a mask' if by_mask else 'an index on the CPU'}")

    def _account_copy(
        self, name: str, args: Any, kwargs: dict[str, Any], place: torch.device | None
    ) -> None:
        """A copy between CPU and GPU synchronises unless it is non-blocking and pinned."""
        source = args[1] if name == "copy_" else args[0]
        asynchronous = kwargs.get("non_blocking") or (name == "copy_" and any(args[2:3]))
        if place is None:
            self._wait("copy to the CPU")
        elif source.device == CPU and not (asynchronous and hasattr(source, "is_pinned_here")):
            self._wait("copy to the GPU")

    @property
    def _to(self) -> Any:
        """`Tensor.to`, with the device translated for torch's C++ code."""

        def known(device: str | torch.device) -> torch.device:
            named = self._named(device)
            return torch.device("meta", named.index) if named.type == self.kind else named

        def to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            args, kwargs = tree_map_only((str, torch.device), known, (args, kwargs))
            return torch._C.TensorBase.to(tensor, *args, **kwargs)

        return to

    def _named(self, device: Any) -> torch.device:
        """A device with its index. Torch's C++ code uses meta:N for GPU N."""
        device = torch.device(device) if isinstance(device, str) else device
        device = torch.device(self.kind, device) if isinstance(device, int) else device
        if device.type == "meta" and device.index is not None:
            return torch.device(self.kind, device.index)
        if device.type != self.kind:
            return device
        index = self.current if device.index is None else device.index
        if index >= self.devices:
            raise RuntimeError("CUDA error: invalid device ordinal")
        return torch.device(self.kind, index)

    def _wait(self, what: str) -> None:
        self.waits[what, _where()] += 1


@cache
def unknown_to_mps() -> frozenset[str]:
    """The operators, as name.overload, that have a CPU kernel but no MPS kernel in the table of
    kernels that torch's packages contain."""
    table = Path(str(torchgen.__file__)).parent / "packaged" / "ATen" / "native"
    parsed = parse_native_yaml(str(table / "native_functions.yaml"), str(table / "tags.yaml"))
    kernels = {
        key: parsed.backend_indices[key].index
        for key in (
            DispatchKey.CPU, DispatchKey.MPS, DispatchKey.CompositeImplicitAutograd,
            DispatchKey.CompositeExplicitAutograd,
            DispatchKey.CompositeExplicitAutogradNonFunctional,
        )
    }  # fmt: skip
    unknown = set()
    for function in parsed.native_functions:
        operator = function.structured_delegate or function.func.name
        having = {key for key, index in kernels.items() if operator in index}
        if having == {DispatchKey.CPU}:
            unknown.add(
                f"{function.func.name.name}.{function.func.name.overload_name or 'default'}"
            )
    return frozenset(unknown)


class _Mode(TorchDispatchMode):
    """Intercepts operators without simulated operands: factories, copies to the GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert SimulatedGpu.here is not None
        return SimulatedGpu.here.run(func, args, kwargs or {})


def _pin_memory(tensor: Tensor) -> Tensor:
    if isinstance(tensor, SimulatedTensor):
        raise RuntimeError(f"cannot pin {tensor.there}, only dense CPU tensors can be pinned")
    pinned = tensor.clone()
    pinned.is_pinned_here = True
    return pinned


def _where() -> str:
    """The innermost line of this project's code on the call stack."""
    frame = sys._getframe(1)
    ours = tuple(str(ROOT / folder) + os.sep for folder in ("dreamfusion", "scripts"))
    while frame is not None:
        if frame.f_code.co_filename.startswith(ours):
            file = frame.f_code.co_filename.removeprefix(f"{ROOT}{os.sep}")
            return f"{file}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "a library"
