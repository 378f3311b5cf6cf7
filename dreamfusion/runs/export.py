"""Exports a trained scene as a mesh, and compares the mesh with the scene."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from dreamfusion.config.layers import to_yaml
from dreamfusion.config.schema import Config
from dreamfusion.graphics.cameras import show_cameras
from dreamfusion.mesh.extract import Mesh, MeshError
from dreamfusion.mesh.formats import TEXTURED, Origin, moved, origin_of, write_mesh
from dreamfusion.mesh.printing import print_bytes, printable, require_print, thin_volume
from dreamfusion.mesh.provenance import Provenance
from dreamfusion.mesh.renderer import Agreement, agreement
from dreamfusion.mesh.texture import TexturedMesh, bake, decimate, simplify
from dreamfusion.mesh.topology import Topology, topology
from dreamfusion.mesh.unseen import fill_unseen
from dreamfusion.mesh.usd import require_usd
from dreamfusion.runs.checkpoint import SavedScene, draw_scene
from dreamfusion.runs.folder import slug
from dreamfusion.training.state import sample_views
from dreamfusion.utils.files import write_bytes
from dreamfusion.utils.state import Progress
from dreamfusion.utils.threads import fixed_order
from dreamfusion.utils.version import __version__

CHECK_VIEWS = 8
# Number of cameras to determine which parts of a mesh are visible in training.
TRAINING_VIEWS = 40


@dataclass(frozen=True)
class ExportOptions:
    """Options of the mesh export. None takes the value of the run's configuration.

    resolution: marching-cubes cells per axis of the box. faces: approximate maximum number of
    faces; None also reduces it as far as the shape permits. texture: texels per side; 0, and
    formats without textures, store colours at vertices. threshold: density of the surface; None
    chooses one. origin: see `formats.origin_of`.
    """

    resolution: int | None = None
    faces: int | None = None
    texture: int | None = None
    threshold: float | None = None
    origin: Origin = "center"


@dataclass(frozen=True)
class Export:
    """A written mesh. files: the model first. model: in the scene's frame. topology: of the mesh.
    agreement: its similarity to the scene."""

    files: list[Path]
    model: Mesh | TexturedMesh
    topology: Topology
    agreement: Agreement


@fixed_order()
def write_model(
    path: Path,
    saved: SavedScene,
    config: Config,
    options: ExportOptions | None = None,
    *,
    say: Callable[[str], None] = lambda stage: None,
) -> Export:
    """Write a scene as a mesh in the format given by the suffix of `path`, and compare the two.

    say: called with the name of each stage when it begins. Raises MeshError.
    """
    options = ExportOptions() if options is None else options
    output, scene = config.output, saved.scene
    size = output.texture_size if options.texture is None else options.texture
    if path.suffix.lower() == ".usdz":
        require_usd()
    say("finding the surface")
    resolution = options.resolution or output.mesh_resolution
    surface = scene.surface(resolution=resolution, threshold=options.threshold)
    textured = size > 0 and path.suffix.lower().removeprefix(".") in TEXTURED
    if isinstance(surface, TexturedMesh):
        if options.faces is not None or options.texture is not None:
            raise MeshError("this scene has faces and a texture of its own: omit faces and texture")
        model: Mesh | TexturedMesh = surface
    else:
        # Cameras as in training.
        many = replace(config, camera=replace(config.camera, views=TRAINING_VIEWS))
        generator = torch.Generator().manual_seed(0)
        cameras = sample_views(many, Progress(config.steps, config.steps), generator).cameras
        dense, color = fill_unseen(surface.colored(), surface.color, cameras)
        tolerance = output.mesh_tolerance * 2.0 / resolution
        # Vertex colours need dense vertices, even where the shape is simple.
        if options.faces is None and textured and tolerance > 0:
            model = mesh = simplify(dense, most=output.mesh_faces, tolerance=tolerance)
        else:
            model = mesh = decimate(dense, options.faces or output.mesh_faces)
        if textured:
            say("baking the texture")
            fine = dense if path.suffix.lower() == ".glb" else None
            model = bake(color, mesh, size=size, fine=fine)
    say("comparing with the scene")
    similarity = agreement(model, draw_scene(scene), show_cameras(CHECK_VIEWS, config.camera))
    origin = origin_of(model, options.origin)
    x, y, z = origin.tolist()
    psnr = similarity.psnr_db if math.isfinite(similarity.psnr_db) else None
    known = {} if saved.prior is None else asdict(replace(saved.prior, weights=None))
    source = {name: value for name, value in known.items() if value is not None}
    provenance = Provenance(
        step=saved.step,
        moved_from=(x, y, z),
        psnr_db=psnr,
        silhouette_iou=similarity.silhouette_iou,
        prior=source or None,
        prompt=config.prompt,
        seed=config.seed,
        dreamfusion=__version__,
        settings=hashlib.sha256(to_yaml(config).encode()).hexdigest(),
    )
    files = write_mesh(moved(model, -origin), path, name=slug(config.prompt), provenance=provenance)
    shape = model if isinstance(surface, TexturedMesh) else mesh
    return Export(files, model, topology(shape.vertices, shape.faces), similarity)


@dataclass(frozen=True)
class Print:
    """A written mesh for a 3D printer. size_mm: (x, y, z). parts: number of separate pieces.
    thin_mm3: volume of the walls below `printing.LEAST_WALL_MM`."""

    files: list[Path]
    size_mm: tuple[float, float, float]
    faces: int
    parts: int
    thin_mm3: float


def write_print(
    path: Path,
    saved: SavedScene,
    config: Config,
    size_mm: float,
    options: ExportOptions | None = None,
    *,
    say: Callable[[str], None] = lambda stage: None,
) -> Print:
    """Write a scene's surface for a 3D printer, as .stl or .3mf; see `printing.printable`.

    size_mm: of the longest side. options: resolution and threshold are used. say: see
    `write_model`. Raises MeshError.
    """
    require_print(path)
    options = ExportOptions() if options is None else options
    say("finding the surface")
    resolution = options.resolution or config.output.mesh_resolution
    surface = saved.scene.surface(resolution=resolution, threshold=options.threshold)
    say("preparing the print")
    solid = printable(surface.vertices, surface.faces, size_mm)
    write_bytes(path, print_bytes(solid, path, slug(config.prompt)))
    x, y, z = solid.extents.tolist()
    say("measuring the walls")
    return Print([path], (x, y, z), len(solid.faces), solid.body_count, thin_volume(solid))
