"""The miniature of Stable Diffusion's classes, trained for a moment: a prior like any other."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from dreamfusion.distillation.sds import sds
from dreamfusion.priors import load_prior
from scripts.embedded_prior.data import render_geometry
from scripts.embedded_prior.words import make_tokenizer
from scripts.latent_prior import WORDS, FourViews, autoencoder_loss, make_autoencoder
from tests.helpers import ROOT


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("latent")


@pytest.fixture(scope="module")
def toys(work):
    return FourViews(render_geometry(8, 0, work), 16, 0)


def test_captions_are_prompts_with_the_papers_views(toys):
    captions = [text for step in range(0, 40, 2) for text in toys(step)[1] if text]
    views = {text.rpartition(", ")[2] for text in captions}
    assert views == {"front view", "side view", "back view", "overhead view"}
    assert all(text.startswith(("a ", "an ")) for text in captions)
    tokenizer = make_tokenizer(WORDS)
    known = tokenizer("a red mug, front view").input_ids
    assert len(known) == 2 + 6 and tokenizer.unk_token_id not in known[1:-1]


def test_the_autoencoder_learns_pictures(toys):
    torch.manual_seed(0)
    vae, losses = make_autoencoder(), []
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-3)
    for _ in range(12):
        loss = autoencoder_loss(vae, toys(0)[0][:4])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.7 * losses[0]


def test_it_is_saved_as_a_prior(work):
    command = [sys.executable, "-m", "scripts.latent_prior", "--steps", "2", "--batch", "2"]
    command += ["--sheet-steps", "1", "--views-per-noun", "8", "--device", "cpu"]
    command += ["--work", work, "--out", work / "prior"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "denoiser 2: loss" in done.stdout and (work / "prior" / "samples.png").exists()
    prior = load_prior(str(work / "prior"))
    assert (prior.pipeline, prior.prediction, prior.image_size) == (
        "StableDiffusionPipeline", "epsilon", 128,
    )  # fmt: skip
    with torch.no_grad():
        latents = prior.encode_image(torch.rand(8, 3, 64, 64))
    assert latents.shape == (8, 4, 16, 16)
    images = torch.rand(1, 3, 64, 64, requires_grad=True)
    text, nothing = prior.encode_text(["a corgi, side view"]), prior.encode_text([""])
    options = {"guidance": 100.0, "t_range": (0.02, 0.98)}
    options["generator"] = torch.Generator().manual_seed(0)
    sds(prior, images, text, nothing, **options).loss.backward()
    assert bool(images.grad.isfinite().all()) and bool(images.grad.any())
