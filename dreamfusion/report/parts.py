"""Computes the content of the pages, as text for the templates."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamfusion.config.layers import read_yaml, settings, to_mapping
from dreamfusion.config.nested import find
from dreamfusion.config.schedules import Schedule
from dreamfusion.config.schema import Config
from dreamfusion.report.curves import Series, chart, number
from dreamfusion.report.gather import RunReport
from dreamfusion.utils.commands import command
from dreamfusion.utils.duration import duration as whole_seconds

METRICS: dict[str, list[str]] = read_yaml(Path(__file__).with_name("metrics.yaml"))
_JUDGED = {
    "r1_color": "R@1, color", "r1_shaded": "R@1, shaded", "r1_geometry": "R@1, geometry",
    "margin": "Margin", "fronts": "Fronts",
}  # fmt: skip


def judged_facts(judged: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The available metrics of a judge, as (name, text) pairs."""
    found = []
    for key, name in _JUDGED.items():
        value = judged.get(key)
        if isinstance(value, (int, float)):
            found.append((name, f"{value:.0%}" if key.startswith("r1") else f"{value:.3g}"))
    return found


def timing_facts(run: RunReport) -> list[tuple[str, str]]:
    """Durations of the steps, and of each stage of the process that finished the run."""
    seconds = run.step_seconds
    return [
        ("All steps", duration(sum(seconds))),
        ("Step, median", f"{number(statistics.median(seconds))} s"),
        ("Step, longest", f"{number(max(seconds))} s"),
        ("First step", f"{number(seconds[0])} s"),
        *((stage.capitalize(), duration(took)) for stage, took in run.stages.items()),
    ]


def curves(runs: Sequence[RunReport]) -> tuple[list[tuple[str, str, str]], list[str]]:
    """The (title, caption, chart) of each varying metric, over all runs, and a text for each
    constant metric."""
    known = {name for run in runs for name in run.curves}
    names = [name for name in METRICS if name in known] + sorted(known - set(METRICS))
    charts, constant = [], []
    for name in names:
        title, caption = METRICS.get(name, (name, ""))
        series = [
            Series(run.name, i, run.curves[name].steps, run.curves[name].values)
            for i, run in enumerate(runs)
            if name in run.curves
        ]
        values = {value for curve in series for value in curve.values}
        if len(values) == 1:
            constant.append(f"{title} {number(values.pop())}")
        else:
            charts.append((title, caption, chart(series, title)))
    return charts, constant


def own_settings(run: RunReport) -> list[dict[str, Any]]:
    """All settings of a run, each with its default, its layer and its documentation."""
    defaults = {name: value for name, value, _ in settings(Config())}
    return [
        {
            "name": name,
            "value": _value(value),
            "default": _value(defaults.get(name, "")),
            "source": run.sources.get(name, ""),
            "doc": doc,
            "differs": value != defaults.get(name),
        }
        for name, value, doc in settings(run.config)
    ]


def again(run: RunReport) -> str:
    """The command that repeats a run, on any machine: it names no file of the run."""
    words = [run.config.prompt]
    preset = next((s for s in run.sources.values() if s.startswith("preset ")), None)
    words += [] if preset is None else ["--config", preset.removeprefix("preset ")]
    values = to_mapping(run.config)
    for name, source in run.sources.items():
        if name != "prompt" and not source.startswith(("preset ", "prior ")):
            words += ["--set", f"{name}={json.dumps(find(values, name))}"]
    return command("train", *words)


def compared_settings(runs: Sequence[RunReport]) -> list[dict[str, Any]]:
    """All settings: whether they differ between runs, and for each run the value and whether it
    differs from the default."""
    defaults = {name: value for name, value, _ in settings(Config())}
    by_run = [{name: value for name, value, _ in settings(run.config)} for run in runs]
    rows = []
    for name in dict.fromkeys(name for values in (defaults, *by_run) for name in values):
        # Estimators and scenes of different kinds have different settings.
        default, values = defaults.get(name, ""), [values.get(name, "") for values in by_run]
        cells = [(_value(value), value != default) for value in values]
        differs = any(value != values[0] for value in values)
        rows.append({"name": name, "cells": cells, "differs": differs})
    return rows


def duration(seconds: float) -> str:
    """A duration as text; with two digits below ten seconds: "8.1 s"."""
    return f"{seconds:.2g} s" if seconds < 10 else whole_seconds(seconds)


def _value(value: Any) -> str:
    """The text of a setting, as for --set; a schedule as "start → end"."""
    if isinstance(value, Schedule):
        if value.is_constant:
            return number(value.start)
        unit = "" if value.unit == "fraction" else " steps"
        when = f" ({value.begin:g}–{value.finish:g}{unit})"
        whole = (value.begin, value.finish, value.unit) == (0.0, 1.0, "fraction")
        return f"{value.start:g} → {value.end:g}{'' if whole else when}"
    if isinstance(value, tuple):
        return f"[{', '.join(f'{part:g}' for part in value)}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value) or "\N{NO-BREAK SPACE}"
