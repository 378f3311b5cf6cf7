"""Converts between sRGB and linear light (IEC 61966-2-1), both in [0, 1]."""

import numpy as np
from jaxtyping import Float64, Integer


def to_linear(colors: Float64[np.ndarray, "*batch"]) -> Float64[np.ndarray, "*batch"]:
    """sRGB to linear light, which glTF and USD require for colours of vertices."""
    return np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)


def from_linear(colors: Float64[np.ndarray, "*batch"]) -> Float64[np.ndarray, "*batch"]:
    """Linear light to sRGB."""
    roots = np.maximum(colors, 0.0) ** (1 / 2.4)
    return np.where(colors <= 0.0031308, colors * 12.92, 1.055 * roots - 0.055)


def unit_colors(colors: Integer[np.ndarray, "n c"]) -> Float64[np.ndarray, "n 3"]:
    """RGB in [0, 1] of integers of any size, RGB or RGBA, as in files."""
    return colors[:, :3].astype(np.float64) / np.iinfo(colors.dtype).max
