"""Components of pipelines and their files, read without torch: names, JSON, headers of safetensors,
and whether a pipeline is of a supported kind."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamfusion.config.layers import read_yaml
from dreamfusion.utils.errors import UserError, one_line

OTHER_FILE = "the file is incomplete or of another kind of model"  # the cause of missing weights


class PriorError(UserError):
    """A prior that cannot be found, read or used."""


def require_json(path: Path, problem: str) -> dict[str, Any]:
    """Read a JSON object from a file. Raises PriorError, starting with `problem`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PriorError(f"{problem}: there is no {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise PriorError(f"{problem}: cannot read {path.name}: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise PriorError(f"{problem}: {path.name} holds no JSON object")
    return content


def read_weights(path: Path) -> dict[str, tuple[str, list[int]]]:
    """The dtype and shape of each tensor in a safetensors file, from its header. Raises PriorError
    if the file is shorter than its header states, as after an incomplete download, or if its dtype
    is not supported."""
    from safetensors import SafetensorError, safe_open  # imported here to keep --help fast

    try:
        with safe_open(path, framework="np") as file:
            tensors = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            found = {name: (x.get_dtype(), x.get_shape()) for name, x in tensors.items()}
    except SafetensorError:
        raise PriorError(
            f"{path} is corrupt, was cut off or is a pointer of Git LFS; delete it and fetch the "
            "prior again"
        ) from None
    if packed := sorted(kind for kind, _ in found.values() if kind.startswith(("F8", "F4", "F6"))):
        raise PriorError(
            f"{path} holds weights in {packed[0]}, which is not supported; use a file in float16, "
            "bfloat16 or float32"
        )
    return found


INDEX = "model_index.json"
CARD = "dreamfusion.json"

PIPELINES: Mapping[str, Mapping[str, Any]] = read_yaml(Path(__file__).with_name("pipelines.yaml"))
# The components of each pipeline, with their supported classes.
LAYOUTS: Mapping[str, Mapping[str, Sequence[str]]] = {
    name: about["components"] for name, about in PIPELINES.items()
}


def pipeline_class(pipeline: str) -> str:
    """The class in diffusers that encodes the texts of a pipeline and reads its LoRA."""
    return str(PIPELINES[pipeline].get("class", pipeline))


def group_size_of(pipeline: str) -> int:
    """The number of views that a pipeline denoises jointly."""
    return int(PIPELINES[pipeline].get("group_size", 1))


# Stable Diffusion 3 was trained to work without its largest text encoder.
OPTIONAL = ("text_encoder_3", "tokenizer_3")
# Optional components that runs do not use. They are neither loaded nor imported.
UNUSED = {
    "safety_checker": None,
    "feature_extractor": None,
    "image_encoder": None,
    "requires_safety_checker": False,
    "add_watermarker": False,
}
# A tokenizer's folder holds one of these. Without any, transformers would make an empty tokenizer.
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "spiece.model")

# What configurations of guidance-distilled and few-step models contain.
_DISTILLED = ("guidance_embeds", "is_distilled", "time_cond_proj_dim")
_FEW_STEPS = ("LCMScheduler", "TCDScheduler")


def components_of(index: Mapping[str, object], name: str) -> tuple[str, dict[str, str]]:
    """The pipeline class and the class of each component to load, from a model_index.json. Raises
    PriorError, starting with the model's `name`, if one is not supported or missing."""
    pipeline = index.get("_class_name")
    if not isinstance(pipeline, str) or pipeline not in LAYOUTS:
        raise PriorError(
            f"{name} is a {pipeline}, which is not supported; use a {', '.join(LAYOUTS)}"
        )
    found = {}
    for component, supported in {**LAYOUTS[pipeline], "scheduler": ()}.items():
        entry = index.get(component)
        cls = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
        if cls is None and component in OPTIONAL:
            continue
        if cls is None:
            raise PriorError(f"{name}: {INDEX} names no {component}")
        cls = str(cls).removesuffix("Fast")
        if supported and cls not in supported:
            raise PriorError(
                f"{name}: its {component} is a {cls}, only {' or '.join(supported)} is supported"
            )
        found[component] = cls
    return pipeline, found


def weights_stem(component: str) -> str | None:
    """The prefix of a component's weight files; None if it has no weights."""
    if component.startswith("text_encoder"):
        return "model"
    return "diffusion_pytorch_model" if component in ("unet", "transformer", "vae") else None


def choose_weights(
    files: Iterable[str], component: str, *, half: bool
) -> tuple[str | None, list[str]]:
    """The variant of a component to load, and its files, from all names in its folder.

    half: prefer half-precision files ("fp16", then "bf16") to full ones. Returns no files if there
    are no safetensors to load.
    """
    stem = re.escape(weights_stem(component) or "")
    sets: dict[str | None, list[str]] = {None: [], "fp16": [], "bf16": []}
    for file in sorted(files):
        match = re.search(r"\.(fp16|bf16)\b", file)
        plain = file.replace(match[0], "", 1) if match else file
        if re.fullmatch(rf"{stem}(-\d{{5}}-of-\d{{5}})?\.safetensors(\.index\.json)?", plain):
            sets[match[1] if match else None].append(file)
    # float16 is more precise than bfloat16.
    for variant in ("fp16", "bf16", None) if half else (None, "fp16", "bf16"):
        if any(name.endswith(".safetensors") for name in sets[variant]):
            return variant, sets[variant]
    return None, []


def check_kind(
    name: str, pipeline: str, configs: Mapping[str, Mapping[str, Any]], index: Mapping[str, Any]
) -> None:
    """Raise PriorError, without loading anything, for a distilled model and for a missing size.
    `model.check_parts` finds out whether the parts fit together, by one prediction.

    configs: of each component with weights, by name. index: the configuration of the pipeline.
    """
    denoiser = configs["unet" if "unet" in configs else "transformer"]
    stated = {**index, **denoiser}
    signs = [key for key in _DISTILLED if stated.get(key) not in (None, False)]
    scheduler = index.get("scheduler")
    if isinstance(scheduler, list | tuple) and scheduler[-1] in _FEW_STEPS:
        signs.append(scheduler[-1])
    if signs:
        raise PriorError(
            f"{name} was distilled ({signs[-1]} in its configuration): it has no guidance, which "
            "SDS needs; use the model that it was distilled from"
        )
    sample_size(name, pipeline, denoiser)


def sample_size(name: str, pipeline: str, denoiser: Mapping[str, Any]) -> int:
    """Height and width of the input of a denoiser, as its pipeline reads the configuration. Raises
    PriorError if it is missing or not square."""
    is_unet = pipeline != "StableDiffusion3Pipeline"
    found = size = denoiser.get("sample_size", None if is_unet else 128)
    if is_unet and isinstance(found, list | tuple) and len(found) == 2 and found[0] == found[1]:
        size = found[0]
    if not isinstance(size, int) or size < 1:
        raise PriorError(
            f"{name}: the config.json of its {'unet' if is_unet else 'transformer'} has "
            f"sample_size {json.dumps(found)}; write the height of its latents there, one number, "
            "for example 64 for images of 512 x 512 pixels"
        )
    # StableDiffusionPipeline corrects files of diffusers before 0.9 in the same way.
    is_old = re.match(r"0\.[0-8]\b", str(denoiser.get("_diffusers_version", "")))
    if pipeline == "StableDiffusionPipeline" and is_old and size is found:
        return max(size, 64)
    return size
