"""Predicts the remaining duration of a run from the duration of its steps. No torch."""

from collections import defaultdict, deque
from collections.abc import Iterable
from statistics import fmean

# The cost of a step at a new image size is extrapolated from the largest size so far: this share of
# it is proportional to the number of pixels. Measured with the embedded prior on a CPU.
PIXEL_SHARE = 0.25
RECENT = 20


class Pace:
    """Durations of recent steps, by image size."""

    def __init__(self) -> None:
        self._seconds: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))
        self.steps = 0

    def add(self, size: int, seconds: float) -> None:
        """Record a step on images of `size` pixels. A slow first step of a size, which includes
        compilation and warm-up, is dropped after the second one."""
        recent = self._seconds[size]
        if self.steps and len(recent) == 1 and recent[0] > 2 * seconds:
            recent.clear()
        recent.append(seconds)
        self.steps += 1

    def remaining(self, sizes: Iterable[int]) -> float:
        """Predicted seconds for steps on images of these sizes. Requires at least one `add`."""
        return sum(self._cost(size) for size in sizes)

    def _cost(self, size: int) -> float:
        if size in self._seconds:
            return fmean(self._seconds[size])
        known = max(self._seconds)
        return fmean(self._seconds[known]) * (1 - PIXEL_SHARE + PIXEL_SHARE * (size / known) ** 2)
