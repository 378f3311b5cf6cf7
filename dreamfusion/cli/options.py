"""Arguments and options that several commands share, and what their choices are."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

import typer

USER_ERROR = 2  # the exit code of what the user can mend

PromptArgument = Annotated[str, typer.Argument(help='What to make, like "a corgi".')]
RunArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a run.")]
StepsOption = Annotated[int | None, typer.Option(help="Optimisation steps in all.")]
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
ViewOption = Annotated[
    bool, typer.Option("--view", help="Show the run in the browser while it trains.")
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", help="Print only the paths of what was written.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object; all else goes to standard error.")
]


MeshFormat = Literal["glb", "obj", "ply", "stl", "usdz"]
# The middle of a mesh's box, of the box's base, or the scene's.
OriginChoice = Literal["center", "base", "scene"]
# What a picture shows; grid: the others side by side.
Mode = Literal["color", "normals", "depth", "textureless", "grid"]
ImageFormat = Literal["mp4", "gif", "webp", "png"]


class Keep(str, Enum):
    """What of several seeds is singled out."""

    all = "all"
    best = "best"


KeepOption = Annotated[
    Keep, typer.Option(help="best: judge the seeds of each prompt, link the best one.")
]
ChooserOption = Annotated[
    str | None,
    typer.Option(
        "--judge", metavar="JUDGE", help="Who picks the best, as in `evaluate`. [default: toy-b]"
    ),
]
