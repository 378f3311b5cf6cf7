"""The layout of the levels of a hash grid in its table."""

import math
from dataclasses import dataclass

from dreamfusion.scenes.nerf.settings import HashGridConfig


@dataclass(frozen=True)
class Level:
    """One level: `resolution` cells per side, `size` rows of the table, starting at row `offset`.

    If all (resolution + 1)^3 vertices fit, they are indexed directly (`dense`). Otherwise they are
    hashed, and `size` is a power of two.
    """

    resolution: int
    offset: int
    size: int
    dense: bool


@dataclass(frozen=True)
class HashGridLayout:
    """Levels from coarse to fine, `n_features` numbers at each vertex."""

    levels: tuple[Level, ...]
    n_features: int

    @property
    def n_rows(self) -> int:
        """The number of rows of the table, of all levels."""
        return self.levels[-1].offset + self.levels[-1].size

    @property
    def n_outputs(self) -> int:
        """The number of features of an encoded point, of all levels."""
        return len(self.levels) * self.n_features


def make_layout(settings: HashGridConfig) -> HashGridLayout:
    """Levels whose resolutions increase geometrically (Mueller et al. 2022, eq. 2 and 3).

    Raises ValueError if a setting is not positive or the resolutions do not increase.
    """
    s = settings
    if s.levels < 1 or s.features < 1 or s.base_resolution < 1:
        raise ValueError("levels, features and base_resolution must be at least 1")
    if not 1 <= s.log2_table_size <= 30:
        raise ValueError(f"log2_table_size must be in 1..30, not {s.log2_table_size}")
    if s.max_resolution < s.base_resolution:
        raise ValueError(
            f"max_resolution ({s.max_resolution}) is below base_resolution ({s.base_resolution})"
        )
    growth = (s.max_resolution / s.base_resolution) ** (1.0 / max(s.levels - 1, 1))
    levels, offset = [], 0
    for i in range(s.levels):
        # The small constant keeps the last level at max_resolution despite rounding.
        resolution = math.floor(s.base_resolution * growth**i + 1e-6)
        n_vertices = (resolution + 1) ** 3
        dense = n_vertices <= 2**s.log2_table_size
        size = n_vertices if dense else 2**s.log2_table_size
        levels.append(Level(resolution=resolution, offset=offset, size=size, dense=dense))
        offset += size
    return HashGridLayout(levels=tuple(levels), n_features=s.features)
