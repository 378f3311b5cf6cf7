"""Rasterisation in plain torch: every Gaussian at every pixel."""

import torch
from jaxtyping import Float
from torch import Tensor

from dreamfusion.graphics.cameras import Cameras
from dreamfusion.scenes.gaussians.kernels import ENOUGH, LEAST_ALPHA, MOST_ALPHA, NEAR
from dreamfusion.scenes.gaussians.rasterizer import BLUR, Gaussians, focal_lengths, world_to_camera

_ENTRIES = 1 << 24  # Gaussians x pixels at once, without gradients


def rasterize_reference(
    gaussians: Gaussians, cameras: Cameras, height: int, width: int
) -> tuple[Float[Tensor, "views {height} {width} 4"], Float[Tensor, "views {height} {width}"]]:
    """See `rasterize`."""
    means, covariances, opacities, features = gaussians
    rotations, positions = (each.to(means.dtype) for each in world_to_camera(cameras))
    focal = focal_lengths(cameras, height).to(means.dtype)
    rows = torch.arange(height, device=means.device, dtype=means.dtype) + 0.5
    columns = torch.arange(width, device=means.device, dtype=means.dtype) + 0.5
    at_once = height if torch.is_grad_enabled() else max(1, _ENTRIES // (width * len(means) + 1))
    images = []
    for view in range(len(cameras)):
        x, y, z = ((means - positions[view]) @ rotations[view].T).unbind(-1)
        seen = z >= NEAR
        order = z.detach()[seen].argsort(stable=True)
        x, y, z = x[seen][order], y[seen][order], z[seen][order]
        zero = torch.zeros_like(z)
        J = torch.stack([1 / z, zero, -x / z**2, zero, 1 / z, -y / z**2], dim=-1).reshape(-1, 2, 3)
        T = focal[view] * J @ rotations[view]
        blur = BLUR * torch.eye(2, dtype=means.dtype, device=means.device)
        conic = torch.linalg.inv(T @ covariances[seen][order] @ T.mT + blur)
        u, v = width / 2 + focal[view] * x / z, height / 2 + focal[view] * y / z
        feature = features[view][seen][order]
        parts = []
        for some in rows.split(at_once):
            dy, dx = some[:, None, None] - v, columns[None, :, None] - u
            power = 0.5 * (conic[:, 0, 0] * dx**2 + conic[:, 1, 1] * dy**2)
            power = power + 0.5 * (conic[:, 0, 1] + conic[:, 1, 0]) * dx * dy
            alpha = (opacities[seen][order] * torch.exp(-power)).clamp(max=MOST_ALPHA)
            alpha = torch.where(alpha >= LEAST_ALPHA, alpha, torch.zeros_like(alpha))
            alpha = torch.where(_before(alpha)[..., :-1] >= ENOUGH, alpha, torch.zeros_like(alpha))
            before = _before(alpha)
            drawn = (before[..., :-1] * alpha) @ feature
            parts.append(torch.cat([drawn, 1 - before[..., -1:]], dim=-1))
        images.append(torch.cat(parts))
    out = torch.stack(images)
    return out[..., :4], out[..., 4]


def _before(alpha: Float[Tensor, "*pixels n"]) -> Float[Tensor, "*pixels m"]:
    """Transmittance before each Gaussian, and behind all of them."""
    return torch.nn.functional.pad(torch.cumprod(1 - alpha, dim=-1), (1, 0), value=1.0)
