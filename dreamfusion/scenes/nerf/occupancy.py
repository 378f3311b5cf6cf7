"""A coarse grid over the scene's box that marks cells with density; rays skip all other cells."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor, nn

from dreamfusion.scenes.nerf.settings import OccupancyConfig
from dreamfusion.utils.devices import send

DensityFunction = Callable[[Float[Tensor, "n 3"]], Float[Tensor, " n"]]

_SAMPLED_EMPTY = 0.25  # share of the unoccupied cells that each update samples


class OccupancyGrid(nn.Module):
    """resolution^3 cells over [-1, 1]^3, indexed [x, y, z], cell 0 at -1.

    Each cell stores a decayed maximum of its sampled densities (Mueller et al. 2022, appendix E.2).
    A cell is occupied if its value, or a neighbour's, exceeds `threshold`. The margin of one cell
    covers density that a single sample per cell misses, and allows the object to grow. Before the
    first `update`, all cells are occupied.

    Each cell also stores a lower bound: the smallest of the latest densities of the cell and its 26
    neighbours, 0 for unoccupied cells. Rays end where this bound alone has absorbed the light, deep
    inside solid objects.

    resolution: cells per side. threshold: density, per scene unit; at a step of 0.025 the default
    skips samples of opacity below 0.0025. decay: factor on the stored maximum at each update, in
    (0, 1); with a large factor, cells stay occupied long after their density has vanished.
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

    @torch.no_grad()
    def update(
        self, density: DensityFunction, generator: torch.Generator, *, chunk: int = 65536
    ) -> None:
        """Sample one random point in each occupied cell, and in a quarter of the other cells, which
        change less. density: is called with at most `chunk` points.

        generator: on the CPU. A cell whose density is not finite stays occupied, so that the
        invalid value appears in the rendering.
        """
        device = self.density.device
        some = send(torch.rand(self.density.shape, generator=generator) < _SAMPLED_EMPTY, device)
        cells = (self.occupied | some).nonzero()
        # Drawn for all cells: the number of random numbers must not depend on the scene, which may
        # differ in the last bits between the GPUs of a run.
        every = send(torch.rand((*self.density.shape, 3), generator=generator), device)
        offsets = every[cells[:, 0], cells[:, 1], cells[:, 2]]
        points = (cells + offsets) * (2.0 / self.resolution) - 1.0
        values = torch.cat([density(part) for part in points.split(chunk)])
        sampled = torch.zeros_like(self.density)
        x, y, z = cells.unbind(-1)
        sampled[x, y, z] = values.to(sampled.dtype)
        self.density.copy_(torch.maximum(self.density * self.decay, sampled))
        # Not `density > threshold`: that is False for NaN.
        above = ~(self.density <= self.threshold)
        self.occupied.copy_(_highest_nearby(above))
        # NaN is no lower bound, so it must not end a ray.
        lower_bound = -_highest_nearby(-sampled.nan_to_num(nan=0.0, posinf=torch.inf))
        self.lower_bound.copy_(torch.where(self.occupied, lower_bound, 0.0))

    def is_occupied(self, points: Float[Tensor, "n 3"]) -> Bool[Tensor, " n"]:
        """Whether the cell of each point is occupied; False outside the box."""
        inside, cell = self.cells(points)
        return inside & self.occupied[cell]

    def density_lower_bound(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """The lower bound in the cell of each point; 0 outside the box."""
        inside, cell = self.cells(points)
        return torch.where(inside, self.lower_bound[cell], 0.0)

    def cells(
        self, points: Float[Tensor, "n 3"]
    ) -> tuple[Bool[Tensor, " n"], tuple[Int64[Tensor, " n"], ...]]:
        """Whether each point is inside the box, and the indices x, y, z of the nearest cell."""
        inside = (points.abs() <= 1.0).all(dim=-1)
        # The same arithmetic, in the same order, as in compiled ray marching.
        scaled = (points * 0.5 + 0.5) * self.resolution
        return inside, torch.nan_to_num(scaled).long().clamp(0, self.resolution - 1).unbind(-1)


def _highest_nearby(values: Shaped[Tensor, "x y z"]) -> Shaped[Tensor, "x y z"]:
    """The largest value of each cell and its 26 neighbours."""
    for axis in range(3):
        n, grown = values.shape[axis], values.clone()
        for to, of in ((0, 1), (1, 0)):
            part = grown.narrow(axis, to, n - 1)
            part.copy_(torch.maximum(part, values.narrow(axis, of, n - 1)))
        values = grown
    return values
