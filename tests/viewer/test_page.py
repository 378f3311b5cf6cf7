"""The viewer's page, served by viser and shown in a browser."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dreamfusion.cli.app import main
from dreamfusion.config.layers import build_config
from dreamfusion.config.schema import Config
from dreamfusion.graphics.cameras import orbit_cameras
from dreamfusion.graphics.shading import over
from dreamfusion.runs.checkpoint import save_checkpoint
from dreamfusion.runs.folder import RunFolder
from dreamfusion.scenes.base import render_image
from dreamfusion.viewer.page import Page, ViewerError
from dreamfusion.viewer.pose import cameras_of
from dreamfusion.viewer.stage import Stage
from tests.helpers.browser import Browser, find_chromium
from tests.helpers.states import untrained
from tests.helpers.tiny_priors import save_pixel_prior
from tests.helpers.viewer_scene import pose_of, subject

pytest.importorskip("viser", reason="viser is not installed (dreamfusion[viewer])")

TINY = {
    "prompt": "a red puppy",
    "scene": {
        "field": {"levels": 3, "features": 2, "log2_table_size": 10, "max_resolution": 32},
        "occupancy": {"resolution": 16},
    },
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    config = build_config(TINY)
    run.write_config(config)
    save_checkpoint(run.checkpoints, untrained(config), keep=1)
    return run


def test_a_page_is_served_to_this_machine_only_and_nothing_is_printed(capfd):
    page = Page("test", port=0)
    try:
        assert page.url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(page.url) as answer:
            assert answer.status == 200 and b"<html" in answer.read()
        port = int(page.url.rpartition(":")[2])
        with pytest.raises(ViewerError, match=rf"cannot listen at 127\.0\.0\.1, port {port}: "):
            Page("test", port=port)
        assert page.visitors() == {}
    finally:
        page.close()
    assert capfd.readouterr() == ("", "")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_an_unavailable_port_or_host_is_an_error_of_one_line(run, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["view", "run", "--port", str(port)]) == 2
    assert capsys.readouterr().err == (
        f"error: cannot listen at 127.0.0.1, port {port}: Address already in use; choose another "
        "with --port, or 0 for any free one\n"
    )
    assert main(["view", "run", "--host", "not a host", "--port", "0"]) == 2
    assert capsys.readouterr().err.startswith("error: cannot listen at not a host: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(run, number):
    command = [sys.executable, "-m", "dreamfusion", "view", "run", "--port", "0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    line = process.stdout.readline()
    assert line.startswith("view      http://127.0.0.1:") and line.endswith(" (Ctrl-C ends it)\n")
    with urllib.request.urlopen(line.split()[1]) as answer:
        assert answer.status == 200
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (0, "closed\n", "")


def test_training_with_a_page_equals_training_without(run, capsys):
    """A visitor is simulated, without a browser."""
    prior = str(save_pixel_prior(run.path / "prior"))
    options = {"camera.views": 2, "render.resolution": 16, "output.video_frames": 2}
    options |= {"output.video_size": 32, "output.mesh_resolution": 24, "output.texture_size": 64}
    command = ["train", "a red puppy", "--prior", prior, "--steps", "5", "--out"]
    settings = [f"--set={key}={value}" for key, value in options.items()]
    assert main([*command, "alone", *settings]) == 0
    capsys.readouterr()
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        pose = pose_of(orbit_cameras(*(torch.tensor([v]) for v in (30.0, 20.0, 2.6, 40.0))))
        patch.setattr(Page, "visitors", lambda page: {7: pose})
        patch.setattr(Page, "show_image", lambda page, who, picture: drawn.append(picture))
        assert main([*command, "watched", "--view", *settings]) == 0
    out = capsys.readouterr().out
    assert "\nview      http://127.0.0.1:" in out and " (until the run ends)\n" in out
    assert "\nto view   dreamfusion view watched\n" in out
    assert "viser" not in out
    assert drawn
    for name in ("checkpoints/step_0000005.safetensors", "mesh/model.glb"):
        assert Path("alone", name).read_bytes() == Path("watched", name).read_bytes()
    assert main(["resume", "watched", "--steps", "6", "--view"]) == 0
    assert "\nview      http://127.0.0.1:" in capsys.readouterr().out


@contextlib.contextmanager
def working(page, stage):
    """Run the stage in a thread, like `serve_run`."""
    done, failed = threading.Event(), []

    def loop():
        try:
            while not done.is_set():
                if not stage.work():
                    time.sleep(0.05)
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        page.close()
    assert failed == []


def middle(picture):
    """The square in the middle of the page, which no panel covers."""
    height, width = picture.shape[:2]
    return picture[:, (width - height) // 2 : (width + height) // 2]


def likeness(picture, expected):
    """(overlap, correlation) of the regions that are not white, for two images of bytes."""
    a, b = (p.min(axis=-1) < 215 for p in (picture, expected))
    both = a & b
    overlap = both.sum() / max((a | b).sum(), 1)
    return overlap, np.corrcoef(picture[both].ravel(), expected[both].ravel())[0, 1]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium here")
def test_a_browser_shows_the_view_of_the_visitors_camera(tmp_path):
    page = Page("test", port=0)
    page.start_at(orbit_cameras(*(torch.tensor([v]) for v in (30.0, 20.0, 2.6, 40.0))))
    stage, here = Stage(page, Config()), subject(falloff=80.0)
    fine = subject(falloff=80.0, step_size=0.015)
    stage.show(here)
    (tmp_path / "profile").mkdir()

    def expect(mode, seconds=200.0, least=0.9, correlated=0.9):
        """Wait until the page looks like `render_image` in that mode."""
        end = time.monotonic() + seconds
        pose = expected = None
        while True:
            ((_, now),) = page.visitors().items()
            if now != pose:
                pose, expected = now, picture_from(now, mode)
            shot = middle(browser.screenshot())
            Image.fromarray(np.hstack([shot, expected])).save(tmp_path / f"{mode}.png")
            found = likeness(shot, expected)
            if found[0] > least and found[1] > correlated:
                return pose
            assert time.monotonic() < end, f"{mode}: overlap and correlation are {found}"
            time.sleep(1)

    def picture_from(pose, mode):
        """The middle of the page, 600 x 600 pixels, rendered by `render_image`."""
        rgba = render_image(fine.scene, cameras_of(pose), height=150, width=150, mode=mode)[0]
        picture = over(rgba, torch.ones(3))
        small = Image.fromarray((picture.numpy() * 255).astype(np.uint8))
        return np.array(small.resize((600, 600)))

    with working(page, stage), Browser(page.url, tmp_path / "profile") as browser:
        # The camera reaches the requested position; before that, it has viser's default.
        told = pose_of(orbit_cameras(*(torch.tensor([v]) for v in (30.0, 20.0, 2.6, 40.0))))

        def arrived():
            return any(
                np.abs(np.subtract(pose.position, told.position)).max() < 1e-3
                for pose in page.visitors().values()
            )

        browser.wait(arrived, "the requested camera")
        pose = expect("color")
        assert pose.position == pytest.approx(told.position, abs=1e-3)
        assert np.abs(np.dot(pose.wxyz, told.wxyz)) == pytest.approx(1.0, abs=1e-4)
        assert pose.fov_y == pytest.approx(told.fov_y, abs=1e-3)

        browser.choose("color", "normals")
        expect("normals")
        browser.choose("normals", "color")
        # The mesh replaces the NeRF, in similar colours.
        browser.choose("NeRF", "mesh")
        browser.wait(lambda: stage._visible_mesh is not None, "a mesh", 200)
        expect("color", least=0.85, correlated=0.8)
        browser.choose("color", "depth")
        expect("depth", least=0.8, correlated=0.6)
        browser.choose("mesh", "NeRF")
        browser.choose("depth", "color")

        # Orbit with the mouse: the NeRF follows.
        browser.mouse("mousePressed", 600, 300, 1)
        for x in range(600, 761, 40):
            browser.mouse("mouseMoved", x, 320, 1)
        browser.mouse("mouseReleased", 760, 320)
        browser.wait(lambda: next(iter(page.visitors().values())) != pose, "another view")
        time.sleep(2)
        moved = expect("color")
        assert np.linalg.norm(np.subtract(moved.position, pose.position)) > 0.3
        assert browser.problems == []
    assert page.visitors() == {}
