"""The viewer without viser and without a browser."""

import dataclasses
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dreamfusion.cli.app import main
from dreamfusion.config.layers import build_config
from dreamfusion.config.schema import Config
from dreamfusion.graphics.cameras import generate_rays, orbit_cameras
from dreamfusion.graphics.shading import over
from dreamfusion.priors import load_prior
from dreamfusion.runs.checkpoint import CheckpointError, SavedScene, save_checkpoint
from dreamfusion.runs.export import ExportOptions, write_model
from dreamfusion.runs.folder import RunFolder, step_of
from dreamfusion.runs.metrics import newest_metrics
from dreamfusion.scenes.base import render_image
from dreamfusion.training.state import new_state
from dreamfusion.training.trainer import StepMetrics, Trainer
from dreamfusion.viewer.follow import Follower
from dreamfusion.viewer.meshes import extracted, read_model
from dreamfusion.viewer.pose import Pose, cameras_of, light_of
from dreamfusion.viewer.serve import watch
from dreamfusion.viewer.stage import Choice, Stage
from tests.helpers.states import tensors, untrained
from tests.helpers.tiny_priors import save_pixel_prior
from tests.helpers.viewer_scene import Clock, FakeScreen, pose_of, subject

TINY = {
    "prompt": "a red puppy",
    "steps": 6,
    "camera": {"views": 2},
    "render": {"resolution": 16},
    "scene": {
        "field": {"levels": 3, "features": 2, "log2_table_size": 10, "max_resolution": 32},
        "occupancy": {"resolution": 16, "update_every": 3},
    },
}


pytestmark = pytest.mark.usefixtures("one_thread")


def orbit(azimuth, elevation, distance=2.5, fov=40.0):
    return orbit_cameras(*(torch.tensor([v]) for v in (azimuth, elevation, distance, fov)))


# --- cameras


def test_the_viewers_identity_rotation_is_an_opencv_camera():
    """x right, y down, z forward: from (0, 0, -3) it looks along +Z, with +Y down."""
    pose = Pose((1.0, 0.0, 0.0, 0.0), (0.0, 0.0, -3.0), math.pi / 2, aspect=2.0)
    rays = generate_rays(cameras_of(pose), 2, 4)
    assert torch.allclose(rays.origins[0], torch.tensor([0.0, 0.0, -3.0]).expand(2, 4, 3))
    directions = rays.directions[0] / rays.directions[0, ..., 2:]
    assert directions[..., 0].tolist() == pytest.approx(
        np.tile([-1.5, -0.5, 0.5, 1.5], (2, 1)), abs=1e-6
    )
    assert directions[..., 1].tolist() == pytest.approx(np.tile([[-0.5], [0.5]], (1, 4)), abs=1e-6)


@pytest.mark.parametrize("azimuth", [0.0, 75.0, -130.0])
@pytest.mark.parametrize("elevation", [-20.0, 15.0, 80.0])
def test_converted_cameras_have_the_same_rays(azimuth, elevation):
    ours = orbit(azimuth, elevation)
    pose = pose_of(ours)
    theirs = cameras_of(pose)
    a, b = generate_rays(ours, 5, 8), generate_rays(theirs, 5, 8)
    assert torch.allclose(a.origins, b.origins, atol=1e-6)
    assert torch.allclose(a.directions, b.directions, atol=1e-6)
    assert theirs.azimuth_deg.item() == pytest.approx(azimuth, abs=1e-3)
    assert theirs.elevation_deg.item() == pytest.approx(elevation, abs=1e-3)
    assert theirs.distance.item() == pytest.approx(2.5)
    above_and_left = torch.tensor(light_of(pose)) - ours.positions[0]
    in_camera = ours.T_world_camera[0, :3, :3].T @ above_and_left
    assert in_camera.tolist() == pytest.approx([-0.7, 1.0, 0.0], abs=1e-5)


# --- meshes


def test_a_higher_threshold_gives_the_surface_of_that_density():
    """The density is 20 exp(-20 d): twice the density is log(2) / 20 further inside."""
    here = subject()
    reach = {}
    for density in (10.0, 20.0, 40.0):
        mesh, found = extracted(here, density, resolution=64)
        assert found == density
        reach[density] = -mesh.mesh.vertices[:, 2].min()  # of the red ball, away from the others
    for density, found in reach.items():
        assert found == pytest.approx(0.4 - math.log(density / 20) / 20, abs=0.012)


def test_the_exported_model_is_aligned_with_the_nerf(tmp_path):
    here = subject(step=5)
    saved = SavedScene(5, here.scene)
    path = tmp_path / "model.glb"
    settings = {"resolution": 48, "faces": 2000, "texture": 64, "threshold": 20.0}
    for origin in ("center", "base", "scene"):
        write_model(path, saved, Config(), ExportOptions(origin=origin, **settings))
        model = read_model(path, step=5)
        fresh, _ = extracted(here, 20.0, resolution=48)
        for extreme in (np.min, np.max):
            found, expected = (extreme(m.mesh.vertices, axis=0) for m in (model, fresh))
            assert found == pytest.approx(expected, abs=0.02)
    assert read_model(path, step=6) is None  # of another step
    assert read_model(tmp_path / "none.glb", step=5) is None
    path.write_bytes(b"no model")
    assert read_model(path, step=5) is None


# --- the stage


@pytest.fixture
def clock():
    return Clock()


def stage_of(screen, clock, **settings):
    stage = Stage(screen, Config(), clock=clock, **settings)
    stage.show(subject())
    return stage


FRONT = pose_of(orbit(10.0, 15.0), aspect=1.5)
SIDE = pose_of(orbit(80.0, 15.0), aspect=1.5)


def run_to_rest(stage, clock):
    clock.now += 10
    for count in range(50):
        if not stage.work():
            return count
    raise AssertionError("there is no end to the work")


def test_nothing_is_rendered_without_visitors(clock):
    screen = FakeScreen(clock)
    stage = stage_of(screen, clock)
    assert not stage.work()
    assert screen.pictures == [] and screen.meshes == []


def test_an_image_is_rough_first_and_sharper_at_rest(clock):
    screen = FakeScreen(clock, FRONT)
    stage = stage_of(screen, clock)
    run_to_rest(stage, clock)
    screen.pictures.clear()
    screen.poses[0] = SIDE
    clock.now += 1
    assert stage.work()
    clock.now += 0.01
    assert not stage.work()  # it may still be moving
    assert run_to_rest(stage, clock) >= 1
    sizes = [picture.shape for _, picture in screen.pictures]
    heights = [height for height, _, _ in sizes]
    assert heights == sorted(heights) and heights[-1] > heights[0]
    assert all(width == round(1.5 * height) for height, width, _ in sizes)
    last = screen.pictures[-1][1]
    rgba = render_image(
        subject().scene, cameras_of(SIDE), height=last.shape[0], width=last.shape[1],
    )[0]  # fmt: skip
    expected = over(rgba, torch.ones(3))
    assert np.abs(last / 255.0 - expected.numpy()).max() < 0.003


def test_every_visitor_gets_images_from_their_camera(clock):
    screen = FakeScreen(clock, FRONT, SIDE)
    stage = stage_of(screen, clock)
    for _ in range(6):
        stage.show(dataclasses.replace(subject(), step=stage._saved.step + 1))
        clock.now += 1
        assert stage.work()
    assert [who for who, _ in screen.pictures] == [0, 1] * 3
    del screen.poses[0]
    screen.pictures.clear()
    stage.show(subject(step=100))
    run_to_rest(stage, clock)
    assert {who for who, _ in screen.pictures} == {1}


def test_view_options_change_the_image_and_the_mesh(clock):
    screen = FakeScreen(clock, FRONT)
    stage = stage_of(screen, clock)
    run_to_rest(stage, clock)
    color = screen.pictures[-1][1]
    screen.wanted = Choice(mode="normals")
    run_to_rest(stage, clock)
    normals = screen.pictures[-1][1]
    assert normals.shape == color.shape and np.abs(1.0 * normals - color).mean() > 10
    assert screen.meshes == []

    screen.wanted = Choice("mesh", "color")
    run_to_rest(stage, clock)
    assert len(screen.meshes) == 1 and screen.meshes[0].glb[:4] == b"glTF"
    assert screen.pictures[-1][1].shape == (2, 2, 3)  # a plain page behind it
    assert screen.said[0] == "extracting the mesh …" and "faces at density" in screen.said[-1]

    screen.wanted = Choice("mesh", "depth")
    run_to_rest(stage, clock)
    assert screen.meshes[-1] is None
    depth = screen.pictures[-1][1]
    middle = depth[depth.shape[0] // 2, depth.shape[1] // 2]
    assert depth[0, 0].tolist() == [255] * 3 and 60 < middle[0] == middle[1] < 230


def test_the_mesh_follows_the_threshold_once_it_rests(clock):
    screen = FakeScreen(clock, FRONT)
    stage = stage_of(screen, clock)
    screen.wanted = Choice("mesh")
    run_to_rest(stage, clock)
    for octaves in (0.25, 0.5, 1.0):
        screen.wanted = Choice("mesh", octaves=octaves)
        clock.now += 0.2
        assert not stage.work()
    run_to_rest(stage, clock)
    first, second = screen.meshes
    assert second.mesh.vertices[:, 1].max() == pytest.approx(
        first.mesh.vertices[:, 1].max() - math.log(2) / 20, abs=0.01
    )
    screen.wanted = Choice("mesh", octaves=10.0)
    clock.now += 0.2
    stage.work()
    run_to_rest(stage, clock)
    assert "no density exceeds" in screen.said[-1] and screen.meshes[-1] is None


# --- a folder that another process writes


def test_newer_checkpoints_are_loaded(tmp_path):
    run, config = RunFolder(tmp_path), build_config(TINY)
    run.write_config(config)
    follower = Follower(run, "cpu")
    assert follower.newer() is None and follower.problem == ""
    state = untrained(config)
    for step in (3, 4):
        state.step = step
        save_checkpoint(run.checkpoints, state, keep=2)
        assert follower.newer().step == step
        assert follower.newer() is None
    # A broken one is reported once, and later ones are loaded.
    for name in ("step_0000005.safetensors", "step_0000005.json"):
        (run.checkpoints / name).write_text("{}")
    assert follower.newer() is None
    assert "step_0000005.json is damaged" in follower.problem
    state.step = 6
    save_checkpoint(run.checkpoints, state, keep=2)
    assert follower.newer().step == 6 and follower.problem == ""


def test_a_checkpoint_deleted_during_reading_is_no_problem(tmp_path):
    run = RunFolder(tmp_path)
    run.checkpoints.mkdir()
    (run.checkpoints / "step_0000001.json").write_text("{}")

    def load(run, device):
        (run.checkpoints / "step_0000001.json").unlink()
        (run.checkpoints / "step_0000002.json").write_text("{}")
        raise CheckpointError("gone")

    follower = Follower(run, "cpu", load=load)
    assert follower.newer() is None and follower.problem == ""
    after = SimpleNamespace(step=2)
    follower._load = lambda run, device: after
    assert follower.newer() is after


def test_previews_and_metrics_of_a_growing_run(tmp_path):
    run = RunFolder(tmp_path)
    assert run.preview_files() == [] and newest_metrics(run.metrics) == []
    run.previews.mkdir()
    for step in (100, 20):
        (run.previews / f"step_{step:07d}.png").write_bytes(b"")
    assert [step_of(path) for path in run.preview_files()] == [20, 100]
    run.metrics.write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "cut')
    assert newest_metrics(run.metrics) == [{"step": 1}, {"step": 2}]
    run.metrics.write_text(json.dumps({"step": 1, "long": "x" * 30_000}) + "\n")
    assert newest_metrics(run.metrics) == []


# --- during training


class FakePage(FakeScreen):
    """A screen with one visitor, who orbits and cycles through all view options."""

    def __init__(self, clock):
        super().__init__(clock, FRONT)
        self.told, self.looks = [], 0

    def visitors(self):
        self.looks += 1
        self.poses[0] = pose_of(orbit(35.0 * self.looks, 15.0))
        kinds = [Choice(), Choice(mode="normals"), Choice("mesh"), Choice("mesh", "textureless")]
        self.wanted = kinds[self.looks % 4]
        return self.poses

    def start_at(self, camera):
        pass

    def status(self, text):
        self.told.append(text)

    def offer_previews(self, paths):
        pass


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_watched_run_is_bitwise_identical(tmp_path, ema):
    prior = load_prior(str(save_pixel_prior(tmp_path / "prior")))
    config = build_config(prior.card.settings, TINY, {"scene": {"optimizer": {"ema": ema}}})
    run = RunFolder(tmp_path)
    alone, watched = new_state(config, prior), new_state(config, prior)
    torch.manual_seed(1)
    expected = [dataclasses.replace(m, seconds=0.0) for m in Trainer(config, prior, alone)]
    globally = torch.get_rng_state()
    torch.manual_seed(1)
    clock = Clock()
    page = FakePage(clock)
    found = []
    steps = Trainer(config, prior, watched)
    for metrics in watch(page, run, watched, config, steps, clock=clock):
        found.append(dataclasses.replace(metrics, seconds=0.0))
        clock.now += 10
    assert found == expected
    assert len(page.pictures) >= 4 and page.meshes
    pairs = list(zip(tensors(alone), tensors(watched), strict=True))
    assert len(pairs) > 10
    assert all(torch.equal(a, b) for a, b in pairs)
    assert torch.equal(globally, torch.get_rng_state())
    assert "step 1 of 6" in page.told[1] and "has ended" in page.told[-1]


def test_the_page_takes_at_most_its_share_of_the_time():
    clock, drawn = Clock(), []

    class Slow(FakePage):
        def show_image(self, visitor, picture):
            drawn.append(clock.now)
            clock.now += 2.0

    state = untrained(build_config(TINY))

    def steps():
        for step in range(1, 41):
            state.step = step
            clock.now += 1.0
            yield metrics_of(step)

    page = Slow(clock)
    page.wanted = Choice()
    page.visitors = lambda: {0: pose_of(orbit(clock.now, 15.0))}
    for _ in watch(page, RunFolder(Path(".")), state, build_config(TINY), steps(), clock=clock):
        pass
    assert len(drawn) >= 5
    assert 2.0 * len(drawn) <= 0.25 * (clock.now - 100.0) + 2.0


def metrics_of(step):
    own = {"guidance": 5.0, "sds_gradient": 0.1}
    return StepMetrics(step, 1.0, "albedo", 16, [1], 0.1, 0.2, 0.1, 0.3, own, {"sds": 0.3})


# --- the command line


@pytest.fixture
def bare_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.write_config(build_config(TINY))
    return run


def test_a_missing_run_is_an_error_of_one_line(bare_run, capsys):
    assert main(["view", "nowhere"]) == 2
    assert capsys.readouterr().err == "error: no such folder: nowhere\n"


def test_a_missing_viser_is_an_error_of_one_line(bare_run, capsys, monkeypatch):
    save_checkpoint(bare_run.checkpoints, untrained(build_config(TINY)), keep=1)
    monkeypatch.setitem(sys.modules, "viser", None)
    prior = str(save_pixel_prior(bare_run.path / "prior"))
    train = ["train", "a red puppy", "--prior", prior, "--view", "--out", "new"]
    capsys.readouterr()
    for command in (["view", "run"], train):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: the page needs viser (")
        assert error.endswith("): pip install 'dreamfusion[viewer]'\n")
        assert error.count("\n") == 1
    assert not (bare_run.path.parent / "new").exists()
