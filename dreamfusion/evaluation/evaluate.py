"""Evaluates many runs: a row for each run, and means over groups of rows."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from dreamfusion.evaluation.judges import choose_judge, load_judge, read_pair
from dreamfusion.evaluation.rows import Row, judge_run, write_beside_run
from dreamfusion.evaluation.subjects import Subject, variants_of
from dreamfusion.evaluation.summary import Mean, best_of, summarise
from dreamfusion.utils.errors import UserError

CHOOSER = "toy-b"  # picks the best of several seeds, which another judge scores
# Yields the runs and shows the progress.
Track = Callable[[Sequence[Subject]], Iterable[Subject]]


class Evaluation(NamedTuple):
    """rows: one per run, by the chosen judge. means: by title, then by metric."""

    rows: list[Row]
    means: dict[str, dict[str, Mean]]


def evaluate(
    subjects: Sequence[Subject],
    judge: str = "auto",
    *,
    chosen_by: str | None = None,
    texts: Sequence[str] | None = None,
    views: int,
    truth: bool = False,
    track: Track = iter,
) -> Evaluation:
    """Evaluate runs, and save each row in the folder of its run.

    chosen_by: the judge that picks the best of several seeds. texts, views, truth: see
    `judged_rows`. track: shows progress. Raises UserError with a message of one line.
    """
    prompts = list(dict.fromkeys(subject.prompt for subject in subjects))
    if truth:
        for prompt in prompts:
            read_pair(prompt)  # raises if the toy world lacks it
    name = choose_judge(prompts) if judge == "auto" else judge
    if len({(one.prompt, one.seed) for one in subjects}) == len(prompts):
        chosen_by = None
    elif chosen_by is None and name == "toy":
        chosen_by = CHOOSER
    if chosen_by == name:
        raise UserError(f"{name} cannot both choose the best seed and score it: use another judge")
    names = [name] if chosen_by is None else [name, chosen_by]
    rows, *others = judged_rows(names, subjects, texts, views=views, truth=truth, track=track)
    for row, subject in zip(rows, subjects, strict=True):
        if subject.problem is None:
            write_beside_run(row)
    groups = {"all seeds": rows}
    for chooser in others:
        margins = {row.run: row.margin for row in chooser}
        groups[f"best seed of each prompt, chosen by {chosen_by}"] = best_of(
            rows,
            lambda row: margins[row.run],  # noqa: B023 -- called at once
            among=lambda row: (row.prompt, row.variant),
        )
    means = {title: summarise(group) for title, group in groups.items()}
    for variant in dict.fromkeys(row.variant for row in rows if row.variant):
        for title, group in groups.items():
            means[f"{title}, {variant}"] = summarise([r for r in group if r.variant == variant])
    for title, held_out in (("pairs seen in training", False), ("pairs held out", True)):
        of_them = [row for row in rows if row.held_out is held_out]
        if of_them and len(of_them) < len(rows):
            means[title] = summarise(of_them)
    return Evaluation(rows, means)


def judged_rows(
    judges: Sequence[str],
    subjects: Sequence[Subject],
    texts: Sequence[str] | None,
    *,
    views: int,
    truth: bool = False,
    track: Track = iter,
) -> list[list[Row]]:
    """For each judge, by name, the rows of all runs.

    texts: distractors for R-Precision; None takes all texts that a judge knows, or else the other
    prompts. truth: compare each mesh with the toy world's object. Raises JudgeError.
    """
    prompts = list(dict.fromkeys(subject.prompt for subject in subjects))
    loaded = [load_judge(name) for name in judges]
    with_texts = [(one, one.distractors() or prompts if texts is None else texts) for one in loaded]
    rows = [
        judge_run(subject, with_texts, variant=variant, views=views, truth=truth)
        for subject, variant in zip(track(subjects), variants_of(subjects), strict=True)
    ]
    return [list(column) for column in zip(*rows, strict=True)]
