"""Comparison with the toy world, for objects with known results."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from dreamfusion.cli.app import main
from dreamfusion.config.layers import build_config
from dreamfusion.evaluation import rows
from dreamfusion.evaluation.evaluate import Evaluation, as_json, for_terminal, summarise
from dreamfusion.evaluation.judges import ToyJudge
from dreamfusion.evaluation.rows import Row, Subject, judge_run, mesh_figures
from dreamfusion.evaluation.truth import (
    GRID,
    PAIRS,
    best_overlap,
    compare_with_truth,
    prompts,
    surface_errors,
)
from dreamfusion.mesh.extract import Mesh
from dreamfusion.mesh.formats import write_mesh
from dreamfusion.runs.checkpoint import SavedScene
from dreamfusion.runs.folder import create_run
from dreamfusion.toyworld.objects import NOUNS, held_out_pairs, make_object
from dreamfusion.utils.errors import UserError


def solid(points: np.ndarray, name: str) -> torch.Tensor:
    inside = make_object(name).signed_distance(points.reshape(-1, 3).astype(np.float32)) < 0
    return torch.from_numpy(inside.reshape(GRID, GRID, GRID).astype(np.float32))


def grid() -> np.ndarray:
    axis = (np.arange(GRID) + 0.5) / GRID * 2 - 1
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)


@pytest.mark.parametrize(("yaw_deg", "scale"), [(0.0, 1.0), (37.0, 0.9), (-120.0, 1.05)])
def test_overlap_finds_the_rotation_and_the_scale(yaw_deg: float, scale: float):
    c, s = np.cos(np.radians(yaw_deg)), np.sin(np.radians(yaw_deg))
    turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])  # about +Y, from +Z towards +X
    moved = solid(grid() @ turn / scale, "corgi")  # rows are points, so this is the inverse turn
    iou, yaw, found = best_overlap(moved, solid(grid(), "corgi"))
    assert iou > 0.85
    assert abs((yaw - yaw_deg + 180) % 360 - 180) < 4
    assert found == pytest.approx(scale, abs=0.04)


def test_overlap_of_different_objects_is_low():
    iou, _, _ = best_overlap(solid(grid(), "key"), solid(grid(), "ball"))
    assert iou < 0.3


def mesh_of(noun: str, color: str | None = None) -> Mesh:
    vertices, faces, colors = make_object(noun, color).mesh(96)
    return Mesh(vertices.astype(np.float64), faces, colors.astype(np.float64))


@pytest.mark.parametrize("noun", ["corgi", "mug", "airplane"])
def test_an_objects_own_mesh_overlaps_it_and_has_its_colours(noun: str):
    found = compare_with_truth(mesh_of(noun), make_object(noun))
    assert found.iou > 0.97 and not found.held_out
    assert (found.yaw_deg, found.scale) == (0.0, 1.0)
    assert found.color_error < 0.02


def test_colour_error_is_large_for_another_colour():
    mug, toy = solid(grid(), "mug"), make_object("mug", "red")
    assert surface_errors(mesh_of("mug", "red"), mug, toy, 0.0, 1.0)["color_error"] < 0.02
    assert surface_errors(mesh_of("mug", "blue"), mug, toy, 0.0, 1.0)["color_error"] > 0.3
    assert surface_errors(mesh_of("mug", "red"), torch.zeros_like(mug), toy, 0.0, 1.0) == {}


def planted(mesh: Mesh, defect: str) -> Mesh:
    """A mesh with one defect."""
    vertices, colors = mesh.vertices.copy(), mesh.colors.copy()
    if defect == "oversaturated":
        mean = colors.mean(axis=1, keepdims=True)
        colors = (mean + 1.3 * (colors - mean)).clip(0, 1)
    if defect == "shrunken":
        vertices *= 0.75
    if defect == "bumpy":
        rng = np.random.default_rng(0)
        vertices += rng.uniform(-0.008, 0.008, vertices.shape)
    if defect == "darker":
        colors *= 0.6
    if defect == "part missing":  # the faces left of a plane; what is open is closed by voxelising
        vertices[:, 0] = vertices[:, 0].clip(min=-0.1)
    return Mesh(vertices, mesh.faces, colors)


@pytest.mark.parametrize(
    ("defect", "moved"),
    [
        ("oversaturated", {"saturation"}),
        ("darker", {"color_error", "saturation"}),
        ("shrunken", {"iou", "scale"}),
        ("bumpy", {"normal_error_deg"}),
        ("part missing", {"iou"}),
    ],
)
def test_each_planted_defect_moves_its_measure_and_no_other(defect: str, moved: set[str]):
    mesh, toy = mesh_of("corgi"), make_object("corgi")
    right, wrong = compare_with_truth(mesh, toy), compare_with_truth(planted(mesh, defect), toy)
    least = {
        "iou": 0.05, "scale": 0.05, "color_error": 0.05, "saturation": 0.03, "normal_error_deg": 6.0
    }  # fmt: skip
    changed = {
        name for name, least in least.items()
        if abs(getattr(wrong, name) - getattr(right, name)) > least
    }  # fmt: skip
    assert changed == moved


def test_a_saved_mesh_is_compared_in_its_scenes_frame(tmp_path):
    write_mesh(mesh_of("mug", "red"), tmp_path / "model.glb")
    found = mesh_figures(tmp_path / "model.glb", "a red mug")
    assert found["iou"] > 0.97 and found["color_error"] < 0.02 and found["held_out"]
    assert "iou" not in mesh_figures(tmp_path / "model.glb")


@pytest.mark.parametrize(("done", "iou"), [(8, 0.0), (4, None)])
def test_a_finished_run_without_a_mesh_has_an_iou_of_zero(tmp_path, monkeypatch, done, iou):
    def empty(*arguments, **options):
        raise UserError("the scene is empty")

    run = create_run(tmp_path / "run")
    run.write_config(build_config({"prompt": "a red mug", "steps": 8}))
    monkeypatch.setattr(rows, "load_scene", lambda *_: SavedScene(done, None))
    monkeypatch.setattr(rows, "images_of", empty)
    (row,) = judge_run(Subject(run, "a red mug", 0), [(ToyJudge("toy"), [])], truth=True)
    assert row.iou == iou and row.reason.startswith("the scene is empty; no such mesh")


def test_half_of_the_measured_prompts_are_held_out(capsys):
    held = [pair for pair in PAIRS if pair in held_out_pairs()]
    assert len(PAIRS) >= 24
    assert len(held) == len(PAIRS) // 2
    assert main(["vocabulary", "--prompts", "benchmark"]) == 0
    assert capsys.readouterr().out.splitlines() == prompts()
    assert main(["vocabulary", "--prompts", "nouns"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == len(NOUNS) and "an owl" in said and "a corgi" in said


def test_tables_and_means_contain_the_comparison():
    common = {"seed": 0, "variant": "", "judge": "toy", "revision": "x", "views": 8}
    both = [
        Row("a", "a corgi", iou=0.8, color_error=0.1, held_out=False, **common),
        Row("b", "a red mug", iou=0.6, color_error=0.2, held_out=True, **common),
    ]
    means = summarise(both)
    assert means["iou"].value == pytest.approx(0.7)
    head, first, _ = for_terminal(both)
    assert "IoU" in head and "0.80" in first and "0.100" in first
    assert "IoU" not in for_terminal([Row("a", "a corgi", **common)])[0]
    assert json.loads(as_json(Evaluation(both, {"all": means})))["rows"][1]["held_out"] is True
