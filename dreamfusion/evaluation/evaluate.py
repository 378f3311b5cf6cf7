"""Evaluates many runs: a row for each run, and means over groups of rows; both also as text, for a
terminal, as CSV and as JSON."""

import csv
import io
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any, NamedTuple

from dreamfusion.evaluation.judges import choose_judge, load_judge, read_pair
from dreamfusion.evaluation.rows import (
    COLUMNS,
    Row,
    Subject,
    judge_run,
    variants_of,
    write_beside_run,
)
from dreamfusion.utils.errors import UserError

FIGURES = (
    "r1_color", "r1_shaded", "r1_geometry", "margin", "iou", "color_error", "saturation",
    "normal_error_deg",
)  # fmt: skip

_IF_PRESENT = ("variant", "iou", "color_error")  # columns that need a value in some row
_SHORT = {
    "prompt": "prompt", "seed": "seed", "variant": "settings",
    "r1_color": "R@1 color", "r1_shaded": "shaded", "r1_geometry": "geometry",
    "margin": "margin", "fronts": "fronts", "pieces": "pieces", "watertight": "closed",
    "mesh_psnr_db": "mesh dB", "iou": "IoU", "color_error": "color error",
    "seconds": "seconds", "gib": "GiB",
}  # fmt: skip
_DIGITS = {"seconds": 0, "iou": 2, "color_error": 3}
CHOOSER = "toy-b"  # picks the best of several seeds, which another judge scores
# Yields the runs and shows the progress.
Track = Callable[[Sequence[Subject]], Iterable[Subject]]


@dataclass(frozen=True)
class Mean:
    """A mean over prompts of means over seeds, since seeds of one prompt are not independent
    samples. half_width: of the 95 % confidence interval over prompts; None for one prompt."""

    value: float
    half_width: float | None
    prompts: int
    runs: int


def clustered_mean(values: Iterable[tuple[str, float]]) -> Mean:
    """The mean of at least one (prompt, value), clustered by prompt (Student's t)."""
    from scipy.stats import t  # type: ignore[import-untyped]

    groups: dict[str, list[float]] = defaultdict(list)
    for prompt, value in values:
        groups[prompt].append(value)
    means = [statistics.fmean(group) for group in groups.values()]
    n = len(means)
    half = None
    if n > 1:
        half = float(t.ppf(0.975, n - 1)) * (statistics.stdev(means) / math.sqrt(n))
    return Mean(statistics.fmean(means), half, n, sum(len(group) for group in groups.values()))


def summarise(rows: Sequence[Row]) -> dict[str, Mean]:
    """The mean of each metric over the rows that have it."""
    columns = {
        name: [(row.prompt, float(v)) for row in rows if (v := getattr(row, name)) is not None]
        for name in FIGURES
    }
    return {name: clustered_mean(values) for name, values in columns.items() if values}


def best_of(
    rows: Sequence[Row],
    margin: Callable[[Row], float | None],
    *,
    among: Callable[[Row], Hashable] = lambda row: row.prompt,
) -> list[Row]:
    """The row with the greatest margin in each group of rows with the same `among`. Rows without a
    margin are skipped."""
    best: dict[Hashable, tuple[float, Row]] = {}
    for row in rows:
        value, key = margin(row), among(row)
        if value is not None and (key not in best or value > best[key][0]):
            best[key] = (value, row)
    return [row for _, row in best.values()]


class Evaluation(NamedTuple):
    """rows: one per run, by the chosen judge. means: by title, then by metric."""

    rows: list[Row]
    means: dict[str, dict[str, Mean]]


def for_terminal(rows: Sequence[Row]) -> list[str]:
    """Aligned lines: a header, then one line per row, with the reason for missing metrics."""
    names = [
        name
        for name in _SHORT
        if name not in _IF_PRESENT or any(getattr(row, name) not in (None, "") for row in rows)
    ]
    cells = [[_SHORT[name] for name in names]]
    cells += [[_cell(name, getattr(row, name)) for name in names] for row in rows]
    reasons = ["", *(row.reason for row in rows)]
    lines = zip(aligned(cells, str.rjust), reasons, strict=True)
    return [f"{line}  {reason}".rstrip() for line, reason in lines]


def aligned(cells: Sequence[Sequence[str]], align: Callable[[str, int], str]) -> list[str]:
    """The rows of a table as lines. align: of the columns after the first; `str.rjust`, say."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *others in cells:
        texts = map(align, others, widths[1:])
        lines.append("  ".join([first.ljust(widths[0]), *texts]).rstrip())
    return lines


def mean_line(name: str, mean: Mean) -> str:
    """A mean with its confidence interval as text, such as "r1_color 87.5 ± 3.1%"."""
    scale, unit = (100.0, "%") if name.startswith("r1") else (1.0, "")
    digits = _DIGITS.get(name, 1)
    return f"{name} {with_interval(mean, digits, scale=scale)}{unit}"


def with_interval(mean: Mean, digits: int, *, scale: float = 1.0, sign: str = "") -> str:
    """A mean and half of its interval, if known: "87.5 ± 3.1". sign: "+" shows a plus, too."""
    half = "" if mean.half_width is None else f" ± {scale * mean.half_width:.{digits}f}"
    return f"{scale * mean.value:{sign}.{digits}f}{half}"


def as_csv(rows: Sequence[Row]) -> str:
    """All columns of all rows as CSV."""
    return csv_text(COLUMNS, [astuple(row) for row in rows])


def csv_text(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """A table with a header as CSV."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([head, *lines])
    return out.getvalue()


def as_mapping(found: Evaluation) -> dict[str, Any]:
    """The rows and their means as nested mappings."""
    means = {
        title: {name: vars(mean) for name, mean in group.items()}
        for title, group in found.means.items()
    }
    return {"rows": [asdict(row) for row in found.rows], "means": means}


def as_json(found: Evaluation) -> str:
    """The rows and their means as JSON."""
    return json.dumps(as_mapping(found), indent=1) + "\n"


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.startswith("r1"):
        return f"{value:.0%}"
    if isinstance(value, float):
        return f"{value:.{_DIGITS.get(name, 2)}f}"
    return str(value)


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
