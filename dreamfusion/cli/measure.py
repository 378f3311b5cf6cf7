"""The command `measure`: experiments with the toy world, whose objects are known exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dreamfusion.cli.console import Console
from dreamfusion.config.layers import parse_assignments
from dreamfusion.utils.commands import command
from dreamfusion.utils.errors import UserError

app = typer.Typer(
    help="Experiments with the toy world, whose objects are known exactly. They separate errors of "
    "the prior from errors of the distillation.",
    rich_markup_mode=None,
)

NounsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="NOUN...", help="Nouns. [default: all 52]")
]


@app.command(epilog="Example: dreamfusion measure prompts > prompts.txt")
def prompts(
    nouns: Annotated[bool, typer.Option("--nouns", help="Print all 52 nouns.")] = False,
) -> None:
    """Print the 24 prompts of the quality benchmark, one per line, for `dreamfusion batch`."""
    from dreamfusion.evaluation import truth

    for prompt in truth.prompts(all_nouns=nouns):
        print(prompt)


@app.command(epilog="Example: dreamfusion measure oracle mug corgi --set estimator.t_min=0.02")
def oracle(
    nouns: NounsArgument = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the runs, one per noun.")
    ] = Path("runs/oracle"),
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting; can be repeated."),
    ] = None,
) -> None:
    """Train runs with an exact prior instead of the network. Finished runs are skipped."""
    settings = parse_assignments(set_ or [])
    chosen = _known(nouns)
    from dreamfusion.evaluation import oracle as exact
    from dreamfusion.mesh.extract import MeshError
    from dreamfusion.priors import DiffusionPrior
    from dreamfusion.runs.folder import RunFolder, slug

    console = Console()
    prior = DiffusionPrior.from_pretrained("embedded")
    runs = [RunFolder(out / slug(noun)) for noun in chosen]
    for noun, run in console.track(list(zip(chosen, runs, strict=True)), len(runs), "trained"):
        if run.video.exists():
            continue
        try:
            exact.train(noun, run.path, prior, settings)
        except MeshError as error:  # also a result: the evaluation reports it
            console.say(f"{noun}: {error}")
    paths = [run.path for run in runs]
    console.say(
        f"to evaluate  {command('evaluate', *paths, '--truth', '--out', out / 'evaluation')}"
    )


@app.command(epilog="Example: dreamfusion measure views --batch shelf")
def views(
    nouns: NounsArgument = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the table and the images.")
    ] = Path("runs/views"),
    batch: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A batch of the nouns in their own colours.")
    ] = None,
    prior: Annotated[
        str, typer.Option("--prior", metavar="PRIOR", help="embedded, or a folder.")
    ] = "embedded",
) -> None:
    """Classify images of the prior and of the scenes of a batch with the toy classifier, beside the
    true images. Images that the same prior drew earlier are reused."""
    chosen = _known(nouns)
    from dreamfusion.evaluation.views import validate

    print(validate(out, prior=prior, shelf=batch, nouns=chosen))


def _known(nouns: list[str] | None) -> list[str]:
    """The nouns, or all if none are given. Raises UserError for one that the toy world lacks."""
    from dreamfusion.toyworld import NOUNS

    known = [noun.name for noun in NOUNS]
    for noun in nouns or []:
        if noun not in known:
            raise UserError(
                f"the toy world has no {noun!r}; for its nouns: {command('vocabulary')}"
            )
    return nouns or known
