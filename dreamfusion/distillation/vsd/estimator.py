"""Variational Score Distillation (Wang et al. 2023, "ProlificDreamer").

    grad = w(t) (e_hat(z) - e_phi(z; text, camera))                                          (eq. 9)

e_phi is the prior with adapters. Each step trains it on the step's images as a diffusion model is,
so that it predicts the noise of renderings (eq. 7).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dreamfusion.diffusion.condition import Condition
from dreamfusion.diffusion.predictions import Images, add_noise, predictions
from dreamfusion.distillation.base import Batch, Distilled, ScoreEstimator, draw_timesteps
from dreamfusion.distillation.vsd.settings import VSDSettings
from dreamfusion.utils.devices import send
from dreamfusion.utils.distributed import average_gradients
from dreamfusion.utils.errors import UserError
from dreamfusion.utils.optimizers import load_optimizer, optimizer_tensors, under
from dreamfusion.utils.rng import Generators, rand, randn
from dreamfusion.utils.state import Progress


class VSDEstimator(ScoreEstimator):
    """The difference of the prior and of itself with adapters, which follow the scene."""

    settings: VSDSettings

    def __init__(self, settings: VSDSettings, prior: Any, seed: int) -> None:
        super().__init__(settings, prior, seed)
        if not hasattr(prior, "adapted"):
            raise UserError(
                f"the estimator {settings.name!r} needs a prior that adapters can be trained for, "
                f"which {getattr(prior, 'name', type(prior).__name__)} is not"
            )
        self.adapted = prior.adapted(rank=settings.rank, seed=seed)
        self.parameters = list(self.adapted.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=settings.adapter_lr)

    def __call__(self, batch: Batch, *, progress: Progress, generator: Generators) -> Distilled:
        s, ask = self.settings, batch.conditions
        scale = s.guidance.at(*progress)
        x, z, timesteps = self.noised(batch, progress, generator)
        with torch.no_grad():
            wanted = self.guided(z, ask, scale).noise
            (adapted,) = predictions(self.adapted, z, ask.text)
            gradient = self.weighted(z, wanted - adapted.noise)
        loss = self._train(x.detach(), ask.text, generator)
        return self.result(x, gradient, timesteps, guidance=scale, adapter_loss=loss)

    def _train(self, x: Images, condition: Condition, generator: Generators) -> Float[Tensor, ""]:
        """One step of the adapters on images x; the mean square error of their noise."""
        drawn = draw_timesteps(self.prior, len(x), (0.0, 1.0), generator)
        noise = send(randn(x.shape, generator), x.device)
        z = add_noise(self.prior, x, noise, send(drawn, x.device))
        if condition.cameras is not None:
            matrices = condition.cameras.T_world_camera
            kept = rand((len(x),), generator) >= self.settings.drop_camera
            matrices = matrices * send(kept.float()[:, None, None], matrices.device)
            cameras = replace(condition.cameras, T_world_camera=matrices)
            condition = Condition(condition.text, cameras)
        with torch.enable_grad():
            (prediction,) = predictions(self.adapted, z, condition)
            loss = (prediction.noise - z.noise).square().mean()
            gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        average_gradients(self.parameters)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def state_dict(self) -> Mapping[str, Any]:
        """The adapters, the moments of their optimiser, and the state of every estimator."""
        adapters = {f"adapters.{k}": v for k, v in self.adapted.state_dict().items()}
        moments = {f"optimizer.{k}": v for k, v in optimizer_tensors(self.optimizer).items()}
        return {**super().state_dict(), **adapters, **moments}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> object:
        self.adapted.load_state_dict(under(state_dict, "adapters"))
        load_optimizer(self.optimizer, under(state_dict, "optimizer"))
        return super().load_state_dict(state_dict)
