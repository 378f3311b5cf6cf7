"""Computes the content of the pages, as text for the templates."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dreamfusion.config.layers import read_yaml, settings
from dreamfusion.config.schedules import Schedule
from dreamfusion.config.schema import Config
from dreamfusion.report.curves import Series, chart, number
from dreamfusion.report.gather import RunReport

METRICS: dict[str, list[str]] = read_yaml(Path(__file__).with_name("metrics.yaml"))


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
