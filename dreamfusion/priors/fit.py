"""Whether the parts of a pipeline fit each other, from their configurations alone. No torch.

Numbers that a configuration does not hold are the defaults of diffusers' and transformers' classes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dreamfusion.priors.files import PriorError

Configs = Mapping[str, Mapping[str, Any]]

_OWN_MODEL = "they are of different models; take both from one"
# What a U-Net of this many channels in latents of four was made for.
_PURPOSES = {5: "depth", 7: "upscaling", 8: "image editing", 9: "inpainting"}
# Conditions beside the text that each pipeline gives to its U-Net.
_ADDED = {
    "StableDiffusionPipeline": (None, "text"),
    "StableDiffusionXLPipeline": ("text_time",),
    "IFPipeline": (None, "text"),
}
_FEW_STEPS = ("LCMScheduler", "TCDScheduler")


def check_fit(name: str, pipeline: str, configs: Configs, index: Mapping[str, Any]) -> None:
    """Raise PriorError unless the parts of the prior `name` fit each other and the pipeline.

    configs: of each component that has weights, by its name. index: the pipeline's own.
    """
    unet = configs.get("unet")
    _check_distilled(name, configs, index)
    _check_channels(name, configs)
    sample_size(name, pipeline, configs["transformer" if unet is None else "unet"])
    if unet is None:
        _check_transformer_texts(name, configs)
    else:
        _check_conditions(name, pipeline, unet)
        _check_unet_texts(name, configs)


def sample_size(name: str, pipeline: str, denoiser: Mapping[str, Any]) -> int:
    """Height and width of what a denoiser of this configuration takes, as its pipeline reads it.

    Raises PriorError where it is not said or not square.
    """
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
                f"{where}, which no pipeline can do without; write the height of its latents, for "
                "example 64 for pictures of 512 pixels"
            )
        kind = "one number or a square pair" if is_unet else "one number"
        raise PriorError(f"{where}; only {kind} is supported: write the number there")
    # As StableDiffusionPipeline corrects the files of the first versions.
    if pipeline == "StableDiffusionPipeline" and size < 64 and size is found and _is_old(denoiser):
        return 64
    return size


def _is_old(denoiser: Mapping[str, Any]) -> bool:
    """Whether diffusers before 0.9 wrote the configuration."""
    match = re.match(r"0\.(\d+)", str(denoiser.get("_diffusers_version", "")))
    return match is not None and int(match[1]) < 9


def _json(value: Any) -> str:
    return "null" if value is None else str(list(value) if isinstance(value, tuple) else value)


def _check_distilled(name: str, configs: Configs, index: Mapping[str, Any]) -> None:
    sign = "is_distilled in model_index.json" if index.get("is_distilled") is True else ""
    for part in ("unet", "transformer"):
        for key in ("guidance_embeds", "is_distilled", "time_cond_proj_dim"):
            if configs.get(part, {}).get(key) not in (None, False):
                sign = f"{key} in {part}/config.json"
    scheduler = index.get("scheduler")
    if isinstance(scheduler, list | tuple) and scheduler[-1] in _FEW_STEPS:
        sign = f"a {scheduler[-1]} in model_index.json"
    if sign:
        raise PriorError(
            f"{name} was distilled ({sign}): it has no guidance, which SDS needs; use the model "
            "that it was distilled from"
        )


def _check_channels(name: str, configs: Configs) -> None:
    vae = configs.get("vae")
    part, default = ("unet", 4) if "unet" in configs else ("transformer", 16)
    taken = _number(name, configs, part, "in_channels", default)
    given = 3 if vae is None else _number(name, configs, "vae", "latent_channels", 4)
    source = "pictures have" if vae is None else "its vae gives"
    if taken != given:
        said = f"{name}: its {part} takes {taken} channels and {source} {given}"
        purpose = _PURPOSES.get(taken) if given == 4 else None
        if purpose is not None:
            raise PriorError(
                f"{said}: it is a model for {purpose}, which is not supported; use the "
                "text-to-image model that it was made from"
            )
        raise PriorError(f"{said}: {_OWN_MODEL if vae else 'use a text-to-image model'}")
    returned = _number(name, configs, part, "out_channels", taken)
    if returned not in (taken, 2 * taken):
        raise PriorError(
            f"{name}: its {part} takes {taken} channels and returns {returned}; use a model that "
            "returns as many, or twice as many with variances"
        )
    for key in ("in_channels", "out_channels"):
        if vae is not None and (count := _number(name, configs, "vae", key, 3)) != 3:
            raise PriorError(
                f"{name}: its vae has {key} {count}, pictures have 3; use the vae of a "
                "text-to-image model"
            )


def _check_conditions(name: str, pipeline: str, unet: Mapping[str, Any]) -> None:
    added = {
        "addition_embed_type": _ADDED[pipeline],
        "encoder_hid_dim_type": (None, "text_proj"),
        "class_embed_type": (None,),
        "num_class_embeds": (None,),
    }
    for key, supported in added.items():
        if (found := unet.get(key)) not in supported:
            raise PriorError(
                f"{name}: its unet has {key} {_json(found)}, which a {pipeline} does not give it; "
                "use a text-to-image model of the pipeline's own kind"
            )


def _check_unet_texts(name: str, configs: Configs) -> None:
    """The width of the tokens, and that of the pooled text of Stable Diffusion XL."""
    unet = configs["unet"]
    key = "cross_attention_dim" if unet.get("encoder_hid_dim") is None else "encoder_hid_dim"
    wanted = unet.get(key, 1280)
    encoders = [part for part in ("text_encoder", "text_encoder_2") if part in configs]
    width = sum(_width(name, configs, part) for part in encoders)
    each = wanted if isinstance(wanted, list | tuple) else [wanted]
    if any(one != width for one in each):
        raise _text_misfit(name, "unet", _json(wanted), encoders, width)
    if "text_encoder_2" in configs:
        pooled = _number(name, configs, "text_encoder_2", "projection_dim", 512)
        total = unet.get("projection_class_embeddings_input_dim")
        sizes = 6 * _number(name, configs, "unet", "addition_time_embed_dim", 256)
        if total != sizes + pooled:
            raise PriorError(
                f"{name}: its unet takes {_json(total)} numbers for pooled text and sizes, and its "
                f"text_encoder_2 and six sizes give {pooled} + {sizes}: {_OWN_MODEL}"
            )


def _check_transformer_texts(name: str, configs: Configs) -> None:
    wanted = _number(name, configs, "transformer", "joint_attention_dim", 4096)
    clips = ["text_encoder", "text_encoder_2"]
    width = sum(_width(name, configs, part) for part in clips)
    if width > wanted:
        raise _text_misfit(name, "transformer", str(wanted), clips, width)
    if "text_encoder_3" in configs:
        width = _width(name, configs, "text_encoder_3")
        if width != wanted:
            raise _text_misfit(name, "transformer", str(wanted), ["text_encoder_3"], width)
    pooled = sum(_number(name, configs, part, "projection_dim", 512) for part in clips)
    total = _number(name, configs, "transformer", "pooled_projection_dim", 2048)
    if pooled != total:
        raise PriorError(
            f"{name}: its transformer takes pooled texts of width {total}, and its text_encoder "
            f"and text_encoder_2 give {pooled}: {_OWN_MODEL}"
        )
    size, patch = configs["transformer"].get("sample_size", 128), _patch(name, configs)
    if size % patch:
        raise PriorError(
            f"{name}: its transformer has sample_size {size}, which its patch_size {patch} does "
            "not divide; use the config.json of its own model"
        )


def _patch(name: str, configs: Configs) -> int:
    return _number(name, configs, "transformer", "patch_size", 2)


def _text_misfit(name: str, part: str, wanted: str, encoders: list[str], width: int) -> PriorError:
    gives = "gives" if len(encoders) == 1 else "give"
    return PriorError(
        f"{name}: its {part} takes texts of width {wanted}, and its {' and '.join(encoders)} "
        f"{gives} {width}: {_OWN_MODEL}"
    )


def _width(name: str, configs: Configs, part: str) -> int:
    """Of an encoder's tokens: transformers calls it d_model in T5."""
    key = "d_model" if "d_model" in _flat(configs[part]) else "hidden_size"
    return _number(name, configs, part, key, 512)


def _number(name: str, configs: Configs, part: str, key: str, default: int) -> int:
    found = _flat(configs[part]).get(key, default)
    if found is None and key == "out_channels":  # as many as come in
        return default
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise PriorError(
            f"{name}: the config.json of its {part} has {key} {_json(found)}, which is no positive "
            "number; use the file of its own model"
        )
    return found


def _flat(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Some text encoders have the configuration of a whole CLIP."""
    inner = config.get("text_config")
    return inner if isinstance(inner, Mapping) and "hidden_size" in inner else config
