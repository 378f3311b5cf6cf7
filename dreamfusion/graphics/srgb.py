"""Between sRGB and linear light (IEC 61966-2-1), both in [0, 1]."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def to_linear(colors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of sRGB values, linear light: as glTF and USD want colours at vertices."""
    return np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)


def from_linear(colors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of linear light, sRGB values."""
    roots = np.maximum(colors, 0.0) ** (1 / 2.4)
    return np.where(colors <= 0.0031308, colors * 12.92, 1.055 * roots - 0.055)


def unit_colors(colors: NDArray[Any]) -> NDArray[np.float64]:
    """Colours (n, 3) in [0, 1] of whole numbers (n, 3 or 4) of any size, as files have them."""
    return colors[:, :3].astype(np.float64) / np.iinfo(colors.dtype).max
