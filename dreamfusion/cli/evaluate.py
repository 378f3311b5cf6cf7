"""`evaluate`: how good runs are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dreamfusion.cli.console import Console
from dreamfusion.cli.options import JsonOption, QuietOption
from dreamfusion.runs.folder import RunFolder, find_run
from dreamfusion.utils.atomic_write import atomic_write
from dreamfusion.utils.errors import UserError

if TYPE_CHECKING:
    from dreamfusion.evaluation.rows import Row, Subject

CHOOSER = "toy-b"  # picks the best of several seeds; another judge says how good that one is


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
            help="Texts to find a prompt among, one a line. [default: the other prompts; for the "
            "toy judges all 624 pairs of noun and colour]",
        ),
    ] = None,
    chosen_by: Annotated[
        str | None,
        typer.Option(
            metavar="JUDGE",
            help="Who picks the best of several seeds. [default: toy-b, for the toy judge]",
        ),
    ] = None,
    views: Annotated[int, typer.Option(min=1, max=360, help="Pictures around each object.")] = 8,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="NAME",
            help="Writes NAME.csv and NAME.json. [default: DIR/evaluation of a batch]",
        ),
    ] = None,
    quiet: QuietOption = False,
    json_: JsonOption = False,
) -> None:
    """Show runs to a judge: is the prompt found, how many fronts are there, is the mesh whole?"""
    console = Console(quiet=quiet, json=json_)
    subjects = [subject for path in paths for subject in subjects_in(path)]
    from dreamfusion.batch.prompts import read_entries
    from dreamfusion.evaluation.judges import choose_judge
    from dreamfusion.evaluation.rows import write_beside_run
    from dreamfusion.evaluation.summary import best_of, summarise
    from dreamfusion.evaluation.table import as_csv, as_json, for_terminal, mean_line

    prompts = list(dict.fromkeys(subject.prompt for subject in subjects))
    name = choose_judge(prompts) if judge == "auto" else judge
    if len({(one.prompt, one.seed) for one in subjects}) == len(prompts):
        chosen_by = None
    elif chosen_by is None and name == "toy":
        chosen_by = CHOOSER
    if chosen_by == name:
        raise UserError(f"{name} cannot choose the best and say how good it is: name another judge")
    texts = None if distractors is None else [e.prompt for e in read_entries(str(distractors))]
    names = [name] if chosen_by is None else [name, chosen_by]
    rows, *others = judged(console, names, subjects, texts, views=views)
    for row, subject in zip(rows, subjects, strict=True):
        if subject.problem is None:
            write_beside_run(row)
    kept = {"all seeds": rows}
    for chooser in others:
        margins = {row.run: row.margin for row in chooser}
        kept[f"best seed of each prompt, chosen by {chosen_by}"] = best_of(
            rows,
            lambda row: margins[row.run],  # noqa: B023 -- called at once
            among=lambda row: (row.prompt, row.variant),
        )
    means = {title: summarise(group) for title, group in kept.items()}
    for variant in dict.fromkeys(row.variant for row in rows if row.variant):
        for title, group in kept.items():
            of_it = [row for row in group if row.variant == variant]
            means[f"{title}, {variant}"] = summarise(of_it)
    for line in for_terminal(rows):
        console.say(line)
    for title, found in means.items():
        said = ", ".join(mean_line(figure, mean) for figure, mean in found.items())
        console.say(f"{title}: {said or 'nothing could be measured'}")
    target = out
    if out is None and len(paths) == 1 and (paths[0] / "jobs").is_dir():
        target = paths[0] / "evaluation"
    texts_of_files = {".csv": as_csv(rows), ".json": as_json(rows, means)}
    written = [] if target is None else _write(target, texts_of_files)
    for file in written:
        console.say(f"table     {file}")
    console.result(
        {
            "rows": [vars(row) for row in rows],
            "means": {t: {k: vars(mean) for k, mean in m.items()} for t, m in means.items()},
            "files": written,
        }
    )


def subjects_in(path: Path) -> list[Subject]:
    """The run in a folder, or those of a batch there. Raises UserError where there is neither."""
    from dreamfusion.batch.jobs import State, find_shelf, read_json
    from dreamfusion.config.layers import flat
    from dreamfusion.evaluation.rows import Subject

    if (path / "config.yaml").is_file() or not (path / "jobs").is_dir():
        run = find_run(path)
        config = run.read_config()
        return [Subject(run, config.prompt, config.seed)]
    found = []
    for folder in find_shelf(path).jobs().values():
        job, state, done = folder.read(), folder.state(), read_json(folder.done_file)
        is_done = state is State.done
        found.append(
            Subject(
                folder.result if is_done else RunFolder(folder.path / "run"),
                job.prompt,
                job.seed,
                done.get("seconds"),
                done.get("peak_gib"),
                None if is_done else f"the job is not done: {state.value}",
                dict(flat(job.settings or {})),
            )
        )
    if not found:
        raise UserError(f"{path} holds no jobs")
    return found


def judged(
    console: Console,
    names: Sequence[str],
    subjects: Sequence[Subject],
    texts: Sequence[str] | None,
    *,
    views: int,
) -> list[list[Row]]:
    """The rows of all runs, by each of the judges of these names.

    texts: to find prompts among; None: all that a judge knows, or else the other prompts.
    """
    from dreamfusion.evaluation.judges import load_judge
    from dreamfusion.evaluation.rows import judge_run, variants_of

    prompts = list(dict.fromkeys(subject.prompt for subject in subjects))
    judges = [load_judge(name) for name in names]
    with_texts = [(one, one.distractors() or prompts if texts is None else texts) for one in judges]
    shown = zip(
        console.track(subjects, len(subjects), "judged"), variants_of(subjects), strict=True
    )
    rows = [judge_run(one, with_texts, variant=variant, views=views) for one, variant in shown]
    return [list(column) for column in zip(*rows, strict=True)]


def _write(target: Path, texts: dict[str, str]) -> list[Path]:
    """Write each text to the target with its suffix; the files."""
    written = []
    for suffix, text in texts.items():
        file = target.with_name(target.name + suffix)
        with atomic_write(file) as part:
            part.write_text(text, encoding="utf-8")
        written.append(file)
    return written
