"""Logs the metrics of every step and the previews as event files for TensorBoard.

TensorBoard is optional (`pip install 'dreamfusion[tensorboard]'`). Neither TensorBoard nor torch is
imported before a log is opened.
"""

import importlib.util
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from dreamfusion.runs.metrics import scalars
from dreamfusion.utils.errors import UserError

_FLUSH_SECONDS = 10


class EventLogError(UserError):
    """The log for TensorBoard cannot be written."""


def require_tensorboard() -> None:
    """Raise EventLogError if TensorBoard is not installed, without importing it."""
    if importlib.util.find_spec("tensorboard") is None:
        raise EventLogError(
            "logging.tensorboard needs TensorBoard: pip install 'dreamfusion[tensorboard]'"
        )


class EventLog(AbstractContextManager["EventLog"]):
    """Writes event files to a folder; a context manager.

    after: the step of the checkpoint. TensorBoard ignores entries of later steps in older files,
    from a run that was killed after its last checkpoint: those steps will be repeated.
    """

    def __init__(self, folder: Path, *, after: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise EventLogError(
                f"TensorBoard cannot be used ({error}): pip install 'dreamfusion[tensorboard]'"
            ) from None
        self._writer = SummaryWriter(str(folder), purge_step=after + 1, flush_secs=_FLUSH_SECONDS)

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Log the metrics of a step, which include its number."""
        for name, value in scalars(metrics).items():
            self._writer.add_scalar(f"train/{name}", value, metrics["step"])

    def write_image(self, path: Path, step: int) -> None:
        """Log an image file."""
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._writer.add_image("preview", pixels, step, dataformats="HWC")

    def flush(self) -> None:
        """Write buffered entries to disk, so that a checkpoint is never ahead of the log."""
        self._writer.flush()

    def __exit__(self, *error: object) -> None:
        self._writer.close()
