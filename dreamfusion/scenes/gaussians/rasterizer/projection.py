"""What all rasterisers agree on: thresholds, and cameras as projections to pixels."""

import torch
from jaxtyping import Float
from torch import Tensor

from dreamfusion.graphics.cameras import Cameras

LEAST_ALPHA = 1.0 / 255.0  # fainter parts of a Gaussian are not drawn
MOST_ALPHA = 0.99  # of one Gaussian in one pixel
ENOUGH = 1e-4  # a pixel with less transmittance is finished
NEAR = 0.05  # scene units along the camera's axis
BLUR = 0.1  # pixels^2, added to the diagonal of projected covariances


def world_to_camera(
    cameras: Cameras,
) -> tuple[Float[Tensor, "views 3 3"], Float[Tensor, "views 3"]]:
    """Rotations into frames with x right, y down, z forward (OpenCV's), and positions."""
    flip = torch.tensor([1.0, -1.0, -1.0]).to(cameras.T_world_camera)
    return (cameras.T_world_camera[:, :3, :3] * flip).mT, cameras.positions


def focal_lengths(cameras: Cameras, height: int) -> Float[Tensor, " views"]:
    """Focal lengths in pixels."""
    return 0.5 * height / torch.tan(torch.deg2rad(cameras.fov_y_deg) / 2)
