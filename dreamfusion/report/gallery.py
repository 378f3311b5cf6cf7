"""The page of a whole batch: every object turning, what its judge says, its times, its report."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dreamfusion.batch.jobs import State, find_batch, read_json
from dreamfusion.batch.progress import Progress, progress_of
from dreamfusion.report import parts
from dreamfusion.report.page import document
from dreamfusion.runs.folder import RunFolder
from dreamfusion.utils.atomic_write import atomic_write

_SORTS = {
    "prompt": "prompt", "margin": "margin", "r1": "R@1", "fronts": "fronts", "seconds": "time",
    "seed": "seed",
}  # fmt: skip
_MOST_VIDEO = 4_000_000  # bytes; many of them make one page


@dataclass(frozen=True)
class Item:
    """A job as the gallery shows it. judged: its row of figures, empty where it was not judged.
    report: the run's own page, if it was written."""

    progress: Progress
    seconds: float | None
    video: bytes | None
    judged: Mapping[str, Any]
    report: Path | None
    best: bool


def write_gallery(shelf: Path, out: Path | None = None) -> Path:
    """Write the page of the batch in a folder, DIR/gallery.html where `out` is None; its path.

    Raises BatchError for a folder that holds no batch.
    """
    folders = find_batch(shelf).jobs().values()
    best = {str(Path(link).resolve()) for link in (shelf / "best").glob("*")}
    items = []
    for folder in folders:
        progress = progress_of(folder)
        run = RunFolder(progress.run)
        report = run.path / "report.html"
        items.append(
            Item(
                progress,
                read_json(folder.done_file).get("seconds"),
                _video(run),
                read_json(run.path / "evaluation.json"),
                report if report.is_file() else None,
                str(run.path.resolve()) in best,
            )
        )
    target = shelf / "gallery.html" if out is None else out.expanduser()
    with atomic_write(target) as file:
        file.write_text(gallery(shelf, items, target.parent), encoding="utf-8")
    return target


def gallery(shelf: Path, items: Sequence[Item], where: Path) -> str:
    """The page as one HTML document. where: the folder that it will lie in, for its links."""
    name = shelf.resolve().name
    states = [item.progress.state for item in items]
    counts = ", ".join(f"{states.count(state)} {state.value}" for state in State if state in states)
    options = "".join(f'<option value="{key}">{text}</option>' for key, text in _SORTS.items())
    body = (
        f'<header><p class="eyebrow">{counts}</p><h1>{escape(name)}</h1>{_judge(items)}</header>'
        f'<label class="quiet">Sort by <select id="sort">{options}</select></label>'
        f'<main class="gallery">{"".join(_card(item, where) for item in items)}</main>'
    )
    return document(name, body, "gallery.js")


def _judge(items: Sequence[Item]) -> str:
    judges = {
        f"{item.judged['judge']} {item.judged['revision']}, {item.judged['views']} views, "
        f"{item.judged.get('distractors')} distractors"
        for item in items
        if item.judged
    }
    text = "; ".join(sorted(judges))
    said = f"judged by {text}" if judges else "not judged yet: dreamfusion evaluate"
    return f'<p class="quiet">{escape(said)}</p>'


def _card(item: Item, where: Path) -> str:
    one, judged = item.progress, item.judged
    values = {
        "prompt": one.prompt,
        "seed": one.seed,
        "margin": judged.get("margin"),
        "r1": judged.get("r1_shaded"),
        "fronts": judged.get("fronts"),
        "seconds": item.seconds,
    }
    data = "".join(
        f' data-{key}="{"" if value is None else escape(str(value))}"'
        for key, value in values.items()
    )
    kind = "done" if one.state is State.done else "partial"
    chips = [f'<li class="{kind}">{one.state.value}</li>', _chip("seed", one.seed)]
    chips += ['<li class="done">best</li>'] if item.best else []
    chips += [_chip("made in", parts.duration(item.seconds))] if item.seconds else []
    facts = "".join(
        f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>"
        for name, text in parts.judged_facts(judged)
    )
    why = judged.get("reason") or one.error
    note = f'<p class="note">{escape(str(why))}</p>' if why else ""
    picture = ""
    if item.video is not None:
        source = parts.data_uri("video/mp4", item.video)
        picture = (
            '<figure class="video"><video loop muted autoplay playsinline '
            f'src="{source}"></video></figure>'
        )
    return (
        f'<article class="card"{data}>{picture}<h2>{escape(one.prompt)}</h2>'
        f'<ul class="chips">{"".join(chips)}</ul><dl class="facts">{facts}</dl>{note}'
        f"{_link(item, where)}</article>"
    )


def _link(item: Item, where: Path) -> str:
    if item.report is None:
        return ""
    path = os.path.relpath(item.report.resolve(), where.resolve())
    return f'<p><a href="{escape(quote(path))}">report</a></p>'


def _chip(name: str, value: object) -> str:
    return f"<li><span>{escape(name)}</span> {escape(str(value))}</li>"


def _video(run: RunFolder) -> bytes | None:
    """The turntable, where it is one that a page can hold."""
    try:
        if run.video.stat().st_size > _MOST_VIDEO:
            return None
        return run.video.read_bytes()
    except OSError:
        return None
