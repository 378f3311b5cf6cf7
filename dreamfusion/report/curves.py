"""Draws curves as inline SVG, without a plotting library or scripts in the page."""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from dreamfusion.report.rendering import render

WIDTH, HEIGHT = 420, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 10, 10, 36
_MOST_POINTS = 400
COLORS = 8  # style.css names them --s0 to --s7


class Series(NamedTuple):
    """A line: its label, its colour and its points."""

    label: str
    color: int
    steps: Sequence[float]
    values: Sequence[float]


class _Axis(NamedTuple):
    """Maps values to pixels: `low` to `start`, `high` to `end`; logarithmic if `log`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return self.start + (self.end - self.start) * (value - low) / (high - low)


def chart(series: Sequence[Series], title: str) -> str:
    """Draw the series over the step as SVG: raw values as faint lines, smoothed ones as strong.

    title: for screen readers. The value axis is logarithmic if the values are positive and span
    more than two powers of ten.
    """
    values = [value for curve in series for value in curve.values]
    steps = [step for curve in series for step in curve.steps]
    x = _Axis(min(steps), max(max(steps), min(steps) + 1), _LEFT, WIDTH - _RIGHT)
    y = _value_axis(values)
    rows = powers(y.low, y.high) if y.log else ticks(y.low, y.high)
    columns = [value for value in ticks(x.low, x.high, most=7) if value == int(value)]
    return render(
        "chart.svg",
        title=title,
        width=WIDTH,
        height=HEIGHT,
        left=_LEFT,
        right=WIDTH - _RIGHT,
        bottom=HEIGHT - _BOTTOM,
        rows=[(y.at(value), number(value)) for value in rows],
        columns=[(x.at(value), number(value)) for value in columns],
        lines=[_line(curve, x, y) for curve in series],
    )


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """About `most` round numbers between low and high.

    >>> ticks(0, 10), ticks(1, 120)
    ([0.0, 2.0, 4.0, 6.0, 8.0, 10.0], [50.0, 100.0])
    """
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{n * step:.12g}") for n in range(first, last + 1)]


def powers(low: float, high: float) -> list[float]:
    """The powers of ten from low to high; every nth one if there are many."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    every = max(1, (last - first + 1) // 5)
    return [10.0**n for n in range(first, last + 1, every)]


def smooth(values: Sequence[float], reach: int) -> list[float]:
    """Moving average over `reach` neighbours on both sides, fewer near the ends."""
    sums = list(accumulate(values, initial=0.0))
    result = []
    for i in range(len(values)):
        radius = min(reach, i, len(values) - 1 - i)
        result.append((sums[i + radius + 1] - sums[i - radius]) / (2 * radius + 1))
    return result


def number(value: float) -> str:
    """A number in short form: 0.25, 12, 1.5k, 2M, 1e-05."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _value_axis(values: Sequence[float]) -> _Axis:
    low, high = min(values), max(values)
    bottom, top = HEIGHT - _BOTTOM, _TOP
    if low > 0 and high / low > 100:
        return _Axis(
            10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high)), bottom, top, True
        )
    if low == high:
        margin = abs(low) or 1.0
        return _Axis(low - margin, high + margin, bottom, top)
    low = 0.0 if 0 < low < 0.4 * high else low
    return _Axis(low, high + 0.04 * (high - low), bottom, top)


def _line(series: Series, x: _Axis, y: _Axis) -> dict[str, Any]:
    """The SVG elements of a series: a point for a single step, or paths."""
    content = {"label": series.label, "color": f"var(--s{series.color % COLORS})"}
    n = len(series.values)
    if n == 1:
        return content | {"point": (x.at(series.steps[0]), y.at(series.values[0]))}
    every = -(-n // _MOST_POINTS)
    # Do not smooth a series with few distinct values, which is set by a schedule.
    measured = len(set(series.values)) > n // 10
    smoothed = smooth(series.values, n // 30 if measured else 0)
    raw, strong = (_path(series.steps, values, every, x, y) for values in (series.values, smoothed))
    return content | {"raw": raw if n >= 30 else "", "smooth": strong}


def _path(steps: Sequence[float], values: Sequence[float], every: int, x: _Axis, y: _Axis) -> str:
    """A path through the minimum and the maximum of each bucket of `every` points."""
    points: list[str] = []
    for i in range(0, len(values), every):
        bucket = range(i, min(i + every, len(values)))
        ends = {min(bucket, key=values.__getitem__), max(bucket, key=values.__getitem__)}
        points += [f"{x.at(steps[j]):.1f} {y.at(values[j]):.1f}" for j in sorted(ends)]
    return "M" + "L".join(points)
