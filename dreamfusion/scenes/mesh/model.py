"""Reads mesh files: all formats become glTF first, whose parts are then placed in the scene."""

import hashlib
import io
import logging
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dreamfusion.mesh.extract import MeshError, unit, vertex_normals
from dreamfusion.mesh.gltf import Glb
from dreamfusion.scenes.mesh.settings import MeshSettings
from dreamfusion.utils.errors import one_line

FORMATS = (".glb", ".obj", ".ply", ".stl", ".3mf")
MOST_FACES, _MOST_MIB = 1_000_000, 512
_TRIANGLES, _STRIP, _FAN = 4, 5, 6  # modes of primitives in glTF


@dataclass(frozen=True)
class Part:
    """A primitive of the file, where a node places it.

    material: index in the file, None for glTF's default. vertices, normals: (v, 3), the scene's
    frame. faces: (f, 3). channel: number of the set of texture coordinates that the material uses.
    uv: (v, 2), of this set, v down as in glTF; None if there is none.
    """

    mesh: int
    primitive: int
    material: int | None
    vertices: NDArray[np.float64]
    normals: NDArray[np.float64]
    faces: NDArray[np.int64]
    channel: int
    uv: NDArray[np.float64] | None

    @property
    def key(self) -> tuple[int, int]:
        """The place of the primitive in the file."""
        return self.mesh, self.primitive


@dataclass(frozen=True)
class Model:
    """A mesh file in the scene's frame.

    sha256: of the file. placements: a primitive occurs once for each node that shows it. skipped:
    number of primitives without faces.
    """

    glb: Glb
    sha256: bytes
    placements: tuple[Part, ...]
    skipped: int

    @cached_property
    def parts(self) -> dict[tuple[int, int], Part]:
        """The first placement of each primitive."""
        return {part.key: part for part in reversed(self.placements)}

    @cached_property
    def vertices(self) -> NDArray[np.float64]:
        """Of all placements, (v, 3)."""
        return np.concatenate([part.vertices for part in self.placements])

    @cached_property
    def normals(self) -> NDArray[np.float64]:
        """Of all placements, (v, 3)."""
        return np.concatenate([part.normals for part in self.placements])

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """The index of the first vertex of each placement."""
        return np.cumsum([0, *(len(part.vertices) for part in self.placements[:-1])])

    @cached_property
    def faces(self) -> NDArray[np.int64]:
        """Of all placements, (f, 3)."""
        placed = zip(self.placements, self.starts, strict=True)
        return np.concatenate([part.faces + start for part, start in placed])

    @cached_property
    def places(self) -> NDArray[np.float64]:
        """Where the field gives each vertex its colour, (v, 3): on the first placement, since all
        placements of a primitive share a texture."""
        return np.concatenate([self.parts[part.key].vertices for part in self.placements])


def read_model(settings: MeshSettings) -> Model:
    """Read the mesh of a scene. Raises MeshError with one line if it cannot be painted."""
    if not settings.file:
        raise MeshError("there is no mesh to paint: set scene.file, or use the command paint")
    path = Path(settings.file).expanduser()
    if path.suffix.lower() not in FORMATS:
        formats = ", ".join(kind.removeprefix(".") for kind in FORMATS)
        raise MeshError(f"cannot read {path} as a mesh: the formats are {formats}")
    if not path.is_file():
        raise MeshError(f"there is no file {path}")
    if (mib := path.stat().st_size >> 20) > _MOST_MIB:
        raise MeshError(f"{path} has {mib} MiB; at most {_MOST_MIB} are read")
    content = path.read_bytes()
    glb = Glb.parse(_as_glb(content, path), str(path))
    try:
        placements, skipped = _placed(glb, settings)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise MeshError(f"cannot read {path}: {one_line(error, 120)}") from None
    return Model(glb, hashlib.sha256(content).digest(), placements, skipped)


def require_kind(content: bytes, suffix: str) -> None:
    """Raise MeshError unless a file begins as its suffix says, before any reader parses it."""
    head, size = content[:512], len(content)
    is_text = head.isascii() and b"\0" not in head
    faces = int.from_bytes(content[80:84], "little")
    is_kind = {
        ".glb": head.startswith(b"glTF"),
        ".ply": head.startswith(b"ply"),
        ".stl": size == 84 + 50 * faces or (is_text and head.lstrip().startswith(b"solid")),
        ".obj": is_text,
    }
    if not is_kind[suffix]:
        raise MeshError(f"the file is not a {suffix.removeprefix('.')} file")


def _as_glb(content: bytes, path: Path) -> bytes:
    """Convert a file to glTF by trimesh. From memory, so that no other file is read."""
    kind = path.suffix.lower().removeprefix(".")
    if kind == "glb":
        return content
    import trimesh

    # It logs the tracebacks of parts that it skips, such as images.
    logging.getLogger("trimesh").addHandler(logging.NullHandler())
    try:
        loaded = trimesh.load_scene(io.BytesIO(content), file_type=kind, process=False)
        if kind == "stl":  # which repeats every vertex
            for mesh in loaded.geometry.values():
                mesh.merge_vertices()
        return bytes(trimesh.exchange.gltf.export_glb(loaded))
    # Readers raise many kinds of errors for invalid files, without a common base class.
    except Exception as error:
        raise MeshError(f"cannot read {path} as {kind}: {one_line(error, 120)}") from None


def _placed(glb: Glb, settings: MeshSettings) -> tuple[tuple[Part, ...], int]:
    """All placements in the scene's frame, and the number of primitives without faces."""
    placed: list[Part] = []
    skipped, n_faces = 0, 0
    turn = _turn(settings.up, settings.front)
    for mesh, primitive, matrix in glb.placements():
        part = _part(glb, mesh, primitive)
        if part is None:
            skipped += 1
            continue
        n_faces += len(part.faces)
        if n_faces > MOST_FACES:
            raise ValueError(
                f"it has more than {MOST_FACES:,} faces; reduce it first, for example by Blender's "
                "Decimate"
            )
        to_scene = turn @ matrix[:3, :3]
        vertices = part.vertices @ to_scene.T + turn @ matrix[:3, 3]
        if abs(np.linalg.det(to_scene)) < 1e-18 or not np.isfinite(vertices).all():
            raise ValueError("some vertices are not finite, or a node flattens its mesh")
        normals = unit(part.normals @ np.linalg.inv(to_scene))
        placed.append(replace(part, vertices=vertices, normals=normals))
    if not placed:
        raise ValueError("it has no faces")
    low = np.min([part.vertices.min(axis=0) for part in placed], axis=0)
    high = np.max([part.vertices.max(axis=0) for part in placed], axis=0)
    if not (longest := (high - low).max()) > 0:
        raise ValueError("all vertices are in one place")
    middle, scale = (low + high) / 2, settings.size / longest
    fitted = [replace(part, vertices=(part.vertices - middle) * scale) for part in placed]
    return tuple(fitted), skipped


def _part(glb: Glb, mesh: int, primitive: int) -> Part | None:
    """A primitive in the frame of its node; None without triangles."""
    found = glb.tree["meshes"][mesh]["primitives"][primitive]
    mode = found.get("mode", _TRIANGLES)
    if mode not in (_TRIANGLES, _STRIP, _FAN):
        return None
    attributes = found["attributes"]
    vertices = glb.values(attributes["POSITION"])
    if "indices" in found:
        order = glb.array(found["indices"])[:, 0].astype(np.int64)
    else:
        order = np.arange(len(vertices))
    if mode == _TRIANGLES:
        faces = order[: len(order) // 3 * 3].reshape(-1, 3)
    else:
        first = order[:-2] if mode == _STRIP else np.full(max(len(order) - 2, 0), order[0])
        faces = np.stack([first, order[1:-1], order[2:]], axis=1)
        if mode == _STRIP:
            faces[1::2] = faces[1::2, [1, 0, 2]]
    if not len(faces):
        return None
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise ValueError("some faces have vertices that do not exist")
    material = found.get("material")
    texture = {}
    if material is not None:
        pbr = glb.tree["materials"][material].get("pbrMetallicRoughness", {})
        texture = pbr.get("baseColorTexture", {})
    channel = int(texture.get("texCoord", 0))
    uv = attributes.get(f"TEXCOORD_{channel}")
    normals = attributes.get("NORMAL")
    smooth = vertex_normals(vertices, faces) if normals is None else glb.values(normals)
    coordinates = None if uv is None else glb.values(uv)
    return Part(mesh, primitive, material, vertices, smooth, faces, channel, coordinates)


def _turn(up: str, front: str) -> NDArray[np.float64]:
    """The rotation from the file's axes to the scene's: +Y up, +Z to the front."""
    y, z = (np.eye(3)["xyz".index(axis[1])] * (-1 if axis[0] == "-" else 1) for axis in (up, front))
    return np.stack([np.cross(y, z), y, z])
