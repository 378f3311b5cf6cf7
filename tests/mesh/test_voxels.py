"""Voxels of closed meshes, for solids with a known inside."""

import numpy as np
import pytest
import trimesh

from dreamfusion.mesh.topology import voxelise

GRID = 32
AXIS = (np.arange(GRID) + 0.5) / GRID * 2 - 1
X, Y, Z = np.meshgrid(AXIS, AXIS, AXIS, indexing="ij")


def voxels_of(model: trimesh.Trimesh) -> np.ndarray:
    return voxelise(np.asarray(model.vertices), np.asarray(model.faces), GRID)


def test_a_box_is_filled_to_the_cell():
    model = trimesh.creation.box((1.0, 0.5, 1.5))
    model.apply_translation((0.25, 0.0, -0.125))
    inside = (np.abs(X - 0.25) < 0.5) & (np.abs(Y) < 0.25) & (np.abs(Z + 0.125) < 0.75)
    assert np.array_equal(voxels_of(model), inside)


def test_a_turned_torus_keeps_its_hole_and_its_volume():
    model = trimesh.creation.torus(0.6, 0.2, major_sections=96, minor_sections=48)
    model.apply_transform(trimesh.transformations.rotation_matrix(0.7, (1.0, 2.0, 3.0)))
    found = voxels_of(model)
    assert not found[GRID // 2, GRID // 2, GRID // 2]
    assert found.sum() * (2 / GRID) ** 3 == pytest.approx(model.volume, rel=0.02)


def test_seams_cavities_and_overlaps_are_permitted():
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.7)
    whole = voxels_of(ball)
    corners = np.asarray(ball.triangles).reshape(-1, 3)  # no two faces share a vertex
    assert np.array_equal(voxelise(corners, np.arange(len(corners)).reshape(-1, 3), GRID), whole)
    hollow = trimesh.creation.icosphere(subdivisions=3, radius=0.4)
    hollow.invert()
    assert not voxels_of(ball + hollow)[GRID // 2, GRID // 2, GRID // 2]
    assert np.array_equal(voxels_of(ball + ball), whole)


def test_parts_outside_the_box_are_cut_off():
    assert voxels_of(trimesh.creation.box((4.0, 4.0, 4.0))).all()
    outside = trimesh.creation.box((0.5, 0.5, 0.5))
    outside.apply_translation((3.0, 0.0, 0.0))
    assert not voxels_of(outside).any()
    assert not voxelise(np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int64), GRID).any()
