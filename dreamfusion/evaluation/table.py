"""Rows as text: for a terminal, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from dreamfusion.evaluation.rows import COLUMNS, Row
from dreamfusion.evaluation.summary import Mean

_SHORT = {
    "prompt": "prompt", "seed": "seed", "variant": "settings",
    "r1_color": "R@1 color", "r1_shaded": "shaded", "r1_geometry": "geometry",
    "rank": "rank", "margin": "margin", "worst_margin": "worst",
    "fronts": "fronts", "pieces": "pieces", "watertight": "closed", "mesh_psnr_db": "mesh dB",
    "seconds": "seconds", "gib": "GiB",
}  # fmt: skip


def for_terminal(rows: Sequence[Row]) -> list[str]:
    """Aligned lines: the head, then one for each row, with the reason where figures are missing."""
    names = [name for name in _SHORT if name != "variant" or any(row.variant for row in rows)]
    cells = [[_SHORT[name] for name in names]]
    cells += [[_cell(name, getattr(row, name)) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for line, reason in zip(cells, ["", *(row.reason for row in rows)], strict=True):
        text = [line[0].ljust(widths[0])]
        text += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        lines.append("  ".join([*text, reason]).rstrip())
    return lines


def mean_line(name: str, mean: Mean) -> str:
    """A mean with its confidence interval, as people read it."""
    scale, unit = (100.0, "%") if name.startswith("r1") else (1.0, "")
    half = "" if mean.half_width is None else f" ± {scale * mean.half_width:.1f}"
    return f"{name} {scale * mean.value:.1f}{half}{unit}"


def as_csv(rows: Sequence[Row]) -> str:
    """Every column of every row."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return out.getvalue()


def as_json(rows: Sequence[Row], summaries: Mapping[str, Mapping[str, Mean]]) -> str:
    """The rows and the means of them."""
    means = {
        title: {name: vars(mean) for name, mean in found.items()}
        for title, found in summaries.items()
    }
    return json.dumps({"rows": [asdict(row) for row in rows], "means": means}, indent=1) + "\n"


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.startswith("r1"):
        return f"{value:.0%}"
    if isinstance(value, float):
        return f"{value:.0f}" if name == "seconds" else f"{value:.2f}"
    return str(value)
