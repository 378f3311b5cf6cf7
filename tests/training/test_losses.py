import math
from functools import partial

import pytest
import torch

from dreamfusion.training.losses import (
    entropy_loss,
    opacity_loss,
    orientation_loss,
    smoothness_loss,
    sparsity_loss,
)


def test_opacity_loss_values():
    assert opacity_loss(torch.zeros(2, 3)).item() == pytest.approx(0.1)
    assert opacity_loss(torch.ones(5)).item() == pytest.approx(math.sqrt(1.01))


def test_entropy_is_one_bit_at_one_half_and_vanishes_at_the_ends_with_finite_slope():
    assert entropy_loss(torch.full((4,), 0.5)).item() == pytest.approx(1.0)
    ends = torch.tensor([0.0, 1.0], requires_grad=True)
    loss = entropy_loss(ends)
    loss.backward()
    assert loss.item() < 1e-3 and ends.grad.isfinite().all()


def test_entropy_pushes_away_from_the_middle():
    opacity = torch.tensor([0.3, 0.7], requires_grad=True)
    entropy_loss(opacity).backward()
    assert opacity.grad[0] > 0 > opacity.grad[1]


def test_orientation_punishes_only_normals_that_face_away():
    directions = torch.tensor([[0.0, 0, -1], [0, 0, -1]])
    normals = torch.tensor([[0.0, 0, 1], [0, 0.6, -0.8]], requires_grad=True)
    weights = torch.tensor([0.5, 0.5], requires_grad=True)
    loss = orientation_loss(weights, normals, directions, n_rays=2)
    assert loss.item() == pytest.approx(0.5 * 0.64 / 2)
    loss.backward()
    assert weights.grad is None
    assert normals.grad[0].abs().sum() == 0 and normals.grad[1].abs().sum() > 0


def test_sparsity_is_a_cauchy_loss():
    density = torch.tensor([0.0, 2.0, 1e30], requires_grad=True)
    loss = sparsity_loss(density[:2], n_rays=2)
    assert loss.item() == pytest.approx(math.log(9) / 2)
    sparsity_loss(density, n_rays=3).backward()
    # Its pull fades where there is much density: d/ds log(1 + 2 s^2) = 4 s / (1 + 2 s^2).
    assert density.grad.tolist() == pytest.approx([0, 8 / 9 / 3, 0], abs=1e-6)
    assert sparsity_loss(torch.zeros(0), n_rays=3).item() == 0


def test_smoothness_compares_unit_normals_and_turns_them_alone():
    normals = torch.tensor([[0.0, 0, 1], [0, 1, 0]], requires_grad=True)
    nearby = torch.tensor([[0.0, 0, 1], [0, -1, 0]], requires_grad=True)
    weights = torch.tensor([0.5, 0.25], requires_grad=True)
    loss = smoothness_loss(weights, normals, nearby, n_rays=2)
    assert loss.item() == pytest.approx(0.25 * 4 / 2)
    loss.backward()
    assert weights.grad is None
    assert normals.grad[0].abs().sum() == 0 and nearby.grad[1].abs().sum() > 0


@pytest.mark.parametrize("loss", [opacity_loss, entropy_loss, partial(sparsity_loss, n_rays=2)])
def test_nan_is_not_hidden(loss):
    assert loss(torch.tensor([0.5, torch.nan])).isnan()
