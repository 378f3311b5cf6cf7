"""The simulation of more machines agrees with what can be told by hand."""

from __future__ import annotations

import math
import random

import pytest

from dreamfusion.batch.jobs import Shelf, write_json
from scripts.batch_speed import simulate, tell
from tests.helpers.fast_attempts import job


@pytest.mark.parametrize("jobs", [1, 7, 40])
@pytest.mark.parametrize("places", [1, 2, 16])
def test_equal_jobs_come_in_waves(jobs, places):
    assert simulate([60.0] * jobs, places=places, hand_out=0.0) == 60.0 * math.ceil(jobs / places)


def test_one_place_takes_the_sum_and_the_driver_its_part_of_each():
    times = [3.0, 5.0, 2.0]
    assert simulate(times, places=1, hand_out=0.5) == pytest.approx(sum(times) + 3 * 0.5)


def test_a_driver_that_is_slower_than_the_places_is_what_one_waits_for():
    assert simulate([1.0] * 100, places=1000, hand_out=0.5) == pytest.approx(100 * 0.5 + 1.0)


def test_it_lies_between_the_best_that_is_possible_and_grahams_bound():
    rng = random.Random(0)
    for _ in range(50):
        times = [rng.uniform(1, 100) for _ in range(rng.randint(1, 60))]
        places = rng.randint(1, 20)
        best = max(max(times), sum(times) / places)
        found = simulate(times, places=places, hand_out=0.0)
        assert best <= found * (1 + 1e-9) and found <= (2 - 1 / places) * best * (1 + 1e-9)


def test_the_table_says_that_it_is_a_simulation(tmp_path, capsys):
    shelf = Shelf(tmp_path)
    for seed in range(4):
        folder = shelf.folder(job("a thing", seed=seed))
        folder.write(job("a thing", seed=seed))
        write_json(folder.done_file, {"run": "run", "seconds": 100.0})
    tell(tmp_path, [1, 4], 2)
    said = capsys.readouterr().out
    assert "4 jobs, 100 s each, measured; the rest is a simulation" in said
    assert "| 1 | 72 | 100% |" in said and "| 4 | 28" in said
