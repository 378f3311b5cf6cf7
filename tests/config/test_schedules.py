import re
from itertools import pairwise

import pytest

from dreamfusion.config.schedules import Schedule


def test_constant_never_changes():
    schedule = Schedule.constant(3.0)
    assert schedule.is_constant
    assert {schedule.at(step, 50) for step in range(60)} == {3.0}


def test_first_and_last_step_hit_the_ends_exactly():
    schedule = Schedule(0.98, 0.5)
    assert schedule.at(0, 400) == 0.98
    assert schedule.at(399, 400) == 0.5
    assert schedule.at(1000, 400) == 0.5


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_ramp_is_monotonic_and_passes_the_middle(shape):
    schedule = Schedule(1.0, 3.0, 0.25, 0.75, shape)
    values = [schedule.at(step, 101) for step in range(101)]
    assert values == sorted(values)
    assert values[25] == 1.0 and values[75] == 3.0
    assert values[50] == pytest.approx(2.0)


def test_cosine_is_flat_at_its_ends():
    schedule = Schedule(0.0, 1.0, shape="cosine")
    assert schedule.at(1, 101) < 0.001
    assert schedule.at(99, 101) > 0.999


def test_geometric_grows_by_the_same_factor():
    schedule = Schedule(1.0, 8.0, 0.25, 0.75, "geometric")
    values = [schedule.at(step, 101) for step in range(101)]
    assert (values[25], values[75]) == (1.0, 8.0)
    factors = [after / before for before, after in pairwise(values[25:76])]
    assert factors == pytest.approx([8 ** (1 / 50)] * 50)


def test_the_value_jumps_if_begin_equals_finish():
    schedule = Schedule(32, 64, 0.5, 0.5)
    assert schedule.at(49, 101) == 32
    assert schedule.at(50, 101) == 64


def test_step_numbers_do_not_depend_on_the_length_of_the_run():
    schedule = Schedule(0.0, 10.0, 0, 10, unit="steps")
    assert [schedule.at(step, 1000) for step in (0, 5, 10, 500)] == [0.0, 5.0, 10.0, 10.0]


def test_a_run_of_one_step_uses_the_start_value():
    assert Schedule(1.0, 2.0).at(0, 1) == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"begin": 0.6, "finish": 0.5}, "begin (0.6) comes after finish (0.5)"),
        ({"finish": 1.5}, "must lie in [0, 1]; for steps, set unit: steps"),
        ({"begin": -1, "unit": "steps"}, "must lie in [0, 1]"),
        ({"start": float("nan")}, "must be finite"),
        ({"shape": "geometric"}, "a geometric schedule must be positive"),
    ],
)
def test_invalid_schedules_are_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Schedule(**{"start": 0.0, "end": 1.0, **arguments})
