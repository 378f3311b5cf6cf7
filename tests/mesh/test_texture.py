"""Decimation, texture coordinates and baking."""

import errno
import io
from functools import partial
from pathlib import Path

import fast_simplification
import numpy as np
import pygltflib
import pytest
import torch
import trimesh
from PIL import Image
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes

from dreamfusion.mesh.extract import Mesh, MeshError, vertex_normals
from dreamfusion.mesh.formats import moved, origin_of, write_mesh
from dreamfusion.mesh.renderer import sample_texture
from dreamfusion.mesh.texture import (
    TexturedMesh,
    bake,
    decimate,
    deviation,
    draw_uv,
    pad,
    simplify,
    tangents,
    unwrap,
)
from dreamfusion.mesh.topology import topology
from dreamfusion.scenes.nerf.field import FieldOutput
from dreamfusion.scenes.nerf.surface import surface_colors
from tests.helpers.solids import Balls, as_trimesh, extract, scene_of


class Striped(Balls):
    """A ball whose colour is a smooth function of position, finer than the mesh's vertices."""

    def color(self, points):
        return 0.5 + 0.4 * torch.sin(points * 12.0)

    def __call__(self, points):
        return FieldOutput(self.density(points), self.color(points))


def colors_of(balls):
    return partial(surface_colors, scene_of(Striped(balls)))


@pytest.fixture(scope="module")
def ball() -> Mesh:
    return extract(Striped([[0.2, 0.1, 0.0, 0.5]]))


@pytest.fixture(scope="module")
def baked(ball):
    return bake(colors_of([[0.2, 0.1, 0.0, 0.5]]), decimate(ball, 1500), size=256)


def test_decimation_keeps_shape_and_colors(ball):
    small = decimate(ball, 600)
    assert 500 < len(small.faces) <= 600
    assert as_trimesh(small).is_watertight
    assert as_trimesh(small).volume == pytest.approx(as_trimesh(ball).volume, rel=0.03)
    nearest = np.argmin(np.linalg.norm(ball.vertices - small.vertices[0], axis=1))
    np.testing.assert_array_equal(small.colors[0], ball.colors[nearest])
    assert decimate(ball, len(ball.faces)) is ball
    with pytest.raises(MeshError, match="at least 4"):
        decimate(ball, 3)


def test_decimation_that_pinches_is_repeated_less_aggressively(ball, monkeypatch):
    tried = []

    def simplify(vertices, faces, target_count, agg):
        tried.append(agg)
        if agg > 3:  # two sheets that meet in the edge from 0 to 1
            return vertices[:6], np.array([[0, 1, 2], [1, 0, 3], [0, 1, 4], [1, 0, 5]], np.int32)
        return real(vertices, faces, target_count=target_count, agg=agg)

    real = fast_simplification.simplify
    monkeypatch.setattr(fast_simplification, "simplify", simplify)
    small = decimate(ball, 2000)
    assert tried == [7, 5, 3]
    assert as_trimesh(small).is_watertight and len(small.faces) <= 2000


def test_pinched_edges_are_collapsed_to_points(ball, monkeypatch):
    one = decimate(ball, 400)
    n, (a, b, _) = len(one.vertices), one.faces[0]
    beside = one.faces + n  # a second ball, on an edge of the first
    beside[beside == a + n], beside[beside == b + n] = a, b
    both = np.concatenate([one.vertices, one.vertices + np.array([1.2, 0, 0])]).astype(np.float32)
    pinched = both, np.concatenate([one.faces, beside]).astype(np.int32)
    assert not trimesh.Trimesh(*pinched, process=False).is_watertight
    monkeypatch.setattr(fast_simplification, "simplify", lambda *mesh, **options: pinched)
    small = decimate(ball, 2000)
    assert len(small.faces) == 2 * len(one.faces) - 4
    assert len(small.vertices) == 2 * n - 3
    found = topology(small.vertices, small.faces)
    assert (found.watertight, found.components) == (True, 2)


@pytest.fixture(scope="module")
def fine() -> Mesh:
    """A ball around the origin of radius 0.6, as marching cubes makes it."""
    axis = np.linspace(-1, 1, 97)
    distance = np.linalg.norm(np.stack(np.meshgrid(axis, axis, axis, indexing="ij")), axis=0) - 0.6
    vertices, faces, _, _ = marching_cubes(distance, 0.0, gradient_direction="ascent")
    vertices = vertices.astype(np.float64) / 48 - 1
    return Mesh(vertices, faces.astype(np.int64), np.zeros_like(vertices))


def test_faces_are_reduced_within_the_tolerance(fine):
    found = {t: simplify(fine, most=30_000, tolerance=t) for t in (0.01, 0.002)}
    assert len(found[0.01].faces) < len(found[0.002].faces) / 2 < len(fine.faces) / 8
    for tolerance, small in found.items():
        assert as_trimesh(small).is_watertight
        middles = np.linalg.norm(small.vertices[small.faces].mean(axis=1), axis=1)
        assert np.quantile(np.abs(middles - 0.6), 0.95) < tolerance
    assert len(simplify(fine, most=700, tolerance=1e-9).faces) <= 700


def test_deviation_measures_distance_and_missing_or_added_parts(fine):
    assert deviation(fine, fine) < 5e-4
    larger = Mesh(fine.vertices * 1.05, fine.faces, fine.colors)
    assert deviation(larger, fine) == pytest.approx(0.03, rel=0.05)
    half = Mesh(fine.vertices, fine.faces[fine.vertices[fine.faces][:, 0, 0] > 0], fine.colors)
    assert deviation(half, fine) > 0.3
    twice = np.concatenate([fine.vertices, fine.vertices * 0.2])
    faces = np.concatenate([fine.faces, fine.faces + len(fine.vertices)])
    added = Mesh(twice, faces, np.concatenate([fine.colors, fine.colors]))
    assert deviation(added, fine) > 0.3


def test_charts_do_not_overlap_and_are_inside_the_unit_square(ball):
    which, faces, uv = unwrap(ball, 256)
    assert uv.min() >= 0 and uv.max() <= 1
    assert set(which) == set(range(len(ball.vertices)))
    np.testing.assert_array_equal(which[faces], ball.faces)
    corners = uv[faces] * 512
    area = 0.5 * np.abs(np.linalg.det(corners[:, 1:] - corners[:, :1]))
    face_of = draw_uv(uv, faces, 512).face_of.numpy()
    # If charts overlapped, fewer texels would be covered than the sum of the triangles' areas.
    assert (face_of >= 0).sum() == pytest.approx(area.sum(), rel=0.02)


def test_the_texture_shows_the_fields_color_at_every_point(baked):
    rng = np.random.default_rng(0)
    share = rng.dirichlet([1, 1, 1], size=len(baked.faces))[:, :, None]
    points = (baked.vertices[baked.faces] * share).sum(1)
    uv = (baked.uv[baked.faces] * share).sum(1)
    column, row = (uv[:, 0] * 256).astype(int), ((1 - uv[:, 1]) * 256).astype(int)
    seen = baked.texture[row, column] / 255
    expected = Striped([[0, 0, 0, 1]]).color(torch.from_numpy(points)).numpy()
    assert np.abs(seen - expected).mean() < 0.04
    assert np.abs(seen - expected).max() < 0.25


def test_normals_point_outward_and_agree_across_seams(baked):
    outward = baked.vertices - [0.2, 0.1, 0.0]
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    assert (baked.normals * outward).sum(1).min() > 0.95
    np.testing.assert_allclose(np.linalg.norm(baked.normals, axis=1), 1, atol=1e-9)
    _, copies = np.unique(baked.vertices.round(9), axis=0, return_inverse=True)
    for normal in baked.normals.T:
        low = np.full(copies.max() + 1, 2.0)
        high = -low
        np.minimum.at(low, copies.ravel(), normal)
        np.maximum.at(high, copies.ravel(), normal)
        assert (high - low).max() < 1e-9


def test_padding_takes_the_nearest_color():
    covered = np.zeros((5, 5), bool)
    covered[2, 1] = covered[2, 3] = True
    texture = np.zeros((5, 5, 3))
    texture[2, 1], texture[2, 3] = 0.25, 0.75
    padded = pad(texture, covered)
    assert (padded[:, :2] == 0.25).all() and (padded[:, 3:] == 0.75).all()
    with pytest.raises(MeshError, match="larger texture"):
        pad(texture, np.zeros((5, 5), bool))


@pytest.mark.parametrize("size", [15, 20000])
def test_impossible_sizes_are_refused(ball, size):
    with pytest.raises(MeshError, match="16 to 16384"):
        bake(colors_of([[0, 0, 0, 0.5]]), ball, size=size)


@pytest.mark.parametrize("kind", ["glb", "obj"])
def test_textured_files_load_again_upright_and_with_their_texture(baked, tmp_path, kind):
    files = write_mesh(moved(baked, -origin_of(baked, "base")), tmp_path / f"ball.{kind}")
    assert sorted(files) == sorted(tmp_path.iterdir())
    loaded = trimesh.load(tmp_path / f"ball.{kind}", force="mesh")
    assert loaded.bounds[0, 1] == pytest.approx(0, abs=1e-6)
    assert loaded.bounds[1, 1] == pytest.approx(1.0, abs=0.03)
    material = loaded.visual.material
    picture = material.baseColorTexture if kind == "glb" else material.image
    np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), baked.texture)
    np.testing.assert_allclose(loaded.visual.uv, baked.uv, atol=1e-6)
    loaded.merge_vertices(merge_tex=True, merge_norm=True)
    assert loaded.is_watertight and loaded.volume > 0


def test_another_reader_finds_the_same_glb(baked, tmp_path):
    write_mesh(baked, tmp_path / "model.glb")
    tree = pygltflib.GLTF2().load(tmp_path / "model.glb")
    (mesh,), (material,) = tree.meshes, tree.materials
    (primitive,) = mesh.primitives
    positions = tree.accessors[primitive.attributes.POSITION]
    assert positions.count == len(baked.vertices)
    assert tree.accessors[primitive.indices].count == 3 * len(baked.faces)
    np.testing.assert_allclose(positions.max, baked.vertices.max(axis=0), atol=1e-6)
    assert primitive.attributes.NORMAL is not None
    assert primitive.attributes.TEXCOORD_0 is not None
    look = material.pbrMetallicRoughness
    assert (look.metallicFactor, look.roughnessFactor) == (0, 1)
    image = tree.images[tree.textures[look.baseColorTexture.index].source]
    view = tree.bufferViews[image.bufferView]
    png = tree.binary_blob()[view.byteOffset : view.byteOffset + view.byteLength]
    with Image.open(io.BytesIO(png)) as picture:
        assert np.array_equal(np.asarray(picture.convert("RGB")), baked.texture)


@pytest.mark.parametrize("kind", ["ply", "stl"])
def test_formats_without_textures_refuse_textured_meshes(baked, tmp_path, kind):
    with pytest.raises(MeshError, match="glb, obj"):
        write_mesh(baked, tmp_path / f"ball.{kind}")
    assert not list(tmp_path.iterdir())


def test_file_names_in_an_obj_have_no_blanks(baked, tmp_path):
    """Readers split lines at blanks, so that "mtllib my ball.mtl" means two files."""
    path = tmp_path / "my ball #1 größer.obj"
    files = write_mesh(baked, path)
    assert files[0] == path
    assert sorted(file.name for file in files[1:]) == [
        "my_ball_1_größer.mtl",
        "my_ball_1_größer.png",
    ]
    words = path.read_text(encoding="utf-8").split()
    assert words[words.index("mtllib") + 1] == "my_ball_1_größer.mtl"
    loaded = trimesh.load(path, force="mesh", process=False)
    assert loaded.visual.material.image is not None


def test_a_full_disk_is_reported_and_leaves_no_partial_mesh(baked, tmp_path, monkeypatch):
    write = Path.write_bytes

    def full(path, data):
        if path.suffix == ".png":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"No space left on device: .*model\.png'$"):
        write_mesh(baked, tmp_path / "model.obj")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert len(write_mesh(baked, tmp_path / "model.obj")) == 3


@pytest.fixture(scope="module")
def bumpy() -> Mesh:
    """A ball with fine bumps, and the exact normals of its surface at its vertices."""
    ball = trimesh.creation.icosphere(5)
    points = np.asarray(ball.vertices)
    bumps = 1.0 + 0.02 * np.sin(14 * points).prod(axis=1)
    return Mesh(points * bumps[:, None], np.asarray(ball.faces), np.full(points.shape, 0.5))


def test_the_normal_map_has_the_normals_of_the_fine_mesh(bumpy):
    """Decoded as a renderer does, with the tangents, at points all over the coarse mesh."""
    ball = trimesh.creation.icosphere(2)
    coarse = Mesh(np.asarray(ball.vertices), np.asarray(ball.faces), np.asarray(ball.vertices))
    textured = bake(lambda points, normals: points * 0 + 0.5, coarse, size=512, fine=bumpy)
    frames = tangents(textured)
    assert np.abs((frames[:, :3] * textured.normals).sum(axis=1)).max() < 1e-6
    weights = np.random.default_rng(0).dirichlet((2, 2, 2), len(textured.faces))

    def at(values):
        return np.einsum("fc,fcd->fd", weights, values[textured.faces])

    normal, along, uv = at(textured.normals), at(frames[:, :3]), at(textured.uv)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    along -= normal * (along * normal).sum(axis=1, keepdims=True)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    across = np.cross(normal, along) * frames[textured.faces[:, 0], 3:]
    x, y, z = sample_texture(textured.normal_map, uv).T[:, :, None] * 2 - 1
    decoded = x * along + y * across + z * normal
    decoded /= np.linalg.norm(decoded, axis=1, keepdims=True)
    directions = at(textured.vertices)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    fine = vertex_normals(bumpy.vertices, bumpy.faces)
    unit = bumpy.vertices / np.linalg.norm(bumpy.vertices, axis=1, keepdims=True)
    truth = fine[cKDTree(unit).query(directions)[1]]
    error = np.degrees(np.arccos((decoded * truth).sum(axis=1).clip(-1, 1)))
    without = np.degrees(np.arccos((normal * truth).sum(axis=1).clip(-1, 1)))
    assert np.median(error) < 2.5 and np.median(without) > 3 * np.median(error)


def test_tangents_point_along_the_texture():
    """A quad whose texture is mirrored: u to the left, v up."""
    uv = np.array([[1, 0], [0, 0], [0, 1], [1, 1]], float)
    corners = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], float)
    faces, normals = np.array([[0, 1, 2], [0, 2, 3]]), np.tile([0.0, 0.0, 1.0], (4, 1))
    quad = TexturedMesh(corners, faces, normals, uv, np.zeros((4, 4, 3), np.uint8))
    assert tangents(quad) == pytest.approx(np.tile([-1.0, 0.0, 0.0, -1.0], (4, 1)))


def test_names_and_normal_map_are_in_the_files(tmp_path, bumpy):
    textured = bake(lambda p, n: p * 0 + 0.5, decimate(bumpy, 400), size=64, fine=bumpy)
    write_mesh(textured, tmp_path / "ball.glb", name="a-red-ball")
    tree = pygltflib.GLTF2().load(str(tmp_path / "ball.glb"))
    assert tree.nodes[0].name == tree.meshes[0].name == tree.materials[0].name == "a-red-ball"
    assert [image.name for image in tree.images] == ["a-red-ball-albedo", "a-red-ball-normals"]
    assert tree.materials[0].normalTexture.index == 1
    accessor = tree.accessors[tree.meshes[0].primitives[0].attributes.TANGENT]
    assert (accessor.type, accessor.componentType) == ("VEC4", pygltflib.FLOAT)
    write_mesh(textured, tmp_path / "ball.obj", name="a-red-ball")
    assert "\no a-red-ball\n" in (tmp_path / "ball.obj").read_text()
