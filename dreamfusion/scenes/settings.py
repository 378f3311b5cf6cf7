"""Settings of a scene: the section `scene` of the configuration. No torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dreamfusion.config.sections import Section

if TYPE_CHECKING:
    import torch

    from dreamfusion.scenes.base import Scene


@dataclass(frozen=True)
class SceneSettings(Section):
    """A kind of scene and its settings. Found by the entry points `dreamfusion.scenes`."""

    def layer(self) -> Mapping[str, Any]:
        """Other settings that this scene needs, above presets and below the user's."""
        return {}

    def require_files(self) -> None:
        """Raise UserError unless the files that the settings name can be used. Called when a run is
        planned."""
        return None

    def viewable(self) -> SceneSettings:
        """The settings for viewing a run on a machine other than the one it was trained on."""
        return self

    @abstractmethod
    def build(
        self, *, device: str, generator: torch.Generator, start: Scene | None = None
    ) -> Scene:
        """The scene before the first step. generator: on the CPU; source of all random numbers.
        start: the scene of the previous stage or run; raises UserError if it is incompatible."""
