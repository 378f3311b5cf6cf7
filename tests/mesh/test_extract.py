import json
from pathlib import Path

import numpy as np
import pytest
import trimesh
from torch import Tensor

from dreamfusion.mesh.extract import Mesh, MeshError, isosurface
from dreamfusion.mesh.formats import moved, origin_of, read_glb, write_mesh
from dreamfusion.mesh.topology import topology
from dreamfusion.utils.errors import UserError
from tests.helpers.scenes import FieldScene
from tests.helpers.solids import Balls, as_trimesh, extract, mesh_of, occupied_by


def test_a_ball_becomes_a_watertight_ball_with_outward_normals():
    mesh = as_trimesh(extract(Balls([[0.0, 0, 0, 0.5]])))
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.5**3, rel=0.06)
    outward = (mesh.face_normals * mesh.triangles_center).sum(axis=1)
    assert (outward > 0).all()


@pytest.mark.parametrize(
    "field",
    [
        Balls([[0.0, 0, 0, 0.5], [0.8, 0.8, 0.8, 0.09]]),
        Balls([[0.0, 0, 0, 0.5]], hollow=0.3),
    ],
    ids=["small_component", "cavity"],
)
def test_small_components_are_dropped_and_cavities_filled(field):
    mesh = as_trimesh(extract(field))
    assert mesh.body_count == 1
    assert np.abs(mesh.vertices).max() < 0.55
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.5**3, rel=0.06)


def test_detached_parts_are_kept_and_face_outwards():
    mesh = extract(Balls([[-0.3, 0, 0, 0.5], [0.6, 0, 0, 0.2], [0.6, 0.6, 0.6, 0.2]]))
    found = topology(mesh.vertices, mesh.faces)
    assert (found.watertight, found.components, found.genus) == (True, 3, 0)
    assert found.volume == pytest.approx(4 / 3 * np.pi * (0.5**3 + 2 * 0.2**3), rel=0.08)


def test_placement_of_the_origin():
    field = Balls([[0.3, -0.2, 0.1, 0.4]])
    mesh = extract(field)
    assert np.abs(mesh.vertices.mean(0) - [0.3, -0.2, 0.1]).max() < 0.02
    assert origin_of(mesh, "scene").tolist() == [0, 0, 0]
    centered, standing = (
        moved(mesh, -origin_of(mesh, origin)).vertices for origin in ("center", "base")
    )
    np.testing.assert_allclose(centered.max(0) + centered.min(0), 0, atol=1e-9)
    assert standing[:, 1].min() == 0
    np.testing.assert_allclose((standing.max(0) + standing.min(0))[[0, 2]], 0, atol=1e-9)


def test_colors_are_correct_and_sides_are_not_swapped():
    mesh = extract(Balls([[0.0, 0, 0, 0.5]]))
    front, back = mesh.vertices[:, 2] > 0.1, mesh.vertices[:, 2] < -0.1
    np.testing.assert_allclose(
        mesh.colors[front], np.broadcast_to([0.9, 0.2, 0.1], (front.sum(), 3)), atol=0.02
    )
    np.testing.assert_allclose(
        mesh.colors[back], np.broadcast_to([0.1, 0.2, 0.8], (back.sum(), 3)), atol=0.02
    )


def test_an_object_cut_by_the_box_is_closed():
    assert as_trimesh(extract(Balls([[0.9, 0, 0, 0.4]]))).is_watertight


def test_thin_parts_survive_smoothing():
    chain = [[x, 0.0, 0.0, 0.03] for x in np.linspace(0.0, 0.8, 41)]
    mesh = extract(Balls([[-0.4, 0, 0, 0.35], *chain], width=0.004), resolution=64, smoothing=1.5)
    assert np.ptp(mesh.vertices[:, 0]) > 1.4


@pytest.mark.parametrize(("hole", "genus"), [(0.02, 0), (0.12, 1)])
def test_pinholes_are_closed_and_holes_are_not(hole, genus):
    class Bead(Balls):
        def density(self, points: Tensor) -> Tensor:
            inside = points[:, :2].norm(dim=-1) > hole
            return super().density(points) * inside

    mesh = extract(Bead([[0.0, 0, 0, 0.4]]), resolution=64)
    assert topology(mesh.vertices, mesh.faces).genus == genus


def test_thin_noise_is_smoothed_away_but_isolated_parts_are_kept():
    ball, hairs = [0.0, 0, 0, 0.4], [[0.0, 0.4 + 0.02 * i, 0, 0.012] for i in range(4)]
    mesh = extract(Balls([ball, *hairs], width=0.004), resolution=64)
    assert mesh.vertices[:, 1].max() < 0.45
    scene = FieldScene(Balls([[0.01, 0.01, 0.01, 0.03]]), occupied_by(Balls([ball])))
    speck = mesh_of(scene, resolution=48, threshold=100)
    assert as_trimesh(speck).is_watertight and np.ptp(speck.vertices, axis=0).max() < 0.2


@pytest.mark.parametrize("smoothing", [0.0, 1.0])
def test_a_level_through_samples_gives_a_closed_surface(smoothing):
    x, y, z = np.meshgrid(*[np.arange(17) - 8.0] * 3, indexing="ij")
    octahedron = np.clip(5.0 - np.abs(x) - np.abs(y) - np.abs(z), -1.0, 1.0)
    found = topology(*isosurface(octahedron, smoothing))
    assert (found.watertight, found.components, found.genus) == (True, 1, 0)


def test_smoothing_moves_no_surface_for_any_inner_density():
    for peak in (20.0, 1e4):
        field = Balls([[0.0, 0, 0, 0.5]], peak=peak)
        mesh = as_trimesh(extract(field, resolution=128, threshold=5.0))
        radius = 0.5 + field.width * np.log(peak / 5.0 - 1.0)
        assert np.linalg.norm(mesh.vertices, axis=1).mean() == pytest.approx(radius, abs=0.002)


def test_empty_and_diverged_scenes_are_errors():
    with pytest.raises(MeshError, match="nothing in it is opaque"):
        extract(Balls([[0.0, 0, 0, 0.5]], peak=0.5))
    with pytest.raises(MeshError, match="the largest is 200"):
        extract(Balls([[0.0, 0, 0, 0.5]]), threshold=1e6)
    with pytest.raises(MeshError, match="not finite"):
        extract(Balls([[0.0, 0, 0, 0.5]], peak=float("nan")))
    assert issubclass(MeshError, UserError)


@pytest.mark.parametrize("kind", ["glb", "obj", "ply", "stl"])
def test_files_load_again_with_the_same_surface_and_colors(tmp_path, kind):
    mesh = extract(Balls([[0.0, 0, 0, 0.5]]), resolution=24)
    path = tmp_path / "folder" / f"model.{kind}"
    write_mesh(mesh, path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    loaded = trimesh.load(path, force="mesh")
    assert loaded.volume == pytest.approx(as_trimesh(mesh).volume, rel=1e-4)
    np.testing.assert_allclose(loaded.bounds, as_trimesh(mesh).bounds, atol=1e-6)
    if kind != "stl":
        visual = loaded.visual
        if kind == "glb":
            visual = trimesh.load(path).geometry["model"].visual
        rgba = visual.vertex_attributes["color"] if kind == "glb" else visual.vertex_colors
        colors = rgba[:, :3] / np.iinfo(rgba.dtype).max
        front = colors[loaded.vertices[:, 2] > 0.2].mean(axis=0)
        expected = np.array([0.9, 0.2, 0.1])
        if kind == "glb":
            expected = ((expected + 0.055) / 1.055) ** 2.4
        np.testing.assert_allclose(front, expected, atol=0.02)


def test_glb_is_matt():
    import struct
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.glb"
        write_mesh(extract(Balls([[0.0, 0, 0, 0.5]]), resolution=24), path)
        data = path.read_bytes()
    (length,) = struct.unpack("<I", data[12:16])
    tree = json.loads(data[20 : 20 + length])
    primitive = tree["meshes"][0]["primitives"][0]
    assert {"POSITION", "NORMAL", "COLOR_0"} <= set(primitive["attributes"])
    material = tree["materials"][primitive["material"]]["pbrMetallicRoughness"]
    assert material["metallicFactor"] == 0.0


def test_glb_keeps_all_levels_of_vertex_colors(tmp_path):
    """In linear colours, 8 bits represent only 14 of the 64 darkest of 256 levels."""
    levels = np.arange(256) / 255.0
    mesh = Mesh(
        np.random.default_rng(0).random((256, 3)),
        np.arange(255).reshape(85, 3),
        np.stack([levels, levels[::-1], levels], axis=1),
    )
    write_mesh(mesh, tmp_path / "model.glb")
    found, _ = read_glb(tmp_path / "model.glb")
    np.testing.assert_array_equal((found.colors * 255).round(), (mesh.colors * 255).round())
    np.testing.assert_allclose(found.colors, mesh.colors, atol=2e-4)
    data = (tmp_path / "model.glb").read_bytes()
    tree = json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])
    (primitive,) = tree["meshes"][0]["primitives"]
    assert primitive["attributes"].keys() == {"POSITION", "NORMAL", "COLOR_0"}
    accessor = tree["accessors"][primitive["attributes"]["COLOR_0"]]
    kept = [accessor[key] for key in ("componentType", "normalized", "type")]
    assert kept == [5123, True, "VEC4"]  # unsigned short; glTF wants vertices aligned to 4 bytes
    view = tree["bufferViews"][accessor["bufferView"]]
    assert view["byteOffset"] % 4 == 0 and view["byteLength"] == 8 * 256


def test_glb_with_colors_of_8_bits_is_read(tmp_path):
    """As written by earlier versions."""
    path = Path(__file__).with_name("colors-of-8-bits.glb")
    found, _ = read_glb(path)
    np.testing.assert_allclose(found.colors, [[0.2, 0.4, 0.8]] * 3, atol=0.01)


def test_unknown_formats_are_refused(tmp_path):
    mesh = Mesh(np.eye(3), np.array([[0, 1, 2]]), np.eye(3))
    with pytest.raises(MeshError, match="glb, obj, ply, stl"):
        write_mesh(mesh, tmp_path / "model.fbx")
    with pytest.raises(MeshError, match="empty"):
        write_mesh(Mesh(np.eye(3), np.zeros((0, 3), np.int64), np.eye(3)), tmp_path / "a.glb")
