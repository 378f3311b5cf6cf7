"""The page of a whole batch: every object turning, what its judge says, its times, its report."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from dreamfusion.batch.jobs import State, find_batch, read_json
from dreamfusion.batch.progress import Progress, progress_of
from dreamfusion.report.page import document
from dreamfusion.runs.folder import RunFolder
from dreamfusion.utils.atomic_write import atomic_write

_SORTS = {
    "prompt": "prompt", "margin": "margin", "r1": "R@1", "fronts": "fronts", "seconds": "time",
    "seed": "seed",
}  # fmt: skip
_MOST_VIDEO = 4_000_000  # bytes; many of them make one page


class Item(NamedTuple):
    """A job as the gallery shows it. judged: its row of figures, empty where it was not judged.
    report: a link to the run's own page, if it was written."""

    progress: Progress
    seconds: float | None
    video: bytes | None
    judged: Mapping[str, Any]
    report: str | None
    best: bool


def write_gallery(shelf: Path, out: Path | None = None) -> Path:
    """Write the page of the batch in a folder, DIR/gallery.html where `out` is None; its path.

    Raises BatchError for a folder that holds no batch.
    """
    target = shelf / "gallery.html" if out is None else out.expanduser()
    folders = find_batch(shelf).jobs().values()
    best = {str(Path(link).resolve()) for link in (shelf / "best").glob("*")}
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
                _video(run),
                read_json(run.path / "evaluation.json"),
                link if report.is_file() else None,
                str(run.path.resolve()) in best,
            )
        )
    with atomic_write(target) as file:
        file.write_text(gallery(shelf, items), encoding="utf-8")
    return target


def gallery(shelf: Path, items: Sequence[Item]) -> str:
    """The page as one HTML document."""
    states = [item.progress.state for item in items]
    counts = ", ".join(f"{states.count(state)} {state.value}" for state in State if state in states)
    judges = {
        f"{item.judged['judge']} {item.judged['revision']}, {item.judged['views']} views, "
        f"{item.judged.get('distractors')} distractors"
        for item in items
        if item.judged
    }
    said = "; ".join(sorted(judges))
    content = {"counts": counts, "judges": said, "sorts": _SORTS, "items": items}
    return document("gallery.html", shelf.resolve().name, "gallery.js", **content)


def _video(run: RunFolder) -> bytes | None:
    """The turntable, where it is one that a page can hold."""
    with suppress(OSError):
        if run.video.stat().st_size <= _MOST_VIDEO:
            return run.video.read_bytes()
    return None
