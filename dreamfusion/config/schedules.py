"""Schedules: numbers that change from one value to another during a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """A number that is `start` until `begin`, `end` from `finish` on, and a ramp between them.

    begin, finish: limits of the ramp, as fractions of the run in [0, 1] or as step numbers,
    depending on `unit`. With begin == finish the value jumps there.
    shape: of the ramp: a straight line, half a cosine wave (flat at both ends), a square root (fast
    first), or geometric: a constant factor per step, between positive values.

    Raises ValueError for numbers that are not finite or do not fit together.

    >>> Schedule(0.98, 0.5).at(0, 101), Schedule(0.98, 0.5).at(100, 101)
    (0.98, 0.5)
    """

    start: float
    end: float
    begin: float = 0.0
    finish: float = 1.0
    shape: Literal["linear", "cosine", "sqrt", "geometric"] = "linear"
    unit: Literal["fraction", "steps"] = "fraction"

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.start, self.end, self.begin, self.finish))):
            raise ValueError("a schedule's numbers must be finite")
        if self.shape == "geometric" and min(self.start, self.end) <= 0:
            raise ValueError("a geometric schedule must be positive")
        if self.begin > self.finish:
            raise ValueError(f"begin ({self.begin}) comes after finish ({self.finish})")
        if self.begin < 0 or (self.unit == "fraction" and self.finish > 1):
            raise ValueError("begin and finish must lie in [0, 1]; for steps, set unit: steps")

    @classmethod
    def constant(cls, value: float) -> Schedule:
        """A schedule with the same value at every step."""
        return cls(value, value)

    @property
    def is_constant(self) -> bool:
        """Whether the value never changes."""
        return self.start == self.end

    def at(self, step: int, steps: int) -> float:
        """The value at `step` (0 is the first) of a run of `steps` steps."""
        position = float(step) if self.unit == "steps" else step / max(steps - 1, 1)
        if position < self.begin:
            return self.start
        if position >= self.finish:
            return self.end
        ramp = (position - self.begin) / (self.finish - self.begin)
        if self.shape == "geometric":
            return self.start * (self.end / self.start) ** ramp
        if self.shape == "cosine":
            ramp = (1.0 - math.cos(math.pi * ramp)) / 2.0
        elif self.shape == "sqrt":
            ramp = math.sqrt(ramp)
        return self.start + (self.end - self.start) * ramp
