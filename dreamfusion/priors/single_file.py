"""Converts single-file checkpoints of other programs to diffusers' layout.

Diffusers converts them with the configuration and tokenizers of their base model, without network
if these are in the hub's cache. Pickles are never read.
"""

import hashlib
import inspect
import os
import shlex
import tempfile
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from dreamfusion.priors import hub
from dreamfusion.priors.layout import INDEX, OTHER_FILE, PIPELINES, UNUSED, PriorError, read_weights
from dreamfusion.utils.errors import RunWarning, one_line

_DTYPES = {"F16": "float16", "BF16": "bfloat16"}
# The pipeline of each kind of checkpoint, by diffusers' names.
_PIPELINES = {kind: name for name, about in PIPELINES.items() for kind in about["checkpoints"]}
# Beginnings of the names of weights in a whole checkpoint.
_PARTS = ("model.diffusion_model.", "first_stage_model.")


def folder_of(file: Path) -> Path:
    """The folder in diffusers' layout of a checkpoint, which is converted unless cached. Raises
    PriorError for an unsupported file, and with the command for the conversion if that needs the
    network."""
    if file.suffix.lower() != ".safetensors":
        raise PriorError(
            f"{file} is no prior: that is a folder in diffusers' layout or a whole checkpoint in a "
            ".safetensors file; pickles, such as .ckpt, can run any code and are not read"
        )
    tensors = read_weights(file)
    if any("lora_" in name or ".lora." in name for name in tensors):
        raise PriorError(
            f"{file} holds LoRA adapters alone: pass it with --lora, and their model with --prior"
        )
    if not all(any(name.startswith(part) for name in tensors) for part in _PARTS):
        raise PriorError(
            f"{file} holds no whole model; use a checkpoint with denoiser, autoencoder and text "
            "encoders, or a folder in diffusers' layout"
        )
    pipeline, base = _kind(file, tensors)
    source = hub.cached(base)
    if source is None or not (source / INDEX).is_file():
        target = file.with_name(f"{file.stem}-diffusers")
        code = (
            f"import diffusers; diffusers.{pipeline}.from_single_file({str(file)!r}, "
            f"config={base!r}).save_pretrained({str(target)!r})"
        )
        raise PriorError(
            f"{file} is one file, without the configuration of its model, {base}; with a network, "
            f"convert it: python -c {shlex.quote(code)} and pass --prior {target}"
        )
    # Identify the file by name, size and time, without reading all of it.
    facts = f"{file.resolve()} {file.stat().st_size} {file.stat().st_mtime_ns}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = f"{file.stem}-{hashlib.sha256(facts.encode()).hexdigest()[:12]}"
    folder = cache / "dreamfusion" / "converted" / name
    if not (folder / INDEX).is_file():
        kinds = {kind for kind, _ in tensors.values()}
        dtype = _DTYPES.get(kinds.pop(), "float32") if len(kinds) == 1 else "float32"
        _convert(file, pipeline, source, folder, dtype)
    return folder


def _kind(file: Path, tensors: Mapping[str, tuple[str, list[int]]]) -> tuple[str, str]:
    """The pipeline of a checkpoint, and the id of its base model."""
    import torch
    from diffusers.loaders import single_file_utils

    shapes = {name: torch.empty(size, device="meta") for name, (_, size) in tensors.items()}
    try:
        kind = str(single_file_utils.infer_diffusers_model_type(shapes))
    except Exception as error:  # unexpected shapes
        raise PriorError(f"{file} is of an unknown kind of model: {one_line(error)}") from error
    if kind not in _PIPELINES:
        raise PriorError(
            f"{file} is a checkpoint of kind {kind}, which is not supported; use one of Stable "
            "Diffusion 1, 2, XL or 3"
        )
    base = single_file_utils.fetch_diffusers_config(shapes)["pretrained_model_name_or_path"]
    return _PIPELINES[kind], hub.moved_to(base) or base


def _convert(file: Path, pipeline: str, source: Path, folder: Path, dtype: str) -> None:
    """Convert a file into `folder`, which is created atomically."""
    import diffusers
    import torch

    from dreamfusion.priors.loading import quiet

    # Without accelerate, diffusers silently initialises missing weights with random numbers.
    if find_spec("accelerate") is None:
        raise PriorError(f"converting {file} needs accelerate: pip install accelerate")
    quiet()
    cls = getattr(diffusers, pipeline)
    parameters = inspect.signature(cls.__init__).parameters
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=folder.parent, prefix=".converting-") as temporary,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # about settings that the pipeline overrides
            pipe = cls.from_single_file(
                str(file),
                config=str(source),
                torch_dtype=getattr(torch, dtype),
                local_files_only=True,
                **{name: value for name, value in UNUSED.items() if name in parameters},
            )
            pipe.save_pretrained(Path(temporary) / "whole")
            if not folder.exists():
                (Path(temporary) / "whole").rename(folder)
    except NotImplementedError:  # raised for tensors without data
        raise PriorError(f"{file} lacks weights; {OTHER_FILE}") from None
    # The library raises many kinds of errors for invalid checkpoints.
    except Exception as error:
        raise PriorError(f"{file} cannot be converted: {one_line(error)}") from error
    warnings.warn(RunWarning(f"{file} was converted once, into {folder}"), stacklevel=4)
