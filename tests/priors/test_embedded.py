"""The shipped prior: its files, and what it has learned."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from dreamfusion.config.schema import PriorConfig
from dreamfusion.diffusion.condition import Condition
from dreamfusion.diffusion.predictions import add_noise, predictions
from dreamfusion.graphics.cameras import orbit_cameras
from dreamfusion.priors import DiffusionPrior, load_prior, resolve_prior
from dreamfusion.toyworld.objects import held_out_pairs, make_object
from scripts.embedded_prior.language import vocabulary_file
from tests.helpers.toy_images import draw_object

FOLDER = Path(resolve_prior("embedded").path)
OBJECTS = (("mug", "blue"), ("corgi", "orange"), ("rocket", "white"), ("banana", "yellow"))
AZIMUTH, ELEVATION = 90.0, 15.0  # degrees


@pytest.fixture(scope="module")
def prior() -> DiffusionPrior:
    return load_prior("embedded", PriorConfig(dtype="float32"), device="cpu")


def test_it_is_small_enough_to_ship():
    size = sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file())
    assert size < 40e6


def test_words_and_held_out_pairs_equal_the_toy_worlds():
    card = json.loads((FOLDER / "dreamfusion.json").read_text())
    assert card == vocabulary_file(card["camera"], card["light"], card["background"])
    with (FOLDER / "held_out_pairs.csv").open() as file:
        assert [(row["noun"], row["color"]) for row in csv.DictReader(file)] == held_out_pairs()


def test_diffusers_own_pipeline_loads_and_runs_it():
    from diffusers import IFPipeline

    pipeline = IFPipeline.from_pretrained(FOLDER, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    out = pipeline("red mug, front, level, lit", num_inference_steps=2, output_type="np")
    assert out.images.shape == (1, 64, 64, 3)


def residuals(
    prior: DiffusionPrior, texts: list[str], pictures: torch.Tensor, fraction: float
) -> torch.Tensor:
    """(n,) mean squared errors of the predicted images at a noise level, with the same noise for
    all texts."""
    t = torch.full((len(pictures),), int(fraction * len(prior.alphas)))
    clean = prior.encode_image(pictures.movedim(-1, 1))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    z = add_noise(prior, clean, noise, t)
    with torch.no_grad():
        (prediction,) = predictions(prior, z, Condition(prior.encode_text(texts)))
    return (prediction.clean - clean).square().mean(dim=(1, 2, 3))


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    """Images (4, 64, 64, 3) of OBJECTS, from the view that the captions name."""
    camera = orbit_cameras(*(torch.tensor([v]) for v in (AZIMUTH, ELEVATION, 2.75, 40.0)))
    return torch.stack([draw_object(make_object(*each), camera, 64)[0] for each in OBJECTS])


@pytest.mark.parametrize("wrong", ["noun", "color", "view"])
def test_a_true_caption_has_a_lower_error_than_a_wrong_one(
    prior: DiffusionPrior, pictures: torch.Tensor, wrong: str
):
    true, false = [], []
    for i, (noun, color) in enumerate(OBJECTS):
        other_noun, other_color = OBJECTS[(i + 1) % len(OBJECTS)]
        said = f"{color} {noun}"
        lie = {"noun": f"{color} {other_noun}", "color": f"{other_color} {noun}", "view": said}
        turned = AZIMUTH + 90.0 if wrong == "view" else AZIMUTH
        words = prior.card.vocabulary
        true.append(words.view_prompt(said, AZIMUTH, ELEVATION, "lambertian"))
        false.append(words.view_prompt(lie[wrong], turned, ELEVATION, "lambertian"))
    if wrong == "view":  # sides of symmetric objects cannot be distinguished
        keep = [i for i, (noun, _) in enumerate(OBJECTS) if noun in ("corgi", "banana", "mug")]
        pictures, true, false = pictures[keep], [true[i] for i in keep], [false[i] for i in keep]
    with_truth = torch.stack([residuals(prior, true, pictures, f) for f in (0.6, 0.75, 0.85)])
    with_lie = torch.stack([residuals(prior, false, pictures, f) for f in (0.6, 0.75, 0.85)])
    assert with_truth.mean() < 0.9 * with_lie.mean()
