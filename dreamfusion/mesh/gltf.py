"""Binary glTF files (.glb), to which arrays, images and materials are added. All else stays as it
is, to the bit."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamfusion.mesh.extract import MeshError

_NUMBERS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
# Compression that only libraries of their own can read, and what undoes it in gltf-transform.
_COMPRESSED = {"KHR_draco_mesh_compression": "copy", "EXT_meshopt_compression": "copy"}
_COMPRESSED |= {"KHR_texture_basisu": "ktxdecompress"}
_JSON, _BIN = 0x4E4F534A, 0x004E4942


@dataclass
class Glb:
    """The tree of a glTF file, and its buffer."""

    tree: dict[str, Any]
    data: bytearray

    @classmethod
    def parse(cls, content: bytes, name: str) -> Glb:
        """Parse a file. Raises MeshError with its name if it is damaged, compressed, or refers to
        other files."""
        try:
            magic, version, length = struct.unpack_from("<4sII", content)
            if magic != b"glTF" or version != 2 or length > len(content):
                raise ValueError("it is not a whole file of glTF 2.0")
            at, chunks = 12, dict[int, bytes]()
            while at < length:
                size, kind = struct.unpack_from("<II", content, at)
                chunks.setdefault(kind, content[at + 8 : at + 8 + size])
                at += 8 + size
            tree = json.loads(chunks[_JSON])
            outside = any("uri" in buffer for buffer in tree.get("buffers", []))
            found = [e for e in tree.get("extensionsRequired", []) if e in _COMPRESSED]
        except (struct.error, ValueError, KeyError, AttributeError, TypeError) as error:
            raise MeshError(f"cannot read {name} as .glb: {error or 'it is damaged'}") from None
        if found:
            undo = f"npx @gltf-transform/cli {_COMPRESSED[found[0]]} IN.glb OUT.glb"
            raise MeshError(f"{name} is compressed ({found[0]}); decompress it first: {undo}")
        if outside:
            raise MeshError(
                f"{name} stores its arrays in other files; put them into one file first: npx "
                "@gltf-transform/cli copy IN.glb OUT.glb"
            )
        return cls(tree, bytearray(chunks.get(_BIN, b"")))

    def to_bytes(self) -> bytes:
        """The file."""
        data = bytes(self.data) + bytes(-len(self.data) % 4)
        if data:
            self.tree.setdefault("buffers", [{}])[0]["byteLength"] = len(self.data)
        text = json.dumps(self.tree, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        chunks = [(text, _JSON), (data, _BIN)] if data else [(text, _JSON)]
        body = b"".join(struct.pack("<II", len(part), kind) + part for part, kind in chunks)
        return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body

    def array(self, index: int) -> NDArray[Any]:
        """An accessor as (count, width), in its own type. Raises ValueError for sparse ones, and
        for those outside the buffer."""
        accessor = self.tree["accessors"][index]
        dtype, width = np.dtype(_NUMBERS[accessor["componentType"]]), _WIDTHS[accessor["type"]]
        count = accessor["count"]
        if "sparse" in accessor:
            raise ValueError("sparse accessors are not supported")
        if "bufferView" not in accessor:
            return np.zeros((count, width), dtype)
        view = self.tree["bufferViews"][accessor["bufferView"]]
        at = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
        stride = view.get("byteStride", dtype.itemsize * width)
        return np.ndarray((count, width), dtype, self.data, at, (stride, dtype.itemsize)).copy()

    def values(self, index: int) -> NDArray[np.float64]:
        """An accessor as numbers; normalised integers are divided by their largest value."""
        found = self.array(index)
        if not self.tree["accessors"][index].get("normalized", False):
            return found.astype(np.float64)
        return np.maximum(found / np.iinfo(found.dtype).max, -1.0)

    def add(self, items: str, item: dict[str, Any]) -> int:
        """Append an item to a list of the tree, such as "materials"; returns its index."""
        self.tree.setdefault(items, []).append(item)
        return len(self.tree[items]) - 1

    def add_bytes(self, content: bytes) -> int:
        """Append bytes to the buffer; returns the index of their view."""
        self.data.extend(bytes(-len(self.data) % 4))
        where = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(content)}
        self.data.extend(content)
        self.tree.setdefault("buffers", [{}])[0]["byteLength"] = len(self.data)
        return self.add("bufferViews", where)

    def add_array(self, values: NDArray[Any], **like: Any) -> int:
        """Append an array (count, width) of a type that glTF supports; returns the index of its
        accessor. like: further properties of the accessor."""
        numbers = {np.dtype(name): number for number, name in _NUMBERS.items()}
        kind = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}[values.shape[1]]
        # Rows of vertex attributes begin at multiples of four bytes.
        size = values.dtype.itemsize * values.shape[1]
        padded = -size % 4 if values.shape[1] > 1 else 0
        rows = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), size)
        view = self.add_bytes(np.pad(rows, ((0, 0), (0, padded))).tobytes())
        if padded:
            self.tree["bufferViews"][view]["byteStride"] = size + padded
        accessor = {
            "bufferView": view,
            "componentType": numbers[values.dtype],
            "count": len(values),
            "type": kind,
        }
        return self.add("accessors", accessor | like)

    def placements(self) -> list[tuple[int, int, NDArray[np.float64]]]:
        """Mesh, primitive, and matrix (4, 4) to the world, of all primitives in the default scene,
        in the order of its nodes. Skinned meshes are in their bind pose."""
        nodes, found = self.tree.get("nodes", []), []
        scenes = self.tree.get("scenes", [])
        roots = scenes[self.tree.get("scene", 0)].get("nodes", []) if scenes else range(len(nodes))
        stack = [(node, np.eye(4), 0) for node in reversed(roots)]
        while stack:
            index, parent, depth = stack.pop()
            node = nodes[index]
            if depth > len(nodes):
                raise ValueError("its nodes form a loop")
            matrix = parent @ _matrix(node)
            if "mesh" in node:
                primitives = self.tree["meshes"][node["mesh"]]["primitives"]
                pose = np.eye(4) if "skin" in node else matrix
                found += [(node["mesh"], number, pose) for number in range(len(primitives))]
            stack += [(i, matrix, depth + 1) for i in reversed(node.get("children", []))]
        return found


def _matrix(node: dict[str, Any]) -> NDArray[np.float64]:
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    from scipy.spatial.transform import Rotation  # type: ignore[import-untyped]

    rotation = Rotation.from_quat(node.get("rotation", (0, 0, 0, 1))).as_matrix()
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * np.array(node.get("scale", (1, 1, 1)), np.float64)
    matrix[:3, 3] = node.get("translation", (0, 0, 0))
    return matrix
