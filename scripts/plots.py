"""Figures of rows of images and of lines, drawn by Pillow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dreamfusion.graphics.media import contact_sheet, to_bytes

COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b")
FONT = ImageFont.load_default(13)
INK, GRID = "#222222", "#dddddd"


def image_rows(
    rows: Mapping[str, Tensor], *, label_width: int = 120, size: int | None = None
) -> Image.Image:
    """Rows of images (n, 3, h, w) in [0, 1], each with its name on the left. size: height and width
    of an image, pixels; None: as they are."""
    drawn = []
    for name, images in rows.items():
        if size is not None:
            images = torch.nn.functional.interpolate(images, (size, size), mode="nearest")
        strip = Image.fromarray(
            to_bytes(contact_sheet(images.movedim(1, -1), columns=len(images), gap=2))
        )
        row = Image.new("RGB", (label_width + strip.width, strip.height + 2), "white")
        row.paste(strip, (label_width, 0))
        ImageDraw.Draw(row).multiline_text(
            (4, strip.height / 2), name, fill=INK, font=FONT, anchor="lm"
        )
        drawn.append(row)
    return stack(drawn)


def image_columns(columns: Mapping[str, Tensor], *, size: int) -> Image.Image:
    """Columns of images (n, 3, h, w) in [0, 1], each with its name above. size: height and width
    of an image, pixels."""
    lines_of_text = 1 + max(name.count("\n") for name in columns)
    top = 6 + 16 * lines_of_text
    drawn = []
    for name, images in columns.items():
        images = torch.nn.functional.interpolate(images, (size, size), mode="nearest")
        strip = Image.fromarray(to_bytes(contact_sheet(images.movedim(1, -1), columns=1, gap=2)))
        column = Image.new("RGB", (size, top + strip.height), "white")
        column.paste(strip, (0, top))
        ImageDraw.Draw(column).multiline_text((2, 2), name, fill=INK, font=FONT)
        drawn.append(column)
    return beside(drawn, gap=2)


def stack(images: Sequence[Image.Image], *, gap: int = 0) -> Image.Image:
    """Images below each other."""
    height = sum(image.height for image in images) + gap * (len(images) - 1)
    sheet = Image.new("RGB", (max(image.width for image in images), height), "white")
    top = 0
    for image in images:
        sheet.paste(image, (0, top))
        top += image.height + gap
    return sheet


def beside(images: Sequence[Image.Image], *, gap: int = 16) -> Image.Image:
    """Images next to each other."""
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    sheet = Image.new("RGB", (width, max(image.height for image in images)), "white")
    left = 0
    for image in images:
        sheet.paste(image, (left, 0))
        left += image.width + gap
    return sheet


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    x_label: str,
    log: bool = False,
    size: tuple[int, int] = (420, 280),
) -> Image.Image:
    """Lines through points (x, y), by name. log: the y-axis is logarithmic."""
    width, height = size
    left, right, top, bottom = 58, width - 12, 36 + 16 * len(series), height - 42
    xs = np.concatenate([np.asarray(x, dtype=float) for x, _ in series.values()])
    ys = np.concatenate([np.asarray(y, dtype=float) for _, y in series.values()])
    ys = np.log10(ys) if log else ys
    low, high = min(0.0, float(ys.min())), float(ys.max())
    if log:
        low, high = math.floor(ys.min()), math.ceil(ys.max())

    def place(x: float, y: float) -> tuple[float, float]:
        y = math.log10(y) if log else y
        across = (x - xs.min()) / (xs.max() - xs.min())
        return left + across * (right - left), bottom - (y - low) / (high - low) * (bottom - top)

    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    draw.text((left, 6), title, fill=INK, font=FONT)
    ticks = [10.0**e for e in range(int(low), int(high) + 1)] if log else _ticks(low, high)
    for tick in ticks:
        at = place(xs.min(), tick)[1]
        draw.line([(left, at), (right, at)], fill=GRID)
        draw.text((left - 6, at), f"{tick:g}", fill=INK, font=FONT, anchor="rm")
    for tick in _ticks(float(xs.min()), float(xs.max())):
        at = place(tick, ticks[0])[0]
        draw.line([(at, bottom), (at, bottom + 4)], fill=INK)
        draw.text((at, bottom + 6), f"{tick:g}", fill=INK, font=FONT, anchor="mt")
    draw.line([(left, bottom), (right, bottom)], fill=INK)
    draw.text(((left + right) / 2, height - 4), x_label, fill=INK, font=FONT, anchor="mb")
    for i, (name, (x, y)) in enumerate(series.items()):
        color = COLORS[i % len(COLORS)]
        draw.line([place(*point) for point in zip(x, y, strict=True)], fill=color, width=2)
        at = 30 + 16 * i
        draw.line([(left, at + 7), (left + 20, at + 7)], fill=color, width=3)
        draw.text((left + 26, at), name.replace("\n", " "), fill=INK, font=FONT)
    return image


def _ticks(low: float, high: float) -> list[float]:
    """Some four to eight round numbers from low to high."""
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 7)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]
