"""Packed samples: the samples of all rays, concatenated without padding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """Samples sorted by ray and then by distance.

    positions: world frame; each is the middle of an interval of length `step`, in scene units.
    t: distance from the ray's origin, scene units. ray_index: the ray of each sample.
    offsets: ray i has the samples offsets[i] ... offsets[i + 1] - 1.
    """

    positions: Float[Tensor, "n 3"]
    t: Float[Tensor, " n"]
    ray_index: Int64[Tensor, " n"]
    offsets: Int64[Tensor, " rays_plus_1"]
    step: float

    def __len__(self) -> int:
        return self.t.shape[0]

    @property
    def n_rays(self) -> int:
        """The number of rays, including rays without samples."""
        return self.offsets.shape[0] - 1

    def select(self, keep: Bool[Tensor, " n"]) -> Samples:
        """Only the samples where `keep` is True; the number of rays is unchanged."""
        kept = torch.zeros(len(self) + 1, dtype=torch.int64, device=keep.device)
        torch.cumsum(keep, dim=0, out=kept[1:])
        index = keep.nonzero()[:, 0]  # only once, because this waits for the GPU
        return Samples(
            positions=self.positions[index],
            t=self.t[index],
            ray_index=self.ray_index[index],
            offsets=kept[self.offsets],
            step=self.step,
        )
