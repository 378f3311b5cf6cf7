"""Rasterisation by gsplat (Ye et al. 2024), an optional package whose kernels are for CUDA.

It sorts by depth and stops at the same transmittance as ours, but clips alpha at 0.999.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from dreamfusion.graphics.cameras import Cameras
from dreamfusion.scenes.gaussians.rasterizer.projection import (
    BLUR,
    NEAR,
    Gaussians,
    focal_lengths,
    world_to_camera,
)


def rasterize_gsplat(
    gaussians: Gaussians, cameras: Cameras, height: int, width: int
) -> tuple[Float[Tensor, "views {height} {width} 4"], Float[Tensor, "views {height} {width}"]]:
    """See `rasterize`, for tensors on CUDA."""
    from gsplat import rasterization

    means, covariances, opacities, features = gaussians
    rotations, positions = world_to_camera(cameras)
    to_camera = torch.eye(4).to(rotations).repeat(len(cameras), 1, 1)
    to_camera[:, :3, :3] = rotations
    to_camera[:, :3, 3] = -(rotations @ positions[..., None])[..., 0]
    intrinsics = torch.zeros_like(rotations)
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = focal_lengths(cameras, height)
    intrinsics[:, 0, 2], intrinsics[:, 1, 2], intrinsics[:, 2, 2] = width / 2, height / 2, 1.0
    drawn, opacity, _ = rasterization(
        means, None, None, opacities, features, to_camera, intrinsics, width, height,
        near_plane=NEAR, eps2d=BLUR, covars=covariances, packed=False,
    )  # fmt: skip
    return drawn, opacity[..., 0]
