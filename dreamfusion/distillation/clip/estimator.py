"""CLIP guidance (Jain et al. 2022, "Dream Fields"), which DreamFusion compares itself with.

L = -mean over crops of similarity(image, text) - weight min(tau, mean transmittance)
                                                                                (eq. 5 and 6)
"""

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from dreamfusion.diffusion.condition import Condition
from dreamfusion.distillation.base import Batch, Distilled, Estimator
from dreamfusion.distillation.clip.settings import CLIPSettings
from dreamfusion.utils.devices import send
from dreamfusion.utils.errors import UserError
from dreamfusion.utils.rng import Generators, rand
from dreamfusion.utils.state import Progress


class ComparesImages(Protocol):
    """Interface that the estimator requires from a prior."""

    def similarity(
        self, images: Float[Tensor, "b 3 h w"], condition: Condition, /
    ) -> Float[Tensor, " b"]:
        """The similarity of images in [0, 1] to their conditions, with gradients; higher is more
        similar."""
        ...


class CLIPEstimator(Estimator):
    """Compares images with texts, and rewards empty space."""

    def __init__(self, settings: CLIPSettings, prior: ComparesImages, seed: int) -> None:
        if not hasattr(prior, "similarity"):
            name = getattr(prior, "name", type(prior).__name__)
            raise UserError(
                f"the estimator {settings.name!r} needs a prior that compares images with texts, "
                f"not {name}: --prior clip, or --prior toy-classifier"
            )
        self.settings, self.prior = settings, prior

    def __call__(self, batch: Batch, *, progress: Progress, generator: Generators) -> Distilled:
        s = self.settings
        crops = (random_crops(batch.images, s.crop_size, generator) for _ in range(s.crops))
        text = batch.conditions.text
        similarity = torch.stack([self.prior.similarity(crop, text) for crop in crops]).mean()
        losses = {s.name: -similarity}
        if batch.opacity is not None and s.transmittance_weight > 0:
            empty = 1.0 - batch.opacity.flatten(1).mean(dim=1)
            least = empty.clamp(max=s.transmittance.at(*progress)).mean()
            losses[f"{s.name}_transmittance"] = -s.transmittance_weight * least
        return Distilled(losses, {f"{s.name}_similarity": similarity.detach()})


def random_crops(
    images: Float[Tensor, "b c h w"], least: float, generator: Generators
) -> Float[Tensor, "b c h w"]:
    """Crops of images, of the images' size, whose sides are from `least` to 1 of the image's.
    Differentiable."""
    side, right, down = rand((len(images), 3), generator).to(images.dtype).unbind(1)
    side = least + (1.0 - least) * side
    zeros = torch.zeros_like(side)
    rows = [side, zeros, (1.0 - side) * (2.0 * right - 1.0)]
    rows += [zeros, side, (1.0 - side) * (2.0 * down - 1.0)]
    where = send(torch.stack(rows, dim=1).reshape(-1, 2, 3), images.device)
    grid = affine_grid(where, list(images.shape), align_corners=False)
    return grid_sample(images, grid, padding_mode="border", align_corners=False)
