"""Loads components of a model with diffusers or transformers, and noise levels of schedulers.

LoRA files, low-rank changes of weights such as a style, are added to the weights when a component
is loaded, so that predictions cost the same.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import diffusers
import torch
from diffusers.utils import logging as diffusers_logging
from diffusers.utils import state_dict_utils as names
from safetensors import safe_open
from torch import Tensor
from transformers.utils import logging as transformers_logging

from dreamfusion.diffusion.predictions import PredictionKind
from dreamfusion.priors.layout import OTHER_FILE, PriorError, pipeline_class
from dreamfusion.priors.mvdream.configuration import MULTI_VIEW_UNET
from dreamfusion.priors.mvdream.unet import load_unet
from dreamfusion.priors.resolve import ResolvedPrior
from dreamfusion.utils.errors import one_line


def load_part(
    prior: ResolvedPrior, component: str, library: ModuleType, dtype: torch.dtype | None = None
) -> Any:
    """Load a frozen component on the CPU, or with dtype=None a tokenizer. Raises PriorError. The
    libraries raise many kinds of errors for broken files."""
    path = prior.path / component
    where = f"{prior.name}: its {component} in {path}"
    options: dict[str, Any] = {}
    if dtype is not None:
        variant = prior.variants[component]
        options = {"torch_dtype": dtype, "use_safetensors": True, "variant": variant}
        options["output_loading_info"] = True
    try:
        if prior.components[component] == MULTI_VIEW_UNET:
            found: Any = load_unet(
                [path / file for file in prior.files[component]], prior.configs[component]
            )
        else:
            cls = getattr(library, prior.components[component])
            found = cls.from_pretrained(path, local_files_only=True, **options)
    except Exception as error:
        raise PriorError(f"{where} cannot be loaded: {one_line(error)}") from error
    if dtype is None:
        return found
    part, info = found
    if missing := sorted(info["missing_keys"]):
        # The libraries initialise missing weights with random numbers.
        raise PriorError(
            f"{where} lacks {len(missing)} of its weights, for example {missing[0]}; {OTHER_FILE}"
        )
    for name, weight in part.named_parameters():
        if not bool(weight.isfinite().all()):
            raise PriorError(f"{where} has weights that are not finite, for example {name}")
    # Without accelerate, diffusers infers the dtype of a file from its first tensor only.
    # Transformers converts by itself, and keeps weights of T5 that would overflow in float32.
    if library is diffusers:
        part = part.to(dtype)
    merge_loras(part, component, prior)
    return part.requires_grad_(False).eval()


def quiet() -> None:
    """Disable the libraries' warnings about unused scheduler settings, and their progress bars.
    Only the command line writes to the terminal."""
    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


@dataclass(frozen=True)
class NoiseSchedule:
    """A scheduler's noise levels: z_t = alphas[t] x + sigmas[t] e; timestep 0 is the cleanest.

    alphas, sigmas: (T,) float32. times: (T,) the network's input for timestep t.
    prediction: the network's kind of output. config: the scheduler's configuration.
    """

    alphas: Tensor
    sigmas: Tensor
    times: Tensor
    prediction: PredictionKind
    config: dict[str, Any]


def read_schedule(kind: str, config: Any, name: str, denoiser: Any) -> NoiseSchedule:
    """The noise levels of a diffusers scheduler, on the denoiser's device.

    kind: its class, which computes betas, their rescaling to zero terminal SNR and the shift of a
    flow. config: its configuration; sampling changes a scheduler's state. name: of the prior.
    denoiser: its size determines the shift of some flows. In a flow, sigma is at most 1 and the
    network's input is 1000 sigma. Raises PriorError if it is not supported.
    """
    try:
        scheduler = getattr(diffusers, kind).from_config(config)
    except Exception as error:
        raise PriorError(
            f"{name}: cannot read its scheduler, a {kind}: {one_line(error)}"
        ) from error
    prediction = scheduler.config.get("prediction_type")
    if kind == "FlowMatchEulerDiscreteScheduler":
        sigmas = scheduler.sigmas
        if scheduler.config.use_dynamic_shifting:
            # Of Stable Diffusion 3.5: mu is linear in the number of the denoiser's tokens.
            own = scheduler.config
            tokens = (denoiser.config.sample_size // denoiser.config.patch_size) ** 2
            slope = (own.max_shift - own.base_shift) / (
                own.max_image_seq_len - own.base_image_seq_len
            )
            mu = own.base_shift + slope * (tokens - own.base_image_seq_len)
            sigmas = scheduler.time_shift(mu, 1.0, sigmas)
        prediction, sigmas = "flow", sigmas.flip(0).double()
        alphas, times = 1.0 - sigmas, (sigmas * scheduler.config.num_train_timesteps).float()
    else:
        cumulative = getattr(scheduler, "alphas_cumprod", None)
        if cumulative is None:
            raise PriorError(
                f"{name}: the noise levels of its scheduler, a {kind}, are not supported; use a "
                "model with a DDPM, DDIM, Euler, DPM++ or flow-matching Euler scheduler"
            )
        cumulative = cumulative.double()
        alphas, sigmas = cumulative.sqrt(), (1.0 - cumulative).sqrt()
        times = torch.arange(len(cumulative))
    if prediction not in get_args(PredictionKind):
        raise PriorError(
            f"{name}: its scheduler, a {kind}, has prediction_type {prediction}, which is not "
            f"supported; use a model that predicts {', '.join(get_args(PredictionKind))}"
        )
    # Classes that never clamp have no such setting, but DDPM, used to sample all models, clamps.
    config = {"clip_sample": False, **scheduler.config}
    device = denoiser.device
    levels = (alphas.float().to(device), sigmas.float().to(device), times.to(device))
    return NoiseSchedule(*levels, prediction, config)


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
    pipeline: Any = getattr(diffusers, pipeline_class(prior.pipeline))
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
