"""Topology of meshes, for solids with known results."""

import numpy as np
import pytest
import trimesh

from dreamfusion.mesh.topology import topology


def test_topology_of_known_solids():
    def of(model):
        return topology(np.asarray(model.vertices), np.asarray(model.faces))

    box = of(trimesh.creation.box((1, 2, 3)))
    assert (box.vertices, box.faces, box.components, box.watertight, box.genus) == (
        8, 12, 1, True, 0,
    )  # fmt: skip
    assert box.volume == pytest.approx(6) and box.size == pytest.approx((1, 2, 3))
    assert of(trimesh.creation.torus(1, 0.3)).genus == 1
    two = of(trimesh.creation.torus(1, 0.3) + trimesh.creation.box().apply_translation([5, 0, 0]))
    assert (two.components, two.genus, two.watertight) == (2, 1, True)
    ball = trimesh.creation.icosphere(2)
    ball.update_faces(np.arange(len(ball.faces)) > 0)
    opened = of(ball)
    assert not opened.watertight and opened.genus is None


def test_texture_seams_count_as_closed():
    box = trimesh.creation.box((1, 2, 3))
    corners = np.asarray(box.vertices)[np.asarray(box.faces)].reshape(-1, 3)
    apart = topology(corners, np.arange(36).reshape(12, 3))
    assert (apart.vertices, apart.watertight, apart.genus, apart.components) == (36, True, 0, 1)
