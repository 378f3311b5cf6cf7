"""How long each stage of a piece of work takes."""

from __future__ import annotations

import time


class Stopwatch:
    """Stages that follow on each other: one begins, and the one before it ends."""

    def __init__(self, first: str) -> None:
        self._begun: list[tuple[str, float]] = [(first, time.monotonic())]

    def begin(self, stage: str) -> None:
        """A stage begins now."""
        self._begun.append((stage, time.monotonic()))

    def seconds(self) -> dict[str, float]:
        """Of every stage in order, up to now; of one that came more than once the sum."""
        ends = [at for _, at in self._begun[1:]] + [time.monotonic()]
        found: dict[str, float] = {}
        for (stage, at), end in zip(self._begun, ends, strict=True):
            found[stage] = found.get(stage, 0.0) + end - at
        return found
