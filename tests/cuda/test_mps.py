"""Parts of a run on a simulated Apple GPU, without float64 and without operators that lack an MPS
kernel. Rounding and speed of a real GPU are not tested."""

from __future__ import annotations

import pytest
import torch

from dreamfusion.config.schema import PriorConfig
from dreamfusion.priors import load_prior
from dreamfusion.runs.checkpoint import load_scene, save_checkpoint
from dreamfusion.runs.folder import RunFolder
from dreamfusion.training.trainer import Trainer
from dreamfusion.utils.devices import choose_device
from tests.helpers.simulated_gpu import SimulatedGpu
from tests.helpers.tiny_runs import tiny

SETTINGS = {
    "shading": {"lambertian": 1.0, "textureless": 0.0},
    "scene": {
        "marching": {"step_size": 0.1},
        "losses": {"smoothness": 0.1, "orientation": 0.1},
    },
}


@pytest.fixture
def mps(one_thread):
    with SimulatedGpu("mps", devices=1) as gpu:
        yield gpu


def test_double_precision_is_refused(mps):
    with pytest.raises(TypeError, match="Cannot convert a MPS Tensor to float64"):
        torch.ones(2, device="mps:0").double()
    with pytest.raises(TypeError, match="Cannot convert a MPS Tensor to float64"):
        torch.zeros(2, dtype=torch.float64).to("mps")


def test_operators_without_a_kernel_are_refused(mps):
    one = torch.eye(2, device="mps")
    assert torch.linalg.qr(one) and one.histc(2).shape == (2,)
    for operator in (torch.mode, torch.linalg.eigvals):  # in torch 2.6 to 2.14
        with pytest.raises(NotImplementedError, match="is not currently implemented for the MPS"):
            operator(one)
    assert torch.mode(one.cpu()).values.tolist() == [0.0, 0.0]


def test_images_larger_than_the_priors_input(mps, folders):
    """The backward pass of antialiased resizing has no MPS kernel."""
    prior = load_prior(str(folders["sd"]), PriorConfig(dtype="float32"), device="mps:0")
    images = torch.rand(1, 3, 32, 32, device="mps", requires_grad=True)
    prior.encode_image(images).sum().backward()
    assert bool(images.grad.isfinite().all()) and bool(images.grad.any())


@pytest.mark.parametrize("kind", ["if-clip", pytest.param("sd3-t5", marks=pytest.mark.slow)])
def test_a_run_equals_one_on_the_cpu(mps, folders, kind, tmp_path):
    losses = {}
    for device in ("cpu", "mps"):
        prior = load_prior(
            str(folders[kind]), PriorConfig(dtype="float32"), device=choose_device(device)
        )
        reference = {"backend": "reference"}
        backends = {"scene": {"marching": reference, "field": reference}}
        trainer = Trainer(tiny(prior, SETTINGS, backends), prior)
        losses[device] = [trainer.step().loss for _ in range(2)]
    assert losses["mps"] == pytest.approx(losses["cpu"], rel=1e-3)
    run = RunFolder(tmp_path)
    save_checkpoint(run.checkpoints, trainer.state, keep=1)
    run.write_config(trainer.config)
    again = load_scene(run, trainer.config, "mps")
    assert again.step == 2 and again.scene.occupancy.density.device.type == "mps"
    assert len(again.scene.surface(resolution=16).colored().faces) > 10
