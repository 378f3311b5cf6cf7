"""What to say when a GPU's memory does not suffice after all."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from dreamfusion.utils.errors import UserError


class OutOfMemoryError(UserError):
    """The GPU's memory is full."""


def out_of_memory(error: BaseException) -> str | None:
    """One line with what to change, if the error, pages long, is torch's of a full GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(error, torch.OutOfMemoryError):
        return None
    return (
        "the GPU ran out of memory; lower camera.views, render.resolution, --size or --count, or "
        "set prior.vae_checkpointing=true"
    )


@contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Turn torch's out-of-memory error into a UserError of one line."""
    try:
        yield
    except Exception as error:
        if (said := out_of_memory(error)) is None:
            raise
        raise OutOfMemoryError(said) from error
