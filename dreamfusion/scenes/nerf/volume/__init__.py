"""Volume rendering of packed samples (Max 1995; Mildenhall et al. 2020, eq. 3)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pkgutil import resolve_name

import torch
from jaxtyping import Float
from torch import Tensor

from dreamfusion.scenes.nerf.ray_marching import MarchingBackend, Samples, nerfacc_kernel
from dreamfusion.utils.backends import Operation, check_close, choose


@dataclass(frozen=True)
class RayWeights:
    """weights: share of each sample in its pixel; final_transmittance: share of the background.

    For each ray, the sum of weights plus final_transmittance is 1.
    """

    weights: Float[Tensor, " n"]
    final_transmittance: Float[Tensor, " rays"]


def _check_compositing(composite: Callable[..., tuple[Tensor, ...]], device: str) -> None:
    """Raise RuntimeError if the weights on a few rays differ from the reference's."""
    offsets = torch.tensor([0, 3, 3, 8], device=device)
    ray_index = torch.tensor([0, 0, 0, 2, 2, 2, 2, 2], device=device)
    t = torch.arange(8.0, device=device) / 10
    samples = Samples(t[:, None].expand(8, 3), t, ray_index, offsets, step=0.1)
    density = 5.0 + t.sin()
    expected = render_weights(density, samples, backend="reference").weights
    check_close("compositing", composite(density, samples)[0].cpu(), expected.cpu())


COMPOSITING = Operation(
    name="compositing",
    setting="scene.marching.backend",
    order={"cpu": ("numba",), "cuda": ("nerfacc",)},
    kernels={
        "numba": partial(resolve_name, f"{__name__}.numba:weights_numba"),
        "nerfacc": partial(nerfacc_kernel, "weights_nerfacc"),
    },
    self_test=_check_compositing,
)


def compositing_backend(
    requested: str, device_type: str, dtype: torch.dtype = torch.float32
) -> str:
    """The backend to use: numba on a CPU, nerfacc if requested, otherwise plain torch, which needs
    only a few operations for all rays."""
    if requested not in ("auto", *COMPOSITING.kernels):
        return "reference"
    return choose(COMPOSITING, requested, device_type, dtype=dtype, unfit=("nerfacc",))


def render_weights(
    density: Float[Tensor, " n"], samples: Samples, *, backend: MarchingBackend = "auto"
) -> RayWeights:
    """w_i = T_i (1 - exp(-sigma_i delta)), T_i = exp(-sum_{j<i} sigma_j delta).

    density: non-negative, one for each sample. For example, two samples of sigma delta = 1 have
    T = (1, e^-1), w = (0.632, 0.233) and a final transmittance of e^-2 = 0.135. Infinite density is
    opaque, with finite gradients; NaN makes the rest of its ray NaN.
    backend: as in `march_rays`; see `compositing_backend`. "auto" is plain torch for types other
    than float32. Raises AcceleratorError if a requested accelerator cannot be used, and ValueError
    if it does not support the type.
    """
    n_rays = samples.n_rays
    if len(samples) == 0:
        return RayWeights(density * 1.0, density.new_ones(n_rays) + density.sum())
    chosen = compositing_backend(backend, density.device.type, density.dtype)
    if chosen != "reference":
        return RayWeights(*COMPOSITING.kernels[chosen]()(density, samples))
    optical = density * samples.step
    # For the scan, samples are padded to (rays with samples, maximum of samples on a ray): a scan
    # over all rays would lose precision, since it includes the sums of previous rays.
    counts = samples.offsets.diff()
    hit = counts > 0
    # Read together, because each read waits for all queued work of a GPU.
    width, n_hit = torch.stack([counts.max(), hit.sum()]).tolist()
    slot = hit.cumsum(0) - 1
    rank = torch.arange(len(samples), device=density.device) - samples.offsets[samples.ray_index]
    place = slot[samples.ray_index] * (width + 1) + rank
    # A leading zero makes the scan exclusive without a subtraction, which would be inf - inf at
    # infinite density.
    padded = density.new_zeros(n_hit * (width + 1)).index_copy(0, place + 1, optical)
    depth = padded.view(n_hit, width + 1).cumsum(dim=1)
    transmittance = torch.exp(-depth.reshape(-1)[place])
    weights = transmittance * -torch.expm1(-optical)
    # The ray of each slot; rays without a slot share an additional one, which is removed.
    rays = torch.arange(n_rays, device=density.device)
    hit_rays = rays.new_empty(n_hit + 1).scatter_(0, torch.where(hit, slot, n_hit), rays)[:-1]
    # Padding is zero, so the last column is the sum of the whole ray.
    final = density.new_ones(n_rays).index_copy(0, hit_rays, torch.exp(-depth[:, -1]))
    return RayWeights(weights, final)


def accumulate(
    weights: Float[Tensor, " n"], values: Float[Tensor, "n c"], samples: Samples
) -> Float[Tensor, "{samples.n_rays} c"]:
    """Sums of weights times values along each ray, zero for rays without samples."""
    out = values.new_zeros(samples.n_rays, values.shape[1])
    return out.index_add(0, samples.ray_index, weights[:, None] * values)
