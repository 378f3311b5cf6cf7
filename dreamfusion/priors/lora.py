"""LoRA files: low-rank changes of a prior's weights, such as a style. They are added to the weights
when a component is loaded, so that predictions cost the same."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.utils import state_dict_utils as names
from safetensors import safe_open

from dreamfusion.priors.layout import PriorError
from dreamfusion.priors.resolve import ResolvedPrior
from dreamfusion.utils.errors import one_line


def merge_loras(part: Any, component: str, prior: ResolvedPrior) -> None:
    """Add the LoRA files of a prior to the weights of one of its components, in place.

        W <- W + weight (alpha / r) B A          (Hu et al. 2022, "LoRA", section 4.1)

    Raises PriorError for a LoRA of another model.
    """
    modules = {name.removeprefix("text_model."): module for name, module in part.named_modules()}
    for lora in prior.loras:
        for name, (down, up, scale) in _changes(lora.file, component, prior).items():
            try:
                weight = modules[name].weight
                added = (up.flatten(1).float() @ down.flatten(1).float()).view(weight.shape)
            except (KeyError, AttributeError, RuntimeError) as error:
                why = f"{component}.{name} does not fit ({one_line(error)})"
                raise _other_model(lora.file, prior, why) from None
            with torch.no_grad():
                weight.copy_(weight.float() + lora.weight * scale * added)


def _changes(file: Path, component: str, prior: ResolvedPrior) -> dict[str, tuple[Any, Any, float]]:
    """The matrices A and B, and alpha / r, of each changed module of a component."""
    pipeline: Any = getattr(diffusers, prior.pipeline)
    denoiser = "unet" if "unet" in prior.components else "transformer"
    config = type("Config", (), {"layers_per_block": 2, **prior.configs[denoiser]})
    options = {"unet_config": config} if prior.pipeline == "StableDiffusionXLPipeline" else {}
    try:
        with safe_open(file, "pt") as content:
            weights = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
            about = (content.metadata() or {}).get("lora_adapter_metadata", "{}")
        if any("dora_scale" in name for name in weights):
            raise ValueError("DoRA is not supported")
        found = pipeline.lora_state_dict(weights, **options)
        weights, alphas = found if isinstance(found, tuple) else (found, None)
        stated = json.loads(about)
    # Safetensors and the conversion of other programs' names raise many kinds of errors.
    except Exception as error:
        raise PriorError(f"{file} cannot be read as a LoRA: {one_line(error, 160)}") from None
    known = {name.partition(".")[0] for name in weights}
    if not known & set(prior.components):
        raise _other_model(file, prior, f"it changes {', '.join(sorted(known)) or 'nothing'}")
    own = _in_peft_names(component, weights)
    rates = {name.removesuffix(".alpha"): value for name, value in (alphas or {}).items()}
    rates = _in_peft_names(component, rates)
    changes = {}
    for name, down in own.items():
        module, mark, _ = name.rpartition(".lora_A")
        if not mark:
            continue
        alpha = stated.get(f"{component}.alpha_pattern", {}).get(module)
        alpha = stated.get(f"{component}.lora_alpha") if alpha is None else alpha
        alpha = rates.get(name, alpha)
        scale = 1.0 if alpha is None else float(alpha) / len(down)
        changes[module] = down, own[name.replace(".lora_A", ".lora_B")], scale
    return changes


def _in_peft_names(component: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a component, without its name, by the names that peft gives them."""
    start = f"{component}."
    own = {name.removeprefix(start): v for name, v in values.items() if name.startswith(start)}
    if not own or component.startswith("transformer"):
        return own
    if component == "unet":
        return names.convert_unet_state_dict_to_peft(own)
    own = names.convert_state_dict_to_peft(names.convert_state_dict_to_diffusers(own))
    return {name.removeprefix("text_model."): value for name, value in own.items()}


def _other_model(file: Path, prior: ResolvedPrior, why: str) -> PriorError:
    return PriorError(f"{file} is a LoRA of another model than {prior.name}: {why}")
