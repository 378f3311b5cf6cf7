"""Rasterisation: values and gradients against the reference, and at extreme inputs."""

import math

import pytest
import torch

from dreamfusion.graphics.cameras import Cameras, turntable_cameras
from dreamfusion.scenes.gaussians.rasterizer import (
    Gaussians,
    check_rasterizer,
    rasterize,
    rasterize_numba,
)
from dreamfusion.utils.threads import fixed_order
from tests.helpers.dense_splats import rasterize_reference

H, W = 24, 36


def _cameras(n: int, dtype: torch.dtype = torch.float64) -> Cameras:
    return turntable_cameras(n)._map(lambda value: value.to(dtype))


def _splats(n: int, dtype: torch.dtype, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    means = 0.4 * torch.randn(n, 3, generator=generator, dtype=torch.float64)
    axes = 0.06 * torch.randn(n, 3, 3, generator=generator, dtype=torch.float64)
    opacities = torch.rand(n, generator=generator, dtype=torch.float64)
    features = torch.rand(2, n, 4, generator=generator, dtype=torch.float64)
    return [x.to(dtype) for x in (means, axes, opacities, features)]


def _drawn(draw, parts, seed: int = 1) -> list[torch.Tensor]:
    """The image, and the gradients of a random sum of its entries for means, axes, opacities and
    features."""
    inputs = [part.clone().requires_grad_() for part in parts]
    means, axes, opacities, features = inputs
    image, opacity = draw(Gaussians(means, axes @ axes.mT, opacities, features), _cameras(2), H, W)
    whole = torch.cat([image, opacity[..., None]], dim=-1)
    weights = torch.randn(whole.shape, generator=torch.Generator().manual_seed(seed))
    gradients = torch.autograd.grad((whole * weights.to(whole)).sum(), inputs)
    return [whole.detach().double(), *(gradient.double() for gradient in gradients)]


def _check(parts: list[torch.Tensor], tolerance: float) -> None:
    expected = _drawn(rasterize_reference, [part.double() for part in parts])
    for value, other in zip(expected, _drawn(rasterize_numba, parts), strict=True):
        torch.testing.assert_close(other, value, rtol=0, atol=tolerance * float(value.abs().max()))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
@pytest.mark.parametrize("n", [1, 7, 300])
def test_numba_equals_dense_autograd(dtype: torch.dtype, tolerance: float, n: int) -> None:
    _check(_splats(n, dtype), tolerance)


def _extreme(name: str) -> list[torch.Tensor]:
    means, axes, opacities, features = _splats(12, torch.float64)
    front = torch.tensor([0.0, math.sin(math.radians(15)), math.cos(math.radians(15))])
    if name == "at the near plane":
        means[:3] = front.double() * torch.tensor([[2.749], [2.7501], [2.74]])
    elif name == "behind the camera":
        means[:3] = 5.0 * front.double()
    elif name == "outside the image":
        means[:3] = torch.tensor([[9.0, 0.0, 0.0], [0.0, -9.0, 0.0], [1.45, 0.0, 0.0]])
    elif name == "huge":
        axes[:3] *= 100.0
    elif name == "thin as a needle":
        axes[:6] = torch.diag(torch.tensor([0.5, 1e-5, 1e-5], dtype=torch.float64))
    elif name == "points":
        axes[:6] = 1e-7 * torch.eye(3, dtype=torch.float64)
    elif name == "transparent":
        opacities[:6] = 1e-3
    elif name == "opaque":
        opacities[:] = 1.0
    elif name == "coincident":
        means[:] = means[0].clone()
    return [means, axes, opacities, features]


@pytest.mark.parametrize(
    "name",
    [
        "at the near plane",
        "behind the camera",
        "outside the image",
        "huge",
        "thin as a needle",
        "points",
        "transparent",
        "opaque",
        "coincident",
    ],
)
def test_extreme_splats_equal_dense_autograd(name: str) -> None:
    _check(_extreme(name), 1e-6)


def test_an_opaque_splat_hides_what_is_behind() -> None:
    camera = _cameras(1)
    towards = camera.positions[0] / camera.positions[0].norm()
    means = torch.stack([0.5 * towards, -0.5 * towards])
    covariances = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    features = torch.eye(4, dtype=torch.float64)[None, :2]
    opacities = torch.tensor([0.9, 0.9], dtype=torch.float64)
    image, opacity = rasterize_numba(
        Gaussians(means, covariances, opacities, features), camera, 9, 9
    )
    assert image[0, 4, 4, 0] == pytest.approx(0.9, abs=1e-6)
    assert image[0, 4, 4, 1] == pytest.approx(0.09, abs=1e-6)
    assert opacity[0, 4, 4] == pytest.approx(0.99, abs=1e-6)


def test_a_splat_at_the_origin_is_a_gaussian_of_the_expected_width() -> None:
    camera, size, width = _cameras(1), 64, 0.2
    one = torch.ones(1, dtype=torch.float64)
    image, _ = rasterize_numba(
        Gaussians(
            torch.zeros(1, 3, dtype=torch.float64),
            width**2 * torch.eye(3, dtype=torch.float64)[None],
            0.8 * one,
            torch.ones(1, 1, 4, dtype=torch.float64),
        ),
        camera,
        size,
        size,
    )
    focal = size / 2 / math.tan(math.radians(20))
    variance = (focal * width / 2.8) ** 2 + 0.1
    offset = torch.arange(size, dtype=torch.float64) + 0.5 - size / 2
    expected = 0.8 * torch.exp(-(offset**2 + 0.5**2) / (2 * variance))
    expected[expected < 1 / 255] = 0
    torch.testing.assert_close(image[0, size // 2, :, 0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_reach_the_image(which: int, value: float) -> None:
    means, axes, opacities, features = _splats(5, torch.float32)
    parts = [means, axes @ axes.mT, opacities, features]
    parts[which].reshape(-1)[0] = value
    cameras = _cameras(2, torch.float32)
    image, opacity = rasterize(Gaussians(*parts), cameras, 8, 8)
    assert image.isnan().all()
    assert opacity.isnan().all()


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with fixed_order():
                found.append(_drawn(rasterize_numba, _splats(700, torch.float32)))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_the_self_test_accepts_the_reference_and_finds_faults() -> None:
    check_rasterizer(rasterize_reference, "cpu")

    def dark(*arguments):
        image, opacity = rasterize_reference(*arguments)
        return 0.99 * image, opacity

    with pytest.raises(RuntimeError, match="image or gradient differs"):
        check_rasterizer(dark, "cpu")
