"""Ctrl-C, polite kills and a scheduler's preemption."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Ctrl-C, a polite kill, and what schedulers send some time before they kill. Not all systems have
# the last.
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)


class Stopped(BaseException):
    """A signal asked to stop at once. status: the exit status that tells so.

    No KeyboardInterrupt: typer would forget the signal, and Python, where it meets one within an
    `exec` (a dataclass that is being imported), ends with SIGINT although it was caught.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.status = exit_status(number)


def exit_status(number: int | None) -> int:
    """The exit status of a process that a signal stopped; of another's wish, as by Ctrl-C."""
    return 128 + (signal.SIGINT if number is None else number)


class Stopping:
    """Whether a signal asked to stop, and which. While steps are taken, the first one lets the step
    and its checkpoint be finished; at all other times there is nothing to lose."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._gentle = False

    def __call__(self) -> bool:
        return self.number is not None

    def ask(self, number: int, frame: FrameType | None) -> None:
        """What the signals call."""
        again, self.number = self(), number
        if again or not self._gentle:
            raise Stopped(number)
        print("stopping after this step; Ctrl-C again quits at once", file=sys.stderr, flush=True)

    def check(self) -> None:
        """Between one piece of work and the next: what `ask` raised may have met a library that
        swallows it, in a finalizer or a callback."""
        if self.number is not None:
            raise Stopped(self.number)

    @contextmanager
    def gently(self) -> Iterator[None]:
        """While steps are taken, here or by a batch's jobs."""
        self._gentle = True
        try:
            yield
        finally:
            self._gentle = False


@contextmanager
def stoppable() -> Iterator[Stopping]:
    """Signals ask to stop for the time of the block, even where a shell had them ignored."""
    stopping = Stopping()
    before = {number: signal.signal(number, stopping.ask) for number in SIGNALS}
    try:
        yield stopping
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
