"""The driver and the local engine, with real processes that run fake attempts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from dreamfusion.batch.attempt import start_attempt
from dreamfusion.batch.driver import ATTEMPTS, Listener, drive, driver_lock, prepare
from dreamfusion.batch.engines import ResourceRequest
from dreamfusion.batch.engines.local import (
    Gpu,
    LocalEngine,
    count_slots,
    gpu_memory,
    visible_gpus,
)
from dreamfusion.batch.jobs import BatchFolder, JobFolder, State, find_batch, read_json
from dreamfusion.batch.prompts import BatchError
from dreamfusion.utils.machine import Memory
from tests.helpers import ROOT
from tests.helpers.fast_attempts import job, state_of, steps_of, use_fast_attempts

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    use_fast_attempts(monkeypatch)


@pytest.fixture
def engine():
    engine = LocalEngine(ResourceRequest(1, 2**20, 0), at_once=2, stale_seconds=3)
    yield engine
    engine.close()


class Diary(Listener):
    def __init__(self):
        self.events = []
        self.most = 0

    def started(self, folder, number):
        self.events.append(("start", folder.read().prompt, number))

    def finished(self, folder):
        self.events.append(("end", folder.read().prompt, folder.state()))

    def retried(self, folder, why):
        self.events.append(("again", folder.read().prompt, why))

    def polled(self, running):
        self.most = max(self.most, len(running))


def make(tmp_path, engine, *jobs, **options):
    folders = prepare(BatchFolder(tmp_path), jobs)
    diary = Diary()
    finished = drive(folders, engine, listener=diary, stale_seconds=3, **options)
    return folders, diary, finished


def test_jobs_run_in_parallel_up_to_the_number_of_slots_and_only_once(tmp_path, engine):
    jobs = [job("a thing", seed=seed) for seed in range(5)]
    folders, diary, finished = make(tmp_path, engine, *jobs)
    assert finished and diary.most == 2
    assert all(folder.state() is State.done and steps_of(folder) == [1, 2, 3, 4]
               for folder in folders)  # fmt: skip
    done = read_json(folders[0].done_file)
    assert done["report"] == {"finished": True}
    assert 0 <= done["seconds"] < 60 and done["peak_gib"] > 0  # hundredths of a second
    _, diary, _ = make(tmp_path, engine, *jobs, job("another thing"))
    assert [event[:2] for event in diary.events] == [
        ("start", "another thing"),
        ("end", "another thing"),
    ]
    assert len(find_batch(tmp_path).jobs()) == 6


def test_user_errors_are_not_retried_and_crashes_are(tmp_path, engine):
    folders, diary, finished = make(tmp_path, engine, job("refuse"), job("crash"), job("a thing"))
    assert finished
    assert [folder.state() for folder in folders] == [State.failed, State.failed, State.done]
    assert folders[0].attempts() == [1]
    assert read_json(folders[0].failed_file)["error"] == "that cannot be made"
    assert folders[1].attempts() == list(range(1, ATTEMPTS + 1))
    assert "it fell over" in read_json(folders[1].failed_file)["error"]
    # Failed jobs are not retried until their retries are reset.
    _, diary, _ = make(tmp_path, engine, job("refuse"), job("crash"))
    assert diary.events == []
    folders[1].reset_retries()
    make(tmp_path, engine, job("crash"))
    assert folders[1].attempts() == list(range(1, 2 * ATTEMPTS + 1))


def test_a_killed_job_resumes_where_it_stopped(tmp_path, engine):
    (folder,), diary, _ = make(tmp_path, engine, job("die once"))
    assert folder.state() is State.done and folder.attempts() == [1, 2]
    assert ("again", "die once", "killed by signal 9") in diary.events
    assert steps_of(folder) == [1, 2, 3, 4] and folder.result.path.name == "run"
    assert folder.counted_failures() == 1


def test_a_frozen_job_is_abandoned_and_retried(tmp_path, engine):
    (folder,), diary, _ = make(tmp_path, engine, job("freeze once"))
    assert folder.state() is State.done and steps_of(folder) == [1, 2, 3, 4]
    assert any("no heartbeat" in str(event[2]) for event in diary.events)
    assert folder.counted_failures() == 0


def test_a_frozen_attempt_that_recovers_changes_nothing(tmp_path):
    """A newer attempt continues in a copy. If the older one recovers, it detects this and exits."""
    (folder,) = prepare(BatchFolder(tmp_path), [job("freeze once", steps=6)])
    clean = prepare(BatchFolder(tmp_path / "clean"), [job("freeze once", steps=6)])[0]

    def start(number):
        return start_attempt(folder, number, 3.0, cwd=ROOT)

    first = start(1)
    while read_status(first.pid) != "T":
        time.sleep(0.05)
    assert start(2).wait() == 0
    assert folder.state() is State.done and steps_of(folder) == [1, 2, 3, 4, 5, 6]
    assert folder.result.path.name == "run-of-attempt-2"
    before = folder.done_file.read_text()
    first.send_signal(signal.SIGCONT)
    first.wait()
    assert folder.done_file.read_text() == before and steps_of(folder) == [1, 2, 3, 4, 5, 6]
    # Equal to an uninterrupted run.
    (clean.path / "run" / "checkpoints").mkdir(parents=True)
    engine = LocalEngine(ResourceRequest(1, 2**20, 0), at_once=1, stale_seconds=3)
    drive([clean], engine, stale_seconds=3)
    assert state_of(clean) == state_of(folder)


def read_status(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0]


def test_an_older_attempt_exits_if_a_newer_one_exists(tmp_path):
    (folder,) = prepare(BatchFolder(tmp_path), [job("slow thing", steps=600)])
    child = start_attempt(folder, 1, 60.0, cwd=ROOT)
    wait_for(lambda: folder.run.metrics.is_file())
    folder.attempt_file(2).write_text("{}")
    assert child.wait(timeout=20) == 75
    assert not folder.done_file.exists() and not folder.end_file(1).exists()


def test_a_second_attempt_waits_for_a_running_one(tmp_path):
    """The first attempt is an orphan, which exits and releases its lock when replaced."""
    (folder,) = prepare(BatchFolder(tmp_path), [job("slow thing", steps=600)])
    first = start_attempt(folder, 1, 60.0, cwd=ROOT)
    wait_for(lambda: folder.run.metrics.is_file())
    assert folder.state() is State.running
    twin = start_attempt(folder, 1, 60.0, cwd=ROOT)
    assert twin.wait() == 75  # the same number cannot be used twice
    first.terminate()
    assert first.wait(timeout=20) == 130
    assert folder.state() is State.resumable


def test_a_stop_makes_every_job_write_a_checkpoint(tmp_path, engine):
    stopped = threading.Event()
    jobs = [job("slow thing", seed=seed, steps=50) for seed in range(3)]

    def stop():
        folders = [BatchFolder(tmp_path).folder(one) for one in jobs[:2]]
        if all(folder.run.metrics.is_file() for folder in folders):
            stopped.set()
        return stopped.is_set()

    folders, _, finished = make(tmp_path, engine, *jobs, stop=stop)
    assert not finished
    assert [folder.state() for folder in folders] == [State.resumable] * 2 + [State.new]
    assert not any(folder.counted_failures() for folder in folders)


def test_jobs_end_with_a_checkpoint_when_their_driver_is_killed(tmp_path):
    """A new driver then finishes the other jobs, each once."""
    code = (
        "import sys, tests.helpers.fast_attempts as fast\n"
        "from pathlib import Path\n"
        "from dreamfusion.batch import attempt, driver\n"
        "from dreamfusion.batch.engines import ResourceRequest\n"
        "from dreamfusion.batch.engines.local import LocalEngine\n"
        "from dreamfusion.batch.jobs import BatchFolder\n"
        "attempt.MODULE = 'tests.helpers.fast_attempts'\n"
        "shelf = BatchFolder(Path(sys.argv[1]))\n"
        "jobs = [fast.job('slow thing', seed=seed, steps=30) for seed in range(2)]\n"
        "with driver.driver_lock(shelf):\n"
        "    folders = driver.prepare(shelf, jobs)\n"
        "    driver.drive(folders, LocalEngine(ResourceRequest(1, 1, 0), at_once=2))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    child = subprocess.Popen(command, cwd=ROOT)
    folders = [BatchFolder(tmp_path).folder(job("slow thing", seed=s, steps=30)) for s in range(2)]
    wait_for(lambda: all(folder.run.metrics.is_file() for folder in folders))
    child.kill()
    child.wait()
    wait_for(lambda: all(folder.end_file(1).is_file() for folder in folders))
    assert {folder.state() for folder in folders} == {State.resumable}
    assert subprocess.run(command, cwd=ROOT).returncode == 0
    for folder in folders:
        assert folder.state() is State.done and steps_of(folder) == list(range(1, 31))
        assert len(folder.attempts()) == 2


def test_a_machine_with_another_version_is_reported(tmp_path, monkeypatch):
    (folder,) = prepare(BatchFolder(tmp_path), [job("a thing")])
    monkeypatch.setattr("dreamfusion.batch.attempt.__version__", "9.9")
    assert start_attempt(folder, 1, 60.0, cwd=ROOT).wait() == 78
    assert "this machine has dreamfusion" in folder.log_file(1).read_text()
    assert folder.attempts() == []


def test_a_second_driver_of_a_folder_is_refused(tmp_path):
    with (
        driver_lock(BatchFolder(tmp_path)),
        pytest.raises(BatchError, match=f"another batch is running in .*process {os.getpid()} on"),
        driver_lock(BatchFolder(tmp_path)),
    ):
        pass
    with driver_lock(BatchFolder(tmp_path)):
        pass


def test_slots_depend_on_cores_memory_and_gpus(monkeypatch):
    from dreamfusion.batch.engines import local

    monkeypatch.setattr(local, "usable_cores", lambda: 8)
    monkeypatch.setattr(local, "usable_memory", lambda: Memory(10 * 2**30, 16 * 2**30))
    assert count_slots(ResourceRequest(1, 2**30, 0), []) == 8
    assert count_slots(ResourceRequest(2, 2**30, 0), []) == 4
    assert count_slots(ResourceRequest(1, 3 * 2**30, 0), []) == 3
    one = [Gpu("0", 24 * 2**30)]
    assert count_slots(ResourceRequest(1, 2**30, 9 * 2**30), one) == 2
    assert count_slots(ResourceRequest(1, 2**30, 9 * 2**30), [*one, Gpu("1", None)]) == 3
    assert (
        count_slots(ResourceRequest(1, 2**30, 30 * 2**30), one) == 1
    )  # the run reports that it does not fit
    assert one[0].slots(ResourceRequest(1, 2**30, 0)) == 1
    with pytest.raises(BatchError, match=r"an NVIDIA GPU; .* and 0 GPUs are free"):
        count_slots(ResourceRequest(1, 2**30, 2**30), [])
    with pytest.raises(BatchError, match="a job needs about 11"):
        count_slots(ResourceRequest(1, 11 * 2**30, 0), [])


def test_gpus_are_shared_by_their_memory(tmp_path, monkeypatch):
    """As reported by nvidia-smi, which is replaced by a script here."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '0, GPU-aa, 24000'\necho '1, GPU-bb, 9000'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    mib = 2**20
    both = [Gpu("GPU-aa", 24000 * mib), Gpu("GPU-bb", 9000 * mib)]
    assert visible_gpus() == both
    for chosen, found in (("1", both[1:]), ("GPU-a", both[:1]), ("", [])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
        assert [gpu.free for gpu in visible_gpus()] == [gpu.free for gpu in found]
        assert [gpu.name for gpu in visible_gpus()] == chosen.split(",") * len(found)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    engine = LocalEngine(ResourceRequest(1, 2**20, 8000 * mib), at_once=4)
    tool.write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    assert gpu_memory() == {}
    started = []

    class Child:
        def __init__(self, command, *, env, **options):
            started.append(env["CUDA_VISIBLE_DEVICES"])

    monkeypatch.setattr("dreamfusion.batch.engines.local.subprocess.Popen", Child)
    for number in range(4):
        engine.start(JobFolder(tmp_path), number)
    assert started == ["GPU-aa", "GPU-aa", "GPU-aa", "GPU-bb"]


def test_an_unreadable_job_is_an_error_of_one_line(tmp_path):
    (folder,) = prepare(BatchFolder(tmp_path), [job("a thing")])
    assert JobFolder(folder.path).read() == job("a thing")
    folder.job_file.write_text("{")
    with pytest.raises(BatchError, match="cannot be read"):
        folder.read()


def wait_for(condition):
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_jobs_that_arrive_later_run_and_known_ones_run_once(tmp_path, engine):
    (second,) = prepare(BatchFolder(tmp_path), [job("a late mug")])
    arrivals = [[], [second], [second]]
    folders, diary, finished = make(
        tmp_path, engine, job("a mug"), arrived=lambda: arrivals.pop() if arrivals else []
    )
    assert finished and folders[0].state() is second.state() is State.done
    assert [event[1] for event in diary.events if event[0] == "start"].count("a late mug") == 1


def test_a_job_marked_as_stopped_ends_and_is_not_retried(tmp_path, engine):
    slow = job("slow", steps=40)

    def mark():
        if folder.run.metrics.is_file():
            folder.stop_file.touch()
        return ()

    (folder,) = prepare(BatchFolder(tmp_path), [slow])
    _, _, finished = make(tmp_path, engine, slow, arrived=mark)
    assert finished and folder.state() is State.stopped
    assert 0 < len(steps_of(folder)) < 40 and folder.newest_attempt() == 1
    make(tmp_path, engine, slow)
    assert folder.newest_attempt() == 1  # it waits for somebody
    folder.stop_file.unlink()
    make(tmp_path, engine, slow)
    assert folder.state() is State.done
