import pytest
import torch

from dreamfusion.scenes.nerf.background import LearnedBackground, background_color


def directions(n: int = 12) -> torch.Tensor:
    raw = torch.randn(n, 3, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(raw, dim=-1)


def test_learned_background_starts_plain_and_learns_directions():
    background = LearnedBackground(
        start=(0.2, 0.5, 0.9), generator=torch.Generator().manual_seed(0)
    )
    expected = torch.tensor([0.2, 0.5, 0.9]).expand(12, 3)
    torch.testing.assert_close(background(directions()), expected)
    optimizer = torch.optim.Adam(background.parameters(), 0.05)
    target = (directions() * 0.4 + 0.5).clamp(0, 1)
    for _ in range(200):
        loss = (background(directions()) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 1e-3


def test_plain_colors_reach_the_rays_of_their_view():
    colors = torch.tensor([[0.0, 0, 1], [1, 0, 0]])
    out = background_color(colors, directions(), 2)
    assert (out[:6] == colors[0]).all() and (out[6:] == colors[1]).all()
    assert (background_color(colors[1], directions(), 2) == colors[1]).all()
    with pytest.raises(ValueError, match="plain background"):
        background_color(torch.zeros(3, 3), directions(), 2)


def test_initial_colors_must_be_reachable():
    with pytest.raises(ValueError, match="strictly between"):
        LearnedBackground(start=(0.0, 0.5, 1.0))
