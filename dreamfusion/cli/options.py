"""Arguments and options of several commands, and their choices."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dreamfusion.config.layers import settings
from dreamfusion.config.presets import preset_names
from dreamfusion.config.schema import Config
from dreamfusion.config.sections import ESTIMATORS, section_names
from dreamfusion.utils.errors import UserError

USER_ERROR = 2  # exit code of errors that the user can fix


def _starting(names: Iterable[str], incomplete: str) -> list[str]:
    """For the shell's completion: the names that begin with these characters."""
    return [name for name in names if name.startswith(incomplete)]


def complete_settings(incomplete: str) -> list[tuple[str, str]]:
    """The settings that begin with these characters as KEY=, each with its documentation."""
    return [(f"{key}=", doc) for key, _, doc in settings(Config()) if key.startswith(incomplete)]


# Several words are joined, so that a prompt needs no quotes.
PromptArgument = Annotated[
    list[str], typer.Argument(metavar="PROMPT...", help="Object to make, such as: a corgi.")
]
RunArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a run.")]
StepsOption = Annotated[int | None, typer.Option(help="Total optimisation steps.")]
DeviceOption = Annotated[
    str | None, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps.")
]
PriorOption = Annotated[
    str | None,
    typer.Option("--prior", metavar="PRIOR", help="auto, embedded, a diffusers folder or hub id."),
]
ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="PRESET|FILE",
        help="See `dreamfusion configs`. [default: chosen by the prior]",
        autocompletion=lambda incomplete: _starting(preset_names(), incomplete),
    ),
]
EstimatorOption = Annotated[
    str | None,
    typer.Option(
        "--estimator",
        metavar="NAME",
        help="See `dreamfusion estimators`.",
        autocompletion=lambda incomplete: _starting(section_names(ESTIMATORS), incomplete),
    ),
]
SceneOption = Annotated[
    str | None, typer.Option("--scene", metavar="NAME", help="nerf or gaussians.")
]
LoraOption = Annotated[
    list[str] | None,
    typer.Option(
        "--lora", metavar="FILE[:WEIGHT]", help="LoRA to merge into the prior; can be repeated."
    ),
]
ViewOption = Annotated[
    bool, typer.Option("--view", help="Show the run in the browser while it trains.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="One setting; can be repeated.",
        autocompletion=complete_settings,
    ),
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", help="Print settings, metrics and the quality of the mesh.")
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", help="Print only the paths of written files.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object; logs go to standard error.")
]

MeshFormat = Literal["glb", "obj", "ply", "stl", "usdz", "3mf"]
# The centre of a mesh's bounding box, of the box's lower side, or the scene's origin.
OriginChoice = Literal["center", "base", "scene"]
# Render modes; grid: all of them side by side.
Mode = Literal["color", "normals", "depth", "textureless", "grid"]
ImageFormat = Literal["mp4", "gif", "webp", "png"]
Place = Literal["here", "ray"]
# Which of several seeds to keep.
Keep = Literal["all", "best"]

FirstSeedOption = Annotated[int, typer.Option(min=0, help="The first seed.")]
FileOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="FILE", help="File to write; its suffix is the format."),
]
PlaceOption = Annotated[Place, typer.Option(help="Run here or on a Ray cluster.")]
JobsOption = Annotated[
    int | None, typer.Option(min=1, help="Parallel jobs. [default: from cores, memory and GPUs]")
]
RetryOption = Annotated[bool, typer.Option("--retry-failed", help="Retry failed jobs.")]
KeepOption = Annotated[
    Keep, typer.Option(help="best: evaluate the seeds of each prompt, link the best one.")
]
ChooserOption = Annotated[
    str | None,
    typer.Option(
        "--judge", metavar="JUDGE", help="Judge that chooses, as in `evaluate`. [default: toy-b]"
    ),
]


def target_of(out: Path | None, format_: str | None, default: Path) -> Path:
    """The file to write: `out` if given, else `default`, with the suffix of the format if given.
    Raises UserError if `out` has another suffix."""
    path = default if out is None else out.expanduser()
    if format_ is None:
        return path if path.suffix else path.with_name(path.name + default.suffix)
    if out is not None and path.suffix.lower() not in ("", f".{format_}"):
        raise UserError(f"--format {format_} contradicts --out {out}: omit one of them")
    return path.with_suffix(f".{format_}")


def loras_of(options: Sequence[str] | None) -> dict[str, Any]:
    """The settings of --lora, with absolute paths: a run may be resumed from another folder."""
    if not options:
        return {}
    return {"prior": {"lora": [str(Path(text).expanduser().absolute()) for text in options]}}
