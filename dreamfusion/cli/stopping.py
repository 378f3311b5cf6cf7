"""Ctrl-C and polite kills."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Ctrl-C or a polite kill asks to stop after the current step; a second one quits at once."""
    asked = False

    def ask(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        print("stopping after this step; Ctrl-C again quits at once", file=sys.stderr, flush=True)

    with handling_stops(ask):
        yield lambda: asked


@contextmanager
def handling_stops(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Ctrl-C and a polite kill call `handler`, even where a shell had them ignored."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
