import math

import pytest
import torch

from dreamfusion.scenes.nerf.losses import orientation_loss, smoothness_loss, sparsity_loss


def test_orientation_penalises_only_normals_that_face_away():
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
    # Its gradient vanishes at high densities: d/ds log(1 + 2 s^2) = 4 s / (1 + 2 s^2).
    assert density.grad.tolist() == pytest.approx([0, 8 / 9 / 3, 0], abs=1e-6)
    assert sparsity_loss(torch.zeros(0), n_rays=3).item() == 0


def test_smoothness_compares_unit_normals_and_only_rotates_them():
    normals = torch.tensor([[0.0, 0, 1], [0, 1, 0]], requires_grad=True)
    nearby = torch.tensor([[0.0, 0, 1], [0, -1, 0]], requires_grad=True)
    weights = torch.tensor([0.5, 0.25], requires_grad=True)
    loss = smoothness_loss(weights, normals, nearby, n_rays=2)
    assert loss.item() == pytest.approx(0.25 * 4 / 2)
    loss.backward()
    assert weights.grad is None
    assert normals.grad[0].abs().sum() == 0 and nearby.grad[1].abs().sum() > 0


def test_nan_is_not_hidden():
    assert sparsity_loss(torch.tensor([0.5, torch.nan]), n_rays=2).isnan()
