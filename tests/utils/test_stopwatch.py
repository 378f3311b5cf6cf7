"""Durations of consecutive stages."""

import pytest

from dreamfusion.utils import duration
from dreamfusion.utils.duration import Stopwatch


def test_each_stage_lasts_until_the_next(monkeypatch):
    clock = iter([10.0, 11.0, 14.0, 14.5, 20.0])
    monkeypatch.setattr(duration.time, "monotonic", lambda: next(clock))
    watch = Stopwatch("starting")
    for stage in ("training", "drawing", "training"):
        watch.begin(stage)
    found = watch.seconds()
    assert list(found) == ["starting", "training", "drawing"]
    assert found == pytest.approx({"starting": 1.0, "training": 3.0 + 5.5, "drawing": 0.5})
