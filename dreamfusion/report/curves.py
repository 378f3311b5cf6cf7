"""Renders the templates in this folder, with all text escaped, and draws curves as inline SVG,
without a plotting library or scripts in the page."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader
from numpy.typing import ArrayLike, NDArray

WIDTH, HEIGHT = 420, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 10, 10, 36
_MOST_POINTS = 400
COLORS = 8  # style.css names them --s0 to --s7
_ENVIRONMENT = Environment(
    loader=PackageLoader("dreamfusion.report"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=lambda value: "" if value is None else value,
)


def render(template: str, **content: object) -> str:
    """Render a template with these variables."""
    return _ENVIRONMENT.get_template(template).render(content)


class Series(NamedTuple):
    """A line: its label, its colour and its points."""

    label: str
    color: int
    steps: Sequence[float]
    values: Sequence[float]


class _Axis(NamedTuple):
    """Maps values to pixels: `low` to `start`, `high` to `end`. log: these are powers of ten."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, values: ArrayLike) -> NDArray[np.float64]:
        places = np.log10(values) if self.log else np.asarray(values, np.float64)
        return self.start + (self.end - self.start) * (places - self.low) / (self.high - self.low)

    def marks(self, *, most: int, whole: bool = False) -> list[tuple[float, str]]:
        """Pixels and texts of round numbers. whole: integers only."""
        found = ticks(self.low, self.high, most)
        found = [n for n in found if n == int(n)] if whole or self.log else found
        values = [10.0**n for n in found] if self.log else found
        return [(float(self.at(value)), number(value)) for value in values]


def chart(series: Sequence[Series], title: str) -> str:
    """Draw the series over the step as SVG: raw values as faint lines, smoothed ones as strong.

    title: for screen readers. The value axis is logarithmic if the values are positive and span
    more than two powers of ten.
    """
    steps = [step for curve in series for step in curve.steps]
    x = _Axis(min(steps), max(max(steps), min(steps) + 1), _LEFT, WIDTH - _RIGHT)
    y = _value_axis([value for curve in series for value in curve.values])
    return render(
        "chart.svg",
        title=title,
        width=WIDTH,
        height=HEIGHT,
        left=_LEFT,
        right=WIDTH - _RIGHT,
        bottom=HEIGHT - _BOTTOM,
        rows=y.marks(most=5),
        columns=x.marks(most=7, whole=True),
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


def smooth(values: Sequence[float], reach: int) -> NDArray[np.float64]:
    """Moving average over `reach` neighbours on both sides, fewer near the ends."""
    sums, i = np.cumsum([0.0, *values]), np.arange(len(values))
    radius = np.minimum(reach, np.minimum(i, i[::-1]))
    return (sums[i + radius + 1] - sums[i - radius]) / (2 * radius + 1)


def number(value: float) -> str:
    """A number in short form: 0.25, 12, 1.5k, 2M, 1e-05."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _value_axis(values: Sequence[float]) -> _Axis:
    low, high = min(values), max(values)
    log = low > 0 and high / low > 100
    if log:
        low, high = math.floor(math.log10(low)), math.ceil(math.log10(high))
    elif low == high:
        low, high = low - (abs(low) or 1.0), high + (abs(high) or 1.0)
    else:
        low, high = 0.0 if 0 < low < 0.4 * high else low, high + 0.04 * (high - low)
    return _Axis(low, high, HEIGHT - _BOTTOM, _TOP, log)


def _line(series: Series, x: _Axis, y: _Axis) -> dict[str, Any]:
    """The SVG elements of a series: a point for a single step, or paths."""
    content = {"label": series.label, "color": f"var(--s{series.color % COLORS})"}
    n = len(series.values)
    if n == 1:
        return content | {"point": (float(x.at(series.steps[0])), float(y.at(series.values[0])))}
    # Do not smooth a series with few distinct values, which is set by a schedule.
    smoothed = smooth(series.values, n // 30 if len(set(series.values)) > n // 10 else 0)
    raw, strong = (_path(x.at(series.steps), y.at(v)) for v in (series.values, smoothed))
    return content | {"raw": raw if n >= 30 else "", "smooth": strong}


def _path(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    """A path through the minimum and the maximum of each bucket of points."""
    every = -(-len(y) // _MOST_POINTS)
    starts = range(0, len(y), every)
    ends = {i + int(f(y[i : i + every])) for i in starts for f in (np.argmin, np.argmax)}
    return "M" + "L".join(f"{x[i]:.1f} {y[i]:.1f}" for i in sorted(ends))
