"""Notices when there is nothing left to train: every picture is empty, or full."""

from __future__ import annotations

PATIENCE = 100  # steps in a row
EMPTY, FULL = 0.002, 0.985  # mean opacity of a step's pictures


class CollapseWatch:
    """Sees the opacity of each step, and says once for each kind what has happened."""

    def __init__(self) -> None:
        self._empty = self._full = 0

    def see(self, opacity: float) -> str | None:
        """What to tell the user after a step whose pictures have this mean opacity, or None."""
        self._empty = self._empty + 1 if opacity < EMPTY else 0
        self._full = self._full + 1 if opacity > FULL else 0
        if self._empty == PATIENCE:
            return (
                f"the scene has been empty for {PATIENCE} steps and will hardly come back: stop, "
                "and try another seed, less of losses.opacity, losses.sparsity and losses.entropy, "
                "or a greater field.blob_scale"
            )
        if self._full == PATIENCE:
            return (
                f"the scene has filled every picture for {PATIENCE} steps, like fog before the "
                "camera: stop, and try another seed, losses.opacity of .001 and more, or a lower "
                "optimizer.grid_lr"
            )
        return None
