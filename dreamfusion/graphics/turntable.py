"""Images from cameras around an object, of a scene or its mesh, and files of them."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from dreamfusion.graphics.cameras import Cameras
from dreamfusion.graphics.media import write_animation, write_frames, write_mp4, write_png
from dreamfusion.graphics.shading import ImageMode, over
from dreamfusion.utils.errors import UserError

FORMATS = ("mp4", "gif", "webp", "png")
TURN_SECONDS = 4
# Renders RGBA for one camera, an image size in pixels and a mode.
Draw = Callable[[Cameras, int, ImageMode], Float[Tensor, "1 size size 4"]]

_NAMED = {"white": "#ffffff", "black": "#000000"}


class RenderError(UserError):
    """An image or a video cannot be rendered or written."""


def parse_background(text: str) -> Float[Tensor, " 3"] | None:
    """The colour that "white", "black" or "#rrggbb" names; None for "transparent"."""
    if text == "transparent":
        return None
    if re.fullmatch("#[0-9a-fA-F]{6}", code := _NAMED.get(text, text)):
        return torch.tensor(list(bytes.fromhex(code[1:]))) / 255.0
    raise RenderError(f"a background is white, black, transparent or #rrggbb, not {text!r}")


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
    raises RenderError for videos, which cannot be transparent.
    """
    kind = path.suffix.removeprefix(".")
    if kind not in FORMATS:
        raise RenderError(f"cannot write images as {path.name!r}: use {', '.join(FORMATS)}")
    if background is None and kind == "mp4":
        raise RenderError("an mp4 cannot be transparent; use --format webp, gif or png")
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
