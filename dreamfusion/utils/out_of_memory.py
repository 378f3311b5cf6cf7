"""Explains out-of-memory errors of a GPU or of the machine."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from dreamfusion.utils.errors import UserError


class OutOfMemoryError(UserError):
    """Out of memory."""


def out_of_memory(error: BaseException) -> str | None:
    """One line with advice if the memory of a GPU or of this machine is full; None for any other
    error."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return (
            "the GPU ran out of memory; lower camera.views, render.resolution, --size or --count, "
            "or set prior.vae_checkpointing=true"
        )
    # Torch has no separate class for this error.
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        return (
            "this machine ran out of memory; lower camera.views, render.resolution, --resolution, "
            "--size or --count"
        )
    return None


@contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Convert out-of-memory errors to an OutOfMemoryError with a message of one line."""
    try:
        yield
    except Exception as error:
        if (message := out_of_memory(error)) is None:
            raise
        raise OutOfMemoryError(message) from error
