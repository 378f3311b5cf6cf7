"""Tests that need a real GPU: `pytest -m gpu`. Other tests use a simulated one."""

from __future__ import annotations

import pytest
import torch

from dreamfusion.cli.app import main
from dreamfusion.config.schema import PriorConfig
from dreamfusion.diffusion.condition import Condition
from dreamfusion.priors import load_prior
from dreamfusion.training.trainer import Trainer
from scripts.embedded_prior.data import ToyPictures, render_geometry
from tests.cuda.test_run import COARSE, LIT
from tests.helpers.tiny_priors import PRIORS
from tests.helpers.tiny_runs import tiny

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("kind", PRIORS)
def test_steps_equal_those_on_the_cpu(folders, kind):
    losses = {}
    for device in ("cpu", "cuda"):
        prior = load_prior(str(folders[kind]), PriorConfig(dtype="float32"), device=device)
        trainer = Trainer(tiny(prior, COARSE, LIT), prior)
        losses[device] = [trainer.step().loss for _ in range(2)]
    # GPUs compute convolutions in TF32, with ten bits of mantissa.
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=2e-2)


@pytest.mark.parametrize("kind", PRIORS)
def test_half_precision_is_close(folders, kind):
    found = {}
    for dtype in ("float32", "auto"):
        prior = load_prior(str(folders[kind]), PriorConfig(dtype=dtype), device="cuda")
        noisy = torch.randn(
            2, prior.channels, *[prior.denoiser.config.sample_size] * 2,
            generator=torch.Generator().manual_seed(0),
        ).cuda()  # fmt: skip
        timesteps = torch.tensor([300, 700], device="cuda")
        found[dtype] = prior.predict(
            noisy, timesteps, Condition(prior.encode_text(["a red mug"] * 2))
        )
    assert prior.dtype == torch.float16
    error = (found["auto"] - found["float32"]).norm() / found["float32"].norm()
    assert float(error) < 0.02


def test_a_run_of_the_shipped_prior_and_its_memory(tmp_path, capsys):
    run = tmp_path / "run"
    small = ["output.mesh_resolution=32", "output.texture_size=64", "output.video_frames=1"]
    options = [word for setting in small for word in ("--set", setting)]
    command = ["train", "a red mug", "--prior", "embedded", "--device", "cuda", "--steps", "20"]
    torch.cuda.reset_peak_memory_stats()
    assert main([*command, "--out", str(run), *options]) == 0
    assert "marching: triton" in capsys.readouterr().out
    assert (run / "mesh" / "model.glb").exists()
    assert torch.cuda.max_memory_allocated() < 2 << 30


def test_training_images_equal_those_of_the_cpu(tmp_path):
    geometry = render_geometry(8, 0, tmp_path)
    here, there = ToyPictures(geometry, 64, 0), ToyPictures(geometry, 64, 0, device="cuda")
    assert here(0)[1] == there(0)[1]
    # GPUs round the normalisation of light directions differently.
    torch.testing.assert_close(there(0)[0].cpu(), here(0)[0], atol=1e-4, rtol=0)
