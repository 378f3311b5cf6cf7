"""Prints the files, size and quality of a mesh."""

from dataclasses import asdict
from typing import Any

from dreamfusion.cli.console import Console
from dreamfusion.mesh.printing import LEAST_WALL_MM
from dreamfusion.runs.export import Export, Print


def print_mesh(console: Console, written: Export) -> None:
    """Print the files of a mesh, its size, and its similarity to the scene."""
    shape, agreement = written.topology, written.agreement
    pieces = "1 piece" if shape.components == 1 else f"{shape.components} pieces"
    holes = "closed" if shape.watertight else "with holes: not watertight"
    size = " x ".join(f"{side:.2f}" for side in shape.size)
    for i, file in enumerate(written.files):
        console.say(f"{'' if i else 'mesh':<10}{file}")
    console.say(f"          {shape.faces:,} faces, {pieces}, {holes}")
    console.detail(f"          {shape.vertices:,} vertices, size {size}, volume {shape.volume:.3f}")
    console.detail(
        f"          compared with the scene: PSNR {agreement.psnr_db:.1f} dB, silhouette IoU "
        f"{agreement.silhouette_iou:.3f}"
    )
    if not agreement.good:
        console.say(
            "          the mesh differs from the scene: train longer, or export with a higher "
            "--resolution, more --faces or another --threshold"
        )


def print_print(console: Console, printed: Print) -> None:
    """Print the file, size and walls of a mesh for a 3D printer."""
    size = " x ".join(f"{side:.1f}" for side in printed.size_mm)
    pieces = "1 piece" if printed.parts == 1 else f"{printed.parts} separate pieces"
    console.say(f"print     {printed.files[0]}")
    console.say(f"          {size} mm, {printed.faces:,} faces, {pieces}, closed, flat base")
    if printed.thin_mm3 > 0:
        thin = f"{printed.thin_mm3:.0f} mm^3 of walls below {LEAST_WALL_MM} mm"
        console.say(f"          {thin}, which may break: use a larger --size-mm")


def mesh_report(written: Export) -> dict[str, Any]:
    """The output of `print_mesh` as a mapping, for --json."""
    return {"mesh": written.files, "checks": asdict(written.topology) | asdict(written.agreement)}
