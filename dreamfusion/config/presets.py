"""Presets: the files in `configs/`, each with only its differences from its base."""

import difflib
from pathlib import Path

from dreamfusion.config.layers import ConfigError, Layer, read_yaml
from dreamfusion.utils.resources import shipped


def preset_names() -> list[str]:
    """The names of all presets, sorted."""
    return sorted(path.stem for path in shipped("configs").glob("*.yaml"))


def tuned_preset(preset: str, *choices: str) -> str:
    """The preset tuned for a scene and an estimator: PRESET-SCENE-ESTIMATOR, PRESET-SCENE or
    PRESET-ESTIMATOR if they exist; else `preset`."""
    for choice in choices:
        if (tuned := f"{preset}-{choice}") in preset_names():
            preset = tuned
    return preset


def describe_preset(name: str) -> str:
    """The description of a preset, from the first line of its file. Raises ConfigError."""
    return _path(name).read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()


def read_settings(name_or_file: str) -> list[Layer]:
    """The layers of a settings file (any existing file, or a name ending in .yaml or .yml) or of a
    preset, lowest first: a base named by `extends` precedes the file that extends it. Raises
    ConfigError if there is no such file or preset, or if presets extend each other."""
    path = Path(name_or_file)
    if path.is_file() or path.suffix in (".yaml", ".yml"):
        return _read(path, f"file {name_or_file}", [])
    return _read(_path(name_or_file), f"preset {name_or_file}", [])


def _read(path: Path, name: str, extending: list[str]) -> list[Layer]:
    """The layers of one file. extending: the names of the files that extend it."""
    if name in extending:
        raise ConfigError(f"{' extends '.join([*extending, name])}: presets extend each other")
    settings = read_yaml(path)
    base = settings.pop("extends", None)
    if base is None:
        return [Layer(name, settings)]
    if not isinstance(base, str):
        raise ConfigError(f"{path}: extends takes the name of a preset, not {base!r}")
    return [*_read(_path(base), f"preset {base}", [*extending, name]), Layer(name, settings)]


def _path(name: str) -> Path:
    names = preset_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"
        raise ConfigError(f"no preset and no file {name}; {hint}")
    return shipped("configs") / f"{name}.yaml"
