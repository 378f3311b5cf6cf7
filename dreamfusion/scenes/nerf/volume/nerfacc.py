"""Compositing with nerfacc's kernels, for CUDA."""

import torch
from jaxtyping import Float32
from nerfacc import render_weight_from_density
from torch import Tensor

from dreamfusion.scenes.nerf.ray_marching import Samples


def weights_nerfacc(
    density: Float32[Tensor, " n"], samples: Samples
) -> tuple[Float32[Tensor, " n"], Float32[Tensor, " rays"]]:
    """Weights and final transmittance as in `volume.RayWeights`, for at least one sample."""
    # Only lengths matter, and differences of distances would lose precision.
    start = torch.zeros_like(density)
    end, index = start + samples.step, samples.ray_index
    weights, _, _ = render_weight_from_density(
        start, end, density, ray_indices=index, n_rays=samples.n_rays
    )
    depth = density.new_zeros(samples.n_rays)
    depth = depth.index_add(0, index, density * samples.step)
    return weights, torch.exp(-depth)
