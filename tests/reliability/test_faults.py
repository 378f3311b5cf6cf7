"""Faults of the file system: failing and truncated writes, a full disk, flipped bits."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import warnings
from pathlib import Path

import imageio_ffmpeg
import pytest
import torch

from dreamfusion.cli.app import main
from dreamfusion.runs.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from dreamfusion.training.state import new_state
from dreamfusion.training.trainer import Trainer
from dreamfusion.utils.errors import RunWarning
from tests.helpers.tiny_runs import tiny
from tests.reliability.conftest import assert_as_if_nothing_had_happened

PLACES = 1000  # at which a checkpoint is damaged


def assert_refused(status: int, output: str) -> None:
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert status == 2 and len(errors) == 1 and "Traceback" not in output, output
    assert ", then run: dreamfusion resume run" in errors[0]


def spoil_and_go_on(bench, whole, cwd, kind, number) -> bool:
    """Whether the fault ended the run, with an error of one line. The run is then resumed."""
    cwd.mkdir()
    child = bench.train(cwd, fault=(kind, number))
    status = child.wait()
    if status == 0:
        return False
    assert_refused(status, child.output)
    bench.finish(cwd)
    assert_as_if_nothing_had_happened(cwd, whole, besides=set())
    return True


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["fsync", "rename"])
def test_any_failing_write_is_handled(bench, whole, tmp_path, kind):
    """The first, the second, … until a run is not affected."""
    # Every other `fsync` is for the name of a file, on file systems that support it.
    step = 2 if kind == "fsync" else 1
    number = 1
    while spoil_and_go_on(bench, whole, tmp_path / str(number), kind, number):
        number += step
    assert number // step >= 14  # settings, log, previews, checkpoints, mesh, video


@pytest.mark.parametrize(("kind", "number"), [("fsync", 5), ("rename", 9)])
def test_a_failing_write_is_handled(bench, whole, tmp_path, kind, number):
    assert spoil_and_go_on(bench, whole, tmp_path / "run", kind, number)


@pytest.mark.parametrize("limit", [500, 3_000, 12_000])
def test_a_truncated_write_is_handled(bench, whole, tmp_path, limit):
    assert spoil_and_go_on(bench, whole, tmp_path / "run", "limit", limit)


def test_a_full_disk_keeps_the_last_checkpoint(bench, whole, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(disk)]
    if os.name != "posix" or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a small disk")
    try:
        child = bench.train(disk)
        status, output = child.wait(), child.output
        assert status == 2 and "No space left on device" in output, output
        assert_refused(status, output)
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        bench.finish(disk)
        assert_as_if_nothing_had_happened(disk, whole, besides=set())
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_read_only_disk_is_reported(bench, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=160k", "tmpfs", str(disk)]
    if os.name != "posix" or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a disk")
    try:
        child = bench.train(tmp_path, "--out", "disk/run")
        assert child.wait() == 2, child.output
        last = child.output.splitlines()[-1]
        assert last == "error: cannot create disk/run: Read-only file system"
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_clock_that_jumps_changes_nothing(bench, whole, tmp_path):
    child = bench.train(tmp_path, fault=("clock", 300_000_000))
    assert child.wait() == 0, child.output
    assert_as_if_nothing_had_happened(tmp_path, whole, besides=set())


@pytest.mark.parametrize("kind", ["torch", "python"])
def test_running_out_of_memory_is_an_error_of_one_line(kind, monkeypatch, tmp_path, capsys, bench):
    def greedy(self):
        if kind == "torch":
            torch.empty(1 << 60, dtype=torch.uint8)
        raise MemoryError

    monkeypatch.setattr(Trainer, "step", greedy)
    command = ["train", "a red puppy", "--prior", str(bench.prior), "--out", str(tmp_path / "run")]
    assert main([*command, "--config", str(bench.settings)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: this machine ran out of memory; lower camera.views")
    assert error.count("\n") == 1


def test_without_ffmpeg_a_run_writes_its_mesh_with_a_warning(monkeypatch, tmp_path, capsys, bench):
    def missing():
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    run = tmp_path / "run"
    command = ["train", "a red puppy", "--prior", str(bench.prior), "--out", str(run), "--json"]
    assert main([*command, "--config", str(bench.settings), "--steps", "2"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["video"] is None and (run / "mesh" / "model.glb").exists()
    assert "no video.mp4: videos need ffmpeg (No ffmpeg exe could be found.)" in said.err
    assert "video     " not in said.err
    small = ["--frames", "2", "--size", "16"]
    assert main(["render", str(run), *small, "--format", "webp"]) == 0
    assert main(["render", str(run), *small]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert (
        error.startswith("error: videos need ffmpeg")
        and "webp, gif and png do not need it" in error
    )


def test_obstacles_in_the_folder_are_reported(bench, whole, tmp_path):
    (tmp_path / "run").write_text("a file, not a folder")
    child = bench.train(tmp_path)
    assert child.wait() == 2
    said = child.output.splitlines()[-1]
    assert said == "error: run is a file; choose another folder with --out"
    child = bench.train(tmp_path, "--out", "run-2")
    assert child.wait() == 0
    (tmp_path / "run-2" / "video.mp4").unlink()
    shutil.rmtree(tmp_path / "run-2" / "mesh")
    (tmp_path / "run-2" / "mesh").write_text("in the way")
    status, said = bench.forks.run("resume", "run-2", cwd=tmp_path)
    assert status == 2 and "Traceback" not in said
    assert said.splitlines()[-1].startswith("error: cannot write run-2/mesh")


@pytest.fixture(scope="module")
def saved(bench, tmp_path_factory):
    """A folder with two checkpoints, the tensors of both by step, and a state to load into."""
    from dreamfusion.priors import DiffusionPrior

    prior = DiffusionPrior.from_pretrained(str(bench.prior))
    small = {"field": {"log2_table_size": 8, "levels": 2, "hidden": 8}}
    config = tiny(prior, {"scene": {**small, "occupancy": {"resolution": 4}}, "steps": 4})
    folder, tables = tmp_path_factory.mktemp("checkpoints"), {}
    trainer = Trainer(config, prior)
    for metrics in trainer:
        if metrics.step in (2, 4):
            save_checkpoint(folder, trainer.state, keep=2)
            tables[metrics.step] = _everything(trainer.state)
    return folder, tables, new_state(config, prior)


def _everything(state) -> list[torch.Tensor]:
    tensors = list(state.scene.state_dict().values())
    for _, entries in sorted(state.scene.optimizer.state_dict()["state"].items()):
        tensors += [entries[name] for name in sorted(entries)]
    return [t.clone() for t in [*tensors, state.generator.get_state()]]


def _damage(content: bytes, rng: random.Random) -> bytes:
    """The content with a flipped bit, truncated, or with additional bytes."""
    kind, place = rng.choice(["flip", "flip", "flip", "cut", "more"]), rng.randrange(len(content))
    if kind == "cut":
        return content[:place]
    if kind == "more":
        return content + rng.randbytes(1 + place % 100)
    flipped = bytearray(content)
    flipped[place] ^= 1 << rng.randrange(8)
    return bytes(flipped)


def test_damage_anywhere_in_a_checkpoint_is_detected_or_harmless(saved, tmp_path):
    folder, tables, state = saved
    names = ["step_0000004.json", "step_0000004.safetensors"]
    whole = {name: (folder / name).read_bytes() for name in names}
    rng, outcomes = random.Random(0), {2: 0, 4: 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RunWarning)
        for _ in range(PLACES):
            name = rng.choice(names)
            (folder / name).write_bytes(_damage(whole[name], rng))
            state.step = -1
            load_checkpoint(folder, state)
            assert all(map(torch.equal, _everything(state), tables[state.step]))
            outcomes[state.step] += 1
            (folder / name).write_bytes(whole[name])
    assert outcomes[2] > 0.9 * PLACES


def test_damage_of_all_checkpoints_is_an_error_of_one_line(saved, tmp_path):
    folder, _, state = saved
    broken = tmp_path / "all"
    shutil.copytree(folder, broken)
    for path in broken.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match=r"its checksum is wrong\), and there is no older"):
        load_checkpoint(broken, state)
    assert len(list(Path(broken).iterdir())) == 4
