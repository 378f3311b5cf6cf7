"""The state of an optimisation, and its initial value."""

from dataclasses import dataclass
from typing import Any

import torch

from dreamfusion.config.schema import Config
from dreamfusion.distillation.base import Estimator
from dreamfusion.scenes.base import Scene

FORGET_AFTER = 500  # steps


@dataclass
class TrainState:
    """The complete state of an optimisation, as saved in checkpoints.

    step: number of steps done. generator: the run's only random number generator, on the CPU.
    rollbacks: number of returns to an earlier step because numbers were not finite; each one halves
    the learning rates. rolled_back_at: step of the last rollback; `rollbacks` is reset after
    FORGET_AFTER further steps.
    """

    step: int
    scene: Scene
    estimator: Estimator
    generator: torch.Generator
    rollbacks: int = 0
    rolled_back_at: int = 0

    def forget_rollbacks(self) -> None:
        """Reset the count of rollbacks after FORGET_AFTER steps, so that rare overflows in a long
        run do not add up."""
        if self.rollbacks and self.step >= self.rolled_back_at + FORGET_AFTER:
            self.rollbacks = 0


def new_state(
    config: Config, prior: Any, *, device: str | None = None, start: Scene | None = None
) -> TrainState:
    """The state before the first step, with all random numbers from `config.seed`.

    device: of the scene; None takes the prior's. start: the scene of the previous stage or run.
    Raises UserError if the prior or the start is incompatible.
    """
    device = str(prior.device) if device is None else device
    generator = torch.Generator().manual_seed(config.seed)
    scene: Scene = config.scene.build(device=device, generator=generator, start=start)
    estimator: Estimator = config.estimator.build(prior, seed=config.seed)
    return TrainState(0, scene, estimator, generator)
