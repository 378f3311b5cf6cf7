"""The encoding by tinycudann's kernels, for CUDA. Float32; the gradient reaches the table only.

tinycudann shifts its levels by half a cell, counts vertices instead of cells and rounds the number
of rows of a dense level up to a multiple of eight, so a grid of several levels differs from ours. A
grid of one level is equal to ours, at points shifted by half a cell. Therefore each of our levels
is a separate tinycudann grid that reads our table: tables and checkpoints are the same for all
backends, at the cost of one launch per level.
"""

from functools import lru_cache

import tinycudann
import torch
from jaxtyping import Float32
from torch import Tensor

from dreamfusion.scenes.nerf.hashgrid.layout import HashGridLayout, Level
from dreamfusion.scenes.nerf.hashgrid.reference import check_inputs


@lru_cache
def _grid(level: Level, n_features: int, device: torch.device) -> torch.nn.Module:
    """A grid of one level on the current device. Its parameters are not used."""
    grid: torch.nn.Module = tinycudann.Encoding(
        n_input_dims=3,
        encoding_config={
            "otype": "HashGrid",
            "n_levels": 1,
            "n_features_per_level": n_features,
            # It hashes if the vertices do not fit, as ours does.
            "log2_hashmap_size": (_n_rows(level) - 1).bit_length(),
            "base_resolution": level.resolution + 1,
            "per_level_scale": 1.0,
        },
        dtype=torch.float32,
    )
    expected = _n_rows(level) * n_features
    found = sum(parameter.numel() for parameter in grid.parameters())
    if found != expected:
        raise RuntimeError(f"tinycudann's grid has {found} numbers instead of {expected}")
    return grid


def _n_rows(level: Level) -> int:
    """The number of rows of a level in tinycudann."""
    return -(-level.size // 8) * 8 if level.dense else level.size


def encode_tinycudann(
    points: Float32[Tensor, "n 3"], table: Float32[Tensor, "rows features"], layout: HashGridLayout
) -> Float32[Tensor, "n outputs"]:
    """`encode_reference` for float32 tensors on one CUDA device and 1, 2, 4 or 8 features,
    differentiable in the table only. Raises ValueError for other tensors: see `check_inputs`."""
    check_inputs("tinycudann", points, table, layout)
    unit = (points.detach() * 0.5 + 0.5).clamp(0.0, 1.0)
    outputs = []
    # tinycudann uses the current device, which may not be that of the tensors.
    with torch.cuda.device_of(points):
        for level in layout.levels:
            rows = table[level.offset : level.offset + level.size]
            rows = torch.nn.functional.pad(rows, (0, 0, 0, _n_rows(level) - level.size))
            # It evaluates at resolution * x + 0.5.
            shifted = unit - 0.5 / level.resolution
            grid = _grid(level, layout.n_features, points.device)
            out = torch.func.functional_call(grid, {"params": rows.reshape(-1)}, (shifted,))
            outputs.append(out[:, : layout.n_features])
    return torch.cat(outputs, dim=-1)
