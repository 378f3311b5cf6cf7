"""Reads and writes mesh files. All formats use the scene's axes and units: +Y up, facing +Z."""

from __future__ import annotations

import dataclasses
import io
import re
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from dreamfusion.graphics import srgb
from dreamfusion.mesh.extract import Mesh, MeshError
from dreamfusion.mesh.provenance import KEY, Provenance, read_provenance
from dreamfusion.mesh.texture import TexturedMesh, tangents
from dreamfusion.mesh.usd import usdz_bytes
from dreamfusion.utils.errors import one_line
from dreamfusion.utils.files import atomic_write

if TYPE_CHECKING:
    import trimesh

FORMATS = ("glb", "obj", "ply", "stl", "usdz")
TEXTURED = ("glb", "obj", "usdz")  # formats that can hold a texture

# Trimesh writes these attributes under their own names only; they are renamed afterwards.
_COLORS, _TANGENTS = "_COLORS_OF_16_BITS", "_TANGENTS"

Origin = Literal["base", "center", "scene"]
AnyMesh = TypeVar("AnyMesh", bound=Mesh | TexturedMesh)


def origin_of(mesh: Mesh | TexturedMesh, origin: Origin) -> NDArray[np.float64]:
    """The point (3,) of the scene that becomes the origin: the centre of the mesh's bounding box
    ("center"), the centre of the box's lower side ("base"), or the same origin ("scene")."""
    if origin == "scene":
        return np.zeros(3)
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    middle = (low + high) / 2.0
    if origin == "base":
        middle[1] = low[1]
    return middle


def moved(mesh: AnyMesh, by: ArrayLike) -> AnyMesh:
    """The mesh, moved by a vector (3,)."""
    return dataclasses.replace(mesh, vertices=mesh.vertices + np.asarray(by))


def write_mesh(
    mesh: Mesh | TexturedMesh,
    path: Path | str,
    *,
    name: str = "model",
    provenance: Provenance | None = None,
) -> list[Path]:
    """Write a mesh in the format of the path's suffix, one of FORMATS; returns the files written.

    GLB, OBJ and USDZ contain the mesh's texture, if any (OBJ in separate .mtl and .png files). PLY
    has vertex colours, STL no colours. Vertex colours are sRGB in OBJ and PLY and linear in GLB and
    USDZ, as their standards require. The material is matt. name: of the object, its material and
    images. Only GLB contains the normal map and `provenance`. Files are written atomically. Raises
    MeshError, for USDZ also if usd-core is not installed.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise MeshError(f"cannot write a mesh as {path.name!r}: use one of {', '.join(FORMATS)}")
    if len(mesh.faces) == 0:
        raise MeshError("the mesh is empty")
    if isinstance(mesh, TexturedMesh) and kind not in TEXTURED:
        raise MeshError(f"a texture cannot be written as {kind}: use one of {', '.join(TEXTURED)}")
    if kind == "glb":
        files = {path: glb_bytes(mesh, provenance, name=name)}
    elif kind == "usdz":
        files = {path: usdz_bytes(mesh, name)}
    elif isinstance(mesh, TexturedMesh):
        files = _obj_files(mesh, path, name)
    else:
        data = as_trimesh(mesh).export(file_type=kind)
        files = {path: data.encode() if isinstance(data, str) else bytes(data)}
    with ExitStack() as stack:  # renames files in reverse order: the main file last
        for file, data in files.items():
            stack.enter_context(atomic_write(file)).write_bytes(data)
    return list(files)


def read_glb(path: Path | str) -> tuple[Mesh | TexturedMesh, Provenance | None]:
    """Read a .glb file of `write_mesh`: the mesh, and its provenance, if present. Raises MeshError
    if it cannot be read."""
    import trimesh

    path = Path(path)
    try:
        data = path.read_bytes()
        scene = trimesh.load(io.BytesIO(data), file_type="glb", process=False)
        (model,) = scene.geometry.values()
        vertices = np.array(model.vertices, dtype=np.float64)
        faces = np.array(model.faces, dtype=np.int64)
        material = getattr(model.visual, "material", None)
        image = getattr(material, "baseColorTexture", None)
        if image is None:
            linear = srgb.unit_colors(model.visual.vertex_attributes["color"])
            return Mesh(vertices, faces, srgb.from_linear(linear)), read_provenance(data)
        mesh = TexturedMesh(
            vertices=vertices,
            faces=faces,
            normals=np.array(model.vertex_normals, dtype=np.float64),
            uv=np.array(model.visual.uv, dtype=np.float64),
            texture=np.asarray(image.convert("RGB")),
        )
        return mesh, read_provenance(data)
    # The reader raises many kinds of errors for invalid files, without a common base class.
    except Exception as error:
        reason = one_line(error, 120)
        raise MeshError(f"cannot read the mesh {path} ({reason}); export it again") from None


def as_trimesh(mesh: Mesh | TexturedMesh, name: str = "model") -> trimesh.Trimesh:
    """A mesh in trimesh, with its texture or its vertex colours (sRGB). name: of the material."""
    import trimesh

    if isinstance(mesh, Mesh):
        return _model(mesh, vertex_colors=_rgba(mesh.colors, np.uint8))
    material = trimesh.visual.material.PBRMaterial(
        name=name,
        baseColorTexture=Image.fromarray(mesh.texture),
        normalTexture=None if mesh.normal_map is None else Image.fromarray(mesh.normal_map),
        metallicFactor=0.0,
        roughnessFactor=1.0,
    )
    visual = trimesh.visual.TextureVisuals(uv=mesh.uv, material=material)
    return _model(mesh, visual=visual)


def glb_bytes(
    mesh: Mesh | TexturedMesh, provenance: Provenance | None = None, *, name: str = "model"
) -> bytes:
    """Convert a mesh to a binary glTF file."""
    import trimesh

    if isinstance(mesh, Mesh):
        # Linear colours in 16 bits, since 8 bits have too few dark levels. Trimesh can write them
        # only as an attribute.
        colors = _rgba(srgb.to_linear(mesh.colors), np.uint16)
        model = _model(mesh, vertex_attributes={_COLORS: colors})
    else:
        model = as_trimesh(mesh, name)
        if mesh.normal_map is not None:
            model.vertex_attributes[_TANGENTS] = tangents(mesh).astype(np.float32)

    def finish(tree: dict[str, Any]) -> None:
        (primitive,) = tree["meshes"][0]["primitives"]
        attributes = primitive["attributes"]
        if _COLORS in attributes:
            attributes["COLOR_0"] = attributes.pop(_COLORS)
            tree["accessors"][attributes["COLOR_0"]]["normalized"] = True
            # Without a material, it would be metallic.
            matt = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
            tree["materials"] = [{"name": name, "pbrMetallicRoughness": matt}]
            primitive["material"] = 0
        if _TANGENTS in attributes:
            attributes["TANGENT"] = attributes.pop(_TANGENTS)
        for image, kind in zip(tree.get("images", ()), ("albedo", "normals"), strict=False):
            image["name"] = f"{name}-{kind}"
        if provenance is not None:
            tree["asset"]["extras"] = {KEY: dataclasses.asdict(provenance)}

    return trimesh.exchange.gltf.export_glb(
        trimesh.Scene({name: model}), include_normals=True, tree_postprocessor=finish
    )


def _model(mesh: Mesh | TexturedMesh, **looks: Any) -> Any:
    """The mesh in trimesh, with its normals and these colours or texture."""
    import trimesh

    geometry = {"vertices": mesh.vertices, "faces": mesh.faces, "vertex_normals": mesh.normals}
    return trimesh.Trimesh(**geometry, process=False, **looks)


def _rgba(colors: NDArray[np.float64], kind: type[np.unsignedinteger]) -> NDArray[Any]:
    """Colours (v, 3) in [0, 1] as integers (v, 4), opaque."""
    rgba = np.concatenate([colors, np.ones_like(colors[:, :1])], axis=1)
    return (rgba.clip(0.0, 1.0) * np.iinfo(kind).max).round().astype(kind)


def _obj_files(mesh: TexturedMesh, path: Path, name: str) -> dict[Path, bytes]:
    import trimesh

    material = trimesh.visual.material.SimpleMaterial(
        image=Image.fromarray(mesh.texture),
        diffuse=[255] * 4,
        ambient=[255] * 4,
        specular=[0, 0, 0, 255],
    )
    model = _model(mesh, visual=trimesh.visual.TextureVisuals(uv=mesh.uv, material=material))
    # Readers split file names at blanks, and "#" begins a comment.
    material.name = re.sub(r"[^\w.-]+", "_", path.stem)
    text, others = trimesh.exchange.obj.export_obj(
        model, include_normals=True, return_texture=True, mtl_name=f"{material.name}.mtl"
    )
    text = text.replace("usemtl", f"o {name}\nusemtl", 1)
    return {path: text.encode()} | {path.with_name(name): data for name, data in others.items()}
