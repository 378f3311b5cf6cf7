"""Builds a run's settings from layers: defaults, the prior's card, a preset, a file, --set.

Each layer contains only its differences from the layer below. An unknown key, a wrong type or a
value out of range raises a ConfigError that names the setting.
"""

import dataclasses
import difflib
import math
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from dreamfusion.config.nested import find, with_new_names
from dreamfusion.config.schedules import Schedule
from dreamfusion.config.schema import Config, PriorConfig
from dreamfusion.config.sections import Section, find_section, section_names
from dreamfusion.utils.errors import UserError, one_line

T = TypeVar("T")
_MISSING = object()


class ConfigError(UserError):
    """A setting that does not exist or cannot have that value."""


@dataclass(frozen=True)
class Layer:
    """Settings that override the layers below. name: where they come from ("preset embedded")."""

    name: str
    settings: Mapping[str, Any]


def build_config(*layers: Layer | Mapping[str, Any]) -> Config:
    """The defaults, overridden by each of `layers` in turn. Raises ConfigError; see `override`."""
    config = Config()
    for layer in layers:
        changes = layer.settings if isinstance(layer, Layer) else layer
        config = override(config, with_new_names(changes))
    _check_across(config)
    for name, changes in config.stages.items():
        _check_across(override(config, with_new_names(changes), f"stages.{name}"))
    return config


def given(*, prior: str | None = None, **values: Any) -> dict[str, Any]:
    """The settings that options or arguments set: those that are not None. prior: its name.

    >>> given(steps=50, seed=None, prior="embedded")
    {'steps': 50, 'prior': {'name': 'embedded'}}
    """
    chosen = {name: value for name, value in values.items() if value is not None}
    return chosen if prior is None else chosen | {"prior": {"name": prior}}


def override(config: T, changes: Mapping[str, Any], path: str = "") -> T:
    """A copy of `config` with `changes` (nested mappings of setting to value) applied. Raises
    ConfigError for a key that is not a setting, a wrong type or a value out of range."""
    if not isinstance(changes, Mapping):
        raise ConfigError(f"{path or 'a configuration'} holds settings, not {changes!r}")
    hints = get_type_hints(type(config))
    fields = {field.name: field for field in dataclasses.fields(config)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in changes.items():
        name = f"{path}.{key}" if path else str(key)
        if key not in fields:
            raise _unknown(name, config, path)
        current = getattr(config, key)
        if "group" in fields[key].metadata:
            current = _section(current, value, name, fields[key].metadata["group"])
        if _is_section(current) or (isinstance(current, Schedule) and isinstance(value, Mapping)):
            values[key] = override(current, value, name)
        else:
            values[key] = _convert(value, hints[key], name)
        _check_range(values[key], fields[key].metadata, name)
    try:
        return dataclasses.replace(config, **values)  # type: ignore[type-var]
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def _section(current: Section | PriorConfig, changes: Any, path: str, group: str) -> Any:
    """What `changes` to a section start from, whose class depends on its name. A new name starts
    from the defaults of its class; only the settings that all priors share keep their values."""
    if not isinstance(changes, Mapping) or changes.get("name", current.name) == current.name:
        return current
    name = _convert(changes["name"], str, f"{path}.name")
    if isinstance(current, Section):
        return find_section(group, name)()
    cls = find_section(group, name) if name in section_names(group) else PriorConfig
    return cls(**{f.name: getattr(current, f.name) for f in dataclasses.fields(PriorConfig)})


def settings(config: object, path: str = "") -> Iterator[tuple[str, Any, str]]:
    """All settings as (dotted name, value, documentation), in order."""
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        name = f"{path}.{field.name}" if path else field.name
        value = getattr(config, field.name)
        if _is_section(value):
            yield from settings(value, name)
        else:
            yield name, value, field.metadata.get("doc", "")


def _is_section(value: object) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, Schedule)


def to_mapping(config: object) -> dict[str, Any]:
    """`config` as a nested mapping, the inverse of `override`."""
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


def sources(layers: Sequence[Layer]) -> dict[str, str]:
    """The name of the layer that each setting's value comes from, by dotted name. Settings that no
    layer contains are left out. Raises ConfigError; see `build_config`."""
    found: dict[str, str] = {}
    names = [name for name, _, _ in settings(build_config(*layers))]
    for layer in layers:
        changes = with_new_names(layer.settings)
        found |= {n: layer.name for n in names if find(changes, n, _MISSING) is not _MISSING}
    return found


def to_yaml(content: Config | Mapping[str, Any]) -> str:
    """A configuration, with all settings, or other nested settings as YAML."""
    plain = to_mapping(content) if isinstance(content, Config) else dict(content)
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The settings in a YAML file. Raises ConfigError if it cannot be read or is not a mapping."""
    try:
        content = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no such configuration file: {path}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {one_line(error)}") from None
    if not isinstance(content, (dict, type(None))):
        raise ConfigError(f"{path} must hold settings (key: value), not {type(content).__name__}")
    return content or {}


class _Loader(yaml.SafeLoader):
    """Loads plain data only, and rejects integers of more than 64 bits."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        value = super().construct_yaml_int(node)
        if value.bit_length() > 64:
            raise ValueError(f"{node.value[:20]}… is too large a number")
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def parse_yaml(text: str) -> Any:
    """Parse YAML text: plain data only. Raises ValueError for anything else."""
    try:
        return yaml.load(text, Loader=_Loader)
    # Besides its own errors, PyYAML raises those of invalid dates, huge numbers and deeply nested
    # lists.
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(one_line(error)) from None


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Convert settings by dotted name, or already nested, to a nested mapping.

    >>> nested({"estimator.guidance": 8, "camera": {"views": 2}})
    {'estimator': {'guidance': 8}, 'camera': {'views': 2}}

    Raises ConfigError for a name that has both a value and nested settings.
    """
    result: dict[str, Any] = {}
    for name, value in settings.items():
        *sections, last = str(name).split(".")
        inner = result
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{name}: {section} was given a value before")
        inner[last] = value
    return result


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Convert `["estimator.guidance=5", …]` to a nested mapping. Values are parsed as YAML. Raises
    ConfigError for anything that is not KEY=VALUE."""
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = (part.strip() for part in assignment.partition("="))
        if not equals or not key:
            raise ConfigError(f"--set takes KEY=VALUE, not {assignment!r}")
        try:
            values[key] = parse_yaml(text) if text else ""
        except ValueError:
            raise ConfigError(f"--set {key}: cannot read the value {text!r}") from None
    return nested(values)


def _unknown(name: str, section: object, path: str) -> ConfigError:
    """The error for an unknown setting, with a suggestion. path: of the searched `section`."""
    # The default class of the same section is left out: its settings are not valid here.
    elsewhere = (key for key, _, _ in settings(Config()) if not key.startswith(f"{path}."))
    known = [*(key for key, _, _ in settings(section, path)), *elsewhere]
    last = {key.rpartition(".")[2]: key for key in reversed(known)}
    similar = difflib.get_close_matches(name.rpartition(".")[2], last, n=1)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5) or [last[x] for x in similar]
    hint = f"; did you mean {close[0]}?" if close else ""
    return ConfigError(f"unknown setting {name}{hint}")


def _convert(value: Any, hint: Any, name: str) -> Any:
    """Convert a value parsed from YAML to the type `hint`. Raises ConfigError."""
    if get_origin(hint) in (Union, types.UnionType):
        if value is None:
            return None
        hint = next(part for part in get_args(hint) if part is not type(None))
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        if isinstance(value, str) and value in parts:
            return value
        raise ConfigError(f"{name} is one of {', '.join(parts)}; not {value!r}")
    if origin is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        parts = parts[:1] * len(items) if parts[-1] is Ellipsis else parts
        if len(items) != len(parts):
            raise ConfigError(f"{name} takes {len(parts)} numbers like [1, 2]; not {value!r}")
        return tuple(_convert(item, part, name) for item, part in zip(items, parts, strict=True))
    if origin is not None:
        found = list(value.values()) if isinstance(value, Mapping) else [None]
        if not all(isinstance(part, Mapping) for part in found):
            raise ConfigError(f"{name} holds settings by name, not {value!r}")
        return {str(key): dict(part) for key, part in value.items()}
    if hint is Schedule:
        return Schedule.constant(_convert(value, float, name))
    if hint is float and not isinstance(value, bool) and value is not None:
        with suppress(TypeError, ValueError, OverflowError):
            return float(value)  # even text, since YAML parses 1e-3, unlike 1.0e-3, as text
    elif hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    elif type(value) is hint:
        return value
    kinds = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    raise ConfigError(f"{name} takes {kinds[hint]}, not {value!r}")


def _check_range(value: Any, metadata: Mapping[str, Any], name: str) -> None:
    low, high = metadata.get("low"), metadata.get("high")
    if isinstance(value, Schedule):
        value = (value.start, value.end)
    elif isinstance(value, tuple) and len(value) == 2 and value[0] > value[1]:
        raise ConfigError(f"{name}: {value[0]} is greater than {value[1]}")
    least, most = -math.inf if low is None else low, math.inf if high is None else high
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, (int, float)) and not least <= number <= most:  # NaN, too
            bounds = f"at least {low}" if high is None else f"between {low} and {high}"
            raise ConfigError(f"{name} must be {bounds}, not {number:g}")


def _check_across(config: Config) -> None:
    """Check constraints between settings. Raises ConfigError."""
    for part in dataclasses.fields(config):
        section = getattr(config, part.name)
        if isinstance(section, Section):
            try:
                section.check()
            except ValueError as error:
                raise ConfigError(f"{part.name}: {error}") from None
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", config.device):
        raise ConfigError(f"device is auto, cpu, cuda, cuda:N or mps; not {config.device!r}")
    if (config.camera.fov_y_deg is None) == (config.camera.focal_length is None):
        raise ConfigError(
            "camera.fov_y_deg and camera.focal_length are alternatives: one of them must be null"
        )
