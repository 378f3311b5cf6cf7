"""Writes textures into a glTF file, of which everything else stays as it is.

Each painted part gets a copy of its material with the new texture as its base colour. Vertices,
faces, normals, names, nodes, animations and other textures are not changed. Vertex colours, which
would be multiplied by the texture, are no longer referred to. Where new texture coordinates were
needed, they are a further set, and vertices on their seams are repeated.
"""

import copy
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dreamfusion.mesh.gltf import Glb
from dreamfusion.scenes.mesh.atlas import Layout, Sheet
from dreamfusion.scenes.mesh.model import Model

_CLAMP = 33071  # CLAMP_TO_EDGE


def patched(model: Model, sheets: list[Sheet], textures: list[NDArray[np.uint8]]) -> bytes:
    """The file with these textures, one for each sheet."""
    glb = copy.deepcopy(model.glb)
    sampler = glb.add("samplers", {"wrapS": _CLAMP, "wrapT": _CLAMP})
    for sheet, texture in zip(sheets, textures, strict=True):
        png = io.BytesIO()
        Image.fromarray(texture).save(png, "PNG")
        view = glb.add_bytes(png.getvalue())
        image = glb.add("images", {"name": "painted", "mimeType": "image/png", "bufferView": view})
        source = glb.add("textures", {"source": image, "sampler": sampler})
        painted: dict[int, int] = {}  # the new material for each set of coordinates
        for layout in sheet.layouts:
            mesh, number = layout.part.key
            primitive = glb.tree["meshes"][mesh]["primitives"][number]
            channel = _channel(glb, primitive, layout, new=bool(sheet.reason))
            if channel not in painted:
                material = _material(
                    glb, layout.part.material, {"index": source, "texCoord": channel}
                )
                painted[channel] = glb.add("materials", material)
            primitive["material"] = painted[channel]
            primitive["attributes"].pop("COLOR_0", None)
    return glb.to_bytes()


def _material(glb: Glb, index: int | None, texture: dict[str, int]) -> dict[str, Any]:
    """A copy of a material with another base colour."""
    new: dict[str, Any] = {} if index is None else copy.deepcopy(glb.tree["materials"][index])
    pbr = new.setdefault("pbrMetallicRoughness", {"metallicFactor": 0.0, "roughnessFactor": 1.0})
    alpha = pbr.get("baseColorFactor", [1.0] * 4)[3]
    pbr["baseColorFactor"], pbr["baseColorTexture"] = [1.0, 1.0, 1.0, alpha], texture
    extensions = new.get("extensions", {})
    # Its diffuse colour would replace the base colour.
    extensions.pop("KHR_materials_pbrSpecularGlossiness", None)
    if not extensions:
        new.pop("extensions", None)
    return new


def _channel(glb: Glb, primitive: dict[str, Any], layout: Layout, *, new: bool) -> int:
    """The number of the set of texture coordinates of a part, which is added if it is new."""
    attributes = primitive["attributes"]
    if not new:
        return layout.part.channel
    if not np.array_equal(layout.which, np.arange(len(layout.part.vertices))):
        repeated: dict[int, int] = {}
        for of_vertices in (attributes, *primitive.get("targets", [])):
            for name, accessor in of_vertices.items():
                if accessor not in repeated:
                    repeated[accessor] = _gathered(glb, accessor, layout.which)
                of_vertices[name] = repeated[accessor]
    kind = np.uint16 if len(layout.which) < 65536 else np.uint32
    primitive["indices"] = glb.add_array(layout.faces.reshape(-1, 1).astype(kind))
    primitive.pop("mode", None)
    channel = sum(name.startswith("TEXCOORD_") for name in attributes)
    attributes[f"TEXCOORD_{channel}"] = glb.add_array(layout.uv.astype(np.float32))
    return channel


def _gathered(glb: Glb, accessor: int, which: NDArray[np.int64]) -> int:
    """A new accessor with these rows of an old one."""
    old = glb.tree["accessors"][accessor]
    rows = glb.array(accessor)[which]
    kept = {key: old[key] for key in ("normalized", "name") if key in old}
    if "min" in old:
        kept |= {"min": rows.min(axis=0).tolist(), "max": rows.max(axis=0).tolist()}
    return glb.add_array(rows, **kept)
