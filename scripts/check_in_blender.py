"""Executed inside Blender by `check_glb.sh`: checks that each file contains one textured mesh,
upright and of the right size.

Blender's axes are x right, y away from the viewer, z up; glTF's (x, y, z) become (x, -z, y).
"""

import json
import struct
import sys

import bpy

for path in sys.argv[sys.argv.index("--") + 1 :]:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.import_scene.gltf(filepath=path)
    meshes = [item for item in bpy.data.objects if item.type == "MESH"]
    assert len(meshes) == 1, f"{path}: {len(meshes)} meshes"
    (item,) = meshes
    corners = [item.matrix_world @ vertex.co for vertex in item.data.vertices]
    low = [min(corner[i] for corner in corners) for i in range(3)]
    high = [max(corner[i] for corner in corners) for i in range(3)]

    with open(path, "rb") as file:
        _, _, _, length, _ = struct.unpack("<5I", file.read(20))
        tree = json.loads(file.read(length))
    (primitive,) = tree["meshes"][0]["primitives"]
    bounds = tree["accessors"][primitive["attributes"]["POSITION"]]
    expected_low = [bounds["min"][0], -bounds["max"][2], bounds["min"][1]]
    expected_high = [bounds["max"][0], -bounds["min"][2], bounds["max"][1]]
    for found, expected in ((low, expected_low), (high, expected_high)):
        worst = max(abs(a - b) for a, b in zip(found, expected, strict=True))
        assert worst < 1e-4, f"{path}: box {low} to {high} in Blender"

    (material,) = item.data.materials
    kinds = {node.type for node in material.node_tree.nodes}
    assert "BSDF_PRINCIPLED" in kinds, f"{path}: no PBR material"
    if "images" in tree:
        assert "TEX_IMAGE" in kinds, f"{path}: its texture is lost"
        (image,) = (i for i in bpy.data.images if i.type == "IMAGE")
        assert min(image.size) > 0, f"{path}: its texture is empty"
    size = " x ".join(f"{b - a:.2f}" for a, b in zip(low, high, strict=True))
    print(f"{path}: Blender finds one mesh, {len(item.data.polygons)} faces, {size} (z up)")
