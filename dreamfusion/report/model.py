"""Reads and checks a mesh file for a report, and packs it for the viewer of the page."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dreamfusion.graphics import srgb
from dreamfusion.mesh.provenance import read_provenance
from dreamfusion.mesh.topology import topology
from dreamfusion.utils.errors import UserError, one_line

MOST_FACES = 2_000_000  # browsers fail on pages with more
_MOST_TEXELS = 2048  # per side
_MOST_PNG = 1_500_000  # bytes; a larger texture is stored as JPEG


class ModelError(UserError):
    """A mesh that cannot be read."""


@dataclass(frozen=True)
class Model:
    """A triangle mesh to display.

    vertices, normals: (v, 3). faces: (f, 3). Either uv, (v, 2) with v up, a texture and possibly a
    normal map, or colors, (v, 3) sRGB bytes, or neither. checks: results as (name, text) pairs.
    """

    vertices: NDArray[np.float64]
    normals: NDArray[np.float64]
    faces: NDArray[np.int64]
    uv: NDArray[np.float64] | None
    texture: Image.Image | None
    colors: NDArray[np.uint8] | None
    checks: tuple[tuple[str, str], ...]
    normal_map: Image.Image | None = None


def read_model(path: Path) -> Model:
    """Read a mesh of any format that `dreamfusion export` writes. Raises ModelError."""
    try:
        mesh = _load(path)
        if len(mesh.faces) == 0 or not np.isfinite(mesh.vertices).all():
            raise ModelError("it has no faces" if len(mesh.faces) == 0 else "it is not finite")
        uv = getattr(mesh.visual, "uv", None)
        material = None if uv is None else mesh.visual.material
        texture = _image(material, "baseColorTexture", "image")
        linear = path.suffix.lower() == ".glb"
        colors = _colors(mesh, linear=linear) if texture is None else None
        return Model(
            vertices=np.asarray(mesh.vertices),
            normals=np.asarray(mesh.vertex_normals),
            faces=np.asarray(mesh.faces),
            uv=None if texture is None else np.asarray(uv),
            texture=texture,
            colors=colors,
            checks=_checks(mesh, texture, colors, path.read_bytes()),
            normal_map=_image(material, "normalTexture"),
        )
    except Exception as error:  # parsers of broken files raise many kinds of errors
        raise ModelError(one_line(error)) from None


def pack(model: Model) -> dict[str, Any]:
    """Convert the model to the compact format of viewer.js: quantised arrays in base64."""
    low, span, positions = _quantise(model.vertices)
    wide = len(model.vertices) > 2**16
    middle = (model.vertices.min(axis=0) + model.vertices.max(axis=0)) / 2.0
    packed: dict[str, Any] = {
        "low": low,
        "span": span,
        "radius": float(np.linalg.norm(model.vertices - middle, axis=1).max()),
        "positions": _base64(positions),
        "normals": _base64((np.clip(model.normals, -1, 1) * 127).round().astype(np.int8)),
        "wide": wide,
        "indices": _base64(model.faces.astype("<u4" if wide else "<u2")),
    }
    if model.uv is not None and model.texture is not None:
        uv_low, uv_span, uv = _quantise(model.uv)
        packed |= {"uvLow": uv_low, "uvSpan": uv_span, "uv": _base64(uv)}
        packed["texture"] = _encoded(model.texture)
        if model.normal_map is not None:
            packed["normalMap"] = _encoded(model.normal_map)
    else:
        grey = np.full(model.vertices.shape, 200, np.uint8)
        packed["colors"] = _base64(grey if model.colors is None else model.colors)
    return packed


def _load(path: Path) -> Any:
    import trimesh

    # Merging parts drops their normals and, if there is a material, their vertex colours.
    parts = list(trimesh.load(path, force="scene", process=False).geometry.values())
    if len(parts) == 1:
        return parts[0]
    mesh = trimesh.load(path, force="mesh", process=False)
    if mesh.visual.kind == "texture" and mesh.visual.uv is None:
        mesh = trimesh.load(path, force="mesh", process=False, skip_materials=True)
    return mesh


def _image(material: Any, *names: str) -> Image.Image | None:
    """The first image of a material that has one of these names."""
    for name in names:
        image = getattr(material, name, None)
        if image is not None:
            return image.convert("RGB")
    return None


def _colors(mesh: Any, *, linear: bool) -> NDArray[np.uint8] | None:
    """sRGB vertex colours. linear: whether the file stores linear colours, as glTF does."""
    if mesh.visual.kind == "vertex":
        found = mesh.visual.vertex_colors
    else:
        found = getattr(mesh.visual, "vertex_attributes", {}).get("color")
    if found is None:
        return None
    colors = srgb.unit_colors(np.asarray(found))
    return ((srgb.from_linear(colors) if linear else colors) * 255.0).round().astype(np.uint8)


def _checks(
    mesh: Any, texture: Image.Image | None, colors: NDArray[np.uint8] | None, data: bytes
) -> tuple[tuple[str, str], ...]:
    """Results of checks as (name, text) pairs. data: content of the mesh file."""
    shape = topology(np.asarray(mesh.vertices), np.asarray(mesh.faces))
    if texture is not None:
        look = f"texture, {texture.width} × {texture.height}"
    else:
        look = "none" if colors is None else "at vertices"
    checks = [
        ("Vertices", f"{shape.vertices:,}"),
        ("Faces", f"{shape.faces:,}"),
        ("Watertight", f"yes, genus {shape.genus}" if shape.watertight else "no"),
        ("Pieces", f"{shape.components:,}"),
        ("Width × height × depth", " × ".join(f"{side:.2f}" for side in shape.size)),
        ("Volume", f"{shape.volume:.3f}" if shape.watertight else "unknown: not watertight"),
        ("Colour", look),
        ("File", f"{len(data) / 1e6:.1f} MB" if len(data) >= 1e6 else f"{len(data) / 1e3:.0f} kB"),
    ]
    origin = read_provenance(data)
    if origin is not None:
        checks.append(("Step", f"{origin.step:,}"))
        if origin.psnr_db is not None:
            checks.append(("PSNR to the scene", f"{origin.psnr_db:.1f} dB"))
        if origin.silhouette_iou is not None:
            checks.append(("Silhouette IoU with the scene", f"{origin.silhouette_iou:.3f}"))
    return tuple(checks)


def _quantise(values: NDArray[np.float64]) -> tuple[list[float], list[float], NDArray[np.uint16]]:
    """The minimum and range of each column, and the values as 16-bit fractions of the range."""
    low, span = values.min(axis=0), np.ptp(values, axis=0)
    fractions = (values - low) / np.where(span > 0, span, 1.0)
    return low.tolist(), span.tolist(), (fractions * 65535).round().astype("<u2")


def _encoded(texture: Image.Image) -> str:
    """Encode the texture as a data URI."""
    if max(texture.size) > _MOST_TEXELS:
        texture = texture.copy()
        texture.thumbnail((_MOST_TEXELS, _MOST_TEXELS))
    buffer, kind = io.BytesIO(), "png"
    texture.save(buffer, "PNG", optimize=True)
    if buffer.tell() > _MOST_PNG:
        buffer, kind = io.BytesIO(), "jpeg"
        texture.save(buffer, "JPEG", quality=92)
    return data_uri(f"image/{kind}", buffer.getvalue())


def data_uri(kind: str, data: bytes) -> str:
    """Encode bytes as a data URI. kind: the MIME type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _base64(array: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
