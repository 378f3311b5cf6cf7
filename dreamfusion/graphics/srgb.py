"""Between sRGB and linear light (IEC 61966-2-1), both in [0, 1]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def to_linear(colors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of sRGB values, linear light: as glTF and USD want colours at vertices."""
    return np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)


def from_linear(colors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of linear light, sRGB values."""
    roots = np.maximum(colors, 0.0) ** (1 / 2.4)
    return np.where(colors <= 0.0031308, colors * 12.92, 1.055 * roots - 0.055)
