"""Colours of surfaces that no camera sees."""

import numpy as np
import pytest
import torch
import trimesh

from dreamfusion.graphics.cameras import turntable_cameras
from dreamfusion.mesh.extract import Mesh
from dreamfusion.mesh.texture import bake, decimate
from dreamfusion.mesh.unseen import fill_unseen, seen_vertices

RED, BLUE = (0.8, 0.1, 0.1), (0.1, 0.1, 0.8)
FROM_ABOVE = turntable_cameras(12, elevation_deg=45.0)


def noise(points, normals):
    """Red above, and arbitrary colours below, as in a field without training."""
    rainbow = np.random.default_rng(0).random((len(points), 3))
    return np.where(points[:, 1:2] > -0.3, RED, rainbow)


def ball(radius=0.6, color=noise, *, at=(0.0, 0.0, 0.0), subdivisions=5):
    sphere = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    vertices = np.asarray(sphere.vertices) + at
    return Mesh(vertices, np.asarray(sphere.faces), np.array(color(vertices, None), dtype=float))


def test_faces_towards_a_camera_are_seen():
    mesh = ball()
    seen = seen_vertices(mesh, FROM_ABOVE)
    height = mesh.vertices[:, 1] / 0.6
    assert seen[height > -0.3].all() and not seen[height < -0.6].any()


def test_hidden_parts_are_not_seen():
    front, back = ball(0.5), ball(0.2, at=(0.0, 0.0, -0.9))
    both = Mesh(
        np.concatenate([front.vertices, back.vertices]),
        np.concatenate([front.faces, back.faces + len(front.vertices)]),
        np.concatenate([front.colors, back.colors]),
    )
    seen = seen_vertices(both, turntable_cameras(1, elevation_deg=0.0))
    assert seen[: len(front.vertices)].any() and not seen[len(front.vertices) :].any()


def test_the_unseen_part_gets_the_colour_around_it():
    mesh = ball()
    filled, color = fill_unseen(mesh, noise, FROM_ABOVE)
    assert np.abs(mesh.colors - RED).max() > 0.5
    np.testing.assert_allclose(filled.colors, np.broadcast_to(RED, filled.colors.shape), atol=1e-9)
    points = np.array([[0.0, -0.6, 0.0], [0.0, 0.6, 0.0]])
    np.testing.assert_allclose(color(points, points / 0.6), [RED, RED], atol=1e-6)


def test_colours_are_interpolated():
    def halves(points, normals):
        return np.where(points[:, :1] > 0, RED, BLUE)

    mesh = ball(color=halves)
    seen = seen_vertices(mesh, FROM_ABOVE)
    filled, _ = fill_unseen(mesh, halves, FROM_ABOVE)
    np.testing.assert_array_equal(filled.colors[seen], mesh.colors[seen])
    one, other = mesh.faces[:, [0, 1, 2]].ravel(), mesh.faces[:, [1, 2, 0]].ravel()
    total, count = np.zeros_like(mesh.colors), np.zeros(len(seen))
    # Each edge of a closed mesh occurs once in each direction.
    np.add.at(total, one, filled.colors[other])
    np.add.at(count, one, 1.0)
    mean = total / count[:, None]
    np.testing.assert_allclose(filled.colors[~seen], mean[~seen], atol=1e-9)
    bottom = filled.colors[np.argmin(mesh.vertices[:, 1])]
    np.testing.assert_allclose(bottom, (np.array(RED) + BLUE) / 2, atol=0.05)


def test_seen_points_keep_their_colours_exactly():
    rng = np.random.default_rng(1)

    def spots(points, normals):
        return np.sin(40.0 * points) / 2 + 0.5

    mesh = ball(color=spots)
    _, color = fill_unseen(mesh, spots, FROM_ABOVE)
    points = rng.normal(size=(500, 3))
    points *= 0.6 / np.linalg.norm(points, axis=1, keepdims=True)
    points = points[points[:, 1] > -0.1]
    np.testing.assert_allclose(color(points, points / 0.6), spots(points, None), atol=1e-9)


def test_an_unseen_component_keeps_its_colours():
    outer, inner = ball(0.6), ball(0.2)
    both = Mesh(
        np.concatenate([outer.vertices, inner.vertices]),
        np.concatenate([outer.faces, inner.faces + len(outer.vertices)]),
        np.concatenate([outer.colors, inner.colors]),
    )
    filled, _ = fill_unseen(both, noise, FROM_ABOVE)
    np.testing.assert_array_equal(filled.colors[len(outer.vertices) :], inner.colors)


@pytest.mark.parametrize("elevation_deg", [20.0, None])
def test_nothing_changes_if_all_or_nothing_is_seen(elevation_deg):
    mesh = ball(subdivisions=3)
    if elevation_deg is None:  # all look away
        cameras = turntable_cameras(2, distance=40.0)
        cameras.T_world_camera[:, :3, :3] *= torch.tensor([-1.0, 1.0, -1.0])
    else:
        cameras = type(FROM_ABOVE).cat(
            [turntable_cameras(8, elevation_deg=e) for e in (-50.0, 0.0, 50.0)]
        )
    filled, color = fill_unseen(mesh, noise, cameras)
    assert filled is mesh and color is noise


def test_the_texture_of_a_simplified_mesh_is_filled():
    """Only the corners of the few large faces at its base are seen."""
    cube = trimesh.creation.box(extents=(1.0, 1.0, 1.0))
    for _ in range(5):
        cube = cube.subdivide()

    def below(points, normals):
        rainbow = np.random.default_rng(0).random((len(points), 3))
        base = (points[:, 1] < -0.49) & (np.abs(points[:, [0, 2]]).max(axis=1) < 0.49)
        return np.where(base[:, None], rainbow, RED)

    mesh = Mesh(np.asarray(cube.vertices), np.asarray(cube.faces), below(cube.vertices, None))
    filled, color = fill_unseen(mesh, below, FROM_ABOVE)
    texture = bake(color, decimate(filled, 12), size=64).texture
    before = bake(below, decimate(mesh, 12), size=64).texture
    wrong = [np.abs(t / 255.0 - RED).max(axis=2) > 0.05 for t in (before, texture)]
    assert wrong[0].mean() > 0.03 and wrong[1].mean() < 0.005
