"""Compares methods of distillation at equal numbers of network evaluations, by paired statistics.

What is distilled is a task: objects (`object_task`) or images (`image_task`).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray

from dreamfusion.config.layers import Layer
from dreamfusion.config.nested import merged
from dreamfusion.config.presets import preset_names
from dreamfusion.config.schema import Config
from dreamfusion.config.sections import ESTIMATORS, find_section, section_names
from dreamfusion.evaluation.evaluate import Mean, clustered_mean
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
    return {
        (prompt, 0): float(
            np.mean([np.sqrt(np.square(a - b).mean()) for a, b in combinations(several, 2)])
        )
        for prompt, several in images.items()
        if len(several) > 1
    }


def _mean(values: Values) -> Mean:
    return clustered_mean((prompt, value) for (prompt, _), value in values.items())
