"""The encoding by tinycudann's kernels, for CUDA. Float32; the gradient reaches the table only.

tinycudann staggers its levels by half a cell, counts vertices instead of cells and rounds the rows
of a dense level up to a multiple of eight, so a grid of many levels is another function than ours.
A grid of one level is the same one, at points moved by half a cell. So each of our levels is a
tinycudann grid of its own that reads our table: tables, and checkpoints with them, fit every
backend, at the price of one launch a level.
"""

from __future__ import annotations

from functools import lru_cache

import tinycudann
import torch
from jaxtyping import Float32
from torch import Tensor

from dreamfusion.scenes.nerf.hashgrid.layout import HashGridLayout, Level
from dreamfusion.scenes.nerf.hashgrid.reference import check_inputs


@lru_cache
def _grid(level: Level, n_features: int, device: torch.device) -> torch.nn.Module:
    """A grid of one level on the current device. Its own parameters are never used."""
    grid: torch.nn.Module = tinycudann.Encoding(
        n_input_dims=3,
        encoding_config={
            "otype": "HashGrid",
            "n_levels": 1,
            "n_features_per_level": n_features,
            # It hashes where the vertices do not fit, as we do.
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
    """Rows that tinycudann wants for a level."""
    return -(-level.size // 8) * 8 if level.dense else level.size


def encode_tinycudann(
    points: Float32[Tensor, "n 3"], table: Float32[Tensor, "rows features"], layout: HashGridLayout
) -> Float32[Tensor, "n outputs"]:
    """As `encode_reference`, for float32 tensors on one CUDA device and 1, 2, 4 or 8 features,
    differentiable in the table only. Raises ValueError for others: see `check_inputs`."""
    check_inputs("tinycudann", points, table, layout)
    unit = (points.detach() * 0.5 + 0.5).clamp(0.0, 1.0)
    outputs = []
    # tinycudann builds and launches on the current device, which need not be the tensors'.
    with torch.cuda.device_of(points):
        for level in layout.levels:
            rows = table[level.offset : level.offset + level.size]
            rows = torch.nn.functional.pad(rows, (0, 0, 0, _n_rows(level) - level.size))
            # It looks at resolution * x + 0.5.
            moved = unit - 0.5 / level.resolution
            grid = _grid(level, layout.n_features, points.device)
            out = torch.func.functional_call(grid, {"params": rows.reshape(-1)}, (moved,))
            outputs.append(out[:, : layout.n_features])
    return torch.cat(outputs, dim=-1)
