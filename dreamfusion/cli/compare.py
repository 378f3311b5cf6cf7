"""The command `compare`: estimators at equal numbers of network evaluations."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dreamfusion.batch.jobs import BatchFolder
from dreamfusion.cli import options
from dreamfusion.cli.batch import make
from dreamfusion.cli.console import Console
from dreamfusion.config.layers import parse_assignments
from dreamfusion.utils.errors import UserError

Task = Literal["objects", "images"]


def compare(
    methods: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[METHOD...]",
            help="Estimators, presets or settings files. [default: 14 estimators]",
        ),
    ] = None,
    task: Annotated[
        Task, typer.Option(help="What is made: 3D objects, or images, which needs no scene.")
    ] = "objects",
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the runs.")] = Path(
        "comparison"
    ),
    nouns: Annotated[
        str | None,
        typer.Option(metavar="NOUN,…", help="Nouns of the toy world. [default: 8 nouns]"),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per noun.")] = 2,
    seed: options.FirstSeedOption = 0,
    evaluations: Annotated[
        str, typer.Option(metavar="N,…", help="Network evaluations of each run.")
    ] = "2000",
    set_: options.SetOption = None,
    prior: options.PriorOption = None,
    on: options.PlaceOption = "here",
    jobs: options.JobsOption = None,
    retry_failed: options.RetryOption = False,
    quiet: options.QuietOption = False,
    json_: options.JsonOption = False,
) -> None:
    """Compare estimators at equal network evaluations with the objects of the toy world.

    Finished runs are kept: the same command continues a comparison, another one adds to it.
    """
    console = Console(quiet=quiet, json=json_)
    budgets = [int(text) if text.strip().isdecimal() else 0 for text in evaluations.split(",")]
    if min(budgets) < 1:
        raise UserError(f"--evaluations takes numbers such as 500,2000, not {evaluations!r}")
    from dreamfusion.evaluation.comparison import METHODS, NOUNS, compare, read_method
    from dreamfusion.evaluation.truth import prompt_of
    from dreamfusion.report.comparison import write_comparison

    folder = BatchFolder(out.resolve())
    chosen = [read_method(text) for text in methods or METHODS]
    prompts = [prompt_of(noun.strip()) for noun in (nouns or ",".join(NOUNS)).split(",")]
    settings = parse_assignments(set_ or [])
    common: dict[str, Any] = {"evaluations": budgets, "prior": prior, "settings": settings}
    if task == "images":
        if on == "ray" or jobs is not None or retry_failed:
            raise UserError("--on, --jobs and --retry-failed apply to --task objects only")
        from dreamfusion.evaluation.image_task import SAMPLING, measure_images

        every = [SAMPLING, *chosen]
        total = len(every) * len(budgets) * len(prompts) * seeds
        rows = measure_images(
            folder.path,
            every,
            prompts,
            seeds=range(seed, seed + seeds),
            track=lambda items: console.track(items, total, "distilled"),
            **common,
        )
    else:
        from dreamfusion.evaluation.comparison import measure_objects, plan_objects

        wanted = plan_objects(folder, chosen, prompts, seeds=seeds, seed=seed, **common)
        report = make(console, out, wanted, on=on, at_once=jobs, retry_failed=retry_failed)
        if not report["finished"]:
            console.say("stopped; the same command continues")
            raise typer.Exit(report["status"])
        total = len(folder.jobs())
        rows = measure_objects(folder, track=lambda items: console.track(items, total, "measured"))
    lines, files = write_comparison(compare(rows), out)
    for line in [*lines, *(f"table     {file}" for file in files)]:
        console.say(line)
    console.result({"files": files})
