"""Compares methods of distillation at equal numbers of network evaluations, by paired statistics.

What is distilled is a task: objects, a batch whose runs are measured, or images (`image_task`).
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray

from dreamfusion.batch.jobs import BatchFolder, Job, read_json, write_json
from dreamfusion.batch.plan import Options, plan_jobs
from dreamfusion.batch.prompts import Entry
from dreamfusion.config.layers import Layer
from dreamfusion.config.nested import merged
from dreamfusion.config.presets import preset_names
from dreamfusion.config.schema import Config
from dreamfusion.config.sections import ESTIMATORS, find_section, section_names
from dreamfusion.evaluation.evaluate import Mean, clustered_mean
from dreamfusion.evaluation.judges import FACED, Judge, load_judge, read_pair
from dreamfusion.evaluation.rows import (
    COLUMNS,
    EVALUATION,
    VIEWS,
    VIEWS_IMAGE,
    Row,
    Subject,
    judge_run,
    subjects_in,
    write_beside_run,
)
from dreamfusion.runs.plan import plan_run
from dreamfusion.utils.errors import UserError

REFERENCE = "sds"
# All but `clip` and `dds`, which need another kind of prior and a scene to edit.
METHODS = (
    "sds", "sjc", "rfds", "cfd", "csd", "nfsd", "bridge", "asd", "vsd", "ism", "sdi", "sync",
    "hifa", "diffusion_loss",
)  # fmt: skip
NOUNS = ("corgi", "owl", "rabbit", "chair", "mug", "rocket", "car", "mushroom")
Key = tuple[str, int]  # a method and its network evaluations
Values = dict[tuple[str, int], float]  # by prompt and seed
METHODS_FILE = "methods.json"  # in the folder of the batch: method and evaluations of each job
FIGURES = (
    "iou", "color_error", "normal_error_deg", "saturation", "r1_shaded", "seconds", "gib",
)  # fmt: skip


class Method(NamedTuple):
    """A method: its label, its preset or settings file, and settings above these."""

    label: str
    preset: str | None
    settings: Mapping[str, Any]


class Measured(NamedTuple):
    """Results for one prompt and seed.

    values: by name. images: a PNG of `looks` rows of square views, the first row without shading;
    None if there are none. reason: why values are missing.
    """

    prompt: str
    seed: int
    values: Mapping[str, float]
    images: Path | None
    looks: int
    reason: str

    def views(self, look: int = 0) -> NDArray[np.uint8]:
        """A row of the images, (s, n s, 3)."""
        return np.split(iio.imread(str(self.images))[..., :3], self.looks)[look]


@dataclass(frozen=True)
class Figure:
    """A mean over prompts, and the mean of the paired differences from the reference method at the
    same evaluations; None for the reference itself, or without common prompts."""

    mean: Mean
    difference: Mean | None


@dataclass(frozen=True)
class Comparison:
    """Results by method and evaluations. figures: by name, with "diversity", the RMS difference
    between the images of two seeds. reference: the method of the differences."""

    rows: Mapping[Key, Sequence[Measured]]
    figures: Mapping[Key, Mapping[str, Figure]]
    reference: str


def read_method(text: str) -> Method:
    """The method that a name means: an estimator, with the preset tuned for it if there is one; a
    preset; or a settings file, whose label is its name without the ending.

    Raises UserError, also for an estimator that cannot be imported.
    """
    if text in section_names(ESTIMATORS):
        find_section(ESTIMATORS, text)
        return Method(text, None, {"estimator": {"name": text}})
    if text in preset_names() or Path(text).is_file():
        return Method(Path(text).stem, text, {})
    raise UserError(
        f"{text} is neither an estimator, a preset nor a settings file; for the estimators: "
        "dreamfusion estimators"
    )


def require_distinct(methods: Sequence[Method]) -> None:
    """Raise UserError if two methods have the same label."""
    labels = [method.label for method in methods]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise UserError(f"two methods are called {twice}: rename one of the files")


def config_of(
    method: Method, prompt: str, prior: str | None = None, settings: Mapping[str, Any] | None = None
) -> Config:
    """All settings of a method. settings: below those of the method. Raises UserError."""
    named = {"prompt": prompt} | ({} if prior is None else {"prior": {"name": prior}})
    layers = [
        Layer("settings", merged(settings or {}, method.settings)),
        Layer("comparison", named),
    ]
    return plan_run(layers, preset=method.preset).config


def steps_for(config: Config, evaluations: int, images: int) -> int:
    """The number of steps of so many images that need so many network evaluations, at least one. An
    estimator without a known cost counts as two for each image."""
    cost = getattr(config.estimator, "evaluations", 0.0) or 2.0
    return max(1, round(evaluations / (images * cost)))


def compare(rows: Mapping[Key, Sequence[Measured]]) -> Comparison:
    """Figures of each method and number of evaluations, and differences from the reference: "sds",
    or else the first method."""
    methods = [method for method, _ in rows]
    reference = REFERENCE if REFERENCE in methods else methods[0]
    tables: dict[Key, dict[str, Values]] = {}
    for key, of_method in rows.items():
        table: dict[str, Values] = defaultdict(dict)
        tables[key] = table
        for row in of_method:
            for name, value in row.values.items():
                table[name][row.prompt, row.seed] = value
        if spread := diversity(of_method):
            table["diversity"] = spread
    figures: dict[Key, dict[str, Figure]] = {}
    for (method, budget), table in tables.items():
        base = {} if method == reference else tables.get((reference, budget), {})
        figures[method, budget] = {}
        for name, values in table.items():
            known = base.get(name, {})
            common = {key: value - known[key] for key, value in values.items() if key in known}
            change = _mean(common) if common else None
            figures[method, budget][name] = Figure(_mean(values), change)
    return Comparison(rows, figures, reference)


def diversity(rows: Sequence[Measured]) -> Values:
    """For each prompt with several seeds (with 0 in place of a seed), the RMS difference between
    the images of two seeds, mean over pairs; colours in [0, 1]."""
    images: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    for row in rows:
        if row.images is not None:
            images[row.prompt].append(row.views() / 255)

    def spread(several: list[NDArray[np.float64]]) -> float:
        pairs = itertools.combinations(several, 2)
        return float(np.mean([np.sqrt(np.square(a - b).mean()) for a, b in pairs]))

    return {(prompt, 0): spread(found) for prompt, found in images.items() if len(found) > 1}


def _mean(values: Values) -> Mean:
    return clustered_mean((prompt, value) for (prompt, _), value in values.items())


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

    Raises UserError for an invalid prompt or setting, or methods of the same name or settings.
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
    same = (before.get("revision"), before.get("views")) == (judge.revision, VIEWS)
    if same and before.get("iou") is not None:
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
