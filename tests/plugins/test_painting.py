"""Whole runs that paint a mesh, with an estimator and a prior of another package."""

import pytest
import torch
import trimesh
from safetensors.torch import load_file

from tests.helpers.glb_files import artists_file

OPTIONS = ("--scene", "mesh", "--set", "scene.texture_size=64", "--set", "scene.file=car.glb")
AVERAGED = ("--set", "estimator.name=acme-averaged")


def last_tensors(run):
    return load_file(sorted((run / "checkpoints").glob("*.safetensors"))[-1])


@pytest.mark.parametrize("processes", [1, 2])
def test_painting_survives_a_kill_to_the_bit(shell, tmp_path, processes):
    options = (*OPTIONS, *AVERAGED, "--set", f"camera.views={4 * processes}")
    for name, kill_at in (("whole", "-1"), ("killed", "5")):
        cwd = tmp_path / name
        cwd.mkdir()
        artists_file(cwd / "car.glb")
        done = shell.train(*options, cwd=cwd, processes=processes, ACME_KILL_AT=kill_at)
        assert (done.returncode == 0) == (name == "whole"), done.stderr
    done = shell.run("resume", "run", cwd=cwd, processes=processes)
    assert done.returncode == 0, done.stderr
    whole, killed = (last_tensors(tmp_path / name / "run") for name in ("whole", "killed"))
    assert whole.keys() == killed.keys() and whole["scene.seen"].any()
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    files = [(tmp_path / name / "run" / "mesh" / "painted.glb") for name in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_mesh_from_its_file_to_the_painted_file(shell, tmp_path):
    artists_file(tmp_path / "car.glb")
    done = shell.run(
        "paint", "car.glb", "a", "red", "cube", "--config", shell.settings, "--steps", "4",
        "--set", "scene.texture_size=64", "--verbose", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "mesh      car.glb, up +y, front +z: see previews/step_0000000.png" in done.stdout
    assert "552 faces in 2 parts" in done.stdout and "1 parts without faces" in done.stdout
    run = tmp_path / "runs" / "a-red-cube"
    assert str((run / "mesh" / "painted.glb").relative_to(tmp_path)) in done.stdout
    assert (run / "previews" / "step_0000000.png").is_file()
    painted = trimesh.load(run / "mesh" / "painted.glb")
    assert sorted(painted.geometry) == sorted(trimesh.load(tmp_path / "car.glb").geometry)
    for command in (
        ("export", run, "-o", "car.obj"),
        ("export", run, "--for", "scene", "-o", "again.glb"),
        ("render", run, "--mode", "grid", "--frames", "2", "--format", "png"),
        ("report", run),
        ("resume", run, "--steps", "5"),
    ):
        done = shell.run(*map(str, command), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    done = shell.run("export", str(run), "--faces", "100", "-o", "b.glb", cwd=tmp_path)
    assert done.returncode == 2 and "omit faces and texture" in done.stderr
    (tmp_path / "car.glb").unlink()
    done = shell.run("resume", str(run), "--steps", "6", cwd=tmp_path)
    assert done.returncode == 2 and "there is no file" in done.stderr
    done = shell.run("paint", "car.glb", "a cube", "--out", "new", cwd=tmp_path)
    assert done.returncode == 2 and not (tmp_path / "new").exists()
