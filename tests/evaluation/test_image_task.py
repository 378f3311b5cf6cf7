"""The task that distils images: its measurements, on images whose answer is known, and a run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dreamfusion.cli.app import main
from dreamfusion.evaluation.comparison import config_of, read_method
from dreamfusion.evaluation.image_task import (
    distil_images,
    energy_distance,
    figures,
    on_background_of,
    side_cameras,
    true_images,
)
from dreamfusion.evaluation.judges import ToyJudge
from dreamfusion.priors import DiffusionPrior
from dreamfusion.utils.errors import UserError
from tests.helpers.tiny_priors import save_pixel_prior


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = save_pixel_prior(tmp_path_factory.mktemp("prior"))
    small = {"render": {"resolution": 16}}
    config = config_of(read_method("sds"), "a corgi", str(folder), small)
    return config, DiffusionPrior.from_pretrained(str(folder))


@pytest.fixture(scope="module")
def judge():
    return ToyJudge("toy")


def shown(noun, color, background=0.45):
    rgba = true_images(noun, color, 64)
    return rgba[..., :3] + (1 - rgba[..., 3:]) * background


def test_true_images_are_recognised(judge):
    found = figures(judge, "a corgi", shown("corgi", "orange"))
    assert found["noun"] == found["side"] == 1 and found["color"] >= 0.8
    assert found["psnr"] > 18


def test_each_planted_defect_moves_its_measure(judge):
    images = shown("corgi", "orange")
    right = figures(judge, "a corgi", images)
    turned = figures(judge, "a corgi", images.roll(4, dims=0))
    assert turned["side"] == 0 and (turned["noun"], turned["color"]) == (1, right["color"])
    blue = figures(judge, "a corgi", shown("corgi", "blue"))
    assert blue["color"] == 0 and blue["noun"] == 1 and blue["side"] >= 0.8
    other = figures(judge, "a corgi", shown("table", "orange"))
    assert other["noun"] == 0 and other["psnr"] < right["psnr"] - 4
    assert other["energy"] > right["energy"] + 0.03


def test_nouns_without_a_face_have_no_sides(judge):
    assert "side" not in figures(judge, "a mug", shown("mug", "blue"))


def test_true_images_get_the_background_of_each_image():
    rng = np.random.default_rng(0)
    true = torch.stack([true_images("mug", "blue", 64, rng)[:2] for _ in range(3)], dim=1)
    images = torch.full((2, 64, 64, 3), 0.3)
    images[1] = 0.8
    found = on_background_of(images, true)
    assert found.shape == (2, 3, 64, 64, 3)
    assert torch.equal(found[0, :, 0, 0], torch.full((3, 3), 0.3))
    assert torch.equal(found[1, :, 0, 0], torch.full((3, 3), 0.8))


def test_the_energy_distance_is_zero_for_one_distribution_and_grows_with_a_shift():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 1500, 3, generator=generator)
    assert abs(energy_distance(x, y)) < 0.005
    shifted = [energy_distance(x, y + shift) for shift in (0.5, 1.0, 2.0)]
    assert shifted[0] > 0.01 and shifted == sorted(shifted)


def test_distilled_images_depend_on_the_seed_alone(tiny):
    config, prior = tiny
    cameras = side_cameras()[:2]
    first, again, other = (
        distil_images(config, prior, cameras, steps=3, seed=seed) for seed in (0, 0, 1)
    )
    assert first.shape == (2, 3, 16, 16) and torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_method_that_diverges_is_an_error_of_one_line(tiny, monkeypatch):
    config, prior = tiny
    nan = float("nan")
    monkeypatch.setattr(prior, "predict", lambda noisy, timesteps, condition: noisy * nan)
    with pytest.raises(UserError, match="the gradient is not finite in step 1"):
        distil_images(config, prior, side_cameras(), steps=3, seed=0)


@pytest.mark.slow
def test_images_are_compared_and_not_made_again(tmp_path, capsys):
    command = ["compare", "csd", "sds", "--task", "images", "--nouns", "ball", "--seeds", "2"]
    command += ["--evaluations", "16", "--out", str(tmp_path)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "energy distance" in said and "sampling" in said
    made = {file: file.stat().st_mtime_ns for file in tmp_path.glob("images/*/*.png")}
    assert len(made) == 3 * 2
    assert (tmp_path / "comparison.csv").read_text().count("\n") == 1 + 3 * 2
    page = (tmp_path / "comparison.html").read_text()
    assert page.count("data:image/png") == 3 and "a ball" in page
    assert main(command) == 0
    assert made == {file: file.stat().st_mtime_ns for file in tmp_path.glob("images/*/*.png")}
    assert main([*command, "--on", "ray"]) == 2
    assert "--task objects only" in capsys.readouterr().err
