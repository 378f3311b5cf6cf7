"""Loading one component of a model through the library that it comes from."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import diffusers
import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from dreamfusion.priors.files import PriorError
from dreamfusion.priors.layout import check_tokenizer
from dreamfusion.priors.resolve import ResolvedPrior
from dreamfusion.utils.errors import one_line


def load_part(
    prior: ResolvedPrior, component: str, library: ModuleType, dtype: torch.dtype | None = None
) -> Any:
    """A component on the CPU, frozen; or a tokenizer, for which there is no dtype.

    The libraries raise many kinds of errors for broken files; all of them mean the same to a user,
    and become a PriorError.
    """
    path = prior.path / component
    options: dict[str, Any] = {}
    if dtype is not None:
        options = {
            "torch_dtype": dtype,
            "use_safetensors": True,
            "variant": prior.variants[component],
        }
    if component.startswith("tokenizer"):
        files = [file.name for file in path.iterdir()]
        check_tokenizer(files, f"{prior.name}: its {component}")
    try:
        cls = getattr(library, prior.components[component])
        part = cls.from_pretrained(path, local_files_only=True, **options)
    except Exception as error:
        raise PriorError(
            f"{prior.name}: its {component} in {path} cannot be loaded: {one_line(error)}"
        ) from error
    if dtype is None:
        return part
    # Without accelerate, diffusers looks at the first tensor alone to see what is in a file.
    # Transformers converts by itself, and leaves in float32 what T5 would overflow in.
    if library is diffusers:
        part = part.to(dtype)
    return part.requires_grad_(False).eval()


def quiet() -> None:
    """No warnings about unused settings of foreign schedulers, no progress bars: only the command
    line writes to the terminal."""
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
