"""A third-party package adds an estimator, a scene and a prior without changes to dreamfusion."""

import pytest
import torch
import trimesh
from safetensors.torch import load_file

import dreamfusion as df
from dreamfusion.config.sections import ESTIMATORS, section_names
from dreamfusion.report import report_html
from dreamfusion.runs.metrics import read_metrics
from tests.plugins.conftest import SETTINGS, install


def last_tensors(run):
    return load_file(sorted((run / "checkpoints").glob("*.safetensors"))[-1])


def assert_equal(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


AVERAGED = ("--set", "estimator.name=acme-averaged", "--set", "estimator.decay=0.5")


@pytest.mark.parametrize("processes", [1, 2])
def test_the_state_of_an_estimator_survives_a_kill_to_the_bit(shell, tmp_path, processes):
    options = (*AVERAGED, "--set", f"camera.views={4 * processes}")
    for name, kill_at in (("whole", "-1"), ("killed", "5")):
        cwd = tmp_path / name
        cwd.mkdir()
        done = shell.train(*options, cwd=cwd, processes=processes, ACME_KILL_AT=kill_at)
        assert (done.returncode == 0) == (name == "whole"), done.stderr
    found = sorted(path.name for path in (cwd / "run" / "checkpoints").glob("*.json"))
    assert found == ["step_0000003.json"]
    done = shell.run("resume", "run", cwd=cwd, processes=processes)
    assert done.returncode == 0, done.stderr
    whole, killed = (last_tensors(tmp_path / name / "run") for name in ("whole", "killed"))
    assert whole["estimator.mean"].abs().sum() > 0
    assert_equal(whole, killed)
    rows = read_metrics(cwd / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert all(row["acme-averaged_gradient"] > 0 and "loss_acme-averaged" in row for row in rows)


def test_a_rollback_restores_the_estimators_state(installed, tmp_path):
    """A step that is not finite restores the checkpoint, including the estimator."""
    import acme_dreams

    means = []

    class Fragile(acme_dreams.Averaged):
        def __call__(self, batch, *, progress, generator):
            means.append((progress.step, self.mean.clone()))
            out = super().__call__(batch, progress=progress, generator=generator)
            if progress.step == 4 and len(means) == 5:
                return df.Distilled({"acme": out.losses["acme-averaged"] * float("nan")})
            return out

    before = acme_dreams.Averaged
    acme_dreams.Averaged = Fragile
    try:
        with pytest.warns(UserWarning, match="rolling back to step 3"):
            df.train(
                "a red cube",
                out=tmp_path / "run",
                steps=6,
                settings={**SETTINGS, "estimator": {"name": "acme-averaged"}},
            )
    finally:
        acme_dreams.Averaged = before
    assert [step for step, _ in means] == [0, 1, 2, 3, 4, 3, 4, 5]
    assert torch.equal(means[5][1], means[3][1])


def test_a_scene_of_voxels_from_prompt_to_mesh(shell, tmp_path):
    done = shell.train("--set", "scene.name=acme-voxels", "--set", "scene.cells=12", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    mesh = trimesh.load(run / "mesh" / "model.glb", force="mesh", process=True)
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    assert mesh.is_watertight and 0.05 < mesh.volume < 4
    assert last_tensors(run)["scene.grid"].shape == (4, 12, 12, 12)
    for command in (
        ("export", "run", "--format", "ply"),
        ("render", "run", "--mode", "grid", "--frames", "2", "--format", "png"),
        ("report", "run"),
        ("resume", "run", "--steps", "9"),
    ):
        done = shell.run(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr


def test_every_estimator_works_with_every_scene(installed, tmp_path):
    run = df.train(
        "a red cube",
        out=tmp_path / "run",
        steps=4,
        settings={
            **SETTINGS,
            "scene": {"name": "acme-voxels"},
            "estimator": {"name": "acme-averaged"},
        },
    )
    assert run.config.estimator.decay == 0.9
    images = run.scene.images(df.turntable_cameras(2), size=16, mode="depth")
    assert images.shape == (2, 16, 16, 3)
    other = df.train("a red cube", out=tmp_path / "nerf", steps=1, settings=SETTINGS)
    assert "scene.cells" in report_html([run.path, other.path])


def test_views_of_a_group_surround_the_object_on_one_and_two_processes(shell, tmp_path):
    for processes in (1, 2):
        done = shell.train(
            "--set", "camera.views=8", "--steps", 2, "--out", f"run-{processes}",
            cwd=tmp_path, processes=processes,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    one, two = (last_tensors(tmp_path / f"run-{processes}") for processes in (1, 2))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-4)
    rows = read_metrics(tmp_path / "run-1" / "metrics.jsonl")
    assert all(len(set(row["timesteps"][:4])) == 1 for row in rows)


@pytest.mark.parametrize(("views", "processes"), [(6, 1), (4, 2)])
def test_view_counts_that_are_not_whole_groups_are_refused(shell, tmp_path, views, processes):
    done = shell.train("--set", f"camera.views={views}", cwd=tmp_path, processes=processes)
    assert done.returncode != 0
    said = {
        (6, 1): "error: 6 views cannot be split over 1 processes in groups of 4; set camera.views "
        "to a multiple of 4\n",
        (4, 2): "error: 4 views cannot be split over 2 processes in groups of 4; set camera.views "
        "to a multiple of 8\n",
    }[views, processes]
    assert said in done.stderr and "Traceback (most recent call last):\n  File" not in said
    assert not (tmp_path / "run").exists()


def test_a_second_stage_starts_from_the_scene_of_the_first(installed, tmp_path):
    stages = {
        "still": {"steps": 2, "optimizer": {"scale": 0}, "camera": {"views": 8}},
        "finer": {"steps": 3, "estimator": {"name": "acme-averaged"}},
    }
    run = df.train(
        "a red cube", out=tmp_path / "run", steps=4, settings={**SETTINGS, "stages": stages}
    )
    first = last_tensors(run.path)
    still = last_tensors(run.path / "stages" / "still")
    finer = last_tensors(run.path / "stages" / "finer")
    parts = [name for name in first if ".field." in name or ".background." in name]
    assert len(parts) > 5
    # With a learning rate of zero, the result is the initial scene of the stage.
    assert all(torch.equal(first[name], still[name]) for name in parts if "extra" not in name)
    assert any(not torch.equal(still[name], finer[name]) for name in parts)
    assert len(read_metrics(run.path / "stages" / "finer" / "metrics.jsonl")) == 3
    scene = run.scene.state_dict()
    assert all(torch.equal(scene[n.removeprefix("scene.")], finer[n]) for n in parts)
    assert (run.path / "mesh" / "model.glb").is_file()
    assert run.resume().path == run.path  # nothing is left to do
    again = {**SETTINGS, "stages": {"b": {"steps": 1}}}
    df.train("a red cube", out=run.path, overwrite=True, steps=1, settings=again)
    assert [path.name for path in (run.path / "stages").iterdir()] == ["b"]


def test_a_run_that_stops_in_its_second_stage_resumes_there(shell, tmp_path):
    stages = ("--set", "stages={b: {steps: 6, estimator: {name: acme-averaged}}}")
    for name, kill_at in (("whole", "-1"), ("killed", "5")):
        cwd = tmp_path / name
        cwd.mkdir()
        done = shell.train(*stages, "--steps", 3, cwd=cwd, ACME_KILL_AT=kill_at)
        assert (done.returncode == 0) == (name == "whole"), done.stderr
    done = shell.run("resume", "run", cwd=cwd)
    assert done.returncode == 0, done.stderr
    both = (last_tensors(tmp_path / name / "run" / "stages" / "b") for name in ("whole", "killed"))
    assert_equal(*both)


def test_a_run_starts_from_another_and_keeps_a_copy(installed, tmp_path):
    settings = {**SETTINGS, "scene": {"name": "acme-voxels"}}
    first = df.train("a red cube", out=tmp_path / "first", steps=2, settings=settings)
    second = df.train(
        "a blue cube",
        out=tmp_path / "second",
        steps=1,
        settings={**settings, "start": str(first.path), "optimizer": {"scale": 0}},
    )
    before, after = last_tensors(first.path), last_tensors(second.path)
    assert torch.equal(before["scene.grid"], after["scene.grid"])
    first.path.rename(tmp_path / "moved")
    assert second.resume(steps=2).metrics[-1]["step"] == 2
    with pytest.raises(df.UserError, match="no such folder"):
        df.train("a cube", out=tmp_path / "c", settings={**settings, "start": str(first.path)})
    with pytest.raises(df.UserError, match="cannot start from a Voxels"):
        df.train(
            "a cube", out=tmp_path / "d", settings={**SETTINGS, "start": str(tmp_path / "moved")}
        )


def test_additional_losses_are_a_list(installed, tmp_path):
    def small(scene, progress, generator):
        return {"small": 0.1 * scene.grid.square().mean()}

    run = df.train(
        "a red cube",
        out=tmp_path / "run",
        steps=2,
        settings={**SETTINGS, "scene": {"name": "acme-voxels"}},
        losses=[small],
    )
    assert all(row["loss_small"] > 0 for row in run.metrics)


def test_a_custom_scene_is_distilled_in_memory(installed):
    import acme_dreams

    prior = acme_dreams.JointSettings().build(device="cpu", prompts=None)
    generator = torch.Generator().manual_seed(0)
    scene = acme_dreams.VoxelSettings(cells=8).build(device="cpu", generator=generator)
    before = scene.grid.detach().clone()
    found = df.distill(
        scene,
        prior,
        "a red cube",
        estimator=acme_dreams.AveragedSettings(),
        steps=2,
        settings={"render": {"resolution": 16}, "shading": {"lambertian": 0}},
    )
    assert found is scene and not torch.equal(scene.grid, before)


BAD = {
    "missing": (
        ["estimator.name=acme-none"],
        "there is no estimator 'acme-none'; there is acme-averaged, acme-broken, acme-function, "
        + ", ".join(name for name in section_names(ESTIMATORS) if "-" not in name),
    ),
    "import": (
        ["estimator.name=acme-broken"],
        "the estimator 'acme-broken' of acme_dreams.nowhere:Settings cannot be imported "
        "(ModuleNotFoundError: No module named 'acme_dreams.nowhere'; 'acme_dreams' is not a "
        "package)",
    ),
    "no settings": (
        ["estimator.name=acme-function"],
        "the estimator 'acme-function' of acme_dreams:math is no dataclass of settings",
    ),
    "unknown setting": (
        ["estimator.name=acme-averaged", "estimator.decai=0.5"],
        "unknown setting estimator.decai; did you mean estimator.decay?",
    ),
    "setting of another": (
        ["scene.name=acme-voxels", "scene.field.levels=3"],
        "unknown setting scene.field; did you mean scene.lr?",
    ),
    "range": (
        ["estimator.name=acme-averaged", "estimator.decay=2"],
        "estimator.decay must be between 0 and 1, not 2",
    ),
}


@pytest.mark.parametrize(("settings", "said"), BAD.values(), ids=BAD)
def test_an_invalid_plugin_is_an_error_of_one_line(shell, tmp_path, settings, said):
    options = [part for setting in settings for part in ("--set", setting)]
    # Not over the settings file, which is of a NeRF.
    command = ["train", "a red cube", "--prior", "acme-joint", "--out", "run", *options]
    done = shell.run(*command, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, f"error: {said}\n")
    assert not (tmp_path / "run").exists()


def test_a_plugin_with_the_name_of_a_built_in_one_is_refused(shell, tmp_path):
    points = "[dreamfusion.estimators]\nsds = acme_dreams:Impostor\n"
    site = install(tmp_path / "site", points, "impostor")
    done = shell.run("configs", cwd=tmp_path)
    assert done.returncode == 0
    other = type(shell)(shell.forks, site, shell.settings)
    done = other.train(cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "error: acme_dreams:Impostor and dreamfusion.distillation.sds.settings:SDSSettings both "
        "declare the estimator 'sds': uninstall one of them\n",
    )
