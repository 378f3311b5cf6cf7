"""Draws projected Gaussians, front to back, with gradients for all their parameters."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from dreamfusion.graphics.cameras import Cameras, turntable_cameras
from dreamfusion.scenes.gaussians.kernels import NEAR, Draw
from dreamfusion.utils.backends import Operation, check_close, choose

BLUR = 0.1  # pixels^2, added to the diagonal of projected covariances
Images = tuple[Tensor, Tensor]  # features (views, h, w, 4) and opacity (views, h, w)


@dataclass(frozen=True)
class Gaussians:
    """Gaussians to draw. means, covariances: scene units; opacities: in [0, 1]; features: of each
    Gaussian as seen by each camera, such as colour and distance."""

    means: Float[Tensor, "n 3"]
    covariances: Float[Tensor, "n 3 3"]
    opacities: Float[Tensor, " n"]
    features: Float[Tensor, "views n 4"]

    def __iter__(self) -> Iterator[Tensor]:
        return (getattr(self, field.name) for field in fields(self))


def rasterize(gaussians: Gaussians, cameras: Cameras, height: int, width: int) -> Images:
    """Composite Gaussians from several cameras; returns features and opacity of each pixel.

    A pixel is sum_i f_i a_i prod_{j<i} (1 - a_j) over the Gaussians from near to far, where
    a = opacity exp(-d^T S^-1 d / 2) at the pixel's centre, d is the distance from the projected
    mean and S = J W covariance W^T J^T + BLUR the projected covariance in pixels (Kerbl et al.,
    eq. 3 and 5; J: of the perspective projection at the mean). Gaussians nearer than NEAR are not
    drawn, nor where a < LEAST_ALPHA. A value that is not finite makes all pixels NaN: it would
    otherwise vanish without an error.

    On CUDA by gsplat if it can be used; otherwise on the CPU, wherever the tensors are.
    """
    means = gaussians.means
    by_gsplat = rasterizer_of(means.device) == "gsplat"
    draw = rasterize_gsplat if by_gsplat else rasterize_numba
    drawn, opacity = draw(gaussians, cameras, height, width)
    finite = torch.stack([part.detach().isfinite().all() for part in gaussians]).all()
    poison = torch.where(finite, 0.0, torch.nan).to(means.dtype)
    return drawn + poison, opacity + poison


def rasterizer_of(device: torch.device) -> str:
    """The package that draws Gaussians on a device: gsplat or numba."""
    return choose(RASTERIZING, "auto", device.type).replace("reference", "numba")


def rasterize_numba(gaussians: Gaussians, cameras: Cameras, height: int, width: int) -> Images:
    """See `rasterize`. Tensors on another device are copied to the CPU and back."""
    means, covariances, opacities, features = (part.cpu() for part in gaussians)
    cameras = cameras.to("cpu")
    rotations, positions = (part.to(means) for part in world_to_camera(cameras))
    focal = focal_lengths(cameras, height).to(means)[:, None]
    x, y, z = ((means - positions[:, None]) @ rotations.mT).unbind(-1)  # (views, n)
    depths, z = z.detach(), torch.where(z >= NEAR, z, 1.0)
    # The rows of T = J W, (n, views, 3): J is focal / z (1, 0, -x / z; 0, 1, -y / z).
    right, down, forward = rotations[:, None].unbind(-2)
    rows = [
        ((focal / z)[..., None] * (axis - (along / z)[..., None] * forward)).transpose(0, 1)
        for axis, along in ((right, x), (down, y))
    ]
    t0, t1 = (row @ covariances for row in rows)
    a, c = ((t * row).sum(-1).T + BLUR for t, row in zip((t0, t1), rows, strict=True))
    b = (t0 * rows[1]).sum(-1).T
    det = a * c - b * b
    u, v = width / 2 + focal * x / z, height / 2 + focal * y / z
    splats = torch.stack([u, v, c / det, -b / det, a / det], dim=-1)
    drawn, opacity = Draw.apply(
        splats, opacities.contiguous(), features.contiguous(), depths.contiguous(), height, width
    )
    device = gaussians.means.device
    return drawn.to(device), opacity.to(device)


def rasterize_gsplat(gaussians: Gaussians, cameras: Cameras, height: int, width: int) -> Images:
    """See `rasterize`. gsplat sorts and stops as ours, but clips alpha at 0.999."""
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


def world_to_camera(
    cameras: Cameras,
) -> tuple[Float[Tensor, "views 3 3"], Float[Tensor, "views 3"]]:
    """Rotations into frames with x right, y down, z forward (OpenCV's), and positions."""
    flip = torch.tensor([1.0, -1.0, -1.0]).to(cameras.T_world_camera)
    return (cameras.T_world_camera[:, :3, :3] * flip).mT, cameras.positions


def focal_lengths(cameras: Cameras, height: int) -> Float[Tensor, " views"]:
    """Focal lengths in pixels."""
    return 0.5 * height / torch.tan(torch.deg2rad(cameras.fov_y_deg) / 2)


def check_rasterizer(rasterize: Callable[..., Images], device: str) -> None:
    """Raise RuntimeError if images or gradients of some Gaussians differ from `rasterize_numba`."""
    generator = torch.Generator().manual_seed(0)
    means = 0.5 * torch.randn(24, 3, generator=generator)
    axes = 0.15 * torch.randn(24, 3, 3, generator=generator)
    opacities = 0.1 + 0.8 * torch.rand(24, generator=generator)
    features = torch.rand(2, 24, 4, generator=generator)
    means[0] = torch.tensor([0.0, 0.0, 10.0])  # behind the first camera
    weights = torch.randn(2, 20, 28, 5, generator=generator)
    cameras, found = turntable_cameras(2), []
    for draw, where in ((rasterize_numba, "cpu"), (rasterize, device)):
        inputs = [
            tensor.to(where).requires_grad_() for tensor in (means, axes, opacities, features)
        ]
        covariances = inputs[1] @ inputs[1].mT + 0.001 * torch.eye(3, device=where)
        gaussians = Gaussians(inputs[0], covariances, *inputs[2:])
        image, opacity = draw(gaussians, cameras.to(where), 20, 28)
        whole = torch.cat([image, opacity[..., None]], dim=-1)
        gradients = torch.autograd.grad((whole * weights.to(where)).sum(), inputs)
        found.append([tensor.detach().cpu() for tensor in (whole, *gradients)])
    for expected, other in zip(*found, strict=True):
        check_close(
            "image or gradient", other / expected.abs().max(), expected / expected.abs().max()
        )


RASTERIZING = Operation(
    name="rasterization",
    setting="scene.name",
    order={"cuda": ("gsplat",)},
    kernels={"gsplat": lambda: rasterize_gsplat},
    self_test=check_rasterizer,
)
