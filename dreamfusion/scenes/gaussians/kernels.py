"""Numba kernels for the CPU, in float32 or float64: rasterisation, and density on a grid.

Gaussians are drawn one after another, near to far, into the whole image: an image of 64 x 64 fits
into the second-level cache, so that tiles would not help. Each Gaussian visits, in each row, only
the pixels with an alpha of at least LEAST_ALPHA, in blocks of eight without branches, which LLVM
vectorises. The backward pass has the same order: what is behind a Gaussian is the pixel's total
minus what is in front. Views are independent, and gradients are summed over views in order, so that
results do not depend on the number of threads.

What vectorisation needs: a constant length of the loop over eight pixels, unsigned indices (numba
lets signed ones wrap around), and scalars in local variables (loads might alias the stores).
"""

import math
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamfusion.utils.compiling import compiled
from dreamfusion.utils.threads import run_pieces

LEAST_ALPHA = 1.0 / 255.0  # fainter parts of a Gaussian are not drawn
MOST_ALPHA = 0.99  # of one Gaussian in one pixel
ENOUGH = 1e-4  # a pixel with less transmittance is finished
NEAR = 0.05  # scene units along the camera's axis
_MOST_POWER = 4.5  # of a Gaussian's density: three standard deviations

# A projected Gaussian: its centre (pixels), and the inverse (A, B; B, C) of its covariance.
_U, _V, _A, _B, _C = range(5)
# Pixels are stored in blocks of eight neighbours, (row, block, quantity, pixel of the block).
# Quantities: four features, and the transmittance. In the backward pass: the gradients of the
# features and of the opacity, the transmittance, and what the light that passes is worth.
_QUANTITIES = 8


@numba.njit(inline="always")
def _rows(s, opacity, depth, h):  # type: ignore[no-untyped-def]
    """The largest power drawn of a projected Gaussian, and its first and last row; (0, 1, 0) if it
    is not visible."""
    det = s[_A] * s[_C] - s[_B] * s[_B]
    if not (depth >= NEAR and opacity > LEAST_ALPHA and det > 0.0):
        return 0.0, 1, 0
    power = math.log(opacity / LEAST_ALPHA)
    reach = math.sqrt(2.0 * power * s[_A] / det)
    if not (s[_V] + reach > 0.0 and s[_V] - reach < h):
        return power, 1, 0
    first, last = math.ceil(s[_V] - reach - 0.5), math.floor(s[_V] + reach - 0.5)
    return power, max(0, first), min(h - 1, last)


@numba.njit(inline="always")
def _span(A, B, C, u, dy, power, w):  # type: ignore[no-untyped-def]
    """First and last pixel of a row with A dx^2 + 2 B dx dy + C dy^2 <= 2 power; (1, 0): none."""
    under = B * B * dy * dy - A * (C * dy * dy - 2.0 * power)
    if under < 0.0:
        return 1, 0
    root, middle = math.sqrt(under) / A, u - B * dy / A
    first = max(0, math.ceil(middle - root - 0.5))
    return first, min(w - 1, math.floor(middle + root - 0.5))


@numba.njit(inline="always")
def _exp(power, c0, c1, c2, c3, c4, c5, c6, eighth):  # type: ignore[no-untyped-def]
    """exp(-power) for powers of 0 to 6, to 2e-8, without a branch: a polynomial of an eighth of the
    power, squared three times."""
    t = power * eighth
    e = c0 + t * (c1 + t * (c2 + t * (c3 + t * (c4 + t * (c5 + t * c6)))))
    e *= e
    e *= e
    return e * e


def _coefficients(dtype: Any) -> NDArray[Any]:
    """Those of `_exp`: a polynomial for exp(-t), t in [0, 0.75], and an eighth."""
    nodes = 0.375 + 0.375 * np.cos(np.pi * (np.arange(7) + 0.5) / 7)
    found = np.linalg.solve(np.vander(nodes, 7, increasing=True), np.exp(-nodes))
    return np.append(found, 0.125).astype(dtype)


@compiled(nogil=True, error_model="numpy", fastmath=True)
def _draw(  # type: ignore[no-untyped-def]
    start, stop, splats, depths, opacities, order, features, images, blocks, coefficients
):
    """Composite some views into images (views, h * blocks * 64), whose transmittance is 1 at the
    start, and the rest 0."""
    cast = images.dtype.type
    zero, top = cast(0.0), cast(6.0)
    enough, most = cast(ENOUGH), cast(MOST_ALPHA)
    w, h = 8 * blocks, images.shape[1] // (64 * blocks)
    c0, c1, c2, c3 = coefficients[0], coefficients[1], coefficients[2], coefficients[3]
    c4, c5, c6, c7 = coefficients[4], coefficients[5], coefficients[6], coefficients[7]
    for view in range(start, stop):
        pixels = images[view]
        for i in order[view]:
            s, f = splats[view, i], features[view, i]
            A, B, C, u, v = s[_A], s[_B], s[_C], s[_U], s[_V]
            limit, first, last = _rows(s, opacities[i], depths[view, i], h)
            f0, f1, f2, f3 = f[0], f[1], f[2], f[3]
            o, power, half_a = cast(opacities[i]), cast(limit), cast(0.5 * A)
            for row in range(first, last + 1):
                dy = row + 0.5 - v
                x0, x1 = _span(A, B, C, u, dy, limit, w)
                if x0 > x1:
                    continue
                across, up = cast(B * dy), cast(0.5 * C * dy * dy)
                for block in range(x0 >> 3, (x1 >> 3) + 1):
                    base = np.uint64((row * blocks + block) * 64)
                    left = cast(8 * block + 0.5 - u)
                    for lane in range(8):
                        at = base + np.uint64(lane)
                        dx = left + cast(lane)
                        p = (half_a * dx + across) * dx + up
                        T = pixels[at + np.uint64(32)]
                        value = o * _exp(min(p, top), c0, c1, c2, c3, c4, c5, c6, c7)
                        alpha = min(value, most)
                        alpha = alpha if p <= power and enough <= T else zero
                        weight = T * alpha
                        pixels[at] += weight * f0
                        pixels[at + np.uint64(8)] += weight * f1
                        pixels[at + np.uint64(16)] += weight * f2
                        pixels[at + np.uint64(24)] += weight * f3
                        pixels[at + np.uint64(32)] = T - weight


@compiled(nogil=True, error_model="numpy", fastmath=True)
def _draw_backward(  # type: ignore[no-untyped-def]
    start, stop, splats, depths, opacities, order, features, images, blocks, coefficients, out
):
    """Gradients of projected Gaussians, out (views, n, 10): of the features, of the opacity, and of
    u, v, A, B, C. e is alpha's gradient times alpha; minus it is that of the power
    (A dx^2 + 2 B dx dy + C dy^2) / 2.

    images: (views, h * blocks * 64), with the gradients of features and opacity, the transmittance
    (1 at the start), and what all light of the pixel is worth; the last two change.
    """
    cast = images.dtype.type
    one, zero, top = cast(1.0), cast(0.0), cast(6.0)
    enough, most = cast(ENOUGH), cast(MOST_ALPHA)
    w, h = 8 * blocks, images.shape[1] // (64 * blocks)
    c0, c1, c2, c3 = coefficients[0], coefficients[1], coefficients[2], coefficients[3]
    c4, c5, c6, c7 = coefficients[4], coefficients[5], coefficients[6], coefficients[7]
    for view in range(start, stop):
        pixels = images[view]
        for i in order[view]:
            s, f, sums = splats[view, i], features[view, i], out[view, i]
            A, B, C, u, v = s[_A], s[_B], s[_C], s[_U], s[_V]
            limit, first, last = _rows(s, opacities[i], depths[view, i], h)
            f0, f1, f2, f3 = f[0], f[1], f[2], f[3]
            o, power, half_a = cast(opacities[i]), cast(limit), cast(0.5 * A)
            g0 = g1 = g2 = g3 = zero
            for row in range(first, last + 1):
                dy = row + 0.5 - v
                x0, x1 = _span(A, B, C, u, dy, limit, w)
                if x0 > x1:
                    continue
                across, up = cast(B * dy), cast(0.5 * C * dy * dy)
                e0 = e1 = e2 = zero
                for block in range(x0 >> 3, (x1 >> 3) + 1):
                    base = np.uint64((row * blocks + block) * 64)
                    left = cast(8 * block + 0.5 - u)
                    for lane in range(8):
                        at = base + np.uint64(lane)
                        dx = left + cast(lane)
                        p = (half_a * dx + across) * dx + up
                        T = pixels[at + np.uint64(40)]
                        value = o * _exp(min(p, top), c0, c1, c2, c3, c4, c5, c6, c7)
                        value = value if p <= power and enough <= T else zero
                        alpha = min(value, most)
                        weight = T * alpha
                        p0, p1 = pixels[at], pixels[at + np.uint64(8)]
                        p2, p3 = pixels[at + np.uint64(16)], pixels[at + np.uint64(24)]
                        worth = f0 * p0 + f1 * p1 + f2 * p2 + f3 * p3 + pixels[at + np.uint64(32)]
                        behind = pixels[at + np.uint64(48)] - weight * worth
                        pixels[at + np.uint64(40)] = T - weight
                        pixels[at + np.uint64(48)] = behind
                        g0 += weight * p0
                        g1 += weight * p1
                        g2 += weight * p2
                        g3 += weight * p3
                        e = alpha * (T * worth - behind / (one - alpha))
                        e = e if value < most else zero
                        e0 += e
                        e1 += e * dx
                        e2 += e * dx * dx
                sums[4] += e0
                sums[5] += A * e1 + B * e0 * dy
                sums[6] += B * e1 + C * e0 * dy
                sums[7] -= 0.5 * e2
                sums[8] -= e1 * dy
                sums[9] -= 0.5 * e0 * dy * dy
            sums[0], sums[1], sums[2], sums[3] = g0, g1, g2, g3
            sums[4] /= max(opacities[i], LEAST_ALPHA)


def _blocks(views: int, h: int, w: int, dtype: Any) -> tuple[NDArray[Any], NDArray[Any], int]:
    """Empty images (views, h, blocks, quantities, 8), the same memory as (views, pixels), and the
    number of blocks in a row."""
    blocks = (w + 7) // 8
    pixels = np.zeros((views, h, blocks, _QUANTITIES, 8), dtype)
    return pixels, pixels.reshape(views, -1), blocks


class Draw(torch.autograd.Function):
    """Draw projected Gaussians; see `rasterizer.rasterize`. splats: (views, n, 5), see `_U`.
    depths: (views, n), along the cameras' axes. Returns features and opacity of the pixels."""

    @staticmethod
    def forward(
        ctx: Any,
        splats: Tensor,
        opacities: Tensor,
        features: Tensor,
        depths: Tensor,
        h: int,
        w: int,
    ) -> tuple[Tensor, Tensor]:
        inputs = [tensor.numpy() for tensor in (splats, depths, opacities)]
        colors, views, dtype = features.numpy(), len(splats), inputs[0].dtype
        order = np.argsort(inputs[1], axis=1, kind="stable")
        pixels, flat, blocks = _blocks(views, h, w, dtype)
        pixels[..., 4, :] = 1.0
        drawing = (*inputs, order, colors, flat, blocks, _coefficients(dtype))
        run_pieces(_draw, views, *drawing, at_least=1)
        ctx.save_for_backward(splats, depths, opacities, features)
        ctx.kept = order, pixels, w
        drawn = np.moveaxis(pixels, 3, 4)[..., :5].reshape(views, h, 8 * blocks, 5)[:, :, :w]
        return torch.from_numpy(drawn[..., :4].copy()), torch.from_numpy(1.0 - drawn[..., 4])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g_drawn: Tensor, g_opacity: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, colors = (tensor.numpy() for tensor in ctx.saved_tensors)
        order, drawn, w = ctx.kept
        views, h, dtype = len(colors), drawn.shape[1], colors.dtype
        pixels, flat, blocks = _blocks(views, h, w, dtype)
        gradients = np.zeros((views, h, 8 * blocks, 5), dtype)
        gradients[:, :, :w, :4], gradients[:, :, :w, 4] = g_drawn.numpy(), g_opacity.numpy()
        pixels[..., :5, :] = gradients.reshape(views, h, blocks, 8, 5).swapaxes(-1, -2)
        pixels[..., 5, :] = 1.0
        pixels[..., 6, :] = (drawn[..., :4, :] * pixels[..., :4, :]).sum(-2)
        pixels[..., 6, :] += (1.0 - drawn[..., 4, :]) * pixels[..., 4, :]
        sums = np.zeros((views, colors.shape[1], 10))
        drawing = (*inputs, order, colors, flat, blocks, _coefficients(dtype), sums)
        run_pieces(_draw_backward, views, *drawing, at_least=1)
        found = torch.from_numpy(sums).to(g_drawn.dtype)
        return found[..., 5:], found[..., 4].sum(0), found[..., :4], None, None, None


@compiled(nogil=True, error_model="numpy")
def add_density(start, stop, means, covariances, inverses, opacities, grid):  # type: ignore[no-untyped-def]
    """Add the splats to some layers of the grid."""
    n = grid.shape[0]
    cell = 2.0 / n
    for i in range(len(means)):
        reach = np.sqrt(2.0 * _MOST_POWER * np.diag(covariances[i]))
        low = np.maximum(np.ceil((means[i] - reach + 1.0) / cell - 0.5), 0.0).astype(np.int64)
        high = np.minimum(np.floor((means[i] + reach + 1.0) / cell - 0.5), n - 1.0).astype(np.int64)
        Q = inverses[i]
        for x in range(max(low[0], start), min(high[0], stop - 1) + 1):
            a = (x + 0.5) * cell - 1.0 - means[i, 0]
            for y in range(low[1], high[1] + 1):
                b = (y + 0.5) * cell - 1.0 - means[i, 1]
                for z in range(low[2], high[2] + 1):
                    c = (z + 0.5) * cell - 1.0 - means[i, 2]
                    power = 0.5 * (Q[0, 0] * a * a + Q[1, 1] * b * b + Q[2, 2] * c * c)
                    power += Q[0, 1] * a * b + Q[0, 2] * a * c + Q[1, 2] * b * c
                    if power < _MOST_POWER:
                        grid[x, y, z] += opacities[i] * np.exp(-power)
