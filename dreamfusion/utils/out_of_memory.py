"""What to say when memory does not suffice after all, a GPU's or the machine's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from dreamfusion.utils.errors import UserError


class OutOfMemoryError(UserError):
    """Memory is full."""


def out_of_memory(error: BaseException) -> str | None:
    """One line with what to change, if the error, pages long, is torch's of a full GPU, or says
    that this machine's memory is full."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return (
            "the GPU ran out of memory; lower camera.views, render.resolution, --size or --count, "
            "or set prior.vae_checkpointing=true"
        )
    # Torch has no class of its own for it.
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        return (
            "this machine ran out of memory; lower camera.views, render.resolution, --resolution, "
            "--size or --count"
        )
    return None


@contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Turn torch's out-of-memory error into a UserError of one line."""
    try:
        yield
    except Exception as error:
        if (said := out_of_memory(error)) is None:
            raise
        raise OutOfMemoryError(said) from error
