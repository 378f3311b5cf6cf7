"""The self-test of accelerated rasterisers: a few overlapping Gaussians."""

from collections.abc import Callable

import torch
from torch import Tensor

from dreamfusion.graphics.cameras import turntable_cameras
from dreamfusion.scenes.gaussians.rasterizer.projection import Gaussians
from dreamfusion.scenes.gaussians.rasterizer.reference import rasterize_reference
from dreamfusion.utils.backends import check_close


def check_rasterizer(rasterize: Callable[..., tuple[Tensor, Tensor]], device: str) -> None:
    """Raise RuntimeError if images or gradients differ from the reference's."""
    generator = torch.Generator().manual_seed(0)
    means = 0.5 * torch.randn(24, 3, generator=generator)
    axes = 0.15 * torch.randn(24, 3, 3, generator=generator)
    opacities = 0.1 + 0.8 * torch.rand(24, generator=generator)
    features = torch.rand(2, 24, 4, generator=generator)
    means[0] = torch.tensor([0.0, 0.0, 10.0])  # behind the first camera
    weights = torch.randn(2, 20, 28, 5, generator=generator)
    cameras = turntable_cameras(2)
    ways: list[tuple[Callable[..., tuple[Tensor, Tensor]], str]]
    ways = [(rasterize_reference, "cpu"), (rasterize, device)]
    found = []
    for draw, where in ways:
        inputs = [
            tensor.to(where).requires_grad_() for tensor in (means, axes, opacities, features)
        ]
        covariances = inputs[1] @ inputs[1].mT + 0.001 * torch.eye(3, device=where)
        gaussians = Gaussians(inputs[0], covariances, *inputs[2:])
        image, opacity = draw(gaussians, cameras.to(where), 20, 28)
        whole = torch.cat([image, opacity[..., None]], dim=-1)
        gradients = torch.autograd.grad((whole * weights.to(where)).sum(), inputs)
        found.append([tensor.detach().cpu() for tensor in (whole, *gradients)])
    names = ("image", "gradient of means", "gradient of axes", "gradient of opacities")
    for name, expected, other in zip((*names, "gradient of features"), *found, strict=True):
        check_close(name, other / expected.abs().max(), expected / expected.abs().max())
