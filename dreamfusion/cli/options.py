"""Arguments and options of several commands, and their choices."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

USER_ERROR = 2  # exit code of errors that the user can fix

PromptArgument = Annotated[str, typer.Argument(help='Object to make, such as "a corgi".')]
RunArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a run.")]
StepsOption = Annotated[int | None, typer.Option(help="Total optimisation steps.")]
DeviceOption = Annotated[
    str | None, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps.")
]
PriorOption = Annotated[
    str | None,
    typer.Option("--prior", metavar="PRIOR", help="auto, embedded, a diffusers folder or hub id."),
]
EstimatorOption = Annotated[
    str | None, typer.Option("--estimator", metavar="NAME", help="See `dreamfusion estimators`.")
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
QuietOption = Annotated[
    bool, typer.Option("--quiet", help="Print only the paths of written files.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object; logs go to standard error.")
]

MeshFormat = Literal["glb", "obj", "ply", "stl", "usdz"]
# The centre of a mesh's bounding box, of the box's lower side, or the scene's origin.
OriginChoice = Literal["center", "base", "scene"]
# Render modes; grid: all of them side by side.
Mode = Literal["color", "normals", "depth", "textureless", "grid"]
ImageFormat = Literal["mp4", "gif", "webp", "png"]
Place = Literal["here", "ray"]
# Which of several seeds to keep.
Keep = Literal["all", "best"]

FirstSeedOption = Annotated[int, typer.Option(min=0, help="The first seed.")]
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


def loras_of(options: Sequence[str] | None) -> dict[str, Any]:
    """The settings of --lora, with absolute paths: a run may be resumed from another folder."""
    if not options:
        return {}
    return {"prior": {"lora": [str(Path(text).expanduser().absolute()) for text in options]}}
