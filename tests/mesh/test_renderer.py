"""Rendering of meshes, and comparison with the scene."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from dreamfusion.graphics.cameras import generate_rays, turntable_cameras
from dreamfusion.graphics.shading import IMAGE_MODES
from dreamfusion.mesh.extract import Mesh
from dreamfusion.mesh.formats import moved, origin_of, read_glb, write_mesh
from dreamfusion.mesh.provenance import Provenance
from dreamfusion.mesh.renderer import agreement, compare, render_mesh, sample_texture
from dreamfusion.mesh.texture import bake
from dreamfusion.runs.checkpoint import draw_scene
from dreamfusion.scenes.base import render_image
from dreamfusion.scenes.nerf.surface import surface_colors
from tests.helpers.solids import Balls, extract, scene_of


class Smooth(Balls):
    """Balls with normals, and colours that are a smooth function of position."""

    def normals(self, points):
        with torch.enable_grad():
            points = points.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self.distance(points).sum(), points)
        return torch.nn.functional.normalize(gradient, dim=-1)

    def __call__(self, points):
        out = super().__call__(points)
        return type(out)(out.density, 0.5 + 0.4 * torch.sin(4.0 * points))


SCENE = Smooth([[0.25, 0.1, -0.1, 0.35], [-0.3, -0.2, 0.2, 0.3], [0.0, 0.0, 0.0, 0.3]])


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return extract(SCENE, resolution=96)


@pytest.fixture(scope="module")
def baked(mesh):
    return bake(partial(surface_colors, scene_of(SCENE)), mesh, size=256)


@pytest.mark.parametrize("mode", IMAGE_MODES)
def test_a_mesh_looks_like_its_scene_in_every_mode(mesh, baked, mode):
    cameras = turntable_cameras(3, elevation_deg=25.0)
    expected = render_image(
        scene_of(SCENE, step_size=0.005), cameras, height=48, width=64, mode=mode
    )
    for model in (mesh, baked):
        found = render_mesh(model, cameras, height=48, width=64, mode=mode)
        assert found.shape == (3, 48, 64, 4)
        seen = compare(expected, found)
        assert seen.silhouette_iou > 0.97
        assert seen.psnr_db > 24
        # Except at the outline, where half a pixel matters.
        inside = (expected[..., 3] > 0.99) & (found[..., 3] > 0.99)
        assert (expected - found)[inside].abs().mean() < 0.02


@pytest.mark.parametrize("textured", [True, False])
def test_a_saved_mesh_looks_the_same(mesh, baked, textured, tmp_path):
    model = baked if textured else mesh
    write_mesh(model, tmp_path / "a.glb")
    cameras = turntable_cameras(2)
    again = render_mesh(read_glb(tmp_path / "a.glb")[0], cameras, height=32, width=32)
    assert compare(render_mesh(model, cameras, height=32, width=32), again).psnr_db > 45


def test_a_placed_mesh_is_moved_back_to_its_scene(mesh, tmp_path):
    x, y, z = origin_of(mesh, "base").tolist()
    provenance = Provenance(7, (x, y, z), 31.5, 0.96)
    write_mesh(moved(mesh, (-x, -y, -z)), tmp_path / "a.glb", provenance=provenance)
    found, said = read_glb(tmp_path / "a.glb")
    assert said == provenance
    assert found.vertices[:, 1].min() == pytest.approx(0, abs=1e-6)
    assert np.allclose(moved(found, said.moved_from).vertices, mesh.vertices, atol=1e-6)
    write_mesh(mesh, tmp_path / "b.glb")
    assert read_glb(tmp_path / "b.glb")[1] is None


def test_a_point_is_projected_to_the_pixel_of_its_ray():
    cameras = turntable_cameras(3, elevation_deg=40.0)
    rays = generate_rays(cameras, 12, 16)
    for view, row, column in ((0, 2, 3), (1, 11, 0), (2, 6, 15)):
        at = (rays.origins + 2.5 * rays.directions)[view, row, column].double().numpy()
        right, up, _ = cameras.T_world_camera[view, :3, :3].T.double().numpy()
        corners = np.stack([at - 0.02 * right - 0.02 * up, at + 0.02 * right - 0.02 * up,
                            at + 0.03 * up])  # fmt: skip
        dot = Mesh(corners, np.array([[0, 1, 2]]), np.ones((3, 3)))
        alpha = render_mesh(dot, cameras[view : view + 1], height=12, width=16, supersample=5)
        assert alpha[0, ..., 3].nonzero().tolist() == [[row, column]]


def test_faces_behind_the_camera_are_invisible(mesh):
    inside = turntable_cameras(2, distance=0.01)
    assert render_mesh(mesh, inside, height=16, width=16).isfinite().all()
    behind = Mesh(mesh.vertices + np.array([0, 0, 9]), mesh.faces, mesh.colors)
    pictures = render_mesh(behind, turntable_cameras(1), height=16, width=16)
    assert not pictures.any()


def test_a_texture_is_linear_between_texels_and_clamped_at_the_border():
    texture = np.array([[[0] * 3, [100] * 3], [[200] * 3, [255] * 3]], dtype=np.uint8)
    uv = np.array([[0.25, 0.75], [0.5, 0.75], [0.25, 0.5], [0.0, 0.0], [1.0, 0.0]])
    values = sample_texture(texture, uv)[:, 0] * 255
    assert values.tolist() == pytest.approx([0, 50, 100, 200, 255])


def test_agreement_detects_differences(mesh):
    cameras = turntable_cameras(4)
    scene = draw_scene(scene_of(SCENE))
    good = agreement(mesh, scene, cameras, size=48)
    assert good.good and good.psnr_db > 25 and good.silhouette_iou > 0.95
    moved = Mesh(mesh.vertices + np.array([0.2, 0, 0]), mesh.faces, mesh.colors)
    assert not agreement(moved, scene, cameras, size=48).good
    inverted = Mesh(mesh.vertices, mesh.faces, 1 - mesh.colors)
    bad = agreement(inverted, scene, cameras, size=48)
    assert bad.silhouette_iou == good.silhouette_iou and bad.psnr_db < 20 and not bad.good
    picture = torch.rand(1, 4, 4, 4)
    assert compare(picture, picture).psnr_db == math.inf
