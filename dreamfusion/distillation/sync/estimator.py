"""Fits the scene to predictions: all views are denoised once, then the scene is fitted to them.

    grad = x - x_hat,   x_hat predicted in the first of the `fit_steps` steps with the same views

SDS predicts anew in each step. With one step per prediction, this is SDS with the weight of the
image's error, sigma / alpha.
"""

from collections.abc import Mapping
from typing import Any

import torch

from dreamfusion.diffusion.predictions import Images, Timesteps
from dreamfusion.distillation.base import Batch, Distilled, ScoreEstimator
from dreamfusion.distillation.sync.settings import SyncSettings
from dreamfusion.utils.distributed import gather_over_processes, share
from dreamfusion.utils.rng import Generators
from dreamfusion.utils.state import Progress


class SyncEstimator(ScoreEstimator):
    """Stores the predicted clean images of the current views."""

    settings: SyncSettings

    def __init__(self, settings: SyncSettings, prior: Any, seed: int) -> None:
        super().__init__(settings, prior, seed)
        # Of all views, in all processes, and their timesteps.
        self._targets: tuple[Images, Timesteps] | None = None

    def __call__(self, batch: Batch, *, progress: Progress, generator: Generators) -> Distilled:
        s = self.settings
        if progress.step % s.fit_steps == 0 or self._targets is None:
            x, z, timesteps = self.noised(batch, progress, generator)
            with torch.no_grad():
                clean = self.guided(z, batch.conditions, s.guidance.at(*progress)).clean
            everywhere = gather_over_processes(timesteps.to(clean.device))
            self._targets = gather_over_processes(clean), everywhere
        else:
            x = self.encode(batch)
        clean, steps = self._targets
        local_views = share(len(clean))
        gradient = x.detach() - clean[local_views].to(x.device)
        return self.result(x, gradient, steps[local_views].cpu())

    def state_dict(self) -> Mapping[str, Any]:
        """The predictions that the scene is being fitted to."""
        if self._targets is None:
            return super().state_dict()
        clean, timesteps = self._targets
        return {**super().state_dict(), "clean": clean, "timesteps": timesteps}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> object:
        self._targets = None
        if "clean" in state_dict:
            self._targets = state_dict["clean"].clone(), state_dict["timesteps"].clone()
        return super().load_state_dict(state_dict)
