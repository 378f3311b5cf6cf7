"""A user's mesh: what is read, drawn and painted, and what stays as it was."""

import json
import struct
from contextlib import suppress

import numpy as np
import pygltflib
import pytest
import torch
import trimesh

from dreamfusion.graphics.cameras import orbit_cameras, turntable_cameras
from dreamfusion.mesh.extract import MeshError
from dreamfusion.mesh.gltf import Glb
from dreamfusion.mesh.renderer import render_mesh
from dreamfusion.scenes.base import Views, render_image
from dreamfusion.scenes.mesh.model import read_model
from dreamfusion.scenes.mesh.scene import MeshScene
from dreamfusion.scenes.mesh.settings import MeshSettings
from dreamfusion.utils.state import Progress
from tests.helpers.glb_files import Builder, artists_file, quad_sphere


def _scene(file, seed=0, **settings) -> MeshScene:
    settings = {"texture_size": 128, **settings}
    generator = torch.Generator().manual_seed(seed)
    return MeshScene(MeshSettings(file=str(file), **settings), generator=generator)


def _by_place(scene: MeshScene) -> MeshScene:
    """Colours that tell the place: red to the right, green upwards, blue to the front."""
    scene.albedo = lambda points: 0.5 + 0.6 * points  # type: ignore[method-assign]
    scene.seen[:] = True
    return scene


@pytest.fixture
def car(tmp_path):
    return artists_file(tmp_path / "car.glb")


def test_the_whole_file_is_placed_in_the_scene(car):
    model = read_model(MeshSettings(file=str(car)))
    expected = trimesh.load(car, force="mesh", process=False)
    assert len(model.faces) == len(expected.faces) and len(model.parts) == 2
    assert model.skipped == 1
    size = model.vertices.max(0) - model.vertices.min(0)
    np.testing.assert_allclose(size.max(), 1.45)
    np.testing.assert_allclose(model.vertices.max(0) + model.vertices.min(0), 0, atol=1e-6)
    middle = (expected.bounds[0] + expected.bounds[1]) / 2
    wanted = (expected.vertices - middle) * 1.45 / (expected.bounds[1] - expected.bounds[0]).max()
    found, wanted = (np.unique(v.round(5), axis=0) for v in (model.vertices, wanted))
    np.testing.assert_allclose(found, wanted, atol=2e-5)


@pytest.mark.parametrize(
    ("up", "front", "turned"),
    [
        ("+y", "+z", lambda x, y, z: (x, y, z)),
        ("+z", "-y", lambda x, y, z: (x, -z, y)),  # Blender's
        ("-x", "+y", lambda x, y, z: (-y, z, -x)),
    ],
)
def test_up_and_front_turn_the_object(tmp_path, up, front, turned):
    """turned: where the file has a point of the scene."""
    points = np.array([[0, 0, 0], [0.2, 0, 0], [0, 0.5, 0], [0, 0, 1.0]])
    faces = np.array([[0, 2, 1], [0, 3, 2], [0, 1, 3], [1, 2, 3]])
    file = np.stack([turned(*point) for point in points])
    path = tmp_path / "a.stl"
    trimesh.Trimesh(file, faces, process=False).export(path)
    model = read_model(MeshSettings(file=str(path), up=up, front=front))
    found = (model.vertices - model.vertices.min(0)) / 1.45
    assert {tuple(row) for row in found.round(4)} == {tuple(row) for row in points.round(4)}
    corners = model.vertices[model.faces]
    volume = (corners[:, 0] * np.cross(corners[:, 1], corners[:, 2])).sum() / 6
    assert volume > 0  # not mirrored


def _chunks(content: bytes) -> tuple[dict, bytes]:
    length = struct.unpack_from("<I", content, 12)[0]
    return json.loads(content[20 : 20 + length]), content[28 + length :]


def test_everything_but_the_paint_stays_as_it_was(car, tmp_path):
    scene, path = _by_place(_scene(car)), tmp_path / "painted.glb"
    (write,) = scene.writers().values()
    write(path)
    (old, old_data), (new, new_data) = _chunks(car.read_bytes()), _chunks(path.read_bytes())
    assert (
        new_data[: old["buffers"][0]["byteLength"]] == old_data[: old["buffers"][0]["byteLength"]]
    )
    for key in ("nodes", "scenes", "scene", "animations", "asset"):
        assert new[key] == old[key]
    for key in ("accessors", "bufferViews", "materials"):
        assert new[key][: len(old[key])] == old[key]
    body, wheel, line = (mesh["primitives"][0] for mesh in new["meshes"])
    assert [mesh["name"] for mesh in new["meshes"]] == ["body", "wheel", "antenna"]
    was = old["meshes"][0]["primitives"][0]
    assert body["indices"] == was["indices"]
    kept = {name: index for name, index in was["attributes"].items() if name != "COLOR_0"}
    assert body["attributes"] == kept
    assert line == old["meshes"][2]["primitives"][0]
    paint, rubber = (new["materials"][p["material"]] for p in (body, wheel))
    assert paint["name"] == "paint" and paint["doubleSided"] is True
    assert paint["pbrMetallicRoughness"]["metallicFactor"] == 0.7
    assert paint["pbrMetallicRoughness"]["baseColorFactor"] == [1, 1, 1, 1]
    assert rubber["extras"] == {"by": "hand"}
    # New coordinates for the wheel: every face has its three places, in the same order.
    glb = Glb.parse(path.read_bytes(), "")
    was = old["meshes"][1]["primitives"][0]
    before, after = (
        glb.array(p["attributes"]["POSITION"])[glb.array(p["indices"])[:, 0]] for p in (was, wheel)
    )
    np.testing.assert_array_equal(before, after)
    uv = glb.array(wheel["attributes"]["TEXCOORD_0"])
    assert uv.min() >= 0 and uv.max() <= 1 and len(uv) == 24
    assert pygltflib.GLTF2().load(str(path)).images[0].name == "painted"


def test_textures_show_the_colours_of_the_field(car, tmp_path):
    scene, path = _by_place(_scene(car, texture_size=256)), tmp_path / "painted.glb"
    (write,) = scene.writers().values()
    write(path)
    painted = trimesh.load(path, process=False)
    for name, mesh in painted.geometry.items():
        if not hasattr(mesh, "faces"):
            continue
        points, face = trimesh.sample.sample_surface(mesh, 500, seed=0)
        weights = trimesh.triangles.points_to_barycentric(mesh.triangles[face], points)
        uv = (mesh.visual.uv[mesh.faces[face]] * weights[..., None]).sum(1)
        color = mesh.visual.material.baseColorTexture.convert("RGB")
        pixels = np.asarray(color)[
            ((1 - uv[:, 1]) * color.height).astype(int).clip(0, color.height - 1),
            (uv[:, 0] * color.width).astype(int).clip(0, color.width - 1),
        ] / 255  # fmt: skip
        # Both wheels have the texture of the first one, the left.
        places = [painted.graph[node][0] for node in painted.graph.geometry_nodes[name]]
        world = trimesh.transform_points(points, min(places, key=lambda place: place[0, 3]))
        low, high = trimesh.load(path, force="mesh").bounds
        expected = 0.5 + 0.6 * (world - (low + high) / 2) * 1.45 / (high - low).max()
        error = np.abs(pixels - expected).max(axis=1)
        assert np.quantile(error, 0.98) < 0.02, name


def test_one_textured_mesh_looks_like_the_scene(car):
    scene, cameras = _by_place(_scene(car, texture_size=256, samples=3)), turntable_cameras(3)
    mesh = scene.surface()
    for mode in ("albedo", "color"):
        found = render_mesh(mesh, cameras, height=96, width=96, mode=mode, supersample=3)
        expected = render_image(scene, cameras, height=96, width=96, mode=mode)
        assert torch.equal(found[..., 3] > 0.5, expected[..., 3] > 0.5)
        solid = found[..., 3] == 1
        assert (found - expected)[solid].abs().mean() < 0.01


def test_images_have_depth_normals_and_smooth_edges(tmp_path):
    vertices, faces, _ = quad_sphere(48)
    trimesh.Trimesh(vertices, faces).export(tmp_path / "ball.ply")
    scene = _scene(tmp_path / "ball.ply", size=1.0)
    out = scene.render(Views(turntable_cameras(2), 48, 48, normals=True))
    middle = out.depth[:, 23:25, 23:25]
    assert (middle - 2.3).abs().max() < 0.01  # 2.8 minus the radius
    toward = turntable_cameras(2).positions / 2.8
    assert ((out.normals[:, 23, 23] * toward).sum(-1) > 0.99).all()
    assert ((out.opacity > 0) & (out.opacity < 1)).any()
    plain = scene.render(Views(turntable_cameras(1), 48, 48, background=torch.tensor([1.0, 0, 0])))
    assert torch.equal(plain.rgb[0, 0, 0], torch.tensor([1.0, 0, 0]))


def test_steps_fit_the_colours_to_images(car):
    """Adam with the scene's rates moves the images to those of another scene."""
    scene, target = _scene(car), _by_place(_scene(car))
    generator, errors = torch.Generator().manual_seed(0), []
    for step in range(30):
        views = Views(turntable_cameras(4, elevation_deg=float(10 * (step % 3))), 32, 32)
        with torch.no_grad():
            wanted = target.render(views).rgb
        scene.before_step(Progress(step, 30), generator)
        loss = (scene.render(views, [generator] * 4).rgb - wanted).square().mean()
        scene.optimizer.zero_grad()
        loss.backward()
        for group in scene.optimizer.param_groups:
            group["lr"] = group["base_lr"]
        scene.optimizer.step()
        errors.append(loss.item())
    assert errors[-1] < 0.05 * errors[0]
    assert scene.optimizer.param_groups[0]["lr"] == pytest.approx(0.015, rel=0.1)


def test_unseen_parts_take_the_colours_around_them(tmp_path):
    vertices, faces, uv = quad_sphere(24)
    build = Builder()
    build.save(tmp_path / "ball.glb", [build.node(mesh=build.mesh("ball", vertices, faces, uv=uv))])
    scene = _scene(tmp_path / "ball.glb")
    above = orbit_cameras(*(torch.full((1,), x) for x in (0.0, 89.0, 2.8, 40.0)))
    with torch.no_grad():
        scene.render(Views(above, 64, 64), [torch.Generator()])
    assert 0.2 < scene.seen.float().mean() < 0.5
    # Red above, blue where no camera was.
    scene.albedo = (
        lambda p: torch.where(  # type: ignore[method-assign]
            p[:, 1:2] > -0.05, torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])
        )
    )
    mesh = scene.surface()
    assert (mesh.texture[..., 2] < 10).all() and (mesh.texture[..., 0] > 245).all()


def test_a_state_belongs_to_its_file(car):
    scene, other = _scene(car), _scene(car, seed=1)
    scene.seen[3] = True
    other.load_state_dict(scene.state_dict())
    views = Views(turntable_cameras(1), 16, 16)
    assert torch.equal(scene.render(views).rgb, other.render(views).rgb) and other.seen[3]
    content = bytearray(car.read_bytes())
    content[content.index(b"antenna")] = ord("A")
    car.write_bytes(content)
    with pytest.raises(ValueError, match="has changed"):
        _scene(car).load_state_dict(scene.state_dict())


def test_painting_again_starts_from_the_colours(car):
    scene, generator = _scene(car), torch.Generator()
    again = MeshScene(scene.settings, generator=generator, start=scene)
    views = Views(turntable_cameras(1), 16, 16)
    assert torch.equal(scene.render(views).rgb, again.render(views).rgb)


@pytest.mark.parametrize("mode", [5, 6])
def test_strips_and_fans_are_triangles(tmp_path, mode):
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 2, 0]], float)
    order = [0, 1, 2, 3, 4] if mode == 5 else [2, 0, 1, 3, 4]
    build = Builder()
    mesh = build.mesh("sail", vertices, order, mode=mode)
    path = build.save(tmp_path / "sail.glb", [build.node(mesh=mesh)])
    model = read_model(MeshSettings(file=str(path)))
    corners = model.vertices[model.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert len(normals) == 3 and (normals[:, 2] > 0).all()
    (write,) = _by_place(_scene(path)).writers().values()
    write(tmp_path / "out.glb")
    assert sum(len(m.faces) for m in trimesh.load(tmp_path / "out.glb").geometry.values()) == 3


@pytest.mark.parametrize("suffix", ["obj", "ply", "stl"])
def test_other_formats_become_glb(tmp_path, suffix):
    trimesh.creation.icosphere(2).export(tmp_path / f"ball.{suffix}")
    scene = _by_place(_scene(tmp_path / f"ball.{suffix}"))
    assert len(scene.model.vertices) == 162 and len(scene.model.faces) == 320
    (write,) = scene.writers().values()
    write(tmp_path / "ball.glb")
    found = trimesh.load(tmp_path / "ball.glb", force="mesh", process=False)
    assert len(found.faces) == 320 and found.visual.material.baseColorTexture.size == (128, 128)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda uv: uv * 1.5, "outside the square"),
        (lambda uv: np.where(uv > 0.5, 1 - uv, uv), "overlapping"),
        (lambda uv: uv * 0, "without an area"),
        (lambda uv: uv * np.nan, "not finite"),
        (lambda uv: None, "no texture coordinates"),
        (lambda uv: uv, ""),
    ],
)
def test_unusable_coordinates_are_replaced(tmp_path, recwarn, change, reason):
    vertices, faces, uv = quad_sphere()
    build = Builder()
    mesh = build.mesh("ball", vertices, faces, uv=change(uv))
    path = build.save(tmp_path / "ball.glb", [build.node(mesh=mesh)])
    scene = _by_place(_scene(path))
    assert reason in scene.sheets[0].reason and bool(reason) == bool(scene.sheets[0].reason)
    assert [reason in str(w.message) for w in recwarn] == [True] * (
        reason not in ("no texture coordinates", "")
    )
    (write,) = scene.writers().values()
    write(tmp_path / "out.glb")
    primitive = _chunks((tmp_path / "out.glb").read_bytes())[0]["meshes"][0]["primitives"][0]
    channels = [name for name in primitive["attributes"] if name.startswith("TEXCOORD")]
    assert len(channels) == 1 + (reason not in ("", "no texture coordinates"))


BAD = {
    "": "there is no mesh to paint: set scene.file, or use the command paint",
    "gone.glb": "there is no file",
    "a.blend": "as a mesh: the formats are glb, obj, ply, stl, 3mf",
    "cut.glb": "it is not a whole file of glTF 2.0",
    "text.glb": "it is not a whole file of glTF 2.0",
    "points.glb": "it has no faces",
    "empty.ply": "as ply",
    "text.stl": "it has no faces",
    "flat.glb": "a node flattens its mesh",
    "nan.glb": "some vertices are not finite",
    "dot.glb": "all vertices are in one place",
    "indices.glb": "some faces have vertices that do not exist",
    "draco.glb": "KHR_draco_mesh_compression); decompress it first: npx @gltf-transform/cli",
    "ktx.glb": "KHR_texture_basisu); decompress it first",
    "outside.glb": "stores its arrays in other files",
    "loop.glb": "its nodes form a loop",
    "buffers.glb": "cannot read",
    "materials.glb": "cannot read",
}


@pytest.mark.parametrize("name", BAD)
def test_unusable_files_are_errors_of_one_line(name, tmp_path):
    square = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0.5]], float)

    def save(vertices, indices=(0, 1, 2), mode=4, tree=lambda t: None, **node):
        build = Builder()
        mesh = build.mesh("m", np.asarray(vertices, float), indices, mode=mode)
        build.save(tmp_path / name, [build.node(mesh=mesh, **node)])
        glb = Glb.parse((tmp_path / name).read_bytes(), "")
        tree(glb.tree)
        (tmp_path / name).write_bytes(glb.to_bytes())

    if name == "cut.glb":
        save(square)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:100])
    elif name in ("text.glb", "text.stl", "a.blend", "empty.ply"):
        (tmp_path / name).write_text("solid nothing" * (name != "empty.ply"))
    elif name == "points.glb":
        save(square, mode=0)
    elif name == "flat.glb":
        save(square, scale=[1, 0, 1])
    elif name == "nan.glb":
        save(square * np.nan)
    elif name == "dot.glb":
        save(square * 0)
    elif name == "indices.glb":
        save(square, (0, 1, 7))
    elif name == "draco.glb":
        save(square, tree=lambda t: t.update(extensionsRequired=["KHR_draco_mesh_compression"]))
    elif name == "ktx.glb":
        save(square, tree=lambda t: t.update(extensionsRequired=["KHR_texture_basisu"]))
    elif name == "outside.glb":
        save(square, tree=lambda t: t["buffers"][0].update(uri="../secret.bin"))
    elif name == "buffers.glb":
        save(square, tree=lambda t: t.update(extensionsRequired=5))
    elif name == "materials.glb":
        save(square, tree=lambda t: t["meshes"].__setitem__(0, 7))
    elif name == "loop.glb":
        save(square, tree=lambda t: t["nodes"][0].update(children=[0]))
    with pytest.raises(MeshError) as caught:
        read_model(MeshSettings(file=str(tmp_path / name) if name else ""))
    assert BAD[name] in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(30))
def test_damaged_files_never_raise_anything_else(car, seed):
    content, random = bytearray(car.read_bytes()), np.random.default_rng(seed)
    for at in random.integers(20, 20 + struct.unpack_from("<I", content, 12)[0], 12):
        content[at] = random.integers(32, 127)
    car.write_bytes(content)
    with suppress(MeshError):
        read_model(MeshSettings(file=str(car)))
