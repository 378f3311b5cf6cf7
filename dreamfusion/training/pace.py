"""How long a run will take, from the steps that it has taken. No torch."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from statistics import fmean

# A step on pictures of a size that was not tried yet costs as much as one on the largest size that
# was, but for the pixels: their share of a step, measured with the embedded prior on a CPU.
PIXEL_SHARE = 0.25
RECENT = 20


class Pace:
    """Seconds of recent steps by the size of their pictures."""

    def __init__(self) -> None:
        self._seconds: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))
        self.steps = 0

    def add(self, size: int, seconds: float) -> None:
        """Take a step on pictures of `size` pixels into account. The first of each size, which
        compiles and warms up, only counts until there is another."""
        seen = self._seconds[size]
        if self.steps and len(seen) == 1 and seen[0] > 2 * seconds:
            seen.clear()
        seen.append(seconds)
        self.steps += 1

    def remaining(self, sizes: Iterable[int]) -> float:
        """Seconds that steps on pictures of these sizes will take. At least one step was added."""
        return sum(self._cost(size) for size in sizes)

    def _cost(self, size: int) -> float:
        if size in self._seconds:
            return fmean(self._seconds[size])
        known = max(self._seconds)
        return fmean(self._seconds[known]) * (1 - PIXEL_SHARE + PIXEL_SHARE * (size / known) ** 2)
