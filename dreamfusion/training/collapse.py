"""Detects a collapsed scene: every image is empty, or completely filled."""

PATIENCE = 100  # consecutive steps
EMPTY, FULL = 0.002, 0.985  # mean opacity of a step's images


class CollapseWatch:
    """Monitors the opacity of each step, and returns a warning when the scene has collapsed."""

    def __init__(self) -> None:
        self._empty = self._full = 0

    def see(self, opacity: float) -> str | None:
        """The warning due after a step with this mean opacity, or None."""
        self._empty = self._empty + 1 if opacity < EMPTY else 0
        self._full = self._full + 1 if opacity > FULL else 0
        if self._empty == PATIENCE:
            return (
                f"the scene has been empty for {PATIENCE} steps and will hardly recover: stop, and "
                "try another seed, lower losses.opacity, scene.losses.sparsity or losses.entropy, "
                "or a higher scene.field.blob_scale"
            )
        if self._full == PATIENCE:
            return (
                f"the scene has filled every image for {PATIENCE} steps, like fog in front of the "
                "camera: stop, and try another seed, losses.opacity of at least 0.001, or a lower "
                "scene.optimizer.grid_lr"
            )
        return None
