"""Prediction of the duration of a run."""

import pytest

from dreamfusion.cli.console import PIXEL_SHARE, Pace


def test_known_sizes_cost_their_mean():
    pace = Pace()
    for seconds in (0.2, 0.3, 0.4):
        pace.add(32, seconds)
    assert pace.remaining([32] * 10) == pytest.approx(3.0)
    assert pace.remaining([]) == 0.0


def test_a_slow_first_step_is_ignored():
    pace = Pace()
    for seconds in (9.0, 0.3, 0.3):
        pace.add(32, seconds)
    assert pace.remaining([32]) == pytest.approx(0.3)


def test_the_cost_of_larger_images_is_extrapolated():
    pace = Pace()
    pace.add(32, 0.2)
    assert pace.remaining([64]) == pytest.approx(0.2 * (1 + 3 * PIXEL_SHARE))
    pace.add(64, 0.3)
    assert pace.remaining([32, 64]) == pytest.approx(0.5)


def test_only_recent_steps_count():
    pace = Pace()
    for _ in range(50):
        pace.add(32, 1.0)
    for _ in range(20):
        pace.add(32, 0.5)
    assert pace.remaining([32]) == pytest.approx(0.5)
