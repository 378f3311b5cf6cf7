"""The mesh on the page: the run's exported model, or one extracted at a threshold."""

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
    """A mesh that is aligned with the NeRF.

    glb: the coloured model as a file. position: of its origin in the scene. mesh: the same model in
    the scene's frame. name: its description.
    """

    glb: bytes
    position: tuple[float, float, float]
    mesh: Mesh | TexturedMesh
    name: str


def extracted(
    saved: SavedScene, threshold: float | None, resolution: int = EXTRACT_RESOLUTION
) -> tuple[ShownMesh, float | None]:
    """Extract the scene's surface at a density threshold; returns the mesh and the threshold. None
    chooses a threshold. Raises MeshError."""
    surface = saved.scene.surface(resolution=resolution, threshold=threshold)
    mesh: Mesh | TexturedMesh
    if isinstance(surface, TexturedMesh):
        mesh, found = surface, None
    else:
        mesh, found = surface.colored(), surface.threshold
    name = f"{len(mesh.faces)} faces" + ("" if found is None else f" at density {found:.3g}")
    return ShownMesh(glb_bytes(mesh), (0.0, 0.0, 0.0), mesh, name), found


def read_model(path: Path, step: int) -> ShownMesh | None:
    """Read the run's exported model, if there is one from that step.

    Returns None for a model without its position in the scene (from an older version or another
    program), which cannot be aligned with the NeRF. Raises MeshError for an invalid file.
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
