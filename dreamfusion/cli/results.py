"""Saying what a mesh is worth."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dreamfusion.cli.console import Console

if TYPE_CHECKING:
    from dreamfusion.runs.export import Export


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
