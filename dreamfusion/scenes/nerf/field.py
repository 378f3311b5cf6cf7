"""The radiance field: density and albedo at each point of the box, and normals of the density."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from dreamfusion.scenes.nerf.hashgrid import HashGrid
from dreamfusion.scenes.nerf.mlp import TwoLayerPerceptron
from dreamfusion.scenes.nerf.settings import FieldConfig

# Corners of a tetrahedron: a gradient from four evaluations; central differences need six.
_TAPS = ((1.0, -1.0, -1.0), (-1.0, -1.0, 1.0), (-1.0, 1.0, -1.0), (1.0, 1.0, 1.0))


@dataclass(frozen=True)
class FieldOutput:
    """density: per scene unit, non-negative. albedo: sRGB in (0, 1)."""

    density: Float[Tensor, " n"]
    albedo: Float[Tensor, "n 3"]


class _TruncatedExp(torch.autograd.Function):
    """exp with its gradient limited to e^15, because a single huge gradient could ruin a run."""

    @staticmethod
    def forward(ctx: Any, x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        ctx.save_for_backward(x)
        return torch.exp(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        (x,) = ctx.saved_tensors
        return grad * torch.exp(x.clamp(max=15.0))


class Field(nn.Module):
    """A hash grid and a small perceptron, initialised with a blob of density in the middle.

    settings: None is the defaults. The activation "exp" has a bounded slope. The blob is added to
    the activation's argument at distance r from the origin: "linear" is scale (1 - r / radius),
    "gaussian" scale exp(-r^2 / (2 radius^2)), after threestudio and DreamFusion. normal_epsilon is
    slightly more than the finest cell, for smoothness. generator: draws the initial values.

    `activate_levels` masks the finest levels of the hash grid (coarse to fine, as in Neuralangelo).
    `sharpen` sets a factor on the activation's argument: density is softplus(sharpness (raw +
    blob)), or exp. For network outputs of a few units, softplus gives a fog several pixels deep; a
    larger sharpness gives a surface. Both values are part of the state.
    """

    _taps: Float[Tensor, "4 3"]

    def __init__(
        self, settings: FieldConfig | None = None, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.settings = s = FieldConfig() if settings is None else settings
        if s.density_activation not in ("softplus", "exp"):
            raise ValueError(f"unknown density_activation {s.density_activation!r}")
        if s.blob not in ("linear", "gaussian", "none"):
            raise ValueError(f"unknown blob {s.blob!r}")
        if s.blob_radius <= 0 or s.normal_epsilon <= 0:
            raise ValueError("blob_radius and normal_epsilon must be positive")
        self.encoding = HashGrid(s, generator=generator)
        n_inputs = self.encoding.n_outputs
        self.mlp = TwoLayerPerceptron(
            n_inputs=n_inputs, n_hidden=s.hidden, n_outputs=4, generator=generator
        )
        # A buffer, because creating a constant on a GPU in each call would block the CPU.
        self.register_buffer("_taps", torch.tensor(_TAPS), persistent=False)
        self._active_levels = float(len(self.encoding.layout.levels))
        self._sharpness = 1.0

    def activate_levels(self, share: float) -> None:
        """Use a share of the hash grid's levels, in [0, 1], starting with the coarsest, which is
        always active. A level that is only partly included is scaled down."""
        self._active_levels = max(share * len(self.encoding.layout.levels), 1.0)

    def sharpen(self, sharpness: float) -> None:
        """Multiply the activation's argument by `sharpness`, positive."""
        self._sharpness = sharpness

    def get_extra_state(self) -> Float64[Tensor, " 2"]:
        """The number of active levels and the sharpness, for `state_dict`."""
        return torch.tensor([self._active_levels, self._sharpness], dtype=torch.float64)

    def set_extra_state(self, state: Float[Tensor, "*numbers"]) -> None:
        """Load the output of `get_extra_state`; older checkpoints contain the levels only."""
        self._active_levels, self._sharpness = [*state.reshape(-1).tolist(), 1.0][:2]

    def forward(self, points: Float[Tensor, "n 3"]) -> FieldOutput:
        """Density and albedo at points of the box."""
        raw = self.mlp(self._encode(points))
        density = self._activate(raw[:, 0] + self._blob_bias(points))
        return FieldOutput(density=density, albedo=torch.sigmoid(raw[:, 1:]))

    def density(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Density at points of the box."""
        return self._activate(self._density_argument(points))

    def normals(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Outward unit normals: minus the direction of the density's gradient.

        Finite differences of the activation's argument, whose gradient has the same direction as
        the density's, but does not vanish at zero density. Differentiable in the parameters. Zero
        if the four values are equal.
        """
        taps = self._taps.to(points.dtype)
        shifted = points[None] + self.settings.normal_epsilon * taps[:, None]
        values = self._density_argument(shifted.reshape(-1, 3)).reshape(4, -1)
        return torch.nn.functional.normalize(-(values.t() @ taps), dim=-1)

    def _density_argument(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        raw = self.mlp(self._encode(points), n_outputs=1)
        return raw[:, 0] + self._blob_bias(points)

    def _encode(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n features"]:
        encoded = self.encoding(points)
        layout = self.encoding.layout
        if self._active_levels >= len(layout.levels):
            return encoded
        levels = torch.arange(len(layout.levels), dtype=encoded.dtype, device=encoded.device)
        active_share = (self._active_levels - levels).clamp(0.0, 1.0)
        return encoded * active_share.repeat_interleave(layout.n_features)

    def _blob_bias(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"] | float:
        s = self.settings
        if s.blob == "linear":
            return s.blob_scale * (1.0 - points.norm(dim=-1) / s.blob_radius)
        if s.blob == "gaussian":
            squared = points.square().sum(dim=-1)
            return s.blob_scale * torch.exp(-squared / (2.0 * s.blob_radius**2))
        return 0.0

    def _activate(self, argument: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        argument = self._sharpness * argument
        if self.settings.density_activation == "exp":
            return _TruncatedExp.apply(argument)
        return torch.nn.functional.softplus(argument)
