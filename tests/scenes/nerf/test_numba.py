"""All numba kernels are compiled once and then loaded from disk."""

import os
import subprocess
import sys
import textwrap

import pytest


@pytest.mark.slow
def test_kernels_are_compiled_once_and_cached(tmp_path):
    """Kernels that are compiled again would cost every run seconds."""
    work = """
        import torch
        from dreamfusion.graphics.cameras import Rays
        from dreamfusion.scenes.nerf.volume import numba as compositing
        from dreamfusion.scenes.nerf.hashgrid import HashGrid, numba as encoding
        from dreamfusion.scenes.nerf.occupancy import OccupancyGrid
        from dreamfusion.scenes.nerf.ray_marching import numba as marching, march_rays
        from dreamfusion.scenes.nerf.settings import FieldConfig

        rays = Rays(torch.tensor([[0.0, 0, 3]]), torch.tensor([[0.0, 0, -1]]))
        samples = march_rays(rays, OccupancyGrid(resolution=4), step=0.1, backend="numba")
        values = HashGrid(FieldConfig(backend="numba"))(samples.positions).square()
        compositing.weights_numba(values[:, 0], samples)[0].sum().backward()
        kernels = (*encoding._kernels(4), marching._march)
        kernels += (compositing._forward, compositing._backward)
        print(*(sum(kernel.stats.cache_misses.values()) for kernel in kernels))
    """
    command = [sys.executable, "-c", textwrap.dedent(work)]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    compiled = [
        subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    ]
    assert compiled == ["1 1 1 1 1\n", "0 0 0 0 0\n"]
