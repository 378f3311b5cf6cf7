"""Draws images from a prior, without a scene."""

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from dreamfusion.diffusion.condition import Condition, Conditions, TextEmbedding
from dreamfusion.diffusion.predictions import Noisy, guided, levels
from dreamfusion.priors.layout import PriorError
from dreamfusion.priors.model import DiffusionPrior


@torch.no_grad()
def sample_images(
    prior: DiffusionPrior,
    text: TextEmbedding,
    unconditional: TextEmbedding,
    *,
    guidance: float,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Sample n images (n, 3, size, size) in [0, 1] for n texts with DDPM, or with Euler's method
    for a rectified flow. Raises PriorError if the images are not finite.

    unconditional: embeddings of one text or n. guidance: s of uncond + s (text - uncond).
    steps: denoising steps, at most the model's number of timesteps. generator: on the CPU.
    """
    n = len(text)
    noisy = torch.randn((n, *prior.shape), generator=generator).to(prior.device)

    conditions = Conditions(Condition(text), Condition(unconditional.expand(n)))

    def predict(timestep: int) -> Tensor:
        timesteps = torch.full((n,), timestep, device=prior.device)
        z = Noisy(noisy, noisy, timesteps, *levels(prior, timesteps, noisy.dim()))
        return guided(prior, z, conditions, guidance).raw

    steps = min(steps, len(prior.sigmas))
    if prior.prediction == "flow":
        last = len(prior.sigmas) - 1
        order = [round(last - i * (last + 1) / steps) for i in range(steps)]
        sigmas = [*prior.sigmas[order].tolist(), 0.0]
        for timestep, sigma, lower in zip(order, sigmas, sigmas[1:], strict=False):
            noisy = noisy + (lower - sigma) * predict(timestep)
    else:
        scheduler = DDPMScheduler.from_config(
            prior.schedule.config, variance_type="fixed_small", timestep_spacing="trailing"
        )
        scheduler.set_timesteps(steps)
        for timestep in scheduler.timesteps.tolist():
            step = scheduler.step(predict(timestep), timestep, noisy, generator=generator)
            noisy = step.prev_sample
    images = prior.decode_image(noisy)
    if not bool(images.isfinite().all()):
        kind = str(prior.dtype).removeprefix("torch.")
        raise PriorError(f"{prior.name} overflows in {kind}; use --device cpu, or another --prior")
    return images
