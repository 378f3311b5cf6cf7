"""Statistics over many rows."""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from dreamfusion.evaluation.rows import Row

FIGURES = (
    "r1_color", "r1_shaded", "r1_geometry", "margin", "iou", "color_error", "saturation",
    "normal_error_deg",
)  # fmt: skip


@dataclass(frozen=True)
class Mean:
    """A mean over prompts of means over seeds, since seeds of one prompt are not independent
    samples. half_width: of the 95 % confidence interval over prompts; None for one prompt."""

    value: float
    half_width: float | None
    prompts: int
    runs: int


def clustered_mean(values: Mapping[str, Sequence[float]]) -> Mean:
    """The mean of values by prompt, clustered by prompt (Student's t)."""
    from scipy.stats import t  # type: ignore[import-untyped]

    means = [statistics.fmean(group) for group in values.values()]
    n = len(means)
    half = None
    if n > 1:
        half = float(t.ppf(0.975, n - 1)) * (statistics.stdev(means) / math.sqrt(n))
    return Mean(statistics.fmean(means), half, n, sum(len(group) for group in values.values()))


def summarise(rows: Sequence[Row]) -> dict[str, Mean]:
    """The mean of each metric over the rows that have it."""
    found: dict[str, Mean] = {}
    for name in FIGURES:
        groups: dict[str, list[float]] = defaultdict(list)
        for row in rows:
            if (value := getattr(row, name)) is not None:
                groups[row.prompt].append(float(value))
        if groups:
            found[name] = clustered_mean(groups)
    return found


def best_of(
    rows: Sequence[Row],
    margin: Callable[[Row], float | None],
    *,
    among: Callable[[Row], Hashable] = lambda row: row.prompt,
) -> list[Row]:
    """The row with the greatest margin in each group of rows with the same `among`. Rows without a
    margin are skipped."""
    best: dict[Hashable, tuple[float, Row]] = {}
    for row in rows:
        value, key = margin(row), among(row)
        if value is not None and (key not in best or value > best[key][0]):
            best[key] = (value, row)
    return [row for _, row in best.values()]
