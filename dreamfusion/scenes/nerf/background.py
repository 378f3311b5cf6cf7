"""The background behind transparent parts of the scene."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamfusion.scenes.nerf.mlp import TwoLayerPerceptron

# A colour (3,), one for each view (views, 3), or a function of unit directions.
Background = Tensor | Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n 3"]]


class LearnedBackground(nn.Module):
    """A smooth colour for each direction: a small perceptron on polynomials of degree 2.

    Initially it has the colour `start`, in (0, 1), in all directions.
    """

    def __init__(
        self,
        *,
        start: tuple[float, float, float] = (0.5, 0.5, 0.5),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not all(0.0 < channel < 1.0 for channel in start):
            raise ValueError(f"start must lie strictly between 0 and 1, not {start}")
        self.mlp = TwoLayerPerceptron(n_inputs=9, n_hidden=16, n_outputs=3, generator=generator)
        with torch.no_grad():
            self.mlp.weight2.zero_()
            self.mlp.bias2.copy_(torch.tensor([math.log(c / (1.0 - c)) for c in start]))

    def forward(self, directions: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Colours in (0, 1) for unit directions."""
        x, y, z = directions.unbind(-1)
        second = torch.stack([x * y, y * z, z * x, x * x, y * y, z * z], dim=-1)
        return torch.sigmoid(self.mlp(torch.cat([directions, second], dim=-1)))


def background_color(
    background: Background, directions: Float[Tensor, "rays 3"], n_views: int
) -> Float[Tensor, "rays 3"]:
    """Colours behind rays that belong to n_views views of equally many rays each."""
    if not isinstance(background, Tensor):
        return background(directions)
    return per_ray("plain background", background.to(directions), n_views, len(directions))


def per_ray(
    name: str, value: Float[Tensor, "*views 3"], n_views: int, n_rays: int
) -> Float[Tensor, "{n_rays} 3"]:
    """A (3,) or (n_views, 3) tensor, repeated for the rays of each view. name: for errors."""
    if value.shape == (3,):
        return value.expand(n_rays, 3)
    if value.shape == (n_views, 3):
        return value.repeat_interleave(n_rays // n_views, dim=0)
    raise ValueError(f"a {name} is (3,) or ({n_views}, 3), not {tuple(value.shape)}")
