"""Triangles: visibility against the plain torch code, interpolation and silhouettes against float64
references and finite differences."""

import math

import pytest
import torch

from dreamfusion.graphics.cameras import generate_rays, turntable_cameras
from dreamfusion.graphics.triangles import (
    antialias,
    opposite_vertices,
    project,
    rasterize,
    rasterize_numba,
    rasterize_reference,
)
from dreamfusion.utils import threads


def _soup(seed: int, dtype: torch.dtype = torch.float64):
    """Random triangles of all sizes, in three images of 32 x 40; some are behind the camera."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(3, 200, 3, generator=generator, dtype=torch.float64)
    points = points * torch.tensor([60.0, 60.0, 1.0]) - torch.tensor([10.0, 10.0, 0.1])
    faces = torch.randint(200, (6, 3), generator=generator)
    small = torch.arange(0, 198, 3)[:, None] + torch.tensor([0, 1, 2])
    points[:, small[:, 1]] = points[:, small[:, 0]] + 0.7
    points[:, small[:, 2], 0] = points[:, small[:, 0], 0] - 0.4
    return points.to(dtype), torch.cat([faces, small])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_kernel_finds_the_faces_of_the_reference(seed, dtype):
    points, faces = _soup(seed, dtype)
    found = rasterize_numba(points, faces, 32, 40)
    assert torch.equal(found, rasterize_reference(points, faces, 32, 40))
    assert 0.2 < (found >= 0).float().mean() < 1 and len(found.unique()) > 20


def test_faces_do_not_depend_on_the_number_of_threads(monkeypatch):
    points, faces = _soup(2)
    expected = rasterize_numba(points, faces, 32, 40)
    monkeypatch.setattr(threads, "_workers", 1)
    assert torch.equal(rasterize_numba(points, faces, 32, 40), expected)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda p: p * torch.tensor([1.0, 1.0, -1.0]), id="behind the camera"),
        pytest.param(lambda p: p + torch.tensor([100.0, 0.0, 0.0]), id="outside"),
        pytest.param(lambda p: p * torch.tensor([1.0, 0.0, 1.0]), id="without an area"),
        pytest.param(lambda p: p * torch.nan, id="not a number"),
        pytest.param(lambda p: p / torch.tensor([0.0, 1.0, 1.0]), id="infinite"),
        pytest.param(lambda p: 2.2 + 0.02 * p / 8, id="between the pixels' centres"),
    ],
)
def test_faces_that_show_nothing_are_skipped(change):
    points = torch.tensor([[[1.0, 1.0, 1.0], [7.0, 1.0, 1.0], [4.0, 7.0, 1.0]]]).double()
    faces = torch.tensor([[0, 1, 2]])
    for find in (rasterize_numba, rasterize_reference):
        assert (find(points, faces, 8, 8) == 0).any()
        assert (find(change(points), faces, 8, 8) == -1).all()


def test_huge_faces_cover_the_image_and_both_sides_are_drawn():
    points = 1e12 * torch.tensor([[[-1.0, -1.0], [3.0, -1.0], [-1.0, 3.0]]]).double()
    points = torch.nn.functional.pad(points, (0, 1), value=1.0)
    for faces in (torch.tensor([[0, 1, 2]]), torch.tensor([[0, 2, 1]])):
        assert (rasterize_numba(points, faces, 8, 8) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_gap_opens_between_faces(dtype):
    """A fan of slivers around a point, each drawn alone: every pixel is in one or two."""
    angles = torch.arange(97, dtype=torch.float64) / 97 * 2 * math.pi + 0.01
    rim = torch.stack([16.1 + 40 * angles.cos(), 15.7 + 40 * angles.sin()], dim=-1)
    points = torch.cat([torch.tensor([[16.1, 15.7]]).double(), rim])
    points = torch.nn.functional.pad(points, (0, 1), value=0.3)[None].to(dtype)
    i = torch.arange(97)
    faces = torch.stack([torch.zeros_like(i), i + 1, (i + 1) % 97 + 1], dim=1)
    assert (rasterize_numba(points, faces, 32, 32) >= 0).all()
    count = sum((rasterize_numba(points, face[None], 32, 32) >= 0).int() for face in faces)
    assert count.min() == 1 and count.max() <= 2


def test_the_nearer_of_interpenetrating_faces_is_visible():
    # Depth 1 to 3 from left to right, and the reverse.
    square = torch.tensor([[0.0, 0.0], [16.0, 0.0], [16.0, 16.0], [0.0, 16.0]]).double()
    depth = torch.tensor([1.0, 3.0, 3.0, 1.0]).double()
    points = torch.cat([torch.cat([square, 1 / d[:, None]], -1) for d in (depth, 4 - depth)])[None]
    faces = torch.tensor([[0, 1, 2], [2, 3, 0], [4, 5, 6], [6, 7, 4]])
    found = rasterize_numba(points, faces, 16, 16)[0] // 2
    assert (found[:, :8] == 0).all() and (found[:, 8:] == 1).all()


def test_weights_are_correct_under_perspective():
    # An edge from depth 1 to depth 3: its middle on the image is at a quarter in space.
    points = torch.tensor([[[0.5, 0.5, 1.0], [8.5, 0.5, 1 / 3], [0.5, 8.5, 1.0]]]).double()
    fragments = rasterize(points, torch.tensor([[0, 1, 2]]), 9, 9)
    at = (fragments.pixels[1] == 0) & (fragments.pixels[2] == 4)
    expected = torch.tensor([[0.75, 0.25, 0.0]]).double()
    torch.testing.assert_close(fragments.weights[at], expected)


def test_points_of_a_plane_lie_on_the_rays_through_the_pixels():
    cameras = turntable_cameras(3)
    corners = torch.tensor([[-0.5, -0.5, 0.2], [0.5, -0.5, -0.3], [0.1, 0.6, 0.1]]).double()
    fragments = rasterize(project(corners, cameras, 24, 32), torch.tensor([[0, 1, 2]]), 24, 32)
    assert len(fragments.corners) > 100
    rays = generate_rays(cameras, 24, 32)
    origins, directions = rays.origins[fragments.pixels], rays.directions[fragments.pixels]
    away = torch.linalg.cross(fragments.interpolate(corners) - origins, directions.double())
    assert away.norm(dim=-1).max() < 1e-6


def test_values_and_their_gradients_equal_float64_automatic_differentiation():
    points, faces = _soup(3)
    values = torch.randn(200, 5, dtype=torch.float64, requires_grad=True)
    fragments = rasterize(points.requires_grad_(), faces, 32, 40)
    weights = torch.randn(3, 32, 40, 5, dtype=torch.float64)
    view, row, column = fragments.pixels
    expected = torch.zeros((), dtype=torch.float64)
    for i in range(0, len(view), 7):  # each pixel by itself, by solving for its weights
        corners = points[view[i], fragments.corners[i]]
        rows = torch.stack([*corners[:, :2].T, torch.ones(3).double()])
        center = torch.tensor([column[i] + 0.5, row[i] + 0.5, 1.0]).double()
        weight = torch.linalg.solve(rows, center) * corners[:, 2]
        value = (weight / weight.sum()) @ values[fragments.corners[i]]
        expected = expected + (value * weights[view[i], row[i], column[i]]).sum()
    chosen = torch.zeros(3, 32, 40, 1)
    chosen[view[::7], row[::7], column[::7]] = 1
    found = (fragments.images(fragments.interpolate(values)) * weights * chosen).sum()
    torch.testing.assert_close(found, expected)
    pairs = zip(*(torch.autograd.grad(x, (values, points)) for x in (found, expected)), strict=True)
    for mine, reference in pairs:
        assert (mine - reference).abs().max() < 1e-6 * reference.abs().max().clamp(min=1)
    # In float32, as in training.
    single = rasterize(points.detach(), faces, 32, 40).interpolate(values.detach().float())
    torch.testing.assert_close(
        single.double(), fragments.interpolate(values).detach(), atol=1e-5, rtol=1e-5
    )


def test_opposite_vertices_of_a_tetrahedron_and_of_borders():
    tetrahedron = torch.tensor([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])
    found = opposite_vertices(tetrahedron)
    assert found.tolist() == [[3, 3, 3], [1, 1, 1], [2, 2, 2], [0, 0, 0]]
    assert opposite_vertices(tetrahedron[:1]).tolist() == [[-1, -1, -1]]
    # Three faces at one edge: none is the other one.
    fins = torch.tensor([[0, 1, 2], [0, 1, 3], [0, 1, 4]])
    assert (opposite_vertices(fins)[:, 2] == -1).all()


def _polygon(generator: torch.Generator, fan: bool):
    """A convex octagon or a triangle of about 40 pixels, as one face or a fan of them."""
    n = 8 if fan else 3
    angles = torch.rand((), generator=generator) * 6.28 + torch.arange(n) * (2 * math.pi / n)
    angles = angles.double() + 0.2 * torch.rand(n, generator=generator)
    rim = torch.stack([32 + 24 * angles.cos(), 32 + 24 * angles.sin()], dim=-1)
    rim = torch.nn.functional.pad(rim, (0, 1), value=1.0)
    if not fan:
        return rim[None], torch.tensor([[0, 1, 2]])
    faces = torch.tensor([[0, i, i % 8 + 1] for i in range(1, 9)])
    return torch.cat([torch.tensor([[32.0, 32.0, 1.0]]), rim])[None], faces


def _smooth_image(generator: torch.Generator) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(64) / 64, torch.arange(64) / 64, indexing="ij")
    waves = torch.rand(9, 3, generator=generator, dtype=torch.float64)
    waves[:, :2] = torch.tensor([[k, m] for k in range(3) for m in range(3)])
    return sum(torch.sin(2 * math.pi * (a * x + b * y + c)) for a, b, c in waves)


def _coverage(points: torch.Tensor, faces: torch.Tensor, samples: int = 32) -> torch.Tensor:
    large = points.detach() * torch.tensor([samples, samples, 1.0])
    face_of = rasterize_numba(large, faces, 64 * samples, 64 * samples)
    return (face_of >= 0).double().reshape(1, 64, samples, 64, samples).mean((2, 4))


@pytest.mark.parametrize("fan", [False, True])
def test_gradients_of_silhouettes_equal_those_of_supersampled_images(fan):
    """Coverage moves with the vertices as that of images with 32 x 32 samples a pixel does."""
    generator, norms = torch.Generator().manual_seed(0), []
    for _ in range(4):
        points, faces = _polygon(generator, fan)
        image = _smooth_image(generator)
        fragments = rasterize(points.requires_grad_(), faces, 64, 64)
        inside = fragments.images(torch.ones(len(fragments.corners), 1, dtype=torch.float64))
        smooth = antialias(inside, fragments, opposite_vertices(faces))[..., 0]
        exact = _coverage(points, faces)
        assert (smooth - exact).abs().mean() < 0.2 * (inside[..., 0] - exact).abs().mean()
        (found,) = torch.autograd.grad((smooth * image).sum(), points)
        expected = torch.zeros_like(found)
        for i in range(points.shape[1]):
            for k in range(2):
                moved = torch.zeros_like(points)
                moved[0, i, k] = 0.25
                change = _coverage(points + moved, faces) - _coverage(points - moved, faces)
                expected[0, i, k] = (change * image).sum() / 0.5
        cosine = torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0)
        assert cosine > 0.99
        assert found[..., 2].abs().max() == 0
        norms.append(float(found.norm() / expected.norm()))
    assert abs(sum(norms) / len(norms) - 1) < 0.05 and all(abs(norm - 1) < 0.12 for norm in norms)


def test_edges_inside_a_surface_and_images_of_one_colour_are_not_blended():
    points, faces = _polygon(torch.Generator().manual_seed(1), fan=True)
    fragments = rasterize(points, faces, 64, 64)
    of_faces = fragments.images((fragments.face_of[fragments.pixels] % 2 * 1.0)[:, None])
    inside = fragments.images(torch.ones(len(fragments.corners), 1))
    blended = antialias(of_faces + 2 * (1 - inside), fragments, opposite_vertices(faces))
    changed = (blended != of_faces + 2 * (1 - inside))[..., 0]
    border = torch.nn.functional.max_pool2d(inside.movedim(-1, 1), 3, 1, 1)
    border += torch.nn.functional.max_pool2d(-inside.movedim(-1, 1), 3, 1, 1)
    assert changed.any() and not (changed & (border[:, 0] == 0)).any()
    plain = torch.full((1, 64, 64, 3), 0.3)
    assert torch.equal(antialias(plain, fragments, opposite_vertices(faces)), plain)
