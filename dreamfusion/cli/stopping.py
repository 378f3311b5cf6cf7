"""Handling of SIGINT (Ctrl-C), SIGTERM and SIGUSR1 (preemption by a scheduler)."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Schedulers send SIGUSR1 some time before they kill a job. Not all systems have it.
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)


class Stopped(BaseException):
    """Raised by a signal to stop at once. status: the exit status for that signal.

    Not a KeyboardInterrupt: typer would lose the signal, and Python ends with SIGINT if one is
    raised within an `exec` (as when a dataclass is defined), although it was caught.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.status = exit_status(number)


def exit_status(number: int | None) -> int:
    """The exit status of a process that a signal stopped; None counts as Ctrl-C."""
    return 128 + (signal.SIGINT if number is None else number)


class Stopping:
    """Records which signal, if any, requested a stop. During training, the first signal lets the
    current step and its checkpoint finish; at other times a signal stops at once."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._gentle = False

    def __call__(self) -> bool:
        return self.number is not None

    def ask(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        again, self.number = self(), number
        if again or not self._gentle:
            raise Stopped(number)
        print("stopping after this step; Ctrl-C again quits at once", file=sys.stderr, flush=True)

    def check(self) -> None:
        """Call between pieces of work: a library may have swallowed the exception of `ask`, in a
        finalizer or a callback."""
        if self.number is not None:
            raise Stopped(self.number)

    @contextmanager
    def gently(self) -> Iterator[None]:
        """During the block, training steps run, here or in the jobs of a batch."""
        self._gentle = True
        try:
            yield
        finally:
            self._gentle = False


@contextmanager
def stoppable() -> Iterator[Stopping]:
    """Handle the signals during the block, even if the shell set them to be ignored."""
    stopping = Stopping()
    before = {number: signal.signal(number, stopping.ask) for number in SIGNALS}
    try:
        yield stopping
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
