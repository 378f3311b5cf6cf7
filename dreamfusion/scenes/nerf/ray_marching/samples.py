"""Packed samples: the samples of all rays one after the other, without padding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """m samples on n rays, sorted by ray and then by distance.

    positions: (m, 3) sample points, world frame; each stands for an interval of length `step`
    that it is the middle of.
    t: (m,) distance from the ray's origin, scene units.
    ray_index: (m,) int64, which ray.
    offsets: (n + 1,) int64; ray i owns the samples offsets[i] ... offsets[i + 1] - 1.
    step: length of every sample's interval, scene units.
    """

    positions: Tensor
    t: Tensor
    ray_index: Tensor
    offsets: Tensor
    step: float

    def __len__(self) -> int:
        return self.t.shape[0]

    @property
    def n_rays(self) -> int:
        """Number of rays, with those that have no sample."""
        return self.offsets.shape[0] - 1

    def select(self, keep: Tensor) -> Samples:
        """Only the samples where `keep` (m,) is True; the rays stay n."""
        kept = torch.zeros(len(self) + 1, dtype=torch.int64, device=keep.device)
        torch.cumsum(keep, dim=0, out=kept[1:])
        index = keep.nonzero()[:, 0]  # once: a GPU is waited for here
        return Samples(
            positions=self.positions[index],
            t=self.t[index],
            ray_index=self.ray_index[index],
            offsets=kept[self.offsets],
            step=self.step,
        )
