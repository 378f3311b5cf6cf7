"""Meshes for 3D printers."""

import os
import shutil
import subprocess

import numpy as np
import pytest
import trimesh

from dreamfusion.mesh.extract import MeshError, extract_surface
from dreamfusion.mesh.printing import print_bytes, printable, require_print, thin_volume
from dreamfusion.toyworld.nouns import NOUNS
from dreamfusion.toyworld.objects import make_object

pytest.importorskip("manifold3d", reason="manifold3d is not installed (dreamfusion[print])")
PRUSA = shutil.which("prusa-slicer") or os.environ.get("PRUSA_SLICER")


def solid(mesh: trimesh.Trimesh, size_mm: float = 80.0) -> trimesh.Trimesh:
    return printable(np.asarray(mesh.vertices), np.asarray(mesh.faces), size_mm)


def require_manifold(mesh: trimesh.Trimesh) -> None:
    """Closed and oriented after equal positions of 32 bits, as in STL, are merged."""
    corners = np.asarray(mesh.vertices, np.float32)
    places, number = np.unique(corners, axis=0, return_inverse=True)
    faces = number.reshape(-1)[mesh.faces]
    assert len(places) == len(corners)
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    assert len(np.unique(edges, axis=0)) == len(edges)
    assert np.array_equal(np.unique(edges, axis=0), np.unique(edges[:, ::-1], axis=0))


def test_a_print_stands_on_a_flat_base_in_millimetres():
    """Up is +Y in the scene and +Z in the print; the front, +Z, becomes -Y."""
    cone = trimesh.creation.cone(0.4, 1.0)  # along +Z
    cone.apply_transform(trimesh.transformations.rotation_matrix(-np.pi / 2, (1, 0, 0)))
    cone.vertices[:, 2] += np.where(cone.vertices[:, 1] > 0.9, 0.2, 0.0)  # its tip leans forward
    made = solid(cone, 60.0)
    require_manifold(made)
    assert made.extents.max() == pytest.approx(60.0, abs=1e-3)
    assert made.bounds[0, 2] == pytest.approx(0.0, abs=1e-4)
    assert made.bounds.mean(axis=0)[:2] == pytest.approx((0.0, 0.0), abs=1e-3)
    tip = made.vertices[made.vertices[:, 2].argmax()]
    assert tip[2] == pytest.approx(60.0, abs=1e-3) and tip[1] < -5.0
    assert made.volume > 0


def test_a_ball_gets_a_base():
    made = solid(trimesh.creation.icosphere(4))
    base = made.facets_area[np.argmax(made.facets_area)]
    assert base > 300.0  # mm^2; a radius of about 11 mm
    require_manifold(made)


def test_inner_shells_are_dropped():
    outer, inner = trimesh.creation.icosphere(3), trimesh.creation.icosphere(3, radius=0.5)
    inner.invert()
    hollow = trimesh.util.concatenate([outer, inner])
    made = solid(hollow)
    assert made.body_count == 1
    assert made.volume == pytest.approx(solid(outer).volume, rel=1e-3)


def test_an_open_mesh_is_an_error():
    ball = trimesh.creation.icosphere(2)
    with pytest.raises(MeshError, match="not closed"):
        printable(np.asarray(ball.vertices), np.asarray(ball.faces)[5:], 80.0)


def test_thin_walls_are_measured():
    plate = trimesh.creation.box((40.0, 30.0, 0.8))
    block = trimesh.creation.box((40.0, 30.0, 10.0))
    assert thin_volume(plate) == pytest.approx(40 * 30 * 0.8, rel=0.35)
    assert thin_volume(block) == 0.0
    fin = trimesh.creation.box((0.6, 30.0, 20.0))
    fin.apply_translation((0.0, 0.0, 15.0))
    both = trimesh.util.concatenate([block, fin])
    assert thin_volume(both) == pytest.approx(0.6 * 30 * 20, rel=0.5)


@pytest.mark.parametrize("suffix", ["stl", "3mf"])
def test_files_are_read_back(tmp_path, suffix):
    pytest.importorskip("lxml")
    made = solid(trimesh.creation.icosphere(3))
    path = tmp_path / f"ball.{suffix}"
    require_print(path)
    path.write_bytes(print_bytes(made, path, "a-ball"))
    read = trimesh.load(path, force="mesh")
    assert read.is_watertight and read.extents == pytest.approx(made.extents, abs=1e-3)
    with pytest.raises(MeshError, match="cannot write a print as 'x"):
        require_print(tmp_path / "x.glb")


@pytest.mark.slow
@pytest.mark.parametrize("noun", [noun.name for noun in NOUNS])
def test_every_kind_of_object_is_manifold(tmp_path, noun):
    """PRUSA_SLICER or the PATH may name PrusaSlicer, whose verdict is checked, too."""
    n = 96
    axis = ((np.arange(n) + 0.5) / n * 2 - 1).astype(np.float32)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    distance = make_object(noun).signed_distance(points).reshape(n, n, n)
    density = np.exp(-distance * n / 4).clip(0, 50).astype(np.float32)
    surface = extract_surface(density, 1.0, lambda points, normals: points)
    made = printable(surface.vertices, surface.faces, 80.0)
    require_manifold(made)
    if PRUSA is not None:
        path = tmp_path / "print.stl"
        path.write_bytes(print_bytes(made, path, noun))
        said = subprocess.run([PRUSA, "--info", path], capture_output=True, text=True).stdout
        assert "manifold = yes" in said and "repaired" not in said and "open_edges" not in said
