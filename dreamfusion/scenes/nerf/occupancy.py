"""A coarse grid over the scene box that marks cells which may have density; rays skip the rest."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from dreamfusion.scenes.nerf.settings import OccupancyConfig
from dreamfusion.utils.devices import send

DensityFunction = Callable[[Float[Tensor, "n 3"]], Float[Tensor, " n"]]

_LOOKED_AT = 0.25  # share of the cells that are not occupied, at each update


class OccupancyGrid(nn.Module):
    """resolution^3 cells over [-1, 1]^3, indexed [x, y, z], cell 0 at -1.

    Each cell keeps a decayed maximum of densities seen in it (Mueller et al. 2022, appendix E.2).
    A cell is occupied where that, or a neighbour's, exceeds `threshold`: the margin of one cell
    covers what a sample a cell misses, and lets the object grow. Until the first `update`, every
    cell is occupied.

    It also keeps a lower bound: the least density that was last seen in a cell and its 26
    neighbours, 0 where a cell is not occupied. Rays end where that alone has absorbed the light,
    deep inside solid objects.

    resolution: cells a side. threshold: density, per scene unit; at a step of 0.025 the default
    leaves out samples of opacity below 0.0025. decay: factor on the kept maximum at each update, in
    (0, 1); a slow one spends samples where density was long ago.
    """

    density: Float[Tensor, "x y z"]
    lower_bound: Float[Tensor, "x y z"]
    occupied: Bool[Tensor, "x y z"]

    def __init__(
        self,
        *,
        resolution: int = OccupancyConfig.resolution,
        threshold: float = OccupancyConfig.threshold,
        decay: float = OccupancyConfig.decay,
    ) -> None:
        super().__init__()
        if resolution < 1 or threshold < 0 or not 0 < decay < 1:
            raise ValueError(
                "resolution must be at least 1, threshold at least 0, decay between 0 and 1; got "
                f"{resolution}, {threshold}, {decay}"
            )
        self.resolution = resolution
        self.threshold = threshold
        self.decay = decay
        shape = (resolution, resolution, resolution)
        self.register_buffer("density", torch.zeros(shape))
        self.register_buffer("lower_bound", torch.zeros(shape))
        self.register_buffer("occupied", torch.ones(shape, dtype=torch.bool))

    @classmethod
    def from_config(cls, settings: OccupancyConfig) -> OccupancyGrid:
        """The grid that the settings describe."""
        return cls(
            resolution=settings.resolution, threshold=settings.threshold, decay=settings.decay
        )

    @torch.no_grad()
    def update(
        self,
        density: DensityFunction,
        generator: torch.Generator,
        *,
        chunk: int = 65536,
    ) -> None:
        """Sample one random point of every occupied cell, and of a quarter of the others, which
        change little. density: takes at most `chunk` points.

        generator: on the CPU. A cell whose density is not finite stays occupied, so that the
        renderer exposes the bad value.
        """
        device = self.density.device
        some = send(torch.rand(self.density.shape, generator=generator) < _LOOKED_AT, device)
        cells = (self.occupied | some).nonzero()
        # For all cells: how many numbers are drawn must not depend on the scene, which may differ
        # in the last bits between the GPUs of a run.
        every = send(torch.rand((*self.density.shape, 3), generator=generator), device)
        offsets = every[cells[:, 0], cells[:, 1], cells[:, 2]]
        points = (cells + offsets) * (2.0 / self.resolution) - 1.0
        found = torch.cat([density(part) for part in points.split(chunk)])
        seen = torch.zeros_like(self.density)
        x, y, z = cells.unbind(-1)
        seen[x, y, z] = found.to(seen.dtype)
        self.density.copy_(torch.maximum(self.density * self.decay, seen))
        # Not `density > threshold`: that is False for NaN.
        above = ~(self.density <= self.threshold)
        self.occupied.copy_(_dilate(above))
        # NaN promises nothing, so it must not end a ray.
        lower_bound = _erode(seen.nan_to_num(nan=0.0, posinf=torch.inf))
        self.lower_bound.copy_(torch.where(self.occupied, lower_bound, 0.0))

    def is_occupied(self, points: Float[Tensor, "n 3"]) -> Bool[Tensor, " n"]:
        """Whether the cell of each point is occupied; False outside the box."""
        inside, cell = self.cells(points)
        x, y, z = cell.unbind(-1)
        return inside & self.occupied[x, y, z]

    def density_lower_bound(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """The lower bound in the cell of each point; 0 outside the box."""
        inside, cell = self.cells(points)
        x, y, z = cell.unbind(-1)
        return torch.where(inside, self.lower_bound[x, y, z], 0.0)

    def cells(
        self, points: Float[Tensor, "n 3"]
    ) -> tuple[Bool[Tensor, " n"], Int64[Tensor, "n 3"]]:
        """Whether points are inside the box, and their nearest cells."""
        inside = (points.abs() <= 1.0).all(dim=-1)
        # Same arithmetic, in the same order, as the compiled ray marcher's.
        scaled = (points * 0.5 + 0.5) * self.resolution
        return inside, torch.nan_to_num(scaled).long().clamp(0, self.resolution - 1)


def _dilate(mask: Bool[Tensor, "x y z"]) -> Bool[Tensor, "x y z"]:
    """A mask grown by one cell in all 26 directions."""
    for axis in range(3):
        grown = mask.clone()
        n = mask.shape[axis]
        grown.narrow(axis, 1, n - 1).logical_or_(mask.narrow(axis, 0, n - 1))
        grown.narrow(axis, 0, n - 1).logical_or_(mask.narrow(axis, 1, n - 1))
        mask = grown
    return mask


def _erode(values: Float[Tensor, "x y z"]) -> Float[Tensor, "x y z"]:
    """The least value of each cell and its 26 neighbours."""
    return -torch.nn.functional.max_pool3d(-values[None, None], 3, stride=1, padding=1)[0, 0]
