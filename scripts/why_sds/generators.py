"""Differentiable generators of images, and their optimisation by any estimator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import dreamfusion as df

SIZE = 64  # height and width of the images, pixels


class Pixels(nn.Module):
    """One parameter for each colour of each pixel of n images, at first grey with noise."""

    lr = 0.05

    def __init__(self, n: int, seed: int = 0) -> None:
        super().__init__()
        self.values = nn.Parameter(0.5 + 0.1 * _noise(n, (3, SIZE, SIZE), seed))

    def forward(self) -> Tensor:
        """The images (n, 3, SIZE, SIZE)."""
        return self.values


class Discs(nn.Module):
    """n images of `count` soft discs on a plain background. Later discs cover earlier ones.

    Each disc has a position in [-1, 1]^2 (x to the right, y down), a radius and a colour.
    """

    lr = 0.06

    def __init__(self, n: int, count: int = 80, seed: int = 0, sharpness: float = 30.0) -> None:
        super().__init__()
        self.sharpness = sharpness
        start = _noise(n, (count, 6), seed)
        self.position = nn.Parameter(0.4 * start[..., :2])
        self.log_radius = nn.Parameter(-1.9 + 0.3 * start[..., 2])
        self.color = nn.Parameter(start[..., 3:])
        self.background = nn.Parameter(torch.zeros(n, 3))

    def forward(self) -> Tensor:
        """The images (n, 3, SIZE, SIZE)."""
        away = (pixel_centers() - self.position[:, :, None, None]).square().sum(dim=-1)
        distance = self.log_radius.exp()[..., None, None] - (away + 1e-6).sqrt()
        return composite(
            torch.sigmoid(self.sharpness * distance), self.color.sigmoid(), self.background
        )


class Curves(nn.Module):
    """n images of `count` cubic Bézier strokes on a plain background. Later strokes cover earlier
    ones.

    Each stroke has four control points in [-1, 1]^2, a width and a colour. A pixel's opacity is a
    soft threshold of its distance to the polyline through `samples` points of the curve.
    """

    lr = 0.06

    def __init__(
        self,
        n: int,
        count: int = 40,
        seed: int = 0,
        sharpness: float = 30.0,
        samples: int = 17,
    ) -> None:
        super().__init__()
        self.sharpness = sharpness
        start = _noise(n, (count, 14), seed)
        near = 0.15 * start[..., 2:10].unflatten(-1, (4, 2))
        self.control = nn.Parameter(0.4 * start[..., None, :2] + near)
        self.log_width = nn.Parameter(-2.6 + 0.2 * start[..., 10])
        self.color = nn.Parameter(start[..., 11:])
        self.background = nn.Parameter(torch.zeros(n, 3))
        self.register_buffer("basis", bernstein(samples))

    def points(self) -> Tensor:
        """Points of the curves, (n, count, samples, 2)."""
        return torch.einsum("sk,nckd->ncsd", self.basis, self.control)

    def forward(self) -> Tensor:
        """The images (n, 3, SIZE, SIZE)."""
        pixels = pixel_centers().reshape(-1, 2)
        points = self.points()
        start, along = points[:, :, :-1], points.diff(dim=2)
        with torch.no_grad():  # the segment whose middle is nearest: this choice has no gradient
            middle = start + along / 2
            which = torch.cdist(pixels.expand(len(points), 1, -1, -1), middle).argmin(dim=-1)
        which = which[..., None].expand(-1, -1, -1, 2)
        start, along = start.gather(2, which), along.gather(2, which)
        offset = pixels - start
        length = along.square().sum(dim=-1).clamp(min=1e-8)
        share = ((offset * along).sum(dim=-1) / length).clamp(0, 1)[..., None]
        away = ((offset - share * along).square().sum(dim=-1) + 1e-6).sqrt()
        distance = self.log_width.exp()[..., None] - away
        opacity = torch.sigmoid(self.sharpness * distance).unflatten(-1, (SIZE, SIZE))
        return composite(opacity, self.color.sigmoid(), self.background)


def bernstein(samples: int) -> Tensor:
    """The weights of the four control points of a cubic Bézier curve, at `samples` values of its
    parameter from 0 to 1: (samples, 4)."""
    u = torch.linspace(0, 1, samples)
    v = 1 - u
    return torch.stack([v**3, 3 * u * v**2, 3 * u**2 * v, u**3], dim=1)


def pixel_centers() -> Tensor:
    """The positions of the pixels in [-1, 1]^2, (SIZE, SIZE, 2): x to the right, y down."""
    axis = (torch.arange(SIZE) + 0.5) * 2 / SIZE - 1
    return torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)


def composite(opacity: Tensor, color: Tensor, background: Tensor) -> Tensor:
    """Composite layers from back to front, over a background.

    opacity: (n, layers, h, w). color: (n, layers, 3) in [0, 1]. background: (n, 3), before the
    logistic function. Returns (n, 3, h, w).

    A layer's weight is its opacity times the transmittance of all later layers, so that one product
    replaces a loop over layers.
    """
    passed = (1 - opacity).flip(1).cumprod(dim=1).flip(1)
    in_front = torch.cat([passed[:, 1:], torch.ones_like(passed[:, :1])], dim=1)
    image = torch.einsum("nlhw,nlc->nchw", opacity * in_front, color)
    return image + passed[:, :1] * background.sigmoid()[..., None, None]


def distil(
    images: Pixels | Discs | Curves,
    estimator: df.Estimator,
    conditions: df.Conditions,
    *,
    cameras: df.Cameras | None = None,
    steps: int,
    seed: int = 0,
) -> Tensor:
    """Optimise a generator of images by Adam, in place: the algorithm of DreamFusion for one view.

    Returns the final images (n, 3, SIZE, SIZE) in [0, 1]. The learning rate falls to a tenth.
    """
    optimizer = torch.optim.Adam(images.parameters(), betas=(0.9, 0.99))
    random = generators(len(images()), seed)
    for step in range(steps):
        batch = df.Batch(images(), conditions, cameras)
        distilled = estimator(batch, progress=df.Progress(step, steps), generator=random)
        optimizer.zero_grad()
        torch.stack(list(distilled.losses.values())).sum().backward()
        optimizer.param_groups[0]["lr"] = images.lr * (1 - 0.9 * step / steps)
        optimizer.step()
    return images().detach().clamp(0, 1)


def generators(n: int, seed: int) -> Sequence[torch.Generator]:
    """A generator of random numbers for each image, so that an image does not depend on n."""
    return [torch.Generator().manual_seed(1000 * seed + i) for i in range(n)]


def _noise(n: int, shape: Sequence[int], seed: int) -> Tensor:
    return torch.stack([torch.randn(*shape, generator=g) for g in generators(n, seed)])
