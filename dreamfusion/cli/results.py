"""Prints the files, size and quality of a mesh."""

from dataclasses import asdict
from typing import Any

from dreamfusion.cli.console import Console
from dreamfusion.runs.export import Export


def print_mesh(console: Console, written: Export) -> None:
    """Print the files of a mesh, its size, and its similarity to the scene."""
    shape, agreement = written.topology, written.agreement
    closed = f"watertight, genus {shape.genus}" if shape.watertight else "not watertight"
    pieces = "1 piece" if shape.components == 1 else f"{shape.components} pieces"
    size = " x ".join(f"{side:.2f}" for side in shape.size)
    for i, file in enumerate(written.files):
        console.say(f"{'' if i else 'mesh':<10}{file}")
    console.say(f"          {shape.vertices:,} vertices, {shape.faces:,} faces, {pieces}, {closed}")
    console.say(f"          size {size}, volume {shape.volume:.3f}")
    console.say(
        f"          compared with the scene: PSNR {agreement.psnr_db:.1f} dB, silhouette IoU "
        f"{agreement.silhouette_iou:.3f}"
    )
    if not agreement.good:
        console.say(
            "          the mesh differs from the scene: train longer, or export with a higher "
            "--resolution, more --faces or another --threshold"
        )


def mesh_report(written: Export) -> dict[str, Any]:
    """The output of `print_mesh` as a mapping, for --json."""
    return {"mesh": written.files, "checks": asdict(written.topology) | asdict(written.agreement)}
