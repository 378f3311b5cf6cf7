"""The command line, the benchmark and several processes on simulated GPUs."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sysconfig

import numpy as np
import pytest
import torch
import yaml

from dreamfusion.cli.app import main
from dreamfusion.config.layers import Layer, override
from dreamfusion.runs.plan import plan_run
from scripts import bench
from tests.helpers.processes import launch
from tests.helpers.simulated_kernels import simulated_cuda
from tests.helpers.tiny_runs import TINY

SMALL = {
    "video_frames": 2, "video_size": 16, "mesh_resolution": 12, "texture_size": 16,
    "preview_every": 2, "checkpoint_every": 2,
}  # fmt: skip
SETTINGS = {key: value for key, value in TINY.items() if key != "prompt"}
SETTINGS |= {"steps": 3, "output": SMALL, "render": {"resolution": 8}}
SETTINGS["scene"] = {**TINY["scene"], "marching": {"step_size": 0.1}}


@pytest.fixture
def settings(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(SETTINGS))
    return str(path)


def command(capsys, *arguments):
    """The output of a successful command."""
    capsys.readouterr()
    assert main(list(map(str, arguments))) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_all_commands_work_on_a_gpu(gpu, folders, settings, tmp_path, capsys, monkeypatch):
    run, prior = tmp_path / "run", folders["sd"]
    train = ["train", "a red corgi", "--prior", prior, "--config", settings, "--out", run]
    said = command(capsys, *train, "--device", "cuda:1", "--verbose")
    assert "device    cuda:1, prior in float16\n          autoencoder in float16\n" in said
    assert "encoding: triton, marching: triton" in said
    assert re.search(r"memory    about [\d.]+ GiB of the GPU's", said)
    assert gpu.current == 1
    said = command(capsys, "resume", run, "--steps", "4", "--verbose")
    assert "steps     3 to 4" in said and "cuda:1" in said
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 4 and np.isfinite(losses).all()
    command(capsys, "export", run, "--format", "ply")
    command(capsys, "render", run, "--mode", "grid", "--format", "png", "--frames", "1")
    assert (run / "mesh" / "model.ply").exists() and (run / "render-grid.png").exists()
    picture = tmp_path / "sample.png"
    command(
        capsys, "sample", "a red corgi", "--prior", prior, "--out", picture, "--count", "2",
        "--steps", "2", "--device", "cuda",
    )  # fmt: skip
    assert picture.exists()

    # All kernels ran on the requested or the current GPU.
    assert {place for place, _ in gpu.kernels} <= {"cuda:1", "None"}


def test_the_benchmark_measures(gpu, folders, capsys, monkeypatch):
    small = Layer("small", SETTINGS)
    monkeypatch.setattr(bench, "plan_run", lambda layers: plan_run([small, *layers]))
    monkeypatch.setattr(bench, "override", _small)
    args = argparse.Namespace(
        prompt="a red corgi", prior=str(folders["sd"]), device="cuda:1", warm_up=1, repeats=1,
        points=4096, settings=[], profile=False,
    )  # fmt: skip
    bench.measure(args)
    said = capsys.readouterr().out
    assert said.count("| SDS step, ") == 4 and "| triton | " in said
    assert "| autoencoder, " in said
    assert "\ncuda:1, a simulated GPU, " in said


def _small(config, changes):
    """Always use images of 8 pixels, since nothing is measured here."""
    return override(config, {**changes, "render": {"resolution": 8}})


PROCESS = """
import sys, torch, torch.distributed as dist
from dreamfusion.cli.app import main
from tests.helpers.simulated_kernels import simulated_cuda
torch.set_num_threads(1)
begin, broadcast = dist.init_process_group, dist.broadcast_object_list
with simulated_cuda() as gpu:
    def init(backend):
        assert backend == "nccl"
        begin("gloo")
    def checked(*args, **kwargs):  # NCCL would use the current GPU
        assert torch.cuda.current_device() == dist.get_rank()
        broadcast(*args, **kwargs)
    dist.init_process_group, dist.broadcast_object_list = init, checked
    status = main(sys.argv[1:])
    places = {place for place, _ in gpu.kernels} - {"None"}
    print(status, *places, gpu.waits.total(), file=sys.stderr)
sys.exit(status)
"""


@pytest.mark.slow
def test_each_of_two_processes_uses_a_separate_gpu(folders, settings, tmp_path):
    script = tmp_path / "process.py"
    script.write_text(PROCESS)
    train = ["train", "a red corgi", "--prior", folders["if-clip"], "--config", settings]
    done = launch(2, script, *train, "--device", "cuda", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert sorted(re.findall(r"^0 (cuda:\d) \d+$", done.stderr, re.MULTILINE)) == [
        "cuda:0",
        "cuda:1",
    ]
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3
    assert (tmp_path / "run" / "mesh" / "model.glb").exists()


def test_a_missing_gpu_is_an_error_of_one_line(gpu, capsys):
    assert main(["train", "a corgi", "--prior", "embedded", "--device", "cuda:7"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: device cuda:7 cannot be used") and error.count("\n") == 1


def test_doctor_reports_both_gpus(gpu, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    said = command(capsys, "doctor")
    for i in range(2):
        assert re.search(rf"^ok +cuda:{i} +a simulated GPU, 70.0 GiB free", said, re.MULTILINE)
    assert re.search(r"^ok +triton +.*works \(encoding, ray marching\)$", said, re.MULTILINE)
    assert "priors in float16" in said


def test_doctor_reports_what_triton_lacks(gpu, capsys, monkeypatch, tmp_path):
    """Searches for a compiler and for Python's headers as in triton/runtime/build.py."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    monkeypatch.setattr(shutil, "which", lambda name: None)
    said = command(capsys, "doctor")
    assert re.search(
        r"^missing +compiler +no gcc and no clang, no .*/Python.h \(.*\): Triton cannot", said, re.M
    )


def test_sampling_checks_the_memory_first(folders, capsys, one_thread):
    with simulated_cuda(free=1 << 20):
        sample = ["sample", "a red corgi", "--prior", str(folders["sd"]), "--device", "cuda:1"]
        assert main(sample) == 2
    error = capsys.readouterr().err
    assert "GiB of GPU memory (an estimate), and 0.0 GiB are free" in error
    assert "of `sample`, --count" in error and error.count("\n") == 1


def test_tensors_of_the_default_device_are_on_the_runs_gpu(gpu):
    torch.cuda.set_device("cuda:1")
    assert str(torch.zeros(1, device="cuda").device) == "cuda:1"
    with pytest.raises(ValueError, match="specified index"):
        torch.cuda.set_device("cuda")
