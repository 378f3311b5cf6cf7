"""The mesh on the page: the run's own model, or one extracted at a threshold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dreamfusion.mesh.extract import Mesh
from dreamfusion.mesh.formats import glb_bytes, put_back, read_glb
from dreamfusion.mesh.provenance import read_provenance
from dreamfusion.mesh.texture import TexturedMesh
from dreamfusion.runs.checkpoint import SavedScene

EXTRACT_RESOLUTION = 80  # a second or two on two cores, at any threshold


@dataclass(frozen=True)
class ShownMesh:
    """A mesh, aligned with the NeRF.

    glb: the coloured model as a file. position: of its origin in the scene. mesh: the same model in
    the scene's frame, without colours. name: its description.
    """

    glb: bytes
    position: tuple[float, float, float]
    mesh: Mesh | TexturedMesh
    name: str


def extracted(
    saved: SavedScene, threshold: float | None, resolution: int = EXTRACT_RESOLUTION
) -> tuple[ShownMesh, float | None]:
    """The scene's surface at a density, with vertex colours; and that density. None finds a
    density. Raises MeshError."""
    surface = saved.scene.surface(resolution=resolution, threshold=threshold)
    mesh: Mesh | TexturedMesh
    if isinstance(surface, TexturedMesh):
        mesh, found = surface, None
    else:
        mesh, found = surface.colored(), surface.threshold
    name = f"{len(mesh.faces)} faces"
    name += "" if found is None else f" at density {found:.3g}"
    return ShownMesh(glb_bytes(mesh), (0.0, 0.0, 0.0), mesh, name), found


def read_model(path: Path, step: int) -> ShownMesh | None:
    """The run's own textured model, if there is one from that step.

    A model without its position in the scene (from an older version or another program) is ignored:
    it cannot be aligned with the NeRF.
    """
    try:
        glb = path.read_bytes()
    except OSError:
        return None
    origin = read_provenance(glb)
    if origin is None or origin.step != step:
        return None
    mesh, _ = read_glb(path)
    name = f"{path.name}, {len(mesh.faces)} faces"
    return ShownMesh(glb, origin.moved_from, put_back(mesh, origin), name)
