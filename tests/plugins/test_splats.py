"""Whole runs of Gaussian splats, with an estimator and a prior of another package."""

import pytest
import torch
import trimesh
from safetensors.torch import load_file

import dreamfusion as df
from dreamfusion.runs.metrics import read_metrics
from tests.plugins.conftest import SETTINGS

SPLATS = {"name": "gaussians", "count": 300, "relocate_every": 2, "opacity": 0.9, "smoothness": 1}
OPTIONS = [part for k, v in SPLATS.items() for part in ("--set", f"scene.{k}={v}")]
AVERAGED = ("--set", "scene.optimizer.ema=0.9", "--set", "estimator.name=acme-averaged")


def last_tensors(run):
    return load_file(sorted((run / "checkpoints").glob("*.safetensors"))[-1])


@pytest.mark.parametrize("processes", [1, 2])
def test_splats_survive_a_kill_to_the_bit(shell, tmp_path, processes):
    options = (*OPTIONS, *AVERAGED, "--set", f"camera.views={4 * processes}")
    for name, kill_at in (("whole", "-1"), ("killed", "5")):
        cwd = tmp_path / name
        cwd.mkdir()
        done = shell.train(*options, cwd=cwd, processes=processes, ACME_KILL_AT=kill_at)
        assert (done.returncode == 0) == (name == "whole"), done.stderr
    done = shell.run("resume", "run", cwd=cwd, processes=processes)
    assert done.returncode == 0, done.stderr
    whole, killed = (last_tensors(tmp_path / name / "run") for name in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert whole["scene.splats.means"].shape == (300, 3)
    rows = read_metrics(cwd / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert all(row["loss_smoothness"] > 0 for row in rows)


def test_splats_from_prompt_to_mesh(shell, tmp_path):
    done = shell.train(*OPTIONS, "--verbose", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rasterization: numba" in done.stdout
    mesh = trimesh.load(tmp_path / "run" / "mesh" / "model.glb", force="mesh", process=True)
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    assert mesh.is_watertight and 0.05 < mesh.volume < 4
    for command in (
        ("export", "run", "--format", "ply"),
        ("render", "run", "--mode", "grid", "--frames", "2", "--format", "png"),
        ("report", "run"),
        ("resume", "run", "--steps", "9"),
        ("export", "run", "--for", "scene"),
        ("export", "run", "--for", "scene", "-o", "here/cube.glb"),
    ):
        done = shell.run(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "mesh" / "splats.ply").read_bytes().startswith(b"ply\n")
    assert (tmp_path / "here" / "cube.glb").read_bytes().startswith(b"glTF")
    done = shell.run("export", "run", "--for", "scene", "-o", "cube.obj", cwd=tmp_path)
    assert done.returncode == 2
    assert "the formats of this scene are ply, glb, splat, spz, ksplat" in done.stderr


def test_other_scenes_have_no_splats(shell, tmp_path):
    assert shell.train("--scene", "nerf", "--steps", 1, cwd=tmp_path).returncode == 0
    done = shell.run("export", "run", "--for", "scene", cwd=tmp_path)
    assert done.returncode == 2
    assert "has no file of its own: omit --for" in done.stderr


def test_a_nerf_becomes_splats_in_a_second_stage(installed, tmp_path):
    field = SETTINGS["scene"]["field"] | {"blob_scale": 30, "sharpness": 10}
    run = df.train(
        "a red cube",
        out=tmp_path / "run",
        steps=1,
        settings={
            **SETTINGS,
            "scene": {**SETTINGS["scene"], "field": field},
            "optimizer": {"scale": 0},
            "stages": {"splats": {"steps": 1, "scene": {**SPLATS, "opacity": 0.2}}},
        },
    )
    first = load_file(run.path / "checkpoints" / "step_0000001.safetensors")
    cameras = df.turntable_cameras(2)
    splats = run.scene
    assert type(splats).__name__ == "GaussianScene"
    nerf = df.open_run(run.path).config.scene.build(
        device="cpu", generator=torch.Generator().manual_seed(0)
    )
    names = {name.removeprefix("scene."): v for name, v in first.items() if name[:6] == "scene."}
    nerf.load_state_dict(names)
    error = splats.images(cameras, size=48, mode="albedo") - nerf.averaged.images(
        cameras, size=48, mode="albedo"
    )
    assert error.square().mean() < 0.01
