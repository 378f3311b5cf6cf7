"""Writes the page of a batch: turntable, metrics, duration and report of each object."""

import os
from pathlib import Path
from urllib.parse import quote

from dreamfusion.batch.jobs import State, find_batch, progress_of, read_json
from dreamfusion.report.gather import read_small
from dreamfusion.report.page import document
from dreamfusion.runs.folder import RunFolder
from dreamfusion.utils.files import write_text

_SORTS = {
    "prompt": "prompt", "margin": "margin", "r1": "R@1", "fronts": "fronts", "seconds": "time",
    "seed": "seed",
}  # fmt: skip


def write_gallery(batch_folder: Path, out: Path | None = None) -> Path:
    """Write the page of the batch in a folder and return its path. None: DIR/gallery.html. Raises
    BatchError for a folder without a batch."""
    target = batch_folder / "gallery.html" if out is None else out.expanduser()
    folders = find_batch(batch_folder).jobs().values()
    best = {str(Path(link).resolve()) for link in (batch_folder / "best").glob("*")}
    items, states, judges = [], [], set()
    for folder in folders:
        progress = progress_of(folder)
        states.append(progress.state)
        run = RunFolder(progress.run)
        report = run.path / "report.html"
        link = quote(os.path.relpath(report.resolve(), target.parent.resolve()))
        judged, done = read_json(run.path / "evaluation.json"), read_json(folder.done_file)
        items.append(
            {
                "progress": progress,
                "seconds": done.get("seconds"),
                "video": read_small(run.video),
                "judged": judged,  # its row of metrics, empty if it was not evaluated
                "report": link if report.is_file() else None,
                "model": read_small(run.mesh / "model.glb"),
                "best": str(run.path.resolve()) in best,
            }
        )
        if judged:
            judges.add(
                f"{judged['judge']} {judged['revision']}, {judged['views']} views, "
                f"{judged.get('distractors')} distractors"
            )
    page = document(
        "gallery.html",
        batch_folder.resolve().name,
        "gallery.js",
        counts=", ".join(f"{states.count(s)} {s.value}" for s in State if s in states),
        judges="; ".join(sorted(judges)),
        sorts=_SORTS,
        items=items,
    )
    write_text(target, page)
    return target
