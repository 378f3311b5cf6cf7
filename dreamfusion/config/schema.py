# ruff: noqa: RUF009 -- every default is made by _setting, which returns a dataclass field
"""Every setting of a run: its type, its default, its range and one line on what it does.

Configurations are frozen. They are built from layers (the defaults, a YAML file, --set), each
holding only what differs from the layer below; an unknown key, a wrong type or a value out of
range is a ConfigError that names the setting.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from dreamfusion.config.schedules import Schedule
from dreamfusion.utils.errors import UserError

T = TypeVar("T")
Range = tuple[float, float]


class ConfigError(UserError):
    """A setting that does not exist or cannot have that value."""


def _setting(default: Any, doc: str, *, low: float | None = None, high: float | None = None) -> Any:
    """A field with its one line of documentation and its inclusive range."""
    return dataclasses.field(default=default, metadata={"doc": doc, "low": low, "high": high})


def _section(cls: type) -> Any:
    return dataclasses.field(default_factory=cls)


@dataclass(frozen=True)
class PriorConfig:
    """Which diffusion model judges the pictures."""

    name: str = _setting("auto", "embedded, a diffusers folder, a hub id, or auto")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = _setting(
        "auto", "precision of the denoiser; auto: half where the device is fast at it"
    )
    negative_prompt: str = _setting("", "what the picture should not show")
    view_prompts: Literal["nearest", "blended", "none"] = _setting(
        "nearest", "the text says which side is seen: the nearest, a mix of two, or not at all"
    )
    perp_neg: float = _setting(
        0.0, "weight of Perp-Neg against the other sides, a cure for Janus; 0: off", low=0, high=10
    )
    vae_checkpointing: bool = _setting(
        False, "recompute a latent prior's encoder in the backward pass: less memory, slower"
    )
    vae_slicing: bool = _setting(
        False, "encode one picture at a time: with vae_checkpointing still less memory"
    )
    offload: bool = _setting(False, "keep on the CPU what is not at work: text encoders, decoder")
    compile: bool = _setting(False, "torch.compile the denoiser: minutes at first, then faster")


@dataclass(frozen=True)
class SDSConfig:
    """Score Distillation Sampling."""

    guidance: Schedule = _setting(
        Schedule.constant(4.0), "classifier-free guidance s: uncond + s (text - uncond)", low=0
    )
    t_min: Schedule = _setting(
        Schedule.constant(0.02), "least noise level, as a fraction of all", low=0, high=1
    )
    t_max: Schedule = _setting(
        Schedule(0.98, 0.5), "greatest noise level, as a fraction of all", low=0, high=1
    )
    weighting: Literal["sigma2", "uniform", "snr"] = _setting(
        "sigma2", "w(t): sigma^2 (the paper), 1, or sigma/alpha (= 1/sqrt(SNR), at most 10)"
    )


@dataclass(frozen=True)
class CameraConfig:
    """Random cameras. A range that is null comes from the prior, or else from these defaults:
    elevation -10..60 degrees, distance 2.6..3.2, field of view 35..45 degrees."""

    views: int = _setting(4, "pictures a step, stratified in azimuth", low=1, high=64)
    elevation_deg: Range | None = _setting(None, "range of elevations, degrees", low=-90, high=90)
    distance: Range | None = _setting(None, "range of distances, scene units", low=0.1, high=100)
    fov_y_deg: Range | None = _setting(None, "range of vertical fields of view", low=1, high=150)
    focal_length: Range | None = _setting(
        None, "range of focal lengths in picture widths, in place of fov_y_deg", low=0.1, high=20
    )
    position_jitter: float = _setting(0.0, "half-width of a uniform offset", low=0, high=1)
    look_at_jitter: float = _setting(0.0, "deviation of the point looked at", low=0, high=1)
    up_jitter: float = _setting(0.0, "deviation of the up vector", low=0, high=1)


@dataclass(frozen=True)
class RenderConfig:
    """How pictures are rendered during training."""

    resolution: Schedule = _setting(
        Schedule(32, 64, 0.4, 0.4), "height and width in pixels (rounded to 8)", low=8, high=1024
    )
    step_size: float = _setting(
        0.025, "distance of samples along a ray, scene units", low=0.001, high=0.5
    )
    min_transmittance: float = _setting(
        1e-3, "samples that less of the light reaches are left out", low=0, high=0.5
    )
    backend: Literal["auto", "reference", "numba", "triton", "nerfacc"] = _setting(
        "auto", "what marches rays; reference: torch; auto: the first that works on the device"
    )


@dataclass(frozen=True)
class ShadingConfig:
    """Which share of the steps is lit, and how. What is null comes from the prior, or else is the
    paper's: ambient .1, spread 1; distance 4..8."""

    lambertian: Schedule = _setting(
        Schedule(0.0, 0.5, 0.4, 0.4), "share of lit steps, the others show albedo", low=0, high=1
    )
    textureless: Schedule = _setting(
        Schedule.constant(0.4), "share of the lit steps without colour", low=0, high=1
    )
    ambient: float | None = _setting(
        None, "ambient part of the light, diffuse is the rest", low=0, high=1
    )
    light_spread: float | None = _setting(
        None, "deviation of the light's direction from the camera's", low=0, high=10
    )
    light_distance: Range | None = _setting(
        None, "range of light distances, scene units", low=0.1, high=100
    )


@dataclass(frozen=True)
class BackgroundConfig:
    """What stands behind the object."""

    kind: Literal["plain", "learned", "fixed"] = _setting(
        "plain", "a random colour each view, a small learned network, or one colour"
    )
    color: tuple[float, float, float] = _setting(
        (1.0, 1.0, 1.0), "the colour of kind fixed, and of previews", low=0, high=1
    )
    brightness: Range | None = _setting(
        None, "range of each channel of a random colour; null: the prior's, or 0..1", low=0, high=1
    )
    plain_share: float = _setting(
        0.5, "share of steps in which kind learned makes way for a random colour", low=0, high=1
    )


@dataclass(frozen=True)
class FieldConfig:
    """The scene: a hash grid and a small network that give density and albedo."""

    levels: int = _setting(8, "levels of the hash grid", low=1, high=32)
    features: int = _setting(4, "features a level", low=1, high=8)
    log2_table_size: int = _setting(16, "log2 of the entries a level", low=8, high=24)
    base_resolution: int = _setting(8, "cells across the coarsest level", low=2, high=512)
    max_resolution: int = _setting(128, "cells across the finest level", low=2, high=8192)
    hidden: int = _setting(32, "width of the network", low=4, high=512)
    density_activation: Literal["softplus", "exp"] = _setting("softplus", "what makes density")
    blob: Literal["gaussian", "linear", "none"] = _setting("linear", "density at the start")
    blob_scale: float = _setting(10.0, "height of the blob, before the activation", low=0)
    blob_radius: float = _setting(0.5, "size of the blob, scene units", low=0.01, high=2)
    released: Schedule = _setting(
        Schedule.constant(1.0), "share of the levels that are open, coarse to fine", low=0, high=1
    )
    normal_epsilon: float = _setting(
        0.01, "half the spacing of the taps that normals are taken with", low=1e-4, high=0.2
    )
    backend: Literal["auto", "reference", "numba", "triton", "tinycudann"] = _setting(
        "auto", "what encodes; reference: torch; auto: the first that works on the device"
    )


@dataclass(frozen=True)
class OccupancyConfig:
    """The grid that remembers where the scene is empty."""

    resolution: int = _setting(64, "cells across the box", low=4, high=512)
    threshold: float = _setting(0.1, "density below which a cell is skipped", low=0)
    decay: float = _setting(
        0.3, "factor on remembered densities at each update", low=0.01, high=0.999
    )
    update_every: int = _setting(16, "steps between updates", low=1)


@dataclass(frozen=True)
class LossConfig:
    """Weights of the regularisers."""

    opacity: Schedule = _setting(Schedule.constant(0.0), "sparsity: sqrt(opacity^2 + .01)", low=0)
    entropy: Schedule = _setting(Schedule(0.003, 0.03), "undecided opacity", low=0)
    sparsity: Schedule = _setting(
        Schedule.constant(0.0), "density anywhere: log(1 + 2 density^2) at samples", low=0
    )
    orientation: Schedule = _setting(
        Schedule.constant(0.0), "normals that look away from the camera, in lit steps", low=0
    )
    smoothness: Schedule = _setting(
        Schedule.constant(0.0), "normals that differ from their neighbours', in lit steps", low=0
    )


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam."""

    grid_lr: float = _setting(2e-2, "learning rate of the hash grid", low=0)
    network_lr: float = _setting(2e-3, "learning rate of the network", low=0)
    background_lr: float = _setting(1e-3, "learning rate of a learned background", low=0)
    scale: Schedule = _setting(Schedule.constant(1.0), "factor on all learning rates", low=0)
    warmup_steps: int = _setting(0, "steps in which the rates rise from nothing", low=0)
    ema: float = _setting(
        0.0, "decay of the moving average that is shown and exported; 0: none", low=0, high=0.9999
    )
    beta1: float = _setting(0.9, "decay of the first moment", low=0, high=0.9999)
    beta2: float = _setting(0.99, "decay of the second moment", low=0, high=0.99999)
    epsilon: float = _setting(1e-15, "guards the division", low=0)
    max_gradient_norm: float = _setting(0.0, "gradients are clipped to it; 0: never", low=0)


@dataclass(frozen=True)
class OutputConfig:
    """What is written to the run's folder."""

    checkpoint_every: int = _setting(100, "steps between checkpoints", low=1)
    checkpoints_kept: int = _setting(2, "how many of the newest stay", low=1)
    preview_every: int = _setting(50, "steps between preview pictures", low=1)
    video_frames: int = _setting(48, "frames of the turntable", low=1, high=10000)
    video_size: int = _setting(160, "height and width of the video", low=16, high=4096)
    mesh_resolution: int = _setting(128, "cells across the box for meshing", low=8, high=1024)
    mesh_faces: int = _setting(30000, "faces that the mesh may have", low=4, high=10_000_000)
    texture_size: int = _setting(
        1024, "texels a side of the mesh's texture; 0: colours at vertices", low=0, high=16384
    )


@dataclass(frozen=True)
class LoggingConfig:
    """What is logged besides metrics.jsonl."""

    tensorboard: bool = _setting(
        False, "metrics and previews for TensorBoard too; needs dreamfusion[tensorboard]"
    )


@dataclass(frozen=True)
class Config:
    """A whole run."""

    prompt: str = _setting("", "what to make")
    seed: int = _setting(0, "of the run's one random stream", low=0, high=2**63 - 1)
    steps: int = _setting(330, "optimisation steps", low=1, high=10_000_000)
    device: str = _setting("auto", "auto, cpu, cuda, cuda:N or mps")
    prior: PriorConfig = _section(PriorConfig)
    sds: SDSConfig = _section(SDSConfig)
    camera: CameraConfig = _section(CameraConfig)
    render: RenderConfig = _section(RenderConfig)
    shading: ShadingConfig = _section(ShadingConfig)
    background: BackgroundConfig = _section(BackgroundConfig)
    field: FieldConfig = _section(FieldConfig)
    occupancy: OccupancyConfig = _section(OccupancyConfig)
    losses: LossConfig = _section(LossConfig)
    optimizer: OptimizerConfig = _section(OptimizerConfig)
    output: OutputConfig = _section(OutputConfig)
    logging: LoggingConfig = _section(LoggingConfig)


def build_config(*layers: Mapping[str, Any]) -> Config:
    """The defaults overlaid with each of `layers` in turn; see `override`."""
    config = Config()
    for layer in layers:
        config = override(config, layer)
    _check_across(config)
    return config


def override(config: T, changes: Mapping[str, Any], path: str = "") -> T:
    """A copy of `config` with `changes` (nested mappings of setting to value) laid over it.

    Raises ConfigError for a key that is not a setting, a wrong type or a value out of range.
    """
    if not isinstance(changes, Mapping):
        raise ConfigError(f"{path or 'a configuration'} holds settings, not {changes!r}")
    hints = get_type_hints(type(config))
    fields = {field.name: field for field in dataclasses.fields(config)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in changes.items():
        name = f"{path}.{key}" if path else str(key)
        if key not in fields:
            raise _unknown(name)
        current = getattr(config, key)
        if dataclasses.is_dataclass(current) and not isinstance(current, Schedule):
            values[key] = override(current, value, name)
        elif isinstance(current, Schedule) and isinstance(value, Mapping):
            values[key] = _schedule(current, value, name)
        else:
            values[key] = _convert(value, hints[key], name)
        _check_range(values[key], fields[key].metadata, name)
    return dataclasses.replace(config, **values)  # type: ignore[type-var]


def settings(config: object, path: str = "") -> Iterator[tuple[str, Any, str]]:
    """Every setting as (dotted name, value, documentation), in order."""
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        name = f"{path}.{field.name}" if path else field.name
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, Schedule):
            yield from settings(value, name)
        else:
            yield name, value, field.metadata.get("doc", "")


def to_mapping(config: object) -> dict[str, Any]:
    """The nested mapping that `override` would turn back into `config`."""
    result: dict[str, Any] = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        if isinstance(value, Schedule):
            result[field.name] = value.start if value.is_constant else dataclasses.asdict(value)
        elif dataclasses.is_dataclass(value):
            result[field.name] = to_mapping(value)
        else:
            result[field.name] = list(value) if isinstance(value, tuple) else value
    return result


def to_yaml(config: Config) -> str:
    """The configuration as YAML, every setting in its place."""
    return yaml.safe_dump(to_mapping(config), sort_keys=False, allow_unicode=True, width=100)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The settings in a YAML file. Raises ConfigError if it cannot be read as such."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no such configuration file: {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold settings (key: value), not {type(content).__name__}")
    return content


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """`["sds.guidance=5", …]` as a nested mapping. The value is read as YAML.

    Raises ConfigError for anything that is not KEY=VALUE.
    """
    result: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set takes KEY=VALUE, not {assignment!r}")
        try:
            value = yaml.safe_load(text) if text.strip() else ""
        except yaml.YAMLError:
            raise ConfigError(f"--set {key}: cannot read the value {text!r}") from None
        *sections, last = key.strip().split(".")
        target = result
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise ConfigError(f"--set {key}: {section} was given a value before")
        target[last] = value
    return result


def _unknown(name: str) -> ConfigError:
    known = [key for key, _, _ in settings(Config())]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not close:
        last = name.rsplit(".", 1)[-1]
        tails = {key.rsplit(".", 1)[-1]: key for key in known}
        close = [tails[tail] for tail in difflib.get_close_matches(last, list(tails), n=1)]
    hint = f"; did you mean {close[0]}?" if close else ""
    return ConfigError(f"unknown setting {name}{hint}")


def _schedule(current: Schedule, changes: Mapping[str, Any], name: str) -> Schedule:
    """`current` with some of its fields changed."""
    hints = get_type_hints(Schedule)
    unknown = [key for key in changes if key not in hints]
    if unknown:
        close = difflib.get_close_matches(str(unknown[0]), list(hints), n=1, cutoff=0.3)
        hint = f"; did you mean {name}.{close[0]}?" if close else f"; it has {', '.join(hints)}"
        raise ConfigError(f"unknown setting {name}.{unknown[0]}{hint}")
    values = {key: _convert(value, hints[key], f"{name}.{key}") for key, value in changes.items()}
    try:
        return dataclasses.replace(current, **values)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None


def _convert(value: Any, hint: Any, name: str) -> Any:
    """`value`, as YAML gave it, as the type `hint`. Raises ConfigError."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        hint = next(part for part in get_args(hint) if part is not type(None))
        origin = get_origin(hint)
    if origin is Literal:
        if value in get_args(hint) and isinstance(value, str):
            return value
        raise ConfigError(f"{name} is one of {', '.join(get_args(hint))}; not {value!r}")
    if origin is tuple:
        parts = get_args(hint)
        if not isinstance(value, (list, tuple)) or len(value) != len(parts):
            raise ConfigError(f"{name} takes {len(parts)} numbers like [1, 2]; not {value!r}")
        return tuple(_convert(item, part, name) for item, part in zip(value, parts, strict=True))
    if hint is Schedule:
        return Schedule.constant(_convert(value, float, name))
    if hint is float:
        return _number(value, name)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) is not hint:
        kind = {int: "a whole number", bool: "true or false", str: "text"}[hint]
        raise ConfigError(f"{name} takes {kind}, not {value!r}")
    return value


def _number(value: Any, name: str) -> float:
    """YAML reads 1e-3 as text (it wants 1.0e-3), so text that is a number counts as one."""
    try:
        if isinstance(value, bool) or value is None:
            raise ValueError
        return float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{name} takes a number, not {value!r}") from None


def _check_range(value: Any, metadata: Mapping[str, Any], name: str) -> None:
    low, high = metadata.get("low"), metadata.get("high")
    if isinstance(value, Schedule):
        numbers: tuple[Any, ...] = (value.start, value.end)
    elif isinstance(value, tuple):
        numbers = value
        if len(value) == 2 and value[0] > value[1]:
            raise ConfigError(f"{name}: {value[0]} is greater than {value[1]}")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        numbers = (value,)
    else:
        return
    for number in numbers:
        too_low = low is not None and number < low
        too_high = high is not None and number > high
        if too_low or too_high or number != number:
            bounds = f"at least {low}" if high is None else f"between {low} and {high}"
            raise ConfigError(f"{name} must be {bounds}, not {number:g}")


def _check_across(config: Config) -> None:
    """What types and ranges do not say."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", config.device):
        raise ConfigError(f"device is auto, cpu, cuda, cuda:N or mps; not {config.device!r}")
    for step in (0, config.steps - 1):
        low = config.sds.t_min.at(step, config.steps)
        high = config.sds.t_max.at(step, config.steps)
        if low >= high:
            raise ConfigError(f"sds.t_min ({low:g}) must stay below sds.t_max ({high:g})")
    if config.camera.fov_y_deg is not None and config.camera.focal_length is not None:
        raise ConfigError("camera.fov_y_deg and camera.focal_length say the same: set one of them")
    if config.field.base_resolution > config.field.max_resolution:
        raise ConfigError("field.base_resolution must not exceed field.max_resolution")
