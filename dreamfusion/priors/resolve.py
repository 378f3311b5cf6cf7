"""Finds the folder of a prior and checks that it is complete, without loading anything."""

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from dreamfusion.priors import hub, layout
from dreamfusion.priors.card import PriorCard, read_card
from dreamfusion.priors.layout import (
    CARD,
    INDEX,
    PriorError,
    check_kind,
    read_weights,
    require_json,
)
from dreamfusion.priors.mvdream.configuration import MULTI_VIEW_UNET, unet_config
from dreamfusion.utils.resources import shipped

DEFAULT_ON_CUDA = "stable-diffusion-v1-5/stable-diffusion-v1-5"


class Lora(NamedTuple):
    """A LoRA file in safetensors format, and the factor of its change."""

    file: Path
    weight: float


@dataclass(frozen=True)
class ResolvedPrior:
    """A complete prior on disk that is not loaded yet.

    name: "embedded", the absolute path, or the hub id.
    pipeline: class name of the diffusers pipeline.
    components: class name of each component to load, without "Fast".
    variants: "fp16", "bf16" or None for each component with weights: the variant of its files.
    weights, files, configs: the number of parameters, the safetensors files and the configuration
        of each component with weights. index: the configuration of the pipeline.
    card: its prompt vocabulary and training views. loras: to merge into the weights.
    """

    name: str
    path: Path
    pipeline: str
    components: dict[str, str]
    variants: dict[str, str | None]
    weights: dict[str, int]
    card: PriorCard
    files: dict[str, list[str]]
    configs: dict[str, dict[str, Any]]
    index: dict[str, Any]
    loras: tuple[Lora, ...] = ()

    @property
    def preset(self) -> str:
        """The default preset for this prior."""
        has_card = (self.path / CARD).is_file()
        return "embedded" if has_card else str(layout.PIPELINES[self.pipeline]["preset"])

    @property
    def group_size(self) -> int:
        """The number of views that it denoises jointly."""
        return layout.group_size_of(self.pipeline)


def resolve_prior(
    name: str, *, device: str = "cpu", dtype: str = "auto", loras: Sequence[str] = ()
) -> ResolvedPrior:
    """The prior `name`: auto, embedded (the shipped one), a path, or a hub id.

    auto is Stable Diffusion 1.5 on CUDA and the embedded prior elsewhere. If a model has both full
    and half-precision files, the device and dtype decide (see `load_prior`). loras: files to merge
    into the weights, each FILE or FILE:WEIGHT. Raises PriorError if there is no such prior, it is
    not supported or files are missing.
    """
    return replace(_find(name, device, dtype), loras=tuple(read_lora(text) for text in loras))


def read_lora(text: str) -> Lora:
    """The LoRA of "FILE" or "FILE:WEIGHT"; the weight is 1 by default. Raises PriorError if there
    is no such file."""
    path, colon, number = text.rpartition(":")
    try:
        weight = float(number) if colon else 1.0
    except ValueError:
        path, weight = text, 1.0
    file = Path(path or text).expanduser().resolve()
    if not file.is_file():
        raise PriorError(f"no such LoRA file: {file}")
    if file.suffix != ".safetensors":
        raise PriorError(f"{file} is not a .safetensors file, the only format that is read")
    return Lora(file, weight)


def _find(name: str, device: str, dtype: str) -> ResolvedPrior:
    half = device.startswith("cuda") and dtype != "float32"
    if name == "auto":
        name = DEFAULT_ON_CUDA if device.startswith("cuda") else "embedded"
    if name == "embedded":
        return inspect(shipped("assets") / "embedded-prior", name, half=half)
    path = Path(name).expanduser()
    if path.is_dir():
        return inspect(path, str(path.resolve()), half=half)
    if path.exists():
        return inspect(hub.folder_of(path.resolve()), str(path.resolve()), half=half)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name):
        raise PriorError(
            f"no such prior: {name} (a prior is auto, embedded, a folder in diffusers' layout or "
            f"a hub id like {DEFAULT_ON_CUDA})"
        )
    if (cached := hub.cached(name)) is not None:
        with suppress(PriorError):  # if files are missing
            return inspect(cached, name, half=half)
    return inspect(hub.fetch(name, half=half), name, half=half)


def inspect(path: Path, name: str, *, half: bool) -> ResolvedPrior:
    """Resolve a folder in diffusers' layout. Raises PriorError unless all components exist and are
    supported."""
    index = require_json(path / INDEX, f"{path} is not a diffusers model")
    pipeline, components = layout.components_of(index, name)
    variants: dict[str, str | None] = {}
    weights: dict[str, int] = {}
    weight_files: dict[str, list[str]] = {}
    configs: dict[str, dict[str, Any]] = {}
    for component in components:
        if not (path / component).is_dir():
            raise PriorError(f"{name} is incomplete: there is no folder {path / component}")
        inside = [file.name for file in (path / component).iterdir()]
        if component.startswith("tokenizer"):
            if not set(layout.TOKENIZER_FILES) & set(inside):
                _check_file(path / component / layout.TOKENIZER_FILES[0], name)
            bare = "spiece.model" in inside and "tokenizer.json" not in inside
            if bare and find_spec("sentencepiece") is None:
                raise PriorError(
                    f"{name}: its {component} is a sentencepiece model: install the library that "
                    "reads it, pip install 'dreamfusion[deepfloyd]'"
                )
        if layout.weights_stem(component) is None:
            continue
        config = path / component / "config.json"
        configs[component] = require_json(config, f"{name}: {path / component} is broken")
        if components[component] == MULTI_VIEW_UNET:
            configs[component] = unet_config(name, configs[component])
        variants[component], files = layout.choose_weights(inside, component, half=half)
        if not files:
            stem = layout.weights_stem(component)
            raise PriorError(
                f"{name} is incomplete: there is no {path / component / str(stem)}.safetensors "
                "(weights in pickles, which can run any code, are not read)"
            )
        weight_files[component] = [file for file in files if file.endswith(".safetensors")]
        found = weight_files[component]
        shards = [shard for file in found if (shard := re.search(r"-of-(\d+)\.", file))]
        if shards and len(shards) < (n := int(shards[0][1])):
            raise PriorError(
                f"{name} is incomplete: {path / component} has {len(shards)} of {n} files of "
                "weights"
            )
        headers = [read_weights(path / component / file) for file in found]
        shapes = [shape for header in headers for _, shape in header.values()]
        weights[component] = sum(map(math.prod, shapes))
    _check_file(path / "scheduler" / "scheduler_config.json", name)
    check_kind(name, pipeline, configs, index)
    card = read_card(path)
    return ResolvedPrior(
        name, path, pipeline, components, variants, weights, card, weight_files, configs, index
    )


def _check_file(path: Path, name: str) -> None:
    if not path.is_file():
        raise PriorError(f"{name} is incomplete: there is no {path}")
