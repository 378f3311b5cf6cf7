"""Settings of a scene: the section `scene` of the configuration. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, ClassVar

from dreamfusion.config.sections import Section, setting

if TYPE_CHECKING:
    import torch

    from dreamfusion.scenes.base import Scene


@dataclass(frozen=True)
class AdamSettings:
    """What all learning rates of Adam have in common."""

    beta1: float = setting(0.9, "decay of the first moment", low=0, high=0.9999)
    beta2: float = setting(0.99, "decay of the second moment", low=0, high=0.99999)
    epsilon: float = setting(1e-15, "avoids division by zero", low=0)


@dataclass(frozen=True)
class AveragedAdamSettings(AdamSettings):
    """Adam, and a moving average of the parameters."""

    ema: float = setting(
        0.0,
        "decay of the moving average, which is rendered and exported; 0: none",
        low=0,
        high=0.9999,
    )


@dataclass(frozen=True)
class SceneSettings(Section):
    """A kind of scene and its settings. Found by the entry points `dreamfusion.scenes`.

    code: its class, MODULE:CLASS, made of settings and the arguments of `build`; only `build`
    imports it, because it needs torch.
    """

    code: ClassVar[str]

    def layer(self) -> Mapping[str, Any]:
        """Other settings that this scene needs, above presets and below the user's."""
        return {}

    def require_files(self) -> None:
        """Raise UserError unless the files of the settings can be used. Called to plan a run."""
        return None

    def viewable(self) -> SceneSettings:
        """The settings for viewing a run on a machine other than the one it was trained on."""
        return self

    def build(
        self, *, device: str, generator: torch.Generator, start: Scene | None = None
    ) -> Scene:
        """The scene before the first step. generator: on the CPU; source of all random numbers.
        start: the scene of the previous stage or run; raises UserError if it is incompatible."""
        return resolve_name(self.code)(self, device=device, generator=generator, start=start)
