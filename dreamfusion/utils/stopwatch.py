"""Measures the duration of stages."""

import time


class Stopwatch:
    """Records the durations of consecutive stages. Each stage ends when the next one begins."""

    def __init__(self, first: str) -> None:
        self._begun: list[tuple[str, float]] = [(first, time.monotonic())]

    def begin(self, stage: str) -> None:
        """Begin a stage."""
        self._begun.append((stage, time.monotonic()))

    def seconds(self) -> dict[str, float]:
        """Duration of every stage up to now, in order; repeated stages are summed."""
        ends = [at for _, at in self._begun[1:]] + [time.monotonic()]
        found: dict[str, float] = {}
        for (stage, at), end in zip(self._begun, ends, strict=True):
            found[stage] = found.get(stage, 0.0) + end - at
        return found
