"""Runs that are killed, stopped, or started twice."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time

import pytest

from tests.reliability.conftest import assert_as_if_nothing_had_happened

KILLS = 100  # seeds; only the first few are in the fast set
FEW = 5


def kill_and_go_on(bench, whole, cwd, seed):
    """Kill a run at a random instant, then resume it."""
    cwd.mkdir()
    child = bench.train(cwd)
    time.sleep(random.Random(seed).uniform(0.0, whole.seconds))
    child.signal(signal.SIGKILL)
    assert child.wait() in (-signal.SIGKILL, 0)
    bench.finish(cwd)
    assert_as_if_nothing_had_happened(cwd, whole, besides=set())


def test_a_run_killed_at_any_instant_resumes_as_if_nothing_had_happened(bench, whole, tmp_path):
    for seed in range(FEW):
        kill_and_go_on(bench, whole, tmp_path / str(seed), seed)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fifth", range(5))
def test_a_run_killed_at_many_more_instants_resumes(bench, whole, tmp_path, fifth):
    for seed in range(max(FEW, fifth * KILLS // 5), (fifth + 1) * KILLS // 5):
        kill_and_go_on(bench, whole, tmp_path / str(seed), seed)


def test_leftovers_of_a_run_killed_after_its_last_checkpoint_are_removed(bench, whole, tmp_path):
    """The oldest is deleted after the newest is written. A kill in between leaves one too many."""
    assert bench.train(tmp_path).wait() == 0
    for kind in ("json", "safetensors"):
        newest = tmp_path / "run" / "checkpoints" / f"step_0000009.{kind}"
        shutil.copy(newest, newest.with_name(f"step_0000006.{kind}"))
    shutil.copy(newest, newest.with_name("step_0000003.safetensors"))
    bench.finish(tmp_path)
    assert_as_if_nothing_had_happened(tmp_path, whole, besides=set())


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)]
)
def test_a_stop_signal_writes_a_checkpoint_to_resume_from(bench, whole, tmp_path, number, status):
    child = bench.train(tmp_path, steps=2000)
    child.wait_for("step 1/2000")
    child.signal(number)
    started = time.monotonic()
    assert child.wait() == status, child.output
    assert time.monotonic() - started < 10
    assert "to resume: dreamfusion resume run" in child.output
    assert "Traceback" not in child.output
    newest = max((tmp_path / "run" / "checkpoints").glob("*.json"))
    assert f"stopped at step {int(newest.stem[5:])};" in child.output


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_after_the_last_step_stops_at_once(bench, whole, tmp_path, number, status):
    child = bench.train(tmp_path, "--set", "output.video_frames=10000")
    child.wait_for("images 1/10000")
    child.signal(number)
    started = time.monotonic()
    assert child.wait() == status, child.output
    assert time.monotonic() - started < 10
    assert not (tmp_path / "run" / "video.mp4").exists()
    assert (tmp_path / "run" / "mesh" / "model.glb").exists()


def test_a_second_trainer_is_refused_unless_the_first_is_dead(bench, whole, tmp_path):
    first = bench.train(tmp_path, steps=2000)
    first.wait_for("step 1/2000")
    status, said = bench.forks.run("resume", "run", "--steps", 3000, cwd=tmp_path)
    assert status == 2
    assert said.splitlines()[-1].startswith("error: run is being trained by another process;")
    # Reading is permitted, and needs no lock.
    status, said = bench.forks.run("report", "run", cwd=tmp_path)
    assert status == 0, said
    first.signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    begun = max([0, *(int(p.stem[5:]) for p in (tmp_path / "run/checkpoints").glob("*.json"))])
    status, said = bench.forks.run("resume", "run", "--steps", begun + 1, cwd=tmp_path)
    assert status == 0, said


def test_a_frozen_run_keeps_its_lock(bench, whole, tmp_path):
    first = bench.train(tmp_path, steps=2000)
    first.wait_for("step 1/2000")
    first.signal(signal.SIGSTOP)
    status, said = bench.forks.run("resume", "run", cwd=tmp_path)
    assert status == 2 and "is being trained by another process" in said
    first.signal(signal.SIGCONT)
    first.signal(signal.SIGTERM)
    assert first.wait() == 143


def test_a_removed_folder_is_reported(bench, whole, tmp_path):
    child = bench.train(tmp_path, steps=2000)
    child.wait_for("step 1/2000")
    os.rename(tmp_path / "run", tmp_path / "elsewhere")
    assert child.wait() == 2
    assert child.output.splitlines()[-1].startswith("error: run is gone: it was removed or")
    assert not (tmp_path / "run").exists()
