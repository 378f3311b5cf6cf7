"""What all rasterisers share: the Gaussians, thresholds, and cameras as projections to pixels."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dreamfusion.graphics.cameras import Cameras

LEAST_ALPHA = 1.0 / 255.0  # fainter parts of a Gaussian are not drawn
MOST_ALPHA = 0.99  # of one Gaussian in one pixel
ENOUGH = 1e-4  # a pixel with less transmittance is finished
NEAR = 0.05  # scene units along the camera's axis
BLUR = 0.1  # pixels^2, added to the diagonal of projected covariances


@dataclass(frozen=True)
class Gaussians:
    """Gaussians to draw. means, covariances: scene units; opacities: in [0, 1]; features: of each
    Gaussian as seen by each camera, such as colour and distance."""

    means: Float[Tensor, "n 3"]
    covariances: Float[Tensor, "n 3 3"]
    opacities: Float[Tensor, " n"]
    features: Float[Tensor, "views n 4"]

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.means, self.covariances, self.opacities, self.features))


def world_to_camera(
    cameras: Cameras,
) -> tuple[Float[Tensor, "views 3 3"], Float[Tensor, "views 3"]]:
    """Rotations into frames with x right, y down, z forward (OpenCV's), and positions."""
    flip = torch.tensor([1.0, -1.0, -1.0]).to(cameras.T_world_camera)
    return (cameras.T_world_camera[:, :3, :3] * flip).mT, cameras.positions


def focal_lengths(cameras: Cameras, height: int) -> Float[Tensor, " views"]:
    """Focal lengths in pixels."""
    return 0.5 * height / torch.tan(torch.deg2rad(cameras.fov_y_deg) / 2)
