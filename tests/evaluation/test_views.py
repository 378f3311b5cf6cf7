"""The validation calls what is true true, and tells a wrong side, colour or noun."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from dreamfusion.cli.app import main
from dreamfusion.evaluation import views
from dreamfusion.evaluation.judges import ToyJudge
from dreamfusion.evaluation.views import (
    AZIMUTHS,
    VIEWS,
    named,
    nearest_psnr,
    on_background,
    true_images,
)


@pytest.fixture(scope="module")
def judge():
    return ToyJudge("toy")


@pytest.fixture(scope="module")
def corgi():
    rgba = true_images("corgi", None)
    return rgba, on_background(rgba)


def shares(found):
    return [float(x.float().mean()) for x in (found.noun, found.color, found.side)]


def test_true_images_are_named_rightly(judge, corgi):
    rgba, pictures = corgi
    assert pictures.shape == (VIEWS, 64, 64, 3)
    found = named(judge, "corgi", pictures, rgba[:, None])
    assert min(shares(found)) >= 0.9
    assert float(found.psnr.min()) > 40  # they are their own nearest ones


def test_pictures_turned_about_have_another_side_and_nothing_else(judge, corgi):
    rgba, pictures = corgi
    turned = pictures.unflatten(0, (-1, AZIMUTHS)).roll(AZIMUTHS // 2, dims=1).flatten(0, 1)
    noun, color, side = shares(named(judge, "corgi", turned, rgba[:, None]))
    assert noun >= 0.9 and color >= 0.9 and side <= 0.1


def test_another_thing_is_neither_named_nor_near(judge, corgi):
    rgba, _ = corgi
    other = true_images("table", None)
    pictures = on_background(other)
    found = named(judge, "corgi", pictures, rgba[:, None])
    assert shares(found)[0] == 0 and float(found.psnr.max()) < 20


def test_the_nearest_picture_counts_before_the_pictures_own_background():
    rng = np.random.default_rng(0)
    true = torch.stack([true_images("mug", rng)[:2] for _ in range(3)], dim=1)
    for background in (0.1, 0.8):
        shown = true[:, 1, ..., :3] + (1 - true[:, 1, ..., 3:]) * background
        noisy = shown + 0.1 * torch.from_numpy(rng.choice([-1.0, 1.0], shown.shape)).float()
        noisy[:, :2] = noisy[:, -2:] = background
        assert nearest_psnr(noisy, true) == pytest.approx([20.0, 20.0], abs=0.5)


@pytest.mark.slow
def test_the_table_and_the_sheets_are_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(views, "STEPS", 2)
    command = ["measure", "views", "ball", "corgi", "--out", str(tmp_path)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert said == (tmp_path / "table.md").read_text() + "\n"
    assert "| ball |" in said and "| corgi |" in said and "| **mean** |" in said
    figures = json.loads((tmp_path / "summary.json").read_text())
    assert figures["sided"] == ["corgi"]  # a ball has no sides
    assert figures["prior"]["psnr"] < figures["true"]["psnr"]
    for name in ("true.png", "prior.png"):
        assert (tmp_path / name).exists()
    (kept,) = tmp_path.glob("samples-*.pt")
    before = kept.stat().st_mtime_ns
    assert main(command) == 0  # and what was drawn is not drawn again
    assert kept.stat().st_mtime_ns == before and capsys.readouterr().out == said
