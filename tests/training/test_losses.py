import math

import pytest
import torch

from dreamfusion.config.layers import build_config
from dreamfusion.training.trainer import entropy_loss, opacity_loss, opacity_losses
from dreamfusion.utils.state import Progress


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


@pytest.mark.parametrize("loss", [opacity_loss, entropy_loss])
def test_nan_is_not_hidden(loss):
    assert loss(torch.tensor([0.5, torch.nan])).isnan()


def test_weights_follow_their_schedules_and_zero_drops_the_term():
    opacity = torch.full((2, 4, 4), 0.5)
    weights = build_config({"losses": {"opacity": {"start": 0, "end": 2}, "entropy": 3}}).losses
    assert opacity_losses(opacity, weights, Progress(0, 3)) == {"entropy": torch.tensor(3.0)}
    last = opacity_losses(opacity, weights, Progress(2, 3))
    assert set(last) == {"entropy", "opacity"}
    assert last["opacity"].item() == pytest.approx(2 * math.sqrt(0.26))
