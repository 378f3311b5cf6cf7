"""GLB files by pygltflib, with what artists' files contain besides triangles."""

import numpy as np
import pygltflib as gltf
import trimesh


def quad_sphere(n: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices, faces and non-overlapping texture coordinates of a UV sphere."""
    u, v = np.meshgrid(np.linspace(0, 1, 2 * n + 1), np.linspace(0, 1, n + 1))
    theta, phi = np.pi * v, 2 * np.pi * u
    vertices = np.stack(
        [np.sin(theta) * np.sin(phi), np.cos(theta), np.sin(theta) * np.cos(phi)], -1
    )
    index = np.arange(u.size).reshape(u.shape)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = np.concatenate(
        [np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)]
    )
    area = np.linalg.norm(
        np.cross(
            vertices.reshape(-1, 3)[faces[:, 1]] - vertices.reshape(-1, 3)[faces[:, 0]],
            vertices.reshape(-1, 3)[faces[:, 2]] - vertices.reshape(-1, 3)[faces[:, 0]],
        ),
        axis=1,
    )
    return vertices.reshape(-1, 3), faces[area > 1e-9], np.stack([u, v], -1).reshape(-1, 2)


class Builder:
    """Builds a file array by array."""

    def __init__(self):
        self.file, self.data = gltf.GLTF2(), b""
        self.file.scenes, self.file.scene = [gltf.Scene(nodes=[])], 0

    def array(self, values, dtype, kind, **more) -> int:
        content = np.ascontiguousarray(values, dtype).tobytes()
        self.data += b"\0" * (-len(self.data) % 4)
        self.file.bufferViews.append(
            gltf.BufferView(buffer=0, byteOffset=len(self.data), byteLength=len(content))
        )
        self.data += content
        types = {"<f4": 5126, "<u2": 5123, "<u4": 5125, "u1": 5121}
        self.file.accessors.append(
            gltf.Accessor(
                bufferView=len(self.file.bufferViews) - 1, componentType=types[dtype],
                count=len(values), type=kind, **more,
            )
        )  # fmt: skip
        return len(self.file.accessors) - 1

    def mesh(self, name, vertices, indices, *, uv=None, material=None, mode=4, color=None) -> int:
        finite = np.nan_to_num(np.float32(vertices))
        low, high = finite.min(0).tolist(), finite.max(0).tolist()
        attributes = {"POSITION": self.array(vertices, "<f4", "VEC3", min=low, max=high)}
        if uv is not None:
            attributes["TEXCOORD_0"] = self.array(uv, "<f4", "VEC2")
        if color is not None:
            attributes["COLOR_0"] = self.array(color, "u1", "VEC4", normalized=True)
        primitive = gltf.Primitive(
            attributes=gltf.Attributes(**attributes), material=material, mode=mode,
            indices=self.array(np.ravel(indices)[:, None], "<u2", "SCALAR"),
        )  # fmt: skip
        self.file.meshes.append(gltf.Mesh(name=name, primitives=[primitive]))
        return len(self.file.meshes) - 1

    def node(self, **what) -> int:
        self.file.nodes.append(gltf.Node(**what))
        return len(self.file.nodes) - 1

    def save(self, path, roots):
        self.file.scenes[0].nodes = roots
        self.file.buffers = [gltf.Buffer(byteLength=len(self.data))]
        self.file.set_binary_blob(self.data)
        self.file.save_binary(str(path))
        return path


def artists_file(path):
    """A body with texture coordinates, vertex colours and a metallic material; two wheels, one of
    them mirrored, that share a mesh without coordinates; a line; an animation."""
    build = Builder()
    build.file.materials = [
        gltf.Material(
            name="paint", doubleSided=True,
            pbrMetallicRoughness=gltf.PbrMetallicRoughness(
                metallicFactor=0.7, roughnessFactor=0.2, baseColorFactor=[1, 0, 0, 1]
            ),
        ),
        gltf.Material(name="rubber", extras={"by": "hand"}),
    ]  # fmt: skip
    vertices, faces, uv = quad_sphere()
    colors = np.full((len(vertices), 4), 128)
    body = build.mesh("body", vertices, faces, uv=uv, material=0, color=colors)
    box = trimesh.creation.box((0.4, 0.4, 0.2))
    wheel = build.mesh("wheel", box.vertices, box.faces, material=1)
    line = build.mesh("antenna", [[0, 1, 0], [0, 1.4, 0]], [0, 1], mode=1)
    nodes = [
        build.node(name="Body", mesh=body, extras={"id": 7}),
        build.node(name="Left", mesh=wheel, translation=[-0.9, -0.9, 0.0]),
        build.node(name="Right", mesh=wheel, translation=[0.9, -0.9, 0.0], scale=[-1, 1, 1]),
        build.node(name="Antenna", mesh=line),
    ]
    root = build.node(name="Car", children=nodes, rotation=[0.0, 0.0, 0.0, 1.0])
    times = build.array([[0.0], [1.0]], "<f4", "SCALAR", min=[0.0], max=[1.0])
    moves = build.array([[0, 0, 0], [0, 1, 0]], "<f4", "VEC3")
    build.file.animations = [
        gltf.Animation(
            name="hop",
            samplers=[gltf.AnimationSampler(input=times, output=moves)],
            channels=[
                gltf.AnimationChannel(
                    sampler=0, target=gltf.AnimationChannelTarget(node=root, path="translation")
                )
            ],
        )
    ]
    return build.save(path, [root])
