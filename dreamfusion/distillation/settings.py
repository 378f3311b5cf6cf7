"""Settings of an estimator: the section `estimator` of the configuration. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from dreamfusion.config.schedules import Schedule
from dreamfusion.config.sections import Section, setting

if TYPE_CHECKING:
    from dreamfusion.distillation.base import Estimator

Range = tuple[float, float]
Weighting = Literal["sigma2", "uniform", "inverse_sqrt_snr", "velocity"]


@dataclass(frozen=True)
class Text:
    """A text that an estimator uses. {prompt} stands for the run's prompt. views: whether to add
    the words of each view."""

    text: str
    views: bool = True


@dataclass(frozen=True)
class EstimatorSettings(Section):
    """Settings of an estimator, found by the entry points `dreamfusion.estimators`.

    paper: its publication. code: its class, MODULE:CLASS, made of settings, prior and seed; only
    `build` imports it, because it needs torch.
    """

    paper: ClassVar[str] = ""
    code: ClassVar[str]

    @property
    def evaluations(self) -> float:
        """Network evaluations for each view and step, averaged over a run; a backward pass counts
        as two. 0: the estimator uses no diffusion model."""
        return 0.0

    @property
    def hold(self) -> int:
        """The number of consecutive steps with the same views and generators."""
        return 1

    def texts(self) -> Mapping[str, Text]:
        """Texts beside the prompt and the negative prompt, for `Conditions.named`."""
        return {}

    def build(self, prior: Any, *, seed: int) -> Estimator:
        """The estimator; called once for each optimisation. All random numbers come from `seed`.

        Raises UserError for an incompatible prior.
        """
        return resolve_name(self.code)(self, prior, seed)


@dataclass(frozen=True)
class ScoreSettings(EstimatorSettings):
    """Common settings of estimators that add noise and use noise predictions."""

    guidance: Schedule = setting(
        Schedule.constant(4.0), "classifier-free guidance s: uncond + s (text - uncond)", low=0
    )
    rescale: float = setting(
        0.0, "share of rescaling x0 to its standard deviation without guidance", low=0, high=1
    )
    t_min: Schedule = setting(
        Schedule.constant(0.02), "smallest noise level, as a fraction of all", low=0, high=1
    )
    t_max: Schedule = setting(
        Schedule(0.98, 0.5), "largest noise level, as a fraction of all", low=0, high=1
    )
    timesteps: Literal["uniform", "dreamtime"] = setting(
        "uniform",
        "uniform between t_min and t_max; or one falling level per step for all views, which falls "
        "slowest at the levels that form content (DreamTime)",
    )
    weighting: Weighting = setting(
        "sigma2",
        "w(t): sigma^2 (the paper), 1, sigma/alpha (= 1/sqrt(SNR), at most 10), or 1/alpha: the "
        "error of the velocity",
    )
    clip_sample: float | None = setting(
        None,
        "clamp the predicted clean image (x0) to +-this, against oversaturation: 1 for a prior of "
        "pixels; null: no clamp",
        low=0.01,
    )
    clip_pixels: float | None = setting(
        None,
        "limit of the norm of each pixel's gradient, for the loss summed over all elements (PGC: "
        ".1); null: no limit",
        low=1e-6,
    )
    noise: Literal["independent", "fixed"] = setting(
        "independent", "new noise for each view, or one noise for all views and steps"
    )
    surface_noise: Range | None = setting(
        None,
        "range of steps, as fractions of all, with noise anchored to the surface, so that views "
        "agree on small parts; null: none",
        low=0,
        high=1,
    )
    noise_refresh: float = setting(
        0.0, "share of the surface's noise that each step replaces", low=0, high=1
    )

    @property
    def evaluations(self) -> float:
        return 2.0

    def check(self) -> None:
        for end in ("start", "end"):
            low, high = getattr(self.t_min, end), getattr(self.t_max, end)
            if low > high:
                raise ValueError(f"t_min ({low:g}) must not exceed t_max ({high:g})")
