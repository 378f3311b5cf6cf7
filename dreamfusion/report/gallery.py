"""Writes the page of a batch: turntable, metrics, duration and report of each object."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from dreamfusion.batch.jobs import Progress, State, find_batch, progress_of, read_json
from dreamfusion.report.gather import read_small
from dreamfusion.report.page import document
from dreamfusion.runs.folder import RunFolder
from dreamfusion.utils.atomic_write import atomic_write

_SORTS = {
    "prompt": "prompt", "margin": "margin", "r1": "R@1", "fronts": "fronts", "seconds": "time",
    "seed": "seed",
}  # fmt: skip


class Item(NamedTuple):
    """A job in the gallery. judged: its row of metrics, empty if it was not evaluated. report: link
    to the report of its run, if any. model: its GLB file, to download."""

    progress: Progress
    seconds: float | None
    video: bytes | None
    judged: Mapping[str, Any]
    report: str | None
    model: bytes | None
    best: bool


def write_gallery(batch_folder: Path, out: Path | None = None) -> Path:
    """Write the page of the batch in a folder and return its path. None: DIR/gallery.html. Raises
    BatchError for a folder without a batch."""
    target = batch_folder / "gallery.html" if out is None else out.expanduser()
    folders = find_batch(batch_folder).jobs().values()
    best = {str(Path(link).resolve()) for link in (batch_folder / "best").glob("*")}
    items = []
    for folder in folders:
        progress = progress_of(folder)
        run = RunFolder(progress.run)
        report = run.path / "report.html"
        link = quote(os.path.relpath(report.resolve(), target.parent.resolve()))
        items.append(
            Item(
                progress,
                read_json(folder.done_file).get("seconds"),
                read_small(run.video),
                read_json(run.path / "evaluation.json"),
                link if report.is_file() else None,
                read_small(run.mesh / "model.glb"),
                str(run.path.resolve()) in best,
            )
        )
    states = [item.progress.state for item in items]
    judges = {
        f"{item.judged['judge']} {item.judged['revision']}, {item.judged['views']} views, "
        f"{item.judged.get('distractors')} distractors"
        for item in items
        if item.judged
    }
    page = document(
        "gallery.html",
        batch_folder.resolve().name,
        "gallery.js",
        counts=", ".join(f"{states.count(s)} {s.value}" for s in State if s in states),
        judges="; ".join(sorted(judges)),
        sorts=_SORTS,
        items=items,
    )
    with atomic_write(target) as file:
        file.write_text(page, encoding="utf-8")
    return target
