"""The page as a whole: one run, or several side by side. It loads nothing from anywhere."""

from __future__ import annotations

import base64
import datetime
import hashlib
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from dreamfusion.report import parts
from dreamfusion.report.gather import RunReport, thin
from dreamfusion.utils.version import __version__

GENERATOR = '<meta name="generator" content="dreamfusion report">'
_HERE = files("dreamfusion.report")
_PREVIEWS_BESIDE_OTHERS = 4


def page(runs: Sequence[RunReport]) -> str:
    """A report on these runs as one HTML document."""
    title = " · ".join(dict.fromkeys(run.config.prompt for run in runs))
    return document(title, _one(runs[0]) if len(runs) == 1 else _several(runs), "viewer.js")


def document(title: str, body: str, script_file: str) -> str:
    """An HTML document with our style and one script of this folder, which loads nothing."""
    style = (_HERE / "style.css").read_text(encoding="utf-8")
    script = (_HERE / script_file).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # Nothing may be fetched, and no script may run but ours.
    policy = (
        "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{GENERATOR}\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title>\n'
        f"<style>{style}</style></head>\n"
        f"<body>{body}<footer>written by dreamfusion {__version__}, {now}</footer>\n"
        f"<script>{script}</script></body></html>\n"
    )


def _one(run: RunReport) -> str:
    turntables = parts.videos(run, run.videos[:1])
    return (
        f'<header><p class="eyebrow">{escape(run.name)}</p>'
        f"<h1>{escape(run.config.prompt)}</h1>{parts.chips(run)}{parts.notes(run, 'run')}</header>"
        '<main><div class="hero">'
        f'<section class="card">{parts.viewer(run, "model-0")}</section>'
        f'<section class="card">{turntables}{parts.notes(run, "video")}</section></div>'
        + _section("Also rendered", _row(parts.videos(run, run.videos[1:])))
        + _section("Mesh", parts.checks(run), run.model_file or "")
        + _section("Judged", parts.judgement(run), str(run.judged.get("judge", "")))
        + _section("On the way", parts.previews(run.previews) + parts.notes(run, "previews"))
        + _section("Curves", parts.curves([run]) + parts.notes(run, "metrics"))
        + _section("Time", parts.timings(run))
        + _section("Settings", parts.own_settings(run))
        + _section("Make it again", f"<pre>{escape(parts.again(run))}</pre>")
        + "</main>"
    )


def _several(runs: Sequence[RunReport]) -> str:
    prompts = list(dict.fromkeys(run.config.prompt for run in runs))
    title = prompts[0] if len(prompts) == 1 else f"{len(runs)} runs"
    columns = "".join(_column(run, i) for i, run in enumerate(runs))
    legend = "".join(f"<li>{parts.dot(i)}{escape(run.name)}</li>" for i, run in enumerate(runs))
    broken = "".join(
        f"<div>{parts.dot(i)}{escape(run.name)}: {notes}</div>"
        for i, run in enumerate(runs)
        if (notes := parts.notes(run, "metrics"))
    )
    return (
        f'<header><p class="eyebrow">{len(runs)} runs side by side</p>'
        f"<h1>{escape(title)}</h1></header><main>"
        f'<div class="columns" style="--n:{len(runs)}">{columns}</div>'
        + _section("Curves", f'<ul class="chips legend">{legend}</ul>{parts.curves(runs)}{broken}')
        + _section("Settings that differ", parts.compared_settings(runs))
        + "</main>"
    )


def _column(run: RunReport, i: int) -> str:
    """A run among others; every column has the same rows, which a subgrid aligns."""
    last = parts.previews(thin(run.previews, _PREVIEWS_BESIDE_OTHERS))
    rows = (
        f'<p class="eyebrow">{parts.dot(i)}{escape(run.name)}</p><h2>{escape(run.config.prompt)}'
        f"</h2>{parts.chips(run)}{parts.notes(run, 'run')}",
        parts.viewer(run, f"model-{i}"),
        parts.videos(run, run.videos[:1]) + parts.notes(run, "video"),
        parts.checks(run) + parts.judgement(run),
        last + parts.notes(run, "previews"),
        parts.timings(run),
    )
    return f'<article class="card">{"".join(f"<div>{row}</div>" for row in rows)}</article>'


def _section(title: str, content: str, aside: str = "") -> str:
    if not content:
        return ""
    beside = f" <small>{escape(aside)}</small>" if aside else ""
    return f'<section class="card"><h2>{escape(title)}{beside}</h2>{content}</section>'


def _row(content: str) -> str:
    return f'<div class="row">{content}</div>' if content else ""
