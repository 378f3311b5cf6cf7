"""Compositing as numba kernels, for the CPU: one pass along each ray, and one back. Float32."""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from dreamfusion.scenes.nerf.ray_marching import Samples
from dreamfusion.utils.compiling import compiled
from dreamfusion.utils.threads import run_pieces


@compiled(nogil=True, error_model="numpy")
def _forward(  # type: ignore[no-untyped-def]
    start, stop, density, offsets, step, weights, transmittance, final
):
    one = np.float32(1.0)
    for ray in range(start, stop):
        passed = one
        for i in range(offsets[ray], offsets[ray + 1]):
            opacity = np.float32(-math.expm1(-density[i] * step))
            transmittance[i] = passed
            weights[i] = passed * opacity
            passed *= one - opacity
        final[ray] = passed


@compiled(nogil=True, error_model="numpy")
def _backward(  # type: ignore[no-untyped-def]
    start, stop, offsets, step, weights, transmittance, final, grad_weights, grad_final,
    grad_density,
):  # fmt: skip
    """With x_i = sigma_i delta: dw_i/dx_i = T_{i+1}; dw_j/dx_i = -w_j for j > i, and so for the
    final transmittance."""
    for ray in range(start, stop):
        after = final[ray]
        behind = grad_final[ray] * after
        for i in range(offsets[ray + 1] - 1, offsets[ray] - 1, -1):
            grad_density[i] = step * (grad_weights[i] * after - behind)
            behind += grad_weights[i] * weights[i]
            after = transmittance[i]


class _Weights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, density: Tensor, samples: Samples) -> tuple[Tensor, Tensor]:
        weights, transmittance = torch.empty_like(density), torch.empty_like(density)
        final = density.new_empty(samples.n_rays)
        arrays = [weights.numpy(), transmittance.numpy(), final.numpy()]
        inputs = (density.numpy(), samples.offsets.numpy(), np.float32(samples.step))
        run_pieces(_forward, samples.n_rays, *inputs, *arrays, at_least=256)
        ctx.save_for_backward(samples.offsets, weights, transmittance, final)
        ctx.step = samples.step
        return weights, final

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        offsets, *outputs = ctx.saved_tensors
        grad_density = torch.empty_like(outputs[0])
        arrays = [tensor.numpy() for tensor in (*outputs, *(g.contiguous() for g in grads))]
        inputs = (offsets.numpy(), np.float32(ctx.step), *arrays, grad_density.numpy())
        run_pieces(_backward, len(offsets) - 1, *inputs, at_least=256)
        return grad_density, None


def weights_numba(
    density: Float32[Tensor, " n"], samples: Samples
) -> tuple[Float32[Tensor, " n"], Float32[Tensor, " rays"]]:
    """Weights and final transmittance as in `volume.RayWeights`, for tensors on the CPU."""
    return _Weights.apply(density.contiguous(), samples)
