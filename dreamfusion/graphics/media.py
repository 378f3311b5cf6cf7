"""Image and video files."""

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

# Without this metadata, browsers assume the colours of standard-definition television, and red is
# shown as orange. Primaries and transfer function are those of sRGB, the matrix that of HD.
_COLORS = (
    "scale=out_color_matrix=bt709,"
    "setparams=colorspace=bt709:color_primaries=bt709:color_trc=iec61966-2-1"
)


class NoEncoder(UserError):
    """Videos cannot be written because ffmpeg is missing."""


def to_bytes(colors: Float[Tensor, "*batch c"]) -> UInt8[np.ndarray, "*batch c"]:
    """Colours or images in [0, 1] as bytes.

    Raises ValueError if a value is not finite.
    """
    colors = colors.detach().float().cpu()
    if not bool(colors.isfinite().all()):
        raise ValueError("an image contains a value that is not finite")
    return (colors.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).numpy()


def contact_sheet(
    images: Tensor, *, columns: int, gap: int = 2
) -> Float[Tensor, "sheet_h sheet_w 3"]:
    """Arrange images (n, h, w, 3) in rows of `columns`, as one image on the CPU.

    gap: white pixels between them; the rest of the last row is white, too.
    """
    if images.ndim != 4 or images.shape[-1] != 3 or len(images) == 0:
        raise ValueError(f"a contact sheet takes (n, h, w, 3) images, not {tuple(images.shape)}")
    if columns < 1 or gap < 0:
        raise ValueError("columns must be at least 1 and gap at least 0")
    n, height, width, _ = images.shape
    rows = -(-n // columns)
    sheet = torch.ones(rows * (height + gap) - gap, columns * (width + gap) - gap, 3)
    for i, image in enumerate(images.detach().float().cpu()):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def write_png(image: Float[Tensor, "h w c"], path: Path | str) -> None:
    """Write an image of 3 or 4 channels in [0, 1]. The file appears complete or not at all."""
    import imageio.v3 as imageio

    with atomic_write(Path(path)) as file:
        # Encoded in memory, because its file writer prints messages if the disk is full.
        file.write_bytes(imageio.imwrite("<bytes>", to_bytes(image), extension=".png"))


def write_mp4(frames: Iterable[Float[Tensor, "h w 3"]], path: Path | str, *, fps: int = 30) -> None:
    """Write frames in [0, 1] as H.264, which every browser and player supports.

    The chroma format needs even sizes, so the last row or column of an odd size is removed. The
    file appears complete or not at all. Raises NoEncoder if ffmpeg is missing.
    """
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:  # some wheels contain no ffmpeg
        raise NoEncoder(
            f"videos need ffmpeg ({one_line(error)}): install it, or set IMAGEIO_FFMPEG_EXE to its "
            "path; --format webp, gif and png do not need it"
        ) from error
    images = map(_video_pixels, frames)
    first = next(images, None)
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
            for pixels in itertools.chain([first], images):
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

    GIF supports 256 colours, no partial transparency, and in browsers at most 50 frames per second.
    The file appears complete or not at all.
    """
    path = Path(path)
    images = (Image.fromarray(to_bytes(frame)) for frame in frames)
    first = next(images, None)
    if first is None:
        raise ValueError("an animation needs at least one frame")
    options: dict[str, Any] = {"quality": 90, "method": 2}
    if path.suffix.lower() == ".gif":
        options = {"disposal": 2, "optimize": False}
    with atomic_write(path) as file:
        first.save(
            file,
            save_all=True,
            append_images=images,
            duration=max(20, round(1000 / fps)),
            loop=0,
            **options,
        )


def write_frames(frames: Iterable[Float[Tensor, "h w c"]], folder: Path | str) -> list[Path]:
    """Write frames of 3 or 4 channels as folder/frame_0000.png and so on; return the files.

    Other frames in the folder, of an earlier and longer animation, are removed.
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
