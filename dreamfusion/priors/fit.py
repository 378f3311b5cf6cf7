"""Checks that the parts of a pipeline are compatible, from their configurations and without torch.

Missing numbers have the defaults of the classes in diffusers and transformers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dreamfusion.priors.layout import PIPELINES, PriorError

Configs = Mapping[str, Mapping[str, Any]]

_OWN_MODEL = "they are of different models; take both from one"
# The purpose of a U-Net by its number of input channels, for latents with four channels.
_PURPOSES = {5: "depth", 7: "upscaling", 8: "image editing", 9: "inpainting"}
# Conditions that no pipeline passes.
_CONDITIONS = {
    "encoder_hid_dim_type": (None, "text_proj"),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
}
_FEW_STEPS = ("LCMScheduler", "TCDScheduler")


def check_fit(name: str, pipeline: str, configs: Configs, index: Mapping[str, Any]) -> None:
    """Raise PriorError unless the parts of the prior `name` are compatible with the pipeline.

    configs: of each component with weights, by name. index: the configuration of the pipeline.
    """
    parts, part = _Parts(name, configs), "unet" if "unet" in configs else "transformer"
    _check_distilled(name, configs, index)
    _check_channels(parts, part)
    size = sample_size(name, pipeline, configs[part])
    if part == "unet":
        _check_unet(parts, pipeline)
    else:
        _check_transformer(parts, size)


def sample_size(name: str, pipeline: str, denoiser: Mapping[str, Any]) -> int:
    """Height and width of the input of a denoiser, as its pipeline reads the configuration. Raises
    PriorError if it is missing or not square."""
    is_unet = pipeline != "StableDiffusion3Pipeline"
    part = "unet" if is_unet else "transformer"
    found = denoiser.get("sample_size", None if is_unet else 128)
    size = found
    if is_unet and isinstance(found, list | tuple) and len(found) == 2 and found[0] == found[1]:
        size = found[0]
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        where = f"{name}: the config.json of its {part} has sample_size {_json(found)}"
        if found is None:
            raise PriorError(
                f"{where}, which every pipeline requires; write the height of its latents, for "
                "example 64 for images of 512 x 512 pixels"
            )
        kind = "one number or a square pair" if is_unet else "one number"
        raise PriorError(f"{where}; only {kind} is supported: write the number there")
    # StableDiffusionPipeline corrects files of diffusers before 0.9 in the same way.
    is_old = re.match(r"0\.[0-8]\b", str(denoiser.get("_diffusers_version", "")))
    if pipeline == "StableDiffusionPipeline" and is_old and size is found:
        return max(size, 64)
    return size


def _json(value: Any) -> str:
    return "null" if value is None else str(list(value) if isinstance(value, tuple) else value)


def _check_distilled(name: str, configs: Configs, index: Mapping[str, Any]) -> None:
    signs = [
        f"{key} in {part}/config.json"
        for part in ("unet", "transformer")
        for key in ("guidance_embeds", "is_distilled", "time_cond_proj_dim")
        if configs.get(part, {}).get(key) not in (None, False)
    ]
    if index.get("is_distilled") is True:
        signs.append("is_distilled in model_index.json")
    scheduler = index.get("scheduler")
    if isinstance(scheduler, list | tuple) and scheduler[-1] in _FEW_STEPS:
        signs.append(f"a {scheduler[-1]} in model_index.json")
    if signs:
        raise PriorError(
            f"{name} was distilled ({signs[-1]}): it has no guidance, which SDS needs; use the "
            "model that it was distilled from"
        )


def _check_channels(parts: _Parts, part: str) -> None:
    vae = "vae" in parts.configs
    taken = parts.number(part, "in_channels", 4 if part == "unet" else 16)
    given = parts.number("vae", "latent_channels", 4) if vae else 3
    if taken != given:
        advice = _OWN_MODEL if vae else "use a text-to-image model"
        if given == 4 and taken in _PURPOSES:
            advice = (
                f"it is a model for {_PURPOSES[taken]}, which is not supported; use the "
                "text-to-image model that it was made from"
            )
        source = "its vae gives" if vae else "images have"
        raise parts.misfit(f"{part} takes {taken} channels and {source} {given}: {advice}")
    returned = parts.number(part, "out_channels", taken)
    if returned not in (taken, 2 * taken):
        raise parts.misfit(
            f"{part} takes {taken} channels and returns {returned}; use a model that returns as "
            "many, or twice as many with variances"
        )
    for key in ("in_channels", "out_channels") if vae else ():
        if (count := parts.number("vae", key, 3)) != 3:
            raise parts.misfit(
                f"vae has {key} {count}, images have 3; use the vae of a text-to-image model"
            )


def _check_unet(parts: _Parts, pipeline: str) -> None:
    """Check the inputs of a U-Net besides images: conditions, the width of the tokens, and the
    width of the pooled text of Stable Diffusion XL."""
    unet = parts.configs["unet"]
    added = PIPELINES[pipeline]["conditions"]
    for key, supported in {"addition_embed_type": added, **_CONDITIONS}.items():
        if (found := unet.get(key)) not in supported:
            raise parts.misfit(
                f"unet has {key} {_json(found)}, which a {pipeline} does not support; use a "
                "text-to-image model of the pipeline's kind"
            )
    key = "cross_attention_dim" if unet.get("encoder_hid_dim") is None else "encoder_hid_dim"
    expected = unet.get(key, 1280)
    encoders = [part for part in ("text_encoder", "text_encoder_2") if part in parts.configs]
    width = parts.width(encoders)
    if any(x != width for x in (expected if isinstance(expected, list | tuple) else [expected])):
        raise parts.text_misfit("unet", expected, encoders)
    if "text_encoder_2" in encoders:
        pooled = parts.number("text_encoder_2", "projection_dim", 512)
        total = unet.get("projection_class_embeddings_input_dim")
        sizes = 6 * parts.number("unet", "addition_time_embed_dim", 256)
        if total != sizes + pooled:
            raise parts.misfit(
                f"unet takes {_json(total)} numbers for pooled text and sizes, and its "
                f"text_encoder_2 and six sizes give {pooled} + {sizes}: {_OWN_MODEL}"
            )


def _check_transformer(parts: _Parts, size: int) -> None:
    """Check the width of the tokens (CLIP's are padded), of the pooled text, and the size."""
    clips, t5 = ["text_encoder", "text_encoder_2"], ["text_encoder_3"]
    expected = parts.number("transformer", "joint_attention_dim", 4096)
    if parts.width(clips) > expected:
        raise parts.text_misfit("transformer", expected, clips)
    if t5[0] in parts.configs and parts.width(t5) != expected:
        raise parts.text_misfit("transformer", expected, t5)
    pooled = sum(parts.number(part, "projection_dim", 512) for part in clips)
    total = parts.number("transformer", "pooled_projection_dim", 2048)
    if pooled != total:
        raise parts.misfit(
            f"transformer takes pooled texts of width {total}, and its text_encoder and "
            f"text_encoder_2 give {pooled}: {_OWN_MODEL}"
        )
    patch = parts.number("transformer", "patch_size", 2)
    if size % patch:
        raise parts.misfit(
            f"transformer has sample_size {size}, which its patch_size {patch} does not divide; "
            "use the config.json of its own model"
        )


@dataclass(frozen=True)
class _Parts:
    """The parts of the prior `name`, by their configurations."""

    name: str
    configs: Configs

    def number(self, part: str, key: str, default: int) -> int:
        """A positive number of a part. Raises PriorError for anything else."""
        config = self.configs[part]
        inner = config.get("text_config")
        # Some text encoders have the configuration of a whole CLIP.
        if isinstance(inner, Mapping) and "hidden_size" in inner:
            config = inner
        found = config.get(key, default)
        if found is None and key == "out_channels":  # same as in_channels
            return default
        if isinstance(found, bool) or not isinstance(found, int) or found < 1:
            raise self.misfit(
                f"{part} has {key} {_json(found)}, which is no positive number; use the file of "
                "its own model",
                "the config.json of its",
            )
        return found

    def width(self, encoders: Sequence[str]) -> int:
        """Total width of the tokens of text encoders. T5's config calls it d_model."""
        keys = {e: "d_model" if "d_model" in self.configs[e] else "hidden_size" for e in encoders}
        return sum(self.number(encoder, key, 512) for encoder, key in keys.items())

    def misfit(self, problem: str, prefix: str = "its") -> PriorError:
        return PriorError(f"{self.name}: {prefix} {problem}")

    def text_misfit(self, part: str, expected: Any, encoders: Sequence[str]) -> PriorError:
        gives = "gives" if len(encoders) == 1 else "give"
        return self.misfit(
            f"{part} takes texts of width {_json(expected)}, and its {' and '.join(encoders)} "
            f"{gives} {self.width(encoders)}: {_OWN_MODEL}"
        )
