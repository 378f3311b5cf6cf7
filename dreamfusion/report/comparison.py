"""The results of a comparison: for a terminal, as JSON, and as a page with plots and images."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import imageio.v3 as iio

from dreamfusion.evaluation.comparison import Comparison, Figure
from dreamfusion.evaluation.evaluate import aligned, csv_text, with_interval
from dreamfusion.report.curves import Series, chart
from dreamfusion.report.page import data_uri, document
from dreamfusion.utils.files import write_text

# Heads, digits, and whether more is better; None: neither.
_COLUMNS: dict[str, tuple[str, int, bool | None]] = {
    "iou": ("IoU", 3, True),
    "color_error": ("colour error", 3, False),
    "normal_error_deg": ("normals, °", 1, False),
    "saturation": ("saturation", 3, None),
    "r1_shaded": ("R@1", 2, True),
    "one_front": ("one front", 2, True),
    "diversity": ("diversity", 3, None),
    "noun": ("noun", 2, True),
    "color": ("colour", 2, True),
    "side": ("side", 2, True),
    "psnr": ("PSNR, dB", 1, True),
    "energy": ("energy distance", 3, False),
    "seconds": ("seconds", 0, False),
    "gib": ("GiB", 2, False),
}
_PLOTS = ("iou", "color_error", "normal_error_deg", "saturation", "noun", "energy")


def as_lines(found: Comparison) -> list[str]:
    """An aligned table: means, and in brackets the differences whose interval excludes zero."""
    heads, table = _table(found)
    cells = [["method", "evaluations", *heads, "runs"]]
    for row in table:
        texts = [cell["short"] for cell in row["cells"]]
        cells.append([row["method"], str(row["budget"]), *texts, row["runs"]])
    note = f"(+x): difference from {found.reference} whose 95 % interval excludes zero"
    return [*aligned(cells, str.ljust), note, *problems(found)]


def as_json(found: Comparison) -> str:
    """All rows and figures."""
    content = [
        {
            "method": method,
            "evaluations": budget,
            "figures": {name: asdict(figure) for name, figure in figures.items()},
            "rows": [row._asdict() for row in found.rows[method, budget]],
        }
        for (method, budget), figures in found.figures.items()
    ]
    whole = {"reference": found.reference, "methods": content}
    return json.dumps(whole, indent=1, default=str) + "\n"


def as_csv(found: Comparison) -> str:
    """A line for each prompt and seed of each method."""
    every = [(*key, row) for key, rows in found.rows.items() for row in rows]
    names = list(dict.fromkeys(name for *_, row in every for name in row.values))
    lines = [
        [method, budget, row.prompt, row.seed, *map(row.values.get, names), row.reason]
        for method, budget, row in every
    ]
    return csv_text(["method", "evaluations", "prompt", "seed", *names, "reason"], lines)


def write_comparison(found: Comparison, folder: Path) -> tuple[list[str], list[Path]]:
    """Write comparison.html, .csv and .json. Returns the lines for a terminal and the files."""
    files = []
    texts = {"html": comparison_page(found), "csv": as_csv(found), "json": as_json(found)}
    for ending, text in texts.items():
        files.append(folder / f"comparison.{ending}")
        write_text(files[-1], text)
    return as_lines(found), files


def comparison_page(found: Comparison) -> str:
    """The comparison as one HTML document that works offline."""
    heads, table = _table(found)
    prompts = list(dict.fromkeys(row.prompt for rows in found.rows.values() for row in rows))
    return document(
        "comparison.html",
        "comparison of methods",
        None,
        heads=heads,
        table=table,
        reference=found.reference,
        charts=_charts(found),
        prompts=prompts,
        sheet=_sheet(found, prompts),
        problems=problems(found),
    )


def problems(found: Comparison) -> list[str]:
    """A line for each run that could not be measured."""
    return [
        f"{method}, {row.prompt}, seed {row.seed}: {row.reason}"
        for (method, _), rows in found.rows.items()
        for row in rows
        if row.reason
    ]


def _table(found: Comparison) -> tuple[list[str], list[dict[str, Any]]]:
    """The heads of the figures that some method has, and a row for each method and budget."""
    known = {name for figures in found.figures.values() for name in figures}
    names = [name for name in _COLUMNS if name in known]
    table = []
    for (method, budget), figures in found.figures.items():
        cells = [_cell(name, figures.get(name)) for name in names]
        rows = found.rows[method, budget]
        measured, runs = sum(not row.reason for row in rows), str(len(rows))
        runs = runs if measured == len(rows) else f"{measured} of {runs}"
        table.append({"method": method, "budget": budget, "cells": cells, "runs": runs})
    return [_COLUMNS[name][0] for name in names], table


def _cell(name: str, figure: Figure | None) -> dict[str, str]:
    """A cell: the mean, the difference and its style; and both for a terminal."""
    if figure is None:
        return {"value": "-", "difference": "", "style": "", "short": "-"}
    _, digits, more_is_better = _COLUMNS[name]
    change, style, text = figure.difference, "", ""
    short = f"{figure.mean.value:.{digits}f}"
    if change is not None:
        text = with_interval(change, digits, sign="+")
        if change.half_width is not None and abs(change.value) > change.half_width:
            short += f" ({change.value:+.{digits}f})"
            if more_is_better is not None:
                style = "better" if (change.value > 0) is more_is_better else "worse"
    value = with_interval(figure.mean, digits)
    return {"value": value, "difference": text, "style": style, "short": short}


def _charts(found: Comparison) -> list[tuple[str, str, str]]:
    """Title, caption and plot of figures over evaluations, if there are several numbers of them."""
    methods = list(dict.fromkeys(method for method, _ in found.figures))
    charts = []
    for name in _PLOTS:
        points: dict[str, list[tuple[int, float]]] = {method: [] for method in methods}
        for (method, budget), figures in sorted(found.figures.items()):
            if name in figures:
                points[method].append((budget, figures[name].mean.value))
        series = [
            Series(method, i, *zip(*points[method], strict=True))
            for i, method in enumerate(methods)
            if len(points[method]) > 1
        ]
        if series:
            title = _COLUMNS[name][0]
            charts.append((title, "over network evaluations", chart(series, title)))
    return charts


def _sheet(found: Comparison, prompts: Sequence[str]) -> list[tuple[str, list[str | None]]]:
    """For each method, with the most evaluations: the second view of the first seed of each prompt,
    as a data URI."""
    sheet = []
    for method, budget in dict(sorted(found.rows, key=lambda key: key[1])).items():
        pictures: dict[str, str] = {}
        for row in sorted(found.rows[method, budget], key=lambda row: row.seed):
            if row.prompt not in pictures and row.images is not None:
                views = row.views(min(1, row.looks - 1))  # shaded, if there are several looks
                shown = views[:, len(views) : 2 * len(views)]
                png = iio.imwrite("<bytes>", shown, extension=".png")
                pictures[row.prompt] = data_uri("image/png", png)
        sheet.append((method, [pictures.get(prompt) for prompt in prompts]))
    return sheet
