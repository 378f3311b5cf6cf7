"""Checkpoints of one file, as other programs have them: converted once, or the command that does.

Diffusers converts them by the configuration and tokenizers of the model that they were made from.
Where the hub's cache has these, no network is needed. Pickles are never read.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import shlex
import tempfile
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

from dreamfusion.priors import hub
from dreamfusion.priors.files import PriorError, count_weights, tensor_headers
from dreamfusion.priors.layout import INDEX
from dreamfusion.utils.errors import RunWarning, one_line

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
_DTYPES = {"F16": "float16", "BF16": "bfloat16"}
# The pipelines of the kinds of checkpoints, by diffusers' names for them.
_PIPELINES = {
    "v1": "StableDiffusionPipeline",
    "v2": "StableDiffusionPipeline",
    "xl_base": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "sd35_large": "StableDiffusion3Pipeline",
    "sd35_medium": "StableDiffusion3Pipeline",
}
# Components that no run needs, and that a file of weights does not hold.
_UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
# How the names of each component's weights begin.
_DENOISER = ("model.diffusion_model.",)
_AUTOENCODER = ("first_stage_model.",)
_TEXT = ("cond_stage_model.", "conditioner.embedders.", "text_encoders.")
_PARTS = {
    "denoiser": _DENOISER,
    "autoencoder": _AUTOENCODER,
    "text encoder": _TEXT,
}


def folder_of(file: Path) -> Path:
    """A folder in diffusers' layout with the model of a checkpoint: converted now, or before.

    Raises PriorError, with the command that converts it, where that needs the network.
    """
    if file.suffix.lower() in PICKLES:
        raise PriorError(
            f"{file} may be a pickle, which can run any code, and is not read; convert it where "
            "you trust it (for XL with StableDiffusionXLPipeline): "
            + _command(file, "StableDiffusionPipeline", None)
        )
    if file.suffix.lower() != ".safetensors":
        raise PriorError(
            f"{file} is a file; a prior is a folder in diffusers' layout or a checkpoint of one "
            ".safetensors file"
        )
    count_weights(file)
    headers = tensor_headers(file)
    _require_whole(file, headers)
    pipeline, base = _kind(file, headers)
    source = hub.cached(base)
    if source is None or not (source / INDEX).is_file():
        raise PriorError(
            f"{file} is one file, without the configuration of its model, {base}; with a network, "
            f"convert it: {_command(file, pipeline, base)} and pass --prior {_target(file)}"
        )
    target = _cache() / _key(file)
    if not (target / INDEX).is_file():
        kinds = {str(header["dtype"]) for header in headers.values()}
        _convert(file, pipeline, source, target, kinds)
    return target


def _require_whole(file: Path, names: Collection[str]) -> None:
    if any("lora_" in name or ".lora." in name for name in names):
        raise PriorError(
            f"{file} holds LoRA adapters alone; merge them into their model with diffusers "
            "(load_lora_weights, fuse_lora) and save that in a folder"
        )
    missing = [
        part for part, marks in _PARTS.items() if not any(name.startswith(marks) for name in names)
    ]
    if missing:
        raise PriorError(
            f"{file} holds no {' and no '.join(missing)}; use a whole checkpoint, or a folder in "
            "diffusers' layout"
        )


def _kind(file: Path, headers: dict[str, dict[str, Any]]) -> tuple[str, str]:
    """The pipeline of a checkpoint, and the id of the model that it was made from."""
    import torch
    from diffusers.loaders import single_file_utils

    tensors = {
        name: torch.empty(header["shape"], device="meta") for name, header in headers.items()
    }
    try:
        kind = str(single_file_utils.infer_diffusers_model_type(tensors))
    except Exception as error:  # of shapes that the library has never seen
        raise PriorError(f"{file} is of an unknown kind of model: {one_line(error)}") from error
    if kind not in _PIPELINES:
        raise PriorError(
            f"{file} is a checkpoint of kind {kind}, which is not supported; use one of Stable "
            "Diffusion 1, 2, XL or 3"
        )
    base = single_file_utils.fetch_diffusers_config(tensors)["pretrained_model_name_or_path"]
    return _PIPELINES[kind], hub.moved_to(base) or base


def _target(file: Path) -> Path:
    return file.with_name(f"{file.stem}-diffusers")


def _command(file: Path, pipeline: str, base: str | None) -> str:
    """The command that converts a file into `_target`."""
    config = "" if base is None else f", config={base!r}"
    code = (
        f"import diffusers; diffusers.{pipeline}.from_single_file({str(file)!r}{config})"
        f".save_pretrained({str(_target(file))!r})"
    )
    return f"python -c {shlex.quote(code)}"


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "dreamfusion" / "converted"


def _key(file: Path) -> str:
    """Of the file's name, size and time: it is not read whole for this."""
    facts = file.stat()
    text = f"{file.resolve()} {facts.st_size} {facts.st_mtime_ns}"
    return f"{file.stem}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _convert(file: Path, pipeline: str, source: Path, target: Path, kinds: Collection[str]) -> None:
    """Convert a file into the folder `target`, which appears whole or not at all."""
    import diffusers
    import torch

    from dreamfusion.priors.loading import quiet

    quiet()
    (only,) = kinds if len(kinds) == 1 else ("F32",)
    dtype = getattr(torch, _DTYPES.get(only, "float32"))
    cls = getattr(diffusers, pipeline)
    wanted = inspect.signature(cls.__init__).parameters
    absent = [name for name in _UNUSED if name in wanted]
    if "requires_safety_checker" in wanted:
        options: dict[str, Any] = {"requires_safety_checker": False}
    else:
        options = {}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=target.parent, prefix=".converting-") as temporary,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # of settings that the pipeline's own code would change
            pipe = cls.from_single_file(
                str(file),
                config=str(source),
                torch_dtype=dtype,
                local_files_only=True,
                **dict.fromkeys(absent),
                **options,
            )
            _require_weights_of(file, pipe, dtype)
            folder = Path(temporary) / "whole"
            pipe.save_pretrained(folder)
            if not target.exists():
                folder.rename(target)
    except PriorError:
        raise
    # The library raises many kinds of errors for a checkpoint of another kind than it looks like.
    except Exception as error:
        raise PriorError(f"{file} cannot be converted: {one_line(error)}") from error
    warnings.warn(RunWarning(f"{file} was converted once, into {target}"), stacklevel=4)


def _require_weights_of(file: Path, pipe: Any, dtype: Any) -> None:
    """Raise PriorError where diffusers filled in random numbers for what the file does not hold.

    Of a U-Net and an autoencoder every tensor must be one of the file's, under whatever name;
    other models are converted in less simple ways, and only as many numbers must be there.
    """
    from safetensors import safe_open

    found: dict[tuple[str, ...], set[bytes]] = {_DENOISER: set(), _AUTOENCODER: set()}
    counts = dict.fromkeys((_DENOISER, _AUTOENCODER, _TEXT), 0)
    with safe_open(file, "pt") as tensors:
        for name in list(tensors.keys()):
            part = next((marks for marks in counts if name.startswith(marks)), None)
            if part is None:
                continue
            tensor = tensors.get_tensor(name)
            counts[part] += tensor.numel()
            if part in found:
                found[part].add(_fingerprint(tensor.to(dtype)))
    needed = dict.fromkeys(counts, 0)
    for component, model in pipe.components.items():
        if not hasattr(model, "named_parameters"):
            continue
        part = _AUTOENCODER if component == "vae" else _DENOISER
        part = _TEXT if component.startswith("text_encoder") else part
        for name, weight in model.named_parameters():
            needed[part] += weight.numel()
            if component in ("unet", "vae") and _fingerprint(weight) not in found[part]:
                raise PriorError(
                    f"{file} lacks weights of its {component}, for example {name}; the file is "
                    "incomplete or of another kind of model"
                )
    for name, part in zip(_PARTS, counts, strict=True):
        if needed[part] > counts[part]:
            raise PriorError(
                f"{file} holds {counts[part]} of the {needed[part]} weights of its {name}; the "
                "file is incomplete or of another kind of model"
            )


def _fingerprint(tensor: Any) -> bytes:
    """Of a tensor's numbers, whatever its shape."""
    import torch

    data = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.blake2b(data, digest_size=16).digest()
