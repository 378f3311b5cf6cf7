"""Ordinary ancestral sampling: what a prior draws for a prompt, without any 3D."""

from __future__ import annotations

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from dreamfusion.diffusion import guided_prediction
from dreamfusion.priors.model import DiffusionPrior


@torch.no_grad()
def sample_images(
    prior: DiffusionPrior,
    text: Tensor,
    unconditional: Tensor,
    *,
    guidance: float,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """n pictures (n, 3, size, size) in [0, 1] for embeddings (n, tokens, width), by DDPM.

    unconditional: (1, tokens, width) or as text. guidance: s of uncond + s (text - uncond).
    steps: denoising steps, at most as many as the model has timesteps. generator: on the CPU.
    """
    scheduler = DDPMScheduler.from_config(
        prior.scheduler_config, variance_type="fixed_small", timestep_spacing="trailing"
    )
    scheduler.set_timesteps(min(steps, scheduler.config.num_train_timesteps))
    size = prior.unet.config.sample_size
    shape = (text.shape[0], prior.channels, size, size)
    noisy = torch.randn(shape, generator=generator).to(prior.device)
    for timestep in scheduler.timesteps:
        timesteps = timestep.expand(shape[0]).to(prior.device)
        prediction = guided_prediction(prior, noisy, timesteps, text, unconditional, guidance)
        noisy = scheduler.step(prediction, int(timestep), noisy, generator=generator).prev_sample
    return prior.decode_image(noisy)
