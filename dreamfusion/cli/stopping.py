"""Handles SIGINT (Ctrl-C), SIGTERM and SIGUSR1 (preemption by a scheduler)."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Schedulers send SIGUSR1 before they kill a job. Not all systems have it.
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)


class Stopped(BaseException):
    """Raised by a signal handler to stop at once. status: the exit status for the signal.

    It is not a KeyboardInterrupt, for which typer would lose the signal. Besides, Python exits with
    SIGINT if one is raised within `exec` (as in the definition of a dataclass), even if caught.
    """

    def __init__(self, status: int) -> None:
        super().__init__()
        self.status = status


class Stopping:
    """Records the signal, if any, that requested a stop. During training, the first signal lets the
    current step and its checkpoint finish; otherwise a signal stops at once."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._in_training = False

    @property
    def status(self) -> int:
        """The exit status after the signal; without one, as after Ctrl-C."""
        return 128 + (self.number or signal.SIGINT)

    def __call__(self) -> bool:
        return self.number is not None

    def handle_signal(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal. Raises Stopped to stop at once."""
        repeated, self.number = self(), number
        if repeated or not self._in_training:
            raise Stopped(self.status)
        print("stopping after this step; Ctrl-C again quits at once", file=sys.stderr, flush=True)

    def check(self) -> None:
        """Raise Stopped if a signal was received. Call this between pieces of work, since a library
        may have suppressed the exception of the handler in a finalizer or a callback."""
        if self.number is not None:
            raise Stopped(self.status)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Declare that training steps run during the block, here or in the jobs of a batch."""
        self._in_training = True
        try:
            yield
        finally:
            self._in_training = False


@contextmanager
def stoppable() -> Iterator[Stopping]:
    """Handle the signals during the block, even if the shell has set them to be ignored."""
    stopping = Stopping()
    before = {number: signal.signal(number, stopping.handle_signal) for number in SIGNALS}
    try:
        yield stopping
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
