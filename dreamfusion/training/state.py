"""What changes during an optimisation, and how it begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from dreamfusion.config.schema import Config
from dreamfusion.distillation.base import Estimator
from dreamfusion.scenes.base import Scene

FORGET_AFTER = 500  # steps


@dataclass
class TrainState:
    """Everything that changes during an optimisation, and all that a checkpoint keeps.

    step: how many steps are done. generator: the run's one random stream, on the CPU. rollbacks:
    how often the run went back to an earlier step because numbers were not finite; each halves the
    learning rates. rolled_back_at: the step of the last one; FORGET_AFTER good steps later they are
    forgotten.
    """

    step: int
    scene: Scene
    estimator: Estimator
    generator: torch.Generator
    rollbacks: int = 0
    rolled_back_at: int = 0

    def forget_rollbacks(self) -> None:
        """Forget old rollbacks: rare overflows in a long run do not add up."""
        if self.rollbacks and self.step >= self.rolled_back_at + FORGET_AFTER:
            self.rollbacks = 0


def new_state(
    config: Config, prior: Any, *, device: str | None = None, start: Scene | None = None
) -> TrainState:
    """The state before the first step; everything random in it comes from `config.seed`.

    device: of the scene; the prior's where None. start: the scene of the stage or run before.
    Raises UserError where a prior or a start does not fit.
    """
    where = str(prior.device) if device is None else device
    generator = torch.Generator().manual_seed(config.seed)
    scene: Scene = config.scene.build(device=where, generator=generator, start=start)
    estimator: Estimator = config.estimator.build(prior, seed=config.seed)
    return TrainState(0, scene, estimator, generator)
