"""The optimiser of the embedded prior, tested by singular values."""

import pytest
import torch
from torch import nn

from scripts.embedded_prior.muon import Muon, orthogonalize, share_out
from tests.helpers.processes import launch

DESCEND = """
import os, sys, torch
from torch import nn
from dreamfusion.utils.distributed import is_first, process_group
from scripts.embedded_prior.muon import Muon

with process_group("cpu"):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(72, 4, bias=False))
    optimizer = Muon([p for p in model.parameters() if p.ndim > 1], lr=0.01)
    for _ in range(3):
        model.zero_grad()
        model(torch.ones(2, 3, 5, 5) * torch.randn(2, 1, 1, 1)).square().mean().backward()
        optimizer.step()
    if torch.distributed.is_initialized() == (not is_first()):
        torch.save(model.state_dict(), sys.argv[1])
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        os._exit(0)  # gloo at times aborts when its threads are torn down
"""


@pytest.mark.parametrize("shape", [(8, 8), (6, 40), (40, 6), (1, 12)])
def test_singular_values_become_one_and_directions_stay(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    other = torch.randn(shape)  # another shape
    found = orthogonalize(torch.stack([matrix, 1e3 * other]))[0].float()
    assert found.shape == shape
    seen = u.T @ found @ vh.T
    values = seen.diagonal()
    assert values.min() > 0.6 and values.max() < 1.25
    assert (seen - values.diag()).abs().max() < 0.05


def test_weak_directions_move_as_far_as_strong_ones():
    strong, weak = torch.zeros(2, 8, 8)
    strong[0, 0], weak[1, 1] = 1.0, 0.02
    moved = orthogonalize((strong + weak)[None])[0].float().diagonal()
    assert moved[1] > 0.6 * moved[0]


def test_parameters_without_gradient_are_not_changed():
    assert orthogonalize(torch.zeros(1, 4, 5)).abs().max() == 0


def test_a_step_is_as_large_as_adams():
    torch.manual_seed(0)
    layer = nn.Conv2d(16, 32, 3)
    before = layer.weight.detach().clone()
    layer.weight.grad = (
        torch.randn_like(layer.weight) * 1e-5
    )  # the scale of the gradient does not matter
    Muon([layer.weight], lr=0.1).step()
    rms = float((layer.weight.detach() - before).square().mean().sqrt())
    assert rms == pytest.approx(0.2 * 0.1, rel=0.2)


def test_work_is_divided_evenly_and_consistently():
    work = [9.0, 1.0, 5.0, 3.0, 4.0, 2.0]
    owners = share_out(work, 2)
    loads = [sum(w for w, owner in zip(work, owners, strict=True) if owner == i) for i in (0, 1)]
    assert loads == [12.0, 12.0]
    assert share_out(work, 1) == [0] * 6


@pytest.mark.slow
def test_two_processes_take_the_same_step_as_one(tmp_path):
    script = tmp_path / "descend.py"
    script.write_text(DESCEND)
    for processes, name in ((1, "one"), (2, "two")):
        done = launch(processes, script, tmp_path / name)
        assert done.returncode == 0, done.stderr
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, msg=lambda text, name=name: f"{name}: {text}")
