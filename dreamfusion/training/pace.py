"""How long a run will take, from the steps that it has taken. No torch."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from statistics import fmean

# The cost of a step at a new image size is that at the largest size so far, with a share that grows
# with the number of pixels. The share was measured with the embedded prior on a CPU.
PIXEL_SHARE = 0.25
RECENT = 20


class Pace:
    """Seconds of recent steps by the size of their images."""

    def __init__(self) -> None:
        self._seconds: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))
        self.steps = 0

    def add(self, size: int, seconds: float) -> None:
        """Record a step on images of `size` pixels. The first step of each size includes
        compilation and warm-up: it is dropped once there is another."""
        seen = self._seconds[size]
        if self.steps and len(seen) == 1 and seen[0] > 2 * seconds:
            seen.clear()
        seen.append(seconds)
        self.steps += 1

    def remaining(self, sizes: Iterable[int]) -> float:
        """Predicted seconds for steps on images of these sizes; needs at least one `add` before."""
        return sum(self._cost(size) for size in sizes)

    def _cost(self, size: int) -> float:
        if size in self._seconds:
            return fmean(self._seconds[size])
        known = max(self._seconds)
        return fmean(self._seconds[known]) * (1 - PIXEL_SHARE + PIXEL_SHARE * (size / known) ** 2)
