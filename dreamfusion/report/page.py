"""Renders the page of one run, or of several side by side. The page loads no other files."""

import base64
import datetime
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from dreamfusion.config.layers import read_yaml, settings
from dreamfusion.config.schedules import Schedule
from dreamfusion.config.schema import Config
from dreamfusion.report.curves import Series, chart, number, render
from dreamfusion.report.gather import RunReport, thin
from dreamfusion.utils.duration import duration
from dreamfusion.utils.version import __version__

GENERATOR = '<meta name="generator" content="dreamfusion report">'
METRICS: dict[str, list[str]] = read_yaml(Path(__file__).with_name("metrics.yaml"))
_HERE = files("dreamfusion.report")


def page(runs: Sequence[RunReport]) -> str:
    """A report on these runs as one HTML document."""
    prompts = list(dict.fromkeys(run.config.prompt for run in runs))
    title = " · ".join(prompts)
    charts, constant = curves(runs)
    return document(
        "run.html" if len(runs) == 1 else "runs.html",
        title,
        "viewer.js",
        charts=charts,
        constant=constant,
        runs=runs,
        run=runs[0],
        settings=settings_of(runs),
        heading=title if len(prompts) == 1 else f"{len(runs)} runs",
    )


def document(template: str, title: str, script_file: str | None, **content: object) -> str:
    """Render an HTML document with inlined style sheet and script. script_file: in this folder, or
    None for a page without a script."""
    script = (_HERE / script_file).read_text(encoding="utf-8") if script_file else ""
    return render(
        template,
        title=title,
        generator=GENERATOR,
        style=(_HERE / "style.css").read_text(encoding="utf-8"),
        script=script,
        digest=as_base64(hashlib.sha256(script.encode()).digest()),
        version=__version__,
        now=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        # Functions that the templates call.
        base64=as_base64,
        data_uri=data_uri,
        duration=duration,
        thin=thin,
        **content,
    )


def as_base64(data: bytes) -> str:
    """Encode bytes as text."""
    return base64.b64encode(data).decode()


def data_uri(kind: str, data: bytes) -> str:
    """Encode bytes as a data URI. kind: the MIME type."""
    return f"data:{kind};base64,{as_base64(data)}"


def curves(runs: Sequence[RunReport]) -> tuple[list[tuple[str, str, str]], list[str]]:
    """The (title, caption, chart) of each varying metric, over all runs, and a text for each
    constant metric."""
    known = {name for run in runs for name in run.curves}
    names = [name for name in METRICS if name in known] + sorted(known - set(METRICS))
    charts, constant = [], []
    for name in names:
        title, caption = METRICS.get(name, (name, ""))
        series = [
            Series(run.name, i, *run.curves[name])
            for i, run in enumerate(runs)
            if name in run.curves
        ]
        values = {value for curve in series for value in curve.values}
        if len(values) == 1:
            constant.append(f"{title} {number(values.pop())}")
        else:
            charts.append((title, caption, chart(series, title)))
    return charts, constant


def settings_of(runs: Sequence[RunReport]) -> list[dict[str, Any]]:
    """All settings, with their default and documentation, and for each run the value and whether it
    is not the default. source: the layer in the first run. differs: between runs, or for a single
    run, from the default."""
    defaults = {name: value for name, value, _ in settings(Config())}
    docs = {name: doc for run in runs for name, _, doc in settings(run.config)}
    by_run = [{name: value for name, value, _ in settings(run.config)} for run in runs]
    rows = []
    for name in docs:
        # Estimators and scenes of different kinds have different settings.
        default, values = defaults.get(name, ""), [values.get(name, "") for values in by_run]
        expected = default if len(runs) == 1 else values[0]
        rows.append(
            {
                "name": name,
                "doc": docs[name],
                "default": _value(default),
                "cells": [(_value(value), value != default) for value in values],
                "source": runs[0].sources.get(name, ""),
                "differs": any(value != expected for value in values),
            }
        )
    return rows


def _value(value: Any) -> str:
    """The text of a setting, as for --set; a schedule as "start → end"."""
    if isinstance(value, Schedule):
        if value.is_constant:
            return number(value.start)
        whole = (value.begin, value.finish) == (0.0, 1.0)
        when = "" if whole else f" ({value.begin:g}–{value.finish:g} {value.unit})"
        return f"{value.start:g} → {value.end:g}{when}"
    if isinstance(value, str):
        return value or "\N{NO-BREAK SPACE}"
    return json.dumps(value, default=str)
