"""Image and video files, among them images from cameras around an object."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageColor
from torch import Tensor

from dreamfusion.graphics.cameras import Cameras
from dreamfusion.graphics.shading import ImageMode, over
from dreamfusion.utils.errors import UserError, one_line
from dreamfusion.utils.files import atomic_write, write_bytes

# Without this metadata, browsers assume the colours of standard-definition television, and red is
# shown as orange. Primaries and transfer function are those of sRGB, the matrix that of HD.
_COLORS = (
    "scale=out_color_matrix=bt709,"
    "setparams=colorspace=bt709:color_primaries=bt709:color_trc=iec61966-2-1"
)
FORMATS = ("mp4", "gif", "webp", "png")
TURN_SECONDS = 4
# Renders RGBA for one camera, an image size in pixels and a mode.
Draw = Callable[[Cameras, int, ImageMode], Float[Tensor, "1 size size 4"]]


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

    # Encoded in memory, because its file writer prints messages if the disk is full.
    write_bytes(path, imageio.imwrite("<bytes>", to_bytes(image), extension=".png"))


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
    images = (to_bytes(frame[: len(frame) // 2 * 2, : frame.shape[1] // 2 * 2]) for frame in frames)
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
        duration = max(20, round(1000 / fps))
        first.save(file, save_all=True, append_images=images, duration=duration, loop=0, **options)


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


def parse_background(text: str) -> Float[Tensor, " 3"] | None:
    """The colour of "#rrggbb" or of a name, as in CSS; None for "transparent"."""
    if text == "transparent":
        return None
    try:
        return torch.tensor(ImageColor.getrgb(text)[:3]) / 255.0
    except ValueError:
        raise UserError(
            f"a background is transparent, #rrggbb or the name of a colour, not {text!r}"
        ) from None


def turntable_frames(
    draw: Draw, cameras: Cameras, *, size: int, modes: Sequence[ImageMode]
) -> Iterator[Float[Tensor, "h w 4"]]:
    """An image from each camera, with several modes in rows of two."""
    for i in range(len(cameras)):
        images = [draw(cameras[i : i + 1], size, mode)[0] for mode in modes]
        rows = [torch.cat(images[k : k + 2], dim=1) for k in range(0, len(images), 2)]
        yield torch.cat(rows, dim=0)


def write_turntable(
    frames: Iterable[Float[Tensor, "h w 4"]],
    path: Path,
    *,
    count: int,
    background: Float[Tensor, " 3"] | None,
) -> list[Path]:
    """Write `count` RGBA frames in the format of the suffix of `path`; return the written files.

    .mp4, .gif and .webp turn once in a few seconds; .png is a folder of frames, named like `path`
    without the suffix, or a single image if there is one frame. background: None is transparent;
    raises UserError for videos, which cannot be transparent.
    """
    kind = path.suffix.removeprefix(".")
    if kind not in FORMATS:
        raise UserError(f"cannot write images as {path.name!r}: use {', '.join(FORMATS)}")
    if background is None and kind == "mp4":
        raise UserError("an mp4 cannot be transparent; use --format webp, gif or png")
    if background is not None:
        frames = (over(frame, background) for frame in frames)
    fps = max(12, round(count / TURN_SECONDS))
    if kind == "png" and count > 1:
        return write_frames(frames, path.with_suffix(""))
    if kind == "png":
        write_png(next(iter(frames)), path)
    elif kind == "mp4":
        write_mp4(frames, path, fps=fps)
    else:
        write_animation(frames, path, fps=fps)
    return [path]
