"""A run's parts on a pretended Apple GPU, which has no float64. It shows that we ask for none; a
Linux build of torch does not tell which operators it lacks, and only a real one how it rounds."""

from __future__ import annotations

import pytest
import torch

from dreamfusion.config.schema import PriorConfig
from dreamfusion.diffusion.priors import load_prior
from dreamfusion.mesh.extract import extract_mesh
from dreamfusion.runs.checkpoint import load_state, save_checkpoint
from dreamfusion.runs.folder import RunFolder
from dreamfusion.training.trainer import Trainer
from dreamfusion.utils.devices import choose_device
from tests.helpers.pretended_gpu import PretendedGpu
from tests.helpers.tiny_runs import tiny

SETTINGS = {
    "render": {"step_size": 0.1},
    "shading": {"lambertian": 1.0, "textureless": 0.0},
    "losses": {"smoothness": 0.1, "orientation": 0.1},
}


@pytest.fixture
def mps(one_thread):
    with PretendedGpu("mps", devices=1) as gpu:
        yield gpu


def test_it_refuses_double_precision(mps):
    with pytest.raises(TypeError, match="Cannot convert a MPS Tensor to float64"):
        torch.ones(2, device="mps:0").double()
    with pytest.raises(TypeError, match="Cannot convert a MPS Tensor to float64"):
        torch.zeros(2, dtype=torch.float64).to("mps")


@pytest.mark.parametrize("kind", ["if-clip", "sd3-t5"])
def test_a_run_goes_as_on_the_cpu(mps, folders, kind, tmp_path):
    losses = {}
    for device in ("cpu", "mps"):
        prior = load_prior(
            str(folders[kind]), PriorConfig(dtype="float32"), device=choose_device(device)
        )
        backends = {"render": {"backend": "reference"}, "field": {"backend": "reference"}}
        trainer = Trainer(tiny(prior, SETTINGS, backends), prior)
        losses[device] = [trainer.step().loss for _ in range(2)]
    assert losses["mps"] == pytest.approx(losses["cpu"], rel=1e-3)
    run = RunFolder(tmp_path)
    save_checkpoint(run.checkpoints, trainer.state, keep=1)
    run.write_config(trainer.config)
    again = load_state(run, trainer.config, "mps")
    assert again.step == 2 and again.occupancy.density.device.type == "mps"
    assert len(extract_mesh(again.shown, resolution=16).faces) > 10
