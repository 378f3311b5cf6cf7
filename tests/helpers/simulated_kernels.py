"""Numba kernels that replace Triton's on a simulated GPU and have the same arguments, so that tests
run the Python code of the Triton backend at an acceptable speed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from dreamfusion.scenes.nerf.hashgrid import numba as numba_encoding
from dreamfusion.scenes.nerf.hashgrid import triton as triton_encoding
from dreamfusion.scenes.nerf.ray_marching import numba as numba_marching
from dreamfusion.scenes.nerf.ray_marching import triton as triton_marching
from dreamfusion.utils.backends import probe
from tests.helpers.simulated_gpu import DeviceMismatch, SimulatedGpu, SimulatedTensor


class _Kernel:
    """Launched like a Triton kernel: on the current device, with contiguous tensors on it."""

    def __init__(self, real: Any, work: Callable[..., None]) -> None:
        self.names, self.work = real.arg_names, work

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        assert 0 < grid[0] < 2**31 and all(0 < n < 2**16 for n in grid[1:])
        return self.launch

    def launch(self, *args: Any, **constants: Any) -> None:
        assert SimulatedGpu.here is not None
        current = torch.device("cuda", SimulatedGpu.here.current)
        tensors = [value for value in args if isinstance(value, Tensor)]
        places = {str(tensor.device) for tensor in tensors}
        if places != {str(current)}:
            raise DeviceMismatch(f"a kernel on {current} got pointers to {', '.join(places)}")
        assert all(tensor.is_contiguous() for tensor in tensors)
        SimulatedGpu.here.kernels[str(current), self.work.__name__] += 1
        plain = [v.numbers.numpy() if isinstance(v, SimulatedTensor) else v for v in args]
        self.work(**dict(zip(self.names, plain, strict=False)), **constants)


def _encode(points, table, levels, values, n_points, N_FEATURES, BACKWARD, **_):
    forward, backward = numba_encoding._kernels(N_FEATURES)
    levels = levels.astype(np.int64)
    if not BACKWARD:
        forward(0, n_points, points, table, levels, values)
        return
    for level in range(len(levels)):
        backward(points, values, levels, table, level)


def _march(
    origins, directions, near, far, jitter, occupied, bound, offsets, positions, t_out, index,
    n_rays, n_steps, step, max_bound, FILL, **_,
):  # fmt: skip
    if not FILL:  # not written: Triton accepts any tensor, numba needs the shape
        positions = np.empty((0, 3), np.float32)
    occupied = occupied.view(np.bool_)
    bounds = numba_marching._bounds(occupied)
    numba_marching._march(
        0, n_rays, origins, directions, jitter, occupied, bound, *bounds, np.float32(step),
        max_bound, offsets, FILL, positions, t_out, index,
    )  # fmt: skip


@contextmanager
def simulated_cuda(**world: Any) -> Iterator[SimulatedGpu]:
    """Simulated NVIDIA GPUs with working Triton kernels; see SimulatedGpu."""
    encode = _Kernel(triton_encoding._encode, _encode)
    march = _Kernel(triton_marching._march, _march)
    probe.cache_clear()
    with (
        mock.patch.dict("os.environ", TRITON_INTERPRET="0"),
        mock.patch.object(triton_encoding, "_encode", encode),
        mock.patch.object(triton_marching, "_march", march),
        SimulatedGpu(**world) as gpu,
    ):
        yield gpu
    probe.cache_clear()
    triton_encoding._level_tensor.cache_clear()
