"""Chooses the best of several seeds."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dreamfusion.batch.jobs import write_json
from dreamfusion.batch.links import link_names
from dreamfusion.cli.console import Console
from dreamfusion.evaluation.evaluate import best_of, judged_rows
from dreamfusion.evaluation.judges import pairs
from dreamfusion.evaluation.rows import VIEWS, subjects_in
from dreamfusion.runs.folder import slug
from dreamfusion.utils.files import make_link


def choose_best(
    console: Console, out: Path, jobs: Sequence[Mapping[str, Any]], chooser: str
) -> dict[str, Any]:
    """Evaluate the runs of these jobs, link each prompt's run with the greatest margin as
    DIR/best/PROMPT, and save the choice in DIR/best.json. Returns the choice by prompt."""
    done = {str(job["run"]) for job in jobs if job["state"] == "done"}
    all_subjects = subjects_in(out.resolve())
    names = link_names(subject.prompt for subject in all_subjects)
    subjects = [subject for subject in all_subjects if str(subject.run.path) in done]
    if not subjects:
        return {}
    # With a single prompt, there are no other prompts as distractors.
    texts = pairs() if len({subject.prompt for subject in subjects}) == 1 else None
    track = partial(console.track, total=len(subjects), what="judged")
    (rows,) = judged_rows([chooser], subjects, texts, views=VIEWS, track=track)
    best = best_of(rows, lambda row: row.margin)
    for row in rows:
        if row.margin is None:
            console.say(f"best      not {row.run}: {row.reason}")
    chosen: dict[str, Any] = {}
    for row in best:
        link = out / "best" / names[row.prompt]
        link.parent.mkdir(exist_ok=True)
        # An older link from before another prompt had the same slug.
        earlier = link.with_name(slug(row.prompt))
        if earlier.resolve() in {s.run.path for s in subjects if s.prompt == row.prompt}:
            earlier.unlink()
        link = make_link(link, Path(row.run))
        chosen[row.prompt] = {"run": link, "seed": row.seed, "margin": row.margin}
        console.say(f"best      {link}  seed {row.seed}, margin {row.margin:.2f} by {chooser}")
    saved = {prompt: x | {"run": str(x["run"]), "judge": chooser} for prompt, x in chosen.items()}
    write_json(out / "best.json", saved)
    return chosen
