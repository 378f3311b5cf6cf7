"""Measures and formats durations."""

import time


def duration(seconds: float) -> str:
    """A duration as text: "8 s", "2 min 5 s" or "3 h 10 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


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
