"""Converts a visitor's camera from viser's convention, which no other module depends on.

viser describes a camera by a unit quaternion (w, x, y, z) and a position, both camera to world, of
an OpenCV camera: x right, y down, z forward. This package uses OpenGL cameras: x right, y up, z
backward. The world frame is the same, since the page sets +Y as the up direction.
"""

import math
from dataclasses import dataclass

import torch
from scipy.spatial.transform import Rotation  # type: ignore[import-untyped]

from dreamfusion.graphics.cameras import Cameras
from dreamfusion.graphics.shading import show_light_position

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Pose:
    """The camera of a visitor.

    wxyz: unit quaternion, camera (OpenCV) to world. position: world frame. fov_y: full vertical
    field of view, radians. aspect: width of the image divided by its height.
    """

    wxyz: tuple[float, float, float, float]
    position: Vector
    fov_y: float
    aspect: float = 1.0


def cameras_of(pose: Pose) -> Cameras:
    """Convert a visitor's camera to a batch of one, on the CPU."""
    w, x, y, z = pose.wxyz
    transform = torch.eye(4)
    # The columns are right, down and forward; `Cameras` has right, up and backward.
    axes = Rotation.from_quat([x, y, z, w]).as_matrix()
    transform[:3, :3] = torch.from_numpy(axes * (1, -1, -1))
    transform[:3, 3] = torch.tensor(pose.position)
    distance = math.hypot(*pose.position)
    height = pose.position[1] / distance if distance > 0 else 0.0
    return Cameras(
        transform[None],
        torch.tensor([math.degrees(pose.fov_y)]),
        torch.tensor([math.degrees(math.atan2(pose.position[0], pose.position[2]))]),
        torch.tensor([math.degrees(math.asin(max(-1.0, min(1.0, height))))]),
        torch.tensor([distance]),
    )


def light_of(pose: Pose) -> Vector:
    """The position of the light in images from this camera."""
    x, y, z = show_light_position(cameras_of(pose).T_world_camera[0]).tolist()
    return x, y, z
