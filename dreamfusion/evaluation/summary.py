"""Statistics over many rows."""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
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


def clustered_mean(values: Iterable[tuple[str, float]]) -> Mean:
    """The mean of at least one (prompt, value), clustered by prompt (Student's t)."""
    from scipy.stats import t  # type: ignore[import-untyped]

    groups: dict[str, list[float]] = defaultdict(list)
    for prompt, value in values:
        groups[prompt].append(value)
    means = [statistics.fmean(group) for group in groups.values()]
    n = len(means)
    half = None
    if n > 1:
        half = float(t.ppf(0.975, n - 1)) * (statistics.stdev(means) / math.sqrt(n))
    return Mean(statistics.fmean(means), half, n, sum(len(group) for group in groups.values()))


def summarise(rows: Sequence[Row]) -> dict[str, Mean]:
    """The mean of each metric over the rows that have it."""
    columns = {
        name: [(row.prompt, float(v)) for row in rows if (v := getattr(row, name)) is not None]
        for name in FIGURES
    }
    return {name: clustered_mean(values) for name, values in columns.items() if values}


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
