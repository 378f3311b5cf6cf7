"""The training script of the small latent model: its data, and resuming."""

import numpy as np
import pytest
import torch

from dreamfusion.priors import load_prior
from scripts import latent_twin
from scripts.latent_twin import FAIR, Images, main, render_geometry


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def geometry(cache):
    return render_geometry(cache / "geometry-1.pt", shapes=1)


def test_batches_depend_only_on_the_step(geometry):
    images = Images(geometry, FAIR.split(), "fair", 0.3, seed=1)
    (a, texts), (b, again) = images.batch(5), images.batch(5)
    assert torch.equal(a, b) and texts == again
    assert a.shape == (64, 3, 64, 64) and a.min() >= 0 and a.max() <= 1
    assert not torch.equal(a, images.batch(6)[0])
    unfinished = images.unfinished(3, 16)
    assert unfinished.shape == (16, 3, 64, 64) and unfinished.isfinite().all()


def test_web_captions_have_their_proportions(geometry):
    fair = Images(geometry, latent_twin.ANIMALS.split(), "fair", 0.0, seed=1)
    web = Images(geometry, latent_twin.ANIMALS.split(), "web", 0.0, seed=1)
    texts = [text for step in range(20) for text in fair.captioned(step, 64)[1]]
    assert all(text.endswith(" view") for text in texts)
    texts = [text for step in range(20) for text in web.captioned(step, 64)[1]]
    assert 0.25 < np.mean([not text.endswith(" view") for text in texts]) < 0.42  # a third
    rows = web._rows(5000, np.random.default_rng(0))
    off = ((web.geometry["az"][rows] + 180) % 360 - 180).abs()
    assert 0.66 < (off < 45).float().mean() < 0.74


@pytest.mark.slow
def test_a_stopped_training_resumes_and_saves_a_prior(tmp_path, cache, geometry, monkeypatch):
    monkeypatch.setattr(latent_twin, "BATCH", 2)
    monkeypatch.setattr(latent_twin, "AUTOENCODER_BATCH", 2)
    common = ["--cache", str(cache), "--shapes", "1", "--word-steps", "1"]
    common += ["--autoencoder-images", "4"]
    main([str(tmp_path / "whole"), "--images", "6", *common])

    saves = []
    monkeypatch.setattr(latent_twin, "SAVE_SECONDS", -1)
    real = latent_twin.os.replace

    def replace(part, file):
        real(part, file)
        saves.append(file)
        if len(saves) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(latent_twin.os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        main([str(tmp_path / "stopped"), "--images", "6", *common])
    monkeypatch.setattr(latent_twin.os, "replace", real)
    main([str(tmp_path / "stopped"), "--images", "6", *common])
    states = [
        torch.load(tmp_path / name / "denoiser.pt", weights_only=True)
        for name in ("whole", "stopped")
    ]
    assert states[0]["step"] == states[1]["step"] == 3
    for part in ("models", "ema"):
        a, b = (state[part] for state in states)
        assert all(torch.equal(a[name], b[name]) for name in a)
    prior = load_prior(str(tmp_path / "whole" / "pipeline"), prompts=["a car, front view", ""])
    assert prior.pipeline == "StableDiffusionPipeline" and prior.shape == (4, 16, 16)

    further = ["--start", str(tmp_path / "whole"), "--kinds", "all", "--images", "0"]
    main([str(tmp_path / "further"), *common, *further])
    assert not (tmp_path / "further" / "words.pt").exists()
    begun = torch.load(tmp_path / "further" / "denoiser.pt", weights_only=True)["models"]
    assert all(torch.equal(begun[name], value) for name, value in states[0]["models"].items())
