"""Loads a component of a model with diffusers or transformers."""

from types import ModuleType
from typing import Any

import diffusers
import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from dreamfusion.priors.files import OTHER_FILE, PriorError, read_weights
from dreamfusion.priors.lora import merge_loras
from dreamfusion.priors.resolve import ResolvedPrior
from dreamfusion.utils.errors import one_line

# Substrings of weight names that identify a wrapper, and how to remove the wrapper.
_WRAPPERS = {
    ".base_layer.": "LoRA adapters: merge them (pipe.fuse_lora or merge_and_unload) and save again",
    "lora_": "LoRA adapters only: they are not a model",
    "_orig_mod.": "a compiled model: save its _orig_mod instead",
    "module.": "a model in DataParallel: save its module instead",
}


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
        cls = getattr(library, prior.components[component])
        found = cls.from_pretrained(path, local_files_only=True, **options)
    except Exception as error:
        raise PriorError(f"{where} cannot be loaded: {one_line(error)}") from error
    if dtype is None:
        return found
    part, info = found
    if missing := sorted(info["missing_keys"]):
        # The libraries initialise missing weights with random numbers.
        names = [name for file in prior.files[component] for name in read_weights(path / file)]
        wrappers = (text for mark, text in _WRAPPERS.items() if any(mark in name for name in names))
        reason = next((f"its file holds {text}" for text in wrappers), OTHER_FILE)
        raise PriorError(
            f"{where} lacks {len(missing)} of its weights, for example {missing[0]}; {reason}"
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
