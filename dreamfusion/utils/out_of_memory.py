"""What to say when a GPU's memory does not suffice after all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dreamfusion.utils.errors import UserError


class OutOfMemoryError(UserError):
    """The GPU's memory is full."""


@contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Turn torch's out-of-memory error, pages long, into one line with what to change."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(
            "the GPU ran out of memory; lower camera.views or render.resolution, or set "
            "prior.vae_checkpointing=true"
        ) from error
