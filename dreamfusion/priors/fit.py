"""Checks from configurations, without torch, that a pipeline is of a supported kind.

`model.check_parts` finds out whether its parts fit together, by one prediction.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from dreamfusion.priors.layout import PriorError

# The purpose of a U-Net by its number of input channels, for latents with four channels.
_PURPOSES = {5: "depth", 8: "image editing", 9: "inpainting"}
# What configurations of guidance-distilled and few-step models contain.
_DISTILLED = ("guidance_embeds", "is_distilled", "time_cond_proj_dim")
_FEW_STEPS = ("LCMScheduler", "TCDScheduler")


def check_kind(
    name: str, pipeline: str, configs: Mapping[str, Mapping[str, Any]], index: Mapping[str, Any]
) -> None:
    """Raise PriorError for a distilled model, a model that needs more than a text, and a missing
    size.

    configs: of each component with weights, by name. index: the configuration of the pipeline.
    """
    denoiser = configs["unet" if "unet" in configs else "transformer"]
    stated = {**index, **denoiser}
    signs = [key for key in _DISTILLED if stated.get(key) not in (None, False)]
    scheduler = index.get("scheduler")
    if isinstance(scheduler, list | tuple) and scheduler[-1] in _FEW_STEPS:
        signs.append(scheduler[-1])
    if signs:
        raise PriorError(
            f"{name} was distilled ({signs[-1]} in its configuration): it has no guidance, which "
            "SDS needs; use the model that it was distilled from"
        )
    sample_size(name, pipeline, denoiser)
    channels = denoiser.get("in_channels")
    purpose = _PURPOSES.get(channels) if isinstance(channels, int) else None
    if purpose is not None and configs.get("vae", {}).get("latent_channels") == 4:
        raise PriorError(
            f"{name}: its unet takes {channels} channels: it is a model for {purpose}, which is "
            "not supported; use the text-to-image model that it was made from"
        )


def sample_size(name: str, pipeline: str, denoiser: Mapping[str, Any]) -> int:
    """Height and width of the input of a denoiser, as its pipeline reads the configuration. Raises
    PriorError if it is missing or not square."""
    is_unet = pipeline != "StableDiffusion3Pipeline"
    found = size = denoiser.get("sample_size", None if is_unet else 128)
    if is_unet and isinstance(found, list | tuple) and len(found) == 2 and found[0] == found[1]:
        size = found[0]
    if not isinstance(size, int) or size < 1:
        raise PriorError(
            f"{name}: the config.json of its {'unet' if is_unet else 'transformer'} has "
            f"sample_size {json.dumps(found)}; write the height of its latents there, one number, "
            "for example 64 for images of 512 x 512 pixels"
        )
    # StableDiffusionPipeline corrects files of diffusers before 0.9 in the same way.
    is_old = re.match(r"0\.[0-8]\b", str(denoiser.get("_diffusers_version", "")))
    if pipeline == "StableDiffusionPipeline" and is_old and size is found:
        return max(size, 64)
    return size
