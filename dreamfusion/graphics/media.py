"""Pictures and videos on disk."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from dreamfusion.utils.atomic_write import atomic_write
from dreamfusion.utils.errors import UserError, one_line

# Unless a video says how its colours are meant, browsers guess those of old television, and red
# turns orange. These are what sRGB calls its own, with the matrix of HD.
_COLORS = (
    "scale=out_color_matrix=bt709,"
    "setparams=colorspace=bt709:color_primaries=bt709:color_trc=iec61966-2-1"
)


class NoEncoder(UserError):
    """There is no ffmpeg to write videos with."""


def to_bytes(images: Float[Tensor, "*batch h w c"]) -> UInt8[np.ndarray, "*batch h w c"]:
    """Images in [0, 1] as bytes.

    Raises ValueError where a value is not finite.
    """
    images = images.detach().float().cpu()
    if not bool(images.isfinite().all()):
        raise ValueError("an image contains a value that is not finite")
    return (images.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).numpy()


def contact_sheet(
    images: Tensor, *, columns: int, gap: int = 2, fill: float = 1.0
) -> Float[Tensor, "sheet_h sheet_w 3"]:
    """Images (n, h, w, 3) in rows of `columns`, as one image on the CPU.

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


def write_png(image: Float[Tensor, "h w c"], path: Path | str) -> None:
    """Write an image of 3 or 4 channels in [0, 1]. The file appears complete or not at all."""
    import imageio.v3 as imageio

    with atomic_write(Path(path)) as file:
        # By way of memory: its own writer complains aloud of a disk that is full.
        file.write_bytes(imageio.imwrite("<bytes>", to_bytes(image), extension=".png"))


def write_mp4(frames: Iterable[Float[Tensor, "h w 3"]], path: Path | str, *, fps: int = 30) -> None:
    """Write frames in [0, 1] as H.264, which every browser and player shows.

    Odd sizes lose their last row or column, as the format's chroma needs even ones. The file
    appears complete or not at all. Raises NoEncoder where there is no ffmpeg.
    """
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:  # its wheel for a platform may come without one
        raise NoEncoder(
            f"videos need ffmpeg ({one_line(error)}): install one, or name it in "
            "IMAGEIO_FFMPEG_EXE; --format webp, gif and png need none"
        ) from error
    pictures = map(_video_pixels, frames)
    first = next(pictures, None)
    if first is None:
        raise ValueError("a video needs at least one frame")
    with atomic_write(Path(path)) as file:
        writer = imageio_ffmpeg.write_frames(
            str(file),
            (first.shape[1], first.shape[0]),
            fps=fps,
            codec="libx264",
            pix_fmt_out="yuv420p",
            quality=8,
            macro_block_size=2,
            output_params=["-vf", _COLORS],
            ffmpeg_log_level="error",
        )
        with closing(writer):
            writer.send(None)
            for pixels in itertools.chain([first], pictures):
                writer.send(pixels.tobytes())


def _video_pixels(frame: Tensor) -> UInt8[np.ndarray, "h w 3"]:
    if frame.ndim != 3 or frame.shape[-1] != 3 or min(frame.shape[:2]) < 2:
        raise ValueError(f"a video takes (h, w, 3) frames, not {tuple(frame.shape)}")
    height, width = (side // 2 * 2 for side in frame.shape[:2])
    return to_bytes(frame[:height, :width])


def write_animation(
    frames: Iterable[Float[Tensor, "h w c"]], path: Path | str, *, fps: int = 30
) -> None:
    """Write frames of 3 or 4 channels in [0, 1] as an endless GIF or WebP, by the suffix.

    GIF knows 256 colours, and of transparency only whether; browsers show at most 50 frames a
    second of it. The file appears complete or not at all.
    """
    path = Path(path)
    pictures = (Image.fromarray(to_bytes(frame)) for frame in frames)
    first = next(pictures, None)
    if first is None:
        raise ValueError("an animation needs at least one frame")
    options: dict[str, Any] = {"quality": 90, "method": 2}
    if path.suffix.lower() == ".gif":
        options = {"disposal": 2, "optimize": False}
    with atomic_write(path) as file:
        first.save(
            file,
            save_all=True,
            append_images=pictures,
            duration=max(20, round(1000 / fps)),
            loop=0,
            **options,
        )


def write_frames(frames: Iterable[Float[Tensor, "h w c"]], folder: Path | str) -> list[Path]:
    """Write frames of 3 or 4 channels as folder/frame_0000.png and so on; the files.

    Frames beyond the last, of an earlier animation there, are removed.
    """
    folder = Path(folder)
    written = []
    for i, frame in enumerate(frames):
        written.append(folder / f"frame_{i:04d}.png")
        write_png(frame, written[-1])
    for old in folder.glob("frame_*.png"):
        if old not in written:
            old.unlink()
    return written
