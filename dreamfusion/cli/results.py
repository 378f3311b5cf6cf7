"""Writing what a trained scene gives, and saying what it is worth."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamfusion.cli.console import Console
from dreamfusion.config.schema import Config

if TYPE_CHECKING:
    from torch import Tensor

    from dreamfusion.graphics.turntable import Draw
    from dreamfusion.runs.session import Export


def write_turntable(
    console: Console,
    path: Path,
    config: Config,
    draw: Draw,
    *,
    modes: list[Any],
    count: int,
    size: int,
    background: Tensor | None,
) -> list[Path]:
    from dreamfusion.graphics.turntable import turn, write_turn
    from dreamfusion.runs.session import show_cameras

    pictures = turn(draw, show_cameras(count, config), size=size, modes=modes)
    pictures = console.track(pictures, count, "pictures")
    return write_turn(pictures, path, count=count, background=background)


def print_mesh(console: Console, written: Export) -> None:
    """Name the files of a mesh, and say what it is worth."""
    shape, looks = written.topology, written.agreement
    closed = f"watertight, genus {shape.genus}" if shape.watertight else "not watertight"
    pieces = "1 piece" if shape.components == 1 else f"{shape.components} pieces"
    size = " x ".join(f"{side:.2f}" for side in shape.size)
    for i, file in enumerate(written.files):
        console.say(f"{'' if i else 'mesh':<10}{file}")
    console.say(f"          {shape.vertices:,} vertices, {shape.faces:,} faces, {pieces}, {closed}")
    console.say(f"          size {size}, volume {shape.volume:.3f}")
    console.say(
        f"          looks like the scene: PSNR {looks.psnr_db:.1f} dB, silhouettes' IoU "
        f"{looks.silhouette_iou:.3f}"
    )
    if not looks.good:
        console.say(
            "          that is far from the scene: train for more steps, or export with a higher "
            "--resolution, more --faces or another --threshold"
        )


def mesh_report(written: Export) -> dict[str, Any]:
    """What `print_mesh` says, for scripts."""
    checks = asdict(written.topology) | asdict(written.agreement)
    return {"mesh": written.files, "checks": checks}
