"""Loads new checkpoints of a run while another process may be writing them."""

import os
import warnings
from collections.abc import Callable

from dreamfusion.runs.checkpoint import CheckpointError, SavedScene, checkpoints, load_scene
from dreamfusion.runs.folder import RunFolder
from dreamfusion.utils.errors import RunWarning


class Follower:
    """Loads each new checkpoint of a run.

    device: of the scene. load: loads the newest checkpoint (replaced in tests). problem: why the
    newest checkpoint cannot be loaded; "" otherwise.
    """

    def __init__(
        self,
        run: RunFolder,
        device: str,
        *,
        load: Callable[[RunFolder, str], SavedScene] | None = None,
    ) -> None:
        self._run, self._device = run, device
        self._load = load or (lambda run, device: load_scene(run, run.read_config(), device))
        self._seen: tuple[str, int] | None = None
        self._step = -1
        self.problem = ""

    def newer(self) -> SavedScene | None:
        """The scene of the newest checkpoint, or None if it was returned before or cannot be read.

        A checkpoint may be deleted while it is read, since training keeps only a few. Loading is
        retried when the folder changes.
        """
        newest = self._newest()
        if newest is None or newest == self._seen:
            return None
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", RunWarning)
                state = self._load(self._run, self._device)
        except CheckpointError as error:
            if self._newest() == newest:  # not a race condition: a retry would fail, too
                self._seen = newest
                self.problem = str(error)
            return None
        self._seen, self.problem = newest, str(caught[0].message) if caught else ""
        if state.step == self._step:
            return None
        self._step = state.step
        return state

    def _newest(self) -> tuple[str, int] | None:
        """Name and time of the newest checkpoint. A restarted run may reuse a name."""
        found = checkpoints(self._run.checkpoints)
        try:
            return (found[-1].name, os.stat(found[-1]).st_mtime_ns) if found else None
        except FileNotFoundError:
            return None
