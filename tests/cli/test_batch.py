"""`dreamfusion batch`: the command, with a tiny random prior and real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from dreamfusion.batch.jobs import BatchFolder, JobFolder, State, find_batch, read_json
from dreamfusion.cli.app import main
from tests.helpers import ROOT
from tests.helpers.fast_attempts import steps_of, use_fast_attempts
from tests.helpers.tiny_priors import save_pixel_prior
from tests.helpers.tiny_runs import TINY

SMALL = {
    **{key: value for key, value in TINY.items() if key not in ("prompt", "steps")},
    "device": "cpu",
    "output": {
        "checkpoint_every": 1, "video_frames": 1, "video_size": 16, "mesh_resolution": 16,
        "texture_size": 0, "mesh_faces": 200,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Options for a tiny job."""
    folder = tmp_path_factory.mktemp("tiny")
    save_pixel_prior(folder / "prior")
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    return ["--prior", str(folder / "prior"), "--config", str(folder / "small.yaml")]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = str(ROOT) + os.pathsep + os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", path)


def checkpoint(run: Path):
    return load_file(sorted((run / "checkpoints").glob("*.safetensors"))[-1])


def equal(first, second):
    return first.keys() == second.keys() and all((first[k] == second[k]).all() for k in first)


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "dreamfusion", "batch", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition):
    until = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def logged(folder: JobFolder) -> int:
    metrics = folder.run.metrics
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_batch_is_killed_stopped_and_resumed_bit_for_bit(asked, tmp_path):
    """One job's process is killed, then Ctrl-C stops the batch. The repeated command finishes it,
    and the run that was interrupted twice equals an uninterrupted run by `train`."""
    (tmp_path / "list.txt").write_text("a red puppy\n")
    options = ["list.txt", *asked, "--steps", "40", "--jobs", "1"]
    batch = start(*options)
    wait_for(lambda: (tmp_path / "shelf" / "jobs").is_dir() and find_batch(Path("shelf")).jobs())
    (folder,) = find_batch(Path("shelf")).jobs().values()
    wait_for(lambda: logged(folder) >= 2)
    os.kill(read_json(folder.attempt_file(1))["pid"], signal.SIGKILL)
    wait_for(lambda: folder.newest_attempt() == 2 and logged(folder) >= 6)
    batch.send_signal(signal.SIGINT)
    out, _ = batch.communicate(timeout=90)
    assert batch.returncode == 130
    assert "killed by signal 9" in out and "to continue: dreamfusion batch --out shelf" in out
    assert folder.state() is State.resumable

    batch = start("--out", "shelf", "--json")
    out, errors = batch.communicate(timeout=120)
    assert batch.returncode == 0, errors
    assert json.loads(out)["jobs"][0]["state"] == "done"
    assert steps_of(folder) == list(range(1, 41)) and folder.attempts() == [1, 2, 3]
    assert (folder.result.mesh / "model.glb").is_file()

    alone = ["train", "a red puppy", *asked, "--steps", "40", "--out", "alone"]
    command = [sys.executable, "-m", "dreamfusion", *alone]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    assert subprocess.run(command, env=env, stdout=subprocess.DEVNULL).returncode == 0
    assert equal(checkpoint(folder.result.path), checkpoint(Path("alone")))


def fast_batch(monkeypatch, capsys, tmp_path, *arguments):
    """The command with fake attempts, in this process; returns exit status and output."""
    use_fast_attempts(monkeypatch)
    status = main(["batch", *arguments])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_batch_of_seeds_and_settings_with_status_and_json(asked, tmp_path, monkeypatch, capsys):
    (tmp_path / "list.txt").write_text("a red mug\na blue chair\n")
    options = [
        "list.txt",
        *asked,
        "--seeds",
        "2",
        "--set",
        "estimator.guidance=4,8",
        "--steps",
        "2",
    ]
    status, out, errors = fast_batch(monkeypatch, capsys, tmp_path, *options, "--json")
    assert status == 0 and "done" in errors
    report = json.loads(out)
    assert len(report["jobs"]) == 8 and {job["state"] for job in report["jobs"]} == {"done"}
    assert main(["batch", "--status", "shelf"]) == 0
    said = capsys.readouterr().out
    counts = "8 done, 0 failed, 0 running, 0 stopped, 0 resumable, 0 new\n"
    assert said.count("\n") == 9 and said.endswith(counts)
    assert main(["batch", "--status", "shelf", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["done"] == 8
    # Repeated, the command runs no jobs.
    status, out, _ = fast_batch(monkeypatch, capsys, tmp_path, *options)
    assert status == 0 and "start" not in out


def test_failed_jobs_are_reported_and_retried_on_request(asked, tmp_path, monkeypatch, capsys):
    from tests.helpers.fast_attempts import job

    shelf = BatchFolder(tmp_path / "shelf")
    folder = shelf.folder(job("refuse"))
    folder.write(job("refuse"))
    monkeypatch.setattr("dreamfusion.batch.plan.request_of", lambda jobs: _need())
    status, out, _ = fast_batch(monkeypatch, capsys, tmp_path, "--out", "shelf")
    assert status == 1 and "that cannot be made" in out and "--retry-failed" in out
    status, out, _ = fast_batch(monkeypatch, capsys, tmp_path, "--out", "shelf")
    assert status == 1 and "start" not in out and folder.attempts() == [1]
    fast_batch(monkeypatch, capsys, tmp_path, "--out", "shelf", "--retry-failed")
    assert folder.attempts() == [1, 2]


def _need():
    from dreamfusion.batch.engines import ResourceRequest

    return ResourceRequest(1, 2**20, 0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.txt"], "no such file: none.txt"),
        (["list.txt", "--set", "estimator.gidance=1,2"], "did you mean estimator.guidance?"),
        (["list.txt", "--config", "nothing"], "no preset and no file nothing"),
        (["--status", "nowhere"], "no such folder: nowhere"),
        (["--out", "nowhere"], "no such folder: nowhere"),
        (["--status", "."], "contains no batch"),
        (["--seeds", "2"], "job options need a list of prompts"),
        (["list.txt", "--on", "ray", "--jobs", "2"], "--jobs applies to this machine only"),
        (["list.txt", "--out", "/proc/shelf"], "/proc/shelf"),
        (["list.txt", "--out", "list.txt"], "list.txt"),
    ],
)
def test_invalid_input_is_an_error_of_one_line(tmp_path, capsys, arguments, said):
    (tmp_path / "list.txt").write_text("a red mug\n")
    assert main(["batch", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_a_second_driver_and_a_full_disk_are_errors_of_one_line(
    asked, tmp_path, monkeypatch, capsys
):
    from dreamfusion.batch.driver import driver_lock

    (tmp_path / "list.txt").write_text("a red mug\n")
    with driver_lock(BatchFolder(tmp_path / "shelf")):
        assert main(["batch", "list.txt", *asked]) == 2
    assert "another batch is running in" in capsys.readouterr().err

    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("dreamfusion.batch.jobs.write_json", full)
    assert main(["batch", "list.txt", *asked]) == 2
    assert "No space left on device" in capsys.readouterr().err


def test_sigterm_has_a_separate_exit_status(asked, tmp_path):
    (tmp_path / "list.txt").write_text("a red puppy\n")
    batch = start("list.txt", *asked, "--steps", "400", "--jobs", "1")
    wait_for(lambda: (tmp_path / "shelf" / "jobs").is_dir() and find_batch(Path("shelf")).jobs())
    (folder,) = find_batch(Path("shelf")).jobs().values()
    wait_for(lambda: logged(folder) >= 1)
    batch.send_signal(signal.SIGTERM)
    batch.communicate(timeout=90)
    assert batch.returncode == 143 and folder.state() is State.resumable


def test_a_read_only_disk_is_reported(asked, tmp_path, capsys):
    (tmp_path / "list.txt").write_text("a red mug\n")
    (tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=160k", "tmpfs", str(tmp_path / "disk")]
    if os.name != "posix" or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a disk")
    try:
        assert main(["batch", "list.txt", *asked, "--out", "disk/shelf"]) == 2
    finally:
        subprocess.run(["umount", "-l", str(tmp_path / "disk")], check=True)
    error = capsys.readouterr().err
    assert "disk/shelf" in error and "Read-only file system" in error and error.count("\n") == 1


@pytest.mark.parametrize("command", [["batch", "list.txt"], ["train", "a mug", "--seeds", "2"]])
def test_windows_is_an_error_of_one_line(monkeypatch, tmp_path, capsys, command):
    (tmp_path / "list.txt").write_text("a red mug\n")
    monkeypatch.setattr("sys.platform", "win32")
    assert main(command) == 2
    assert capsys.readouterr().err.startswith("error: batch needs Linux or macOS")


def test_train_with_seeds_runs_a_batch(asked, tmp_path, monkeypatch, capsys):
    use_fast_attempts(monkeypatch)
    options = [*asked, "--seeds", "2", "--seed", "5", "--steps", "2"]
    assert main(["train", "a red mug", *options]) == 0
    jobs = find_batch(Path("runs/a-red-mug-seeds")).jobs().values()
    assert [(folder.read().seed, folder.state()) for folder in jobs] == [
        (5, State.done),
        (6, State.done),
    ]
    assert "dreamfusion evaluate runs/a-red-mug-seeds" in capsys.readouterr().out


def test_a_batch_runs_jobs_that_were_stopped_in_the_studio(asked, monkeypatch, capsys):
    Path("p.txt").write_text("a red mug\n")
    states = []
    monkeypatch.setattr(
        "dreamfusion.cli.batch.drive",
        lambda folders, engine, **options: states.extend(f.state() for f in folders) or True,
    )
    command = ["batch", "p.txt", *asked, "--out", "toys", "--jobs", "1"]
    assert main(command) == 0
    (folder,) = find_batch(Path("toys")).jobs().values()
    folder.stop_file.touch()
    assert main(["batch", "--status", "toys"]) == 0
    assert "stopped at step 0/250, until it is resumed in the studio" in capsys.readouterr().out
    assert main(["batch", "--out", "toys", "--jobs", "1"]) == 0
    assert states == [State.new, State.new]
