"""The task of a comparison that distils 3D objects: a batch, and measurements of its runs."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dreamfusion.batch.jobs import BatchFolder, Job, read_json, write_json
from dreamfusion.batch.plan import Options, plan_jobs
from dreamfusion.batch.prompts import Entry
from dreamfusion.config.nested import merged
from dreamfusion.evaluation.comparison import (
    Key,
    Measured,
    Method,
    config_of,
    require_distinct,
    steps_for,
)
from dreamfusion.evaluation.judges import FACED, Judge, load_judge, read_pair
from dreamfusion.evaluation.rows import (
    COLUMNS,
    EVALUATION,
    VIEWS_IMAGE,
    Row,
    Subject,
    judge_run,
    subjects_in,
    write_beside_run,
)
from dreamfusion.utils.errors import UserError

METHODS_FILE = "methods.json"  # in the folder of the batch: method and evaluations of each job
FIGURES = (
    "iou", "color_error", "normal_error_deg", "saturation", "r1_shaded", "seconds", "gib",
)  # fmt: skip


def plan_objects(
    folder: BatchFolder,
    methods: Sequence[Method],
    prompts: Sequence[str],
    *,
    seeds: int,
    seed: int,
    evaluations: Sequence[int],
    prior: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> list[Job]:
    """The jobs of a comparison, which may add to an earlier one in the folder. Each run takes as
    many steps as its method can with so many network evaluations, for all views together.

    Raises UserError if a prompt or a setting is invalid, or for methods with the same name or
    settings.
    """
    require_distinct(methods)
    known = read_json(folder.path / METHODS_FILE)
    jobs: list[Job] = []
    for method, budget in itertools.product(methods, evaluations):
        config = config_of(method, prompts[0], prior, settings)
        steps = {"steps": steps_for(config, budget, config.camera.views)}
        chosen = merged(merged(settings or {}, method.settings), steps)
        entries = [
            Entry(f"{method.label}, {prompt}", prompt, None, method.preset, chosen)
            for prompt in prompts
        ]
        planned = plan_jobs(entries, Options(seeds=seeds, seed=seed, prior=prior))
        for job in planned:
            other = known.get(job.name, {}).get("method", method.label)
            if other != method.label:
                raise UserError(f"{other} and {method.label} have the same settings: leave one out")
            known[job.name] = {"method": method.label, "evaluations": budget}
        jobs += planned
    folder.path.mkdir(parents=True, exist_ok=True)
    write_json(folder.path / METHODS_FILE, known)
    return jobs


def measure_objects(
    folder: BatchFolder, *, track: Callable[[Iterable[Subject]], Iterable[Subject]] = iter
) -> dict[Key, list[Measured]]:
    """Measure all runs of a comparison by the shipped judge and the toy world's objects. Runs that
    were measured before are not measured again.

    Raises UserError for a folder without a comparison, JudgeError for prompts that the toy world
    lacks.
    """
    about = read_json(folder.path / METHODS_FILE)
    judge = load_judge("toy")
    found: dict[Key, list[Measured]] = defaultdict(list)
    for subject in track(subjects_in(folder.path)):
        known = about.get(subject.run.path.parent.name)
        if known is not None:
            found[known["method"], known["evaluations"]].append(_measure(subject, judge))
    order = dict.fromkeys((one["method"], one["evaluations"]) for one in about.values())
    return {key: found[key] for key in order if key in found}


def _measure(subject: Subject, judge: Judge) -> Measured:
    before = read_json(subject.run.path / EVALUATION)
    if before.get("revision") == judge.revision and before.get("iou") is not None:
        row = Row(**{name: before[name] for name in COLUMNS if name in before})
    else:
        (row,) = judge_run(subject, [(judge, judge.distractors())], truth=True)
        if subject.problem is None:
            write_beside_run(row)
    values = {name: float(v) for name in FIGURES if (v := getattr(row, name)) is not None}
    if row.fronts is not None and read_pair(row.prompt)[0] in FACED:
        values["one_front"] = float(row.fronts == 1)
    image = subject.run.path / VIEWS_IMAGE
    shown = image if image.is_file() else None
    return Measured(row.prompt, row.seed, values, shown, 3, row.reason)
