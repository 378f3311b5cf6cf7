"""The measures of quality, on objects whose answer is known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dreamfusion.toyworld import make_object
from scripts.measure_quality import GRID, PROMPTS, Result, best_overlap, color_error, write_table


def solid(points: np.ndarray, name: str) -> torch.Tensor:
    inside = make_object(name).signed_distance(points.reshape(-1, 3).astype(np.float32)) < 0
    return torch.from_numpy(inside.reshape(GRID, GRID, GRID).astype(np.float32))


def grid() -> np.ndarray:
    axis = (np.arange(GRID) + 0.5) / GRID * 2 - 1
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)


@pytest.mark.parametrize(("yaw_deg", "scale"), [(0.0, 1.0), (37.0, 0.9), (-120.0, 1.05)])
def test_overlap_finds_the_turn_and_the_scale(yaw_deg: float, scale: float):
    c, s = np.cos(np.radians(yaw_deg)), np.sin(np.radians(yaw_deg))
    turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])  # about +Y: +Z goes towards +X
    moved = solid(grid() @ turn / scale, "corgi")  # rows are points, so this is the inverse turn
    iou, yaw, found = best_overlap(moved, solid(grid(), "corgi"))
    assert iou > 0.85
    assert abs((yaw - yaw_deg + 180) % 360 - 180) < 4
    assert found == pytest.approx(scale, abs=0.04)


def test_overlap_of_different_things_is_low():
    iou, _, _ = best_overlap(solid(grid(), "key"), solid(grid(), "ball"))
    assert iou < 0.3


def test_colour_error_is_zero_for_the_toy_itself_and_large_for_another_colour():
    toy = make_object("mug", "red")
    itself = solid(grid(), "mug")

    def painted(color: str):
        other = make_object("mug", color)
        return lambda points: SimpleNamespace(albedo=torch.from_numpy(other.albedo(points.numpy())))

    assert color_error(painted("red"), itself, toy, 0.0, 1.0) < 0.01
    assert color_error(painted("blue"), itself, toy, 0.0, 1.0) > 0.3


def test_half_of_the_measured_prompts_are_held_out():
    from dreamfusion.toyworld.language import held_out_pairs

    held = [pair for pair in PROMPTS if pair in set(held_out_pairs())]
    assert len(PROMPTS) >= 24
    assert len(held) == len(PROMPTS) // 2


def test_table_holds_every_prompt_the_means_and_the_worst(tmp_path: Path):
    base = {"yaw_deg": 0.0, "scale": 1.0, "color_error": 0.1, "r1_color": 0.5, "r1_shaded": 1.0}
    base |= {"r1_geometry": 0.75, "margin": 2.5, "fronts": 1, "mesh_psnr_db": 26.0}
    results = [
        Result("a corgi", 0, False, iou=0.8, **base, watertight=True, seconds=100, gib=1.5),
        Result("a red mug", 0, True, iou=0.6, **base, watertight=False, seconds=90, gib=1.4),
    ]
    table = write_table(results, tmp_path)
    assert "| a red mug | no | 0.60 | 0.100 | 50% | 100% | 75% | 2.50 | 26.0 | no | 90 |" in table
    mean = "| **mean of all** |  | 0.70 | 0.100 | 50% | 100% | 75% | 2.50 | 26.0 | 1 of 2 | 95 |"
    assert mean in table
    assert "Worst IoU: 0.60 (a red mug)" in table
    assert (tmp_path / "table.md").read_text() == table
