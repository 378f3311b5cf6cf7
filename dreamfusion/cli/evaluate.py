"""The command `evaluate`: metrics of runs."""

from pathlib import Path
from typing import Annotated

import typer

from dreamfusion.cli.console import Console
from dreamfusion.cli.options import JsonOption, QuietOption
from dreamfusion.utils.atomic_write import atomic_write


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
    quiet: QuietOption = False,
    json_: JsonOption = False,
) -> None:
    """Evaluate runs: R-Precision by a judge, the number of fronts, and checks of the mesh."""
    console = Console(quiet=quiet, json=json_)
    from dreamfusion.batch.prompts import read_entries
    from dreamfusion.evaluation.evaluate import as_csv, as_json, as_mapping, for_terminal, mean_line
    from dreamfusion.evaluation.evaluate import evaluate as evaluate_runs
    from dreamfusion.evaluation.rows import subjects_in

    subjects = [subject for path in paths for subject in subjects_in(path)]
    texts = None if distractors is None else [e.prompt for e in read_entries(str(distractors))]
    found = evaluate_runs(
        subjects,
        judge,
        chosen_by=chosen_by,
        texts=texts,
        views=views,
        truth=truth,
        track=lambda items: console.track(items, len(subjects), "judged"),
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
            with atomic_write(files[-1]) as part:
                part.write_text(text, encoding="utf-8")
            console.say(f"table     {files[-1]}")
    console.result(as_mapping(found) | {"files": files})
