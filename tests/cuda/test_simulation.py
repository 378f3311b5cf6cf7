"""The simulated GPU rejects what a real GPU rejects, and detects injected faults."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from dreamfusion.distillation import base
from dreamfusion.priors import load_prior
from dreamfusion.scenes.nerf.hashgrid import ENCODING
from dreamfusion.training.trainer import Trainer
from dreamfusion.utils.backends import probe
from dreamfusion.utils.devices import choose_device, send
from tests.helpers.simulated_gpu import DeviceMismatch, SimulatedGpu
from tests.helpers.tiny_runs import tiny


def test_tensors_report_their_device_and_keep_their_values(gpu):
    there = torch.tensor([1.0, 2.0], device="cuda:1")
    assert str(there.device) == "cuda:1" and there.is_cuda and not there.is_cpu
    for made in (there + 1, torch.zeros_like(there), there.new_ones(2), there[None].expand(3, 2)):
        assert made.device == there.device
    assert torch.zeros(1, device="cuda").get_device() == gpu.current == 0
    assert there.cpu().device.type == "cpu" and (there * 3).tolist() == [3.0, 6.0]
    there[there > 1.5] = 9.0
    assert there.tolist() == [1.0, 9.0] and there.to("cuda:1") is there
    assert torch.empty(2, device="meta").is_meta


def test_autograd_and_modules_stay_on_the_gpu(gpu):
    layer = torch.nn.Linear(2, 1).to("cuda:1")
    layer(torch.ones(3, 2, device="cuda:1")).sum().backward()
    assert str(layer.weight.grad.device) == "cuda:1" and layer.weight.grad.tolist() == [[3.0, 3.0]]
    with pytest.raises(TypeError, match="can't convert cuda:1 device type tensor to numpy"):
        layer.weight.detach().numpy()


def test_two_devices_do_not_mix(gpu):
    first, second = torch.ones(2, device="cuda:0"), torch.ones(2, device="cuda:1")
    for other in (torch.ones(2), second):
        with pytest.raises(DeviceMismatch, match="Expected all tensors to be on the same device"):
            first + other
    assert (first + torch.tensor(1.0)).tolist() == [2.0, 2.0]  # a scalar works on any device
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.empty(1, device="cuda:2")


def test_synchronisations_are_counted(gpu):
    there, waited = torch.tensor([1.0, 2.0], device="cuda:0"), 1  # the copy of the values
    plain, mask = torch.ones(2), there > 1.5
    for work, waits in (
        (lambda: there * 2, 0),
        (lambda: there[0].item(), 1),
        (lambda: there[mask], 1),
        (lambda: there.masked_fill(mask, 0.0), 0),
        (lambda: plain.to("cuda"), 1),
        (lambda: plain.to("cuda", non_blocking=True), 1),  # the memory is not pinned
        (lambda: send(plain, "cuda"), 0),
        (lambda: there.cpu(), 1),
        (lambda: torch.nonzero(there), 1),
    ):
        work()
        waited += waits
        assert gpu.waits.total() == waited


def test_torch_is_restored_afterwards():
    real = torch.Tensor.to, torch.cuda.is_available()
    set_device = getattr(torch._C, "_cuda_setDevice", None)  # builds without CUDA have none
    with SimulatedGpu():
        assert torch.cuda.is_available()
    assert (torch.Tensor.to, torch.cuda.is_available()) == real
    assert torch.tensor([1.0]).device.type == "cpu"
    assert getattr(torch._C, "_cuda_setDevice", None) is set_device


@pytest.fixture
def trainer(gpu, folders):
    prior = load_prior(str(folders["if-clip"]), device=choose_device("cuda:1"))
    return Trainer(tiny(prior), prior)


def test_noise_on_the_cpu_is_detected(trainer, monkeypatch):
    trainer.step()
    monkeypatch.setattr(base, "send", lambda tensor, device: tensor)
    with pytest.raises(DeviceMismatch):
        trainer.step()


def test_a_weight_that_was_not_moved_is_detected(trainer):
    convolution = trainer.prior.denoiser.conv_in
    convolution.bias = torch.nn.Parameter(convolution.bias.cpu(), requires_grad=False)
    with pytest.raises(DeviceMismatch, match=r"convolution got .* on cpu"):
        trainer.step()


def test_a_scene_on_another_gpu_than_the_prior_is_detected(trainer):
    trainer.state.scene.field.to("cuda:0")
    with pytest.raises(DeviceMismatch, match=r"index got .* on cuda:0, .* on cuda:1"):
        trainer.step()


def test_a_kernel_launch_without_a_device_guard_is_detected(gpu, trainer, monkeypatch):
    torch.cuda.set_device(0)  # the run uses the other GPU
    trainer.step()
    monkeypatch.setattr(torch.cuda, "device_of", lambda tensor: nullcontext())
    with pytest.raises(DeviceMismatch, match="a kernel on cuda:0 got pointers to cuda:1"):
        trainer.step()


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:1"])
def test_the_runs_gpu_becomes_current_and_is_used_to_test_accelerators(gpu, name):
    device = torch.device(choose_device(name))
    assert gpu.current == (device.index or 0) == (1 if name == "cuda:1" else 0)
    gpu.kernels.clear()
    assert probe(ENCODING, "triton") is None
    assert {place for place, _ in gpu.kernels} <= {f"cuda:{gpu.current}", "None"}
