"""Pictures and videos on disk."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Unless a video says how its colours are meant, browsers guess those of old television, and red
# turns orange. These are what sRGB calls its own, with the matrix of HD.
_COLORS = (
    "scale=out_color_matrix=bt709,"
    "setparams=colorspace=bt709:color_primaries=bt709:color_trc=iec61966-2-1"
)


def to_bytes(images: Tensor) -> NDArray[np.uint8]:
    """Images (..., h, w, 3) in [0, 1] as bytes. Raises ValueError where a value is not finite."""
    images = images.detach().float().cpu()
    if not bool(images.isfinite().all()):
        raise ValueError("a picture holds a value that is not finite")
    return (images.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).numpy()


def contact_sheet(images: Tensor, *, columns: int, gap: int = 2, fill: float = 1.0) -> Tensor:
    """Images (n, h, w, 3) in rows of `columns`, as one image (H, W, 3) on the CPU.

    gap: pixels between them, of grey level `fill`, which also fills places left over.
    """
    if images.ndim != 4 or images.shape[-1] != 3 or len(images) == 0:
        raise ValueError(f"a contact sheet takes (n, h, w, 3) images, not {tuple(images.shape)}")
    if columns < 1 or gap < 0:
        raise ValueError("columns must be at least 1 and gap at least 0")
    n, height, width, _ = images.shape
    rows = -(-n // columns)
    sheet = torch.full(
        (rows * (height + gap) - gap, columns * (width + gap) - gap, 3), fill, dtype=torch.float32
    )
    for i, image in enumerate(images.detach().float().cpu()):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def write_png(image: Tensor, path: Path | str) -> None:
    """Write an image (h, w, 3) in [0, 1]. The file appears complete or not at all."""
    import imageio.v3 as imageio

    path = Path(path)
    temporary = _temporary(path)
    imageio.imwrite(temporary, to_bytes(image), extension=".png")
    temporary.replace(path)


def write_mp4(frames: Tensor, path: Path | str, *, fps: int = 30) -> None:
    """Write frames (n, h, w, 3) in [0, 1] as H.264, which every browser and player shows.

    Odd sizes lose their last row or column, as the format's chroma needs even ones. The file
    appears complete or not at all.
    """
    import imageio_ffmpeg

    if frames.ndim != 4 or len(frames) == 0 or min(frames.shape[1:3]) < 2:
        raise ValueError(f"a video takes (n, h, w, 3) frames, not {tuple(frames.shape)}")
    path = Path(path)
    temporary = _temporary(path)
    height, width = (side // 2 * 2 for side in frames.shape[1:3])
    writer = imageio_ffmpeg.write_frames(
        str(temporary),
        (width, height),
        fps=fps,
        codec="libx264",
        pix_fmt_out="yuv420p",
        quality=8,
        macro_block_size=2,
        output_params=["-vf", _COLORS],
        ffmpeg_log_level="error",
    )
    writer.send(None)
    try:
        for frame in frames[:, :height, :width]:
            writer.send(to_bytes(frame).tobytes())
    finally:
        writer.close()
    temporary.replace(path)


def _temporary(path: Path) -> Path:
    """A name beside `path` with its suffix, in a folder that exists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
