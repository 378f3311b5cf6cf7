"""The commands `evaluate` and `compare`: metrics of runs, and estimators at equal cost."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dreamfusion.batch.jobs import BatchFolder
from dreamfusion.cli import options
from dreamfusion.cli.batch import make
from dreamfusion.cli.console import Console
from dreamfusion.config.layers import parse_assignments
from dreamfusion.utils.errors import UserError
from dreamfusion.utils.files import write_text

Task = Literal["objects", "images"]


def evaluate(
    paths: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders of runs or of batches.")
    ],
    judge: Annotated[
        str,
        typer.Option(
            "--judge",
            metavar="JUDGE",
            help="auto, toy, toy-b, b32, b16, l14, or a folder or hub id of CLIP or SigLIP.",
        ),
    ] = "auto",
    distractors: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Texts that each prompt competes with, one per line. [default: the other prompts; "
            "for the toy judges all 624 pairs of noun and colour]",
        ),
    ] = None,
    chosen_by: Annotated[
        str | None,
        typer.Option(
            metavar="JUDGE",
            help="Judge that picks the best of several seeds. [default: toy-b, for the toy judge]",
        ),
    ] = None,
    views: Annotated[int, typer.Option(min=1, max=360, help="Images around each object.")] = 8,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="NAME",
            help="Writes NAME.csv and NAME.json. [default: DIR/evaluation of a batch]",
        ),
    ] = None,
    truth: Annotated[
        bool,
        typer.Option(
            "--truth",
            help="Compare each mesh with the toy world's object: overlap (IoU), colour error.",
        ),
    ] = False,
    quiet: options.QuietOption = False,
    json_: options.JsonOption = False,
) -> None:
    """Evaluate runs: R-Precision by a judge, the number of fronts, and checks of the mesh."""
    console = Console(quiet=quiet, json=json_)
    from dreamfusion.batch.prompts import read_entries
    from dreamfusion.evaluation.evaluate import as_csv, as_json, as_mapping, for_terminal, mean_line
    from dreamfusion.evaluation.evaluate import evaluate as evaluate_runs
    from dreamfusion.evaluation.rows import subjects_in

    subjects = [subject for path in paths for subject in subjects_in(path)]
    texts = None if distractors is None else [e.prompt for e in read_entries(str(distractors))]
    track = partial(console.track, total=len(subjects), what="judged")
    found = evaluate_runs(
        subjects, judge, chosen_by=chosen_by, texts=texts, views=views, truth=truth, track=track
    )
    for line in for_terminal(found.rows):
        console.say(line)
    for title, means in found.means.items():
        values = ", ".join(mean_line(figure, mean) for figure, mean in means.items())
        console.say(f"{title}: {values or 'nothing could be measured'}")
    is_batch = len(paths) == 1 and (paths[0] / "jobs").is_dir()
    target = out or (paths[0] / "evaluation" if is_batch else None)
    files = []
    if target is not None:
        for suffix, text in ((".csv", as_csv(found.rows)), (".json", as_json(found))):
            files.append(target.with_name(target.name + suffix))
            write_text(files[-1], text)
            console.say(f"table     {files[-1]}")
    console.result(as_mapping(found) | {"files": files})


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
        raise UserError(f"--evaluations takes whole numbers such as 500,2000, not {evaluations!r}")
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
        numbers = range(seed, seed + seeds)
        total = len(every) * len(budgets) * len(prompts) * seeds
        track = partial(console.track, total=total, what="distilled")
        rows = measure_images(folder.path, every, prompts, seeds=numbers, track=track, **common)
    else:
        from dreamfusion.evaluation.comparison import measure_objects, plan_objects

        wanted = plan_objects(folder, chosen, prompts, seeds=seeds, seed=seed, **common)
        report = make(console, out, wanted, on=on, at_once=jobs, retry_failed=retry_failed)
        if not report["finished"]:
            console.say("stopped; the same command continues")
            raise typer.Exit(report["status"])
        track = partial(console.track, total=len(folder.jobs()), what="measured")
        rows = measure_objects(folder, track=track)
    lines, files = write_comparison(compare(rows), out)
    for line in [*lines, *(f"table     {file}" for file in files)]:
        console.say(line)
    console.result({"files": files})
