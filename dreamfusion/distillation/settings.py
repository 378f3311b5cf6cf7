# ruff: noqa: RUF009 -- every default is made by `setting`, which returns a dataclass field
"""Settings of an estimator: the section `estimator` of the configuration. No torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dreamfusion.config.schedules import Schedule
from dreamfusion.config.sections import Section, setting

if TYPE_CHECKING:
    from dreamfusion.distillation.base import Estimator

Range = tuple[float, float]


@dataclass(frozen=True)
class Text:
    """A text that an estimator asks about. {prompt} stands for the run's prompt. views: with the
    words of each view."""

    text: str
    views: bool = True


@dataclass(frozen=True)
class EstimatorSettings(Section):
    """A way to distil and its settings. Found by the entry points `dreamfusion.estimators`."""

    def texts(self) -> Mapping[str, Text]:
        """Texts beside the prompt and the negative prompt, for `Conditions.named`."""
        return {}

    @abstractmethod
    def build(self, prior: Any, *, seed: int) -> Estimator:
        """The estimator, once for each optimisation. Anything random comes from `seed`.

        Raises UserError, one line, for a prior that cannot serve.
        """


@dataclass(frozen=True)
class ScoreSettings(EstimatorSettings):
    """What estimators that add noise and ask for it have in common."""

    guidance: Schedule = setting(
        Schedule.constant(4.0), "classifier-free guidance s: uncond + s (text - uncond)", low=0
    )
    t_min: Schedule = setting(
        Schedule.constant(0.02), "least noise level, as a fraction of all", low=0, high=1
    )
    t_max: Schedule = setting(
        Schedule(0.98, 0.5), "greatest noise level, as a fraction of all", low=0, high=1
    )
    weighting: Literal["sigma2", "uniform", "inverse_sqrt_snr"] = setting(
        "sigma2", "w(t): sigma^2 (the paper), 1, or sigma/alpha (= 1/sqrt(SNR), at most 10)"
    )
    clip_sample: float | None = setting(
        None,
        "where the predicted clean image (x0) is clamped, 1 for a prior of pixels: colours are not "
        "overdone; null: nowhere",
        low=0.01,
    )
    surface_noise: Range | None = setting(
        None,
        "from which fraction of the steps to which noise is anchored to the surface, so that all "
        "views agree on small parts; null: never",
        low=0,
        high=1,
    )

    def check(self) -> None:
        for end in ("start", "end"):
            low, high = getattr(self.t_min, end), getattr(self.t_max, end)
            if low >= high:
                raise ValueError(f"t_min ({low:g}) must stay below t_max ({high:g})")
