"""How much noise belongs to each timestep, from the model's own scheduler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import diffusers
import torch
from torch import Tensor

from dreamfusion.diffusion.predictions import PredictionKind
from dreamfusion.priors.files import PriorError
from dreamfusion.priors.resolve import ResolvedPrior
from dreamfusion.utils.errors import one_line


@dataclass(frozen=True)
class NoiseSchedule:
    """A scheduler's noise levels: z_t = alphas[t] x + sigmas[t] e; timestep 0 is the cleanest.

    alphas, sigmas: (T,) float32. times: (T,) what the network is told of timestep t.
    prediction: what the network returns. config: the scheduler's configuration.
    """

    alphas: Tensor
    sigmas: Tensor
    times: Tensor
    prediction: PredictionKind
    config: dict[str, Any]


def read_schedule(prior: ResolvedPrior, device: str) -> NoiseSchedule:
    """The schedule of a prior, on the device. Raises PriorError for one that is not supported.

    Betas, their rescaling to zero terminal SNR and the shift of a flow are left to the scheduler's
    own class; of a flow, sigma goes up to 1 and the network is told 1000 sigma.
    """
    kind = prior.components["scheduler"]
    try:
        cls = getattr(diffusers, kind)
        config = cls.load_config(prior.path / "scheduler", local_files_only=True)
        scheduler = cls.from_config(config)
    except Exception as error:
        raise PriorError(
            f"{prior.name}: cannot read its scheduler, a {kind}: {one_line(error)}"
        ) from error
    return schedule_of(scheduler, dict(config), prior.name, device)


def schedule_of(
    scheduler: Any, config: dict[str, Any], name: str, device: torch.device | str
) -> NoiseSchedule:
    """The noise levels of a scheduler of diffusers, on the device; `name` is the prior's.

    config: what the scheduler was made from. Raises PriorError for one that is not supported.
    """
    kind = type(scheduler).__name__
    if kind == "FlowMatchEulerDiscreteScheduler":
        if scheduler.config.use_dynamic_shifting:
            raise PriorError(
                f"{name}: its scheduler shifts noise with the resolution "
                "(use_dynamic_shifting), which is not supported; use a model with a fixed shift"
            )
        sigmas = scheduler.sigmas.flip(0).double()
        times = scheduler.timesteps.flip(0)
        return NoiseSchedule(
            (1.0 - sigmas).float().to(device), sigmas.float().to(device), times.to(device),
            "flow", config,
        )  # fmt: skip
    cumulative = getattr(scheduler, "alphas_cumprod", None)
    prediction = scheduler.config.get("prediction_type")
    if cumulative is None or prediction not in get_args(PredictionKind):
        raise PriorError(
            f"{name}: its scheduler, a {kind} with prediction_type {prediction}, is not "
            f"supported; use a model that predicts {', '.join(get_args(PredictionKind))}"
        )
    cumulative = cumulative.double()
    return NoiseSchedule(
        cumulative.sqrt().float().to(device),
        (1.0 - cumulative).sqrt().float().to(device),
        torch.arange(len(cumulative), device=device),
        prediction,
        config,
    )
