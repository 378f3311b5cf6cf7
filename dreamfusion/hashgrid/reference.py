"""The encoding in plain torch: the definition that every other backend is held to."""

from __future__ import annotations

import torch
from torch import Tensor

from .layout import HashGridLayout

# Mueller et al. 2022, eq. 4. Products stay below 2^63, so int64 needs no wrap-around: only the
# low bits are kept, and those are the same as in the paper's 32-bit arithmetic.
PRIMES = (1, 2654435761, 805459861)


def encode_reference(points: Tensor, table: Tensor, layout: HashGridLayout) -> Tensor:
    """Trilinear interpolation of every level's vertex features, levels side by side.

    points: (m, 3) in the box [-1, 1]^3; points outside take the value at the nearest face.
    table: (layout.n_rows, layout.n_features). Returns (m, layout.n_outputs), of the table's type.
    Differentiable in points and table; a non-finite point gives non-finite features.
    """
    unit = (points * 0.5 + 0.5).clamp(0.0, 1.0)
    outputs = []
    for level in layout.levels:
        scaled = unit * level.resolution
        # NaN has no cell: it is sent to cell 0, and comes out as NaN by its weights.
        cell = torch.nan_to_num(scaled.detach()).floor().clamp(0, level.resolution - 1)
        fraction = scaled - cell
        x0, y0, z0 = cell.long().unbind(-1)
        features = torch.zeros((), dtype=table.dtype, device=table.device)
        for corner in range(8):
            dx, dy, dz = corner & 1, (corner >> 1) & 1, corner >> 2
            x, y, z = x0 + dx, y0 + dy, z0 + dz
            if level.dense:
                side = level.resolution + 1
                row = x + side * (y + side * z)
            else:
                row = (x ^ (y * PRIMES[1]) ^ (z * PRIMES[2])) & (level.size - 1)
            weight = torch.ones_like(fraction[:, 0])
            for axis, upper in enumerate((dx, dy, dz)):
                weight = weight * (fraction[:, axis] if upper else 1.0 - fraction[:, axis])
            features = features + weight[:, None] * table[level.offset + row]
        outputs.append(features)
    return torch.cat(outputs, dim=-1)
