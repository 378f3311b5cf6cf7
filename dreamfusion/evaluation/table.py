"""Formats rows for a terminal, as CSV and as JSON."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, astuple
from typing import Any

from dreamfusion.evaluation.evaluate import Evaluation
from dreamfusion.evaluation.rows import COLUMNS, Row
from dreamfusion.evaluation.summary import Mean

_IF_PRESENT = ("variant", "iou", "color_error")  # columns that need a value in some row
_SHORT = {
    "prompt": "prompt", "seed": "seed", "variant": "settings",
    "r1_color": "R@1 color", "r1_shaded": "shaded", "r1_geometry": "geometry",
    "margin": "margin", "fronts": "fronts", "pieces": "pieces", "watertight": "closed",
    "mesh_psnr_db": "mesh dB", "iou": "IoU", "color_error": "color error",
    "seconds": "seconds", "gib": "GiB",
}  # fmt: skip
_DIGITS = {"seconds": 0, "iou": 2, "color_error": 3}


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
