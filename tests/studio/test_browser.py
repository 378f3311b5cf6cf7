"""The studio in a real browser, from a prompt to a downloaded mesh, if Chromium is installed."""

from __future__ import annotations

import io
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from dreamfusion.batch.driver import prepare
from dreamfusion.batch.jobs import BatchFolder
from dreamfusion.batch.plan import Options, plan_jobs
from dreamfusion.batch.prompts import Entry
from dreamfusion.graphics.cameras import orbit_cameras
from dreamfusion.mesh.formats import read_glb
from dreamfusion.runs.folder import RunFolder
from dreamfusion.scenes.base import Views
from dreamfusion.scenes.gaussians.scene import GaussianScene
from dreamfusion.scenes.gaussians.settings import GaussianSettings
from dreamfusion.studio.library import SingleRun
from dreamfusion.studio.server import serving
from tests.helpers.glb_files import artists_file
from tests.helpers.run_folders import make_run
from tests.studio.conftest import studio

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
WEBGL = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
expect = sync_api.expect
expect.set_options(timeout=60_000)  # machines of CI are busy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=WEBGL)
        yield browser
        browser.close()


def visit(browser, url: str, size: str = "desktop"):
    """A page in a profile of its own, and the list of its errors."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height}, has_touch=size == "phone"
    )
    page, errors = context.new_page(), []
    page.set_default_timeout(60_000)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url)
    return page, errors


def box(page, selector: str) -> dict[str, float]:
    return page.locator(selector).bounding_box()


def require_layout(page) -> None:
    """Nothing lies on the object, and no part is wider than the screen."""
    view, width = box(page, "#view"), page.viewport_size["width"]
    assert view["x"] >= 0 and view["x"] + view["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for selector in ("#panel", "#bar"):
        other = box(page, selector)
        apart = other["x"] >= view["x"] + view["width"] or other["y"] >= view["y"] + view["height"]
        assert apart, (selector, view, other)


def object_in(page) -> tuple[float, float, float]:
    """The share of the stage that the object covers, and the middle of the object in the stage."""
    picture = Image.open(io.BytesIO(page.locator("#view").screenshot())).convert("RGB")
    pixels = np.asarray(picture).astype(int)
    solid = np.ptp(pixels, axis=-1) > 40  # the background is grey
    rows, columns = np.nonzero(solid)
    if not len(rows):
        return 0.0, 0.0, 0.0
    return solid.mean(), rows.mean() / len(solid), columns.mean() / solid.shape[1]


@pytest.mark.parametrize("size", SIZES)
def test_from_a_prompt_to_a_downloaded_mesh(browser, tmp_path: Path, options, size):
    with studio(tmp_path / "made", *options) as (url, _):
        page, errors = visit(browser, url, size)
        page.fill("#prompt", "a dragon")
        expect(page.locator("#advice")).to_have_text("This prior does not know 'dragon'.")
        expect(page.locator("#go")).to_be_disabled()
        page.fill("#prompt", "a red puppy")
        expect(page.locator("#advice")).to_have_text("can be made: red corgi")
        page.fill("#seeds", "2")
        page.click("#go")
        expect(page.locator("#variants .card")).to_have_count(2)
        expect(page.locator("#view img")).to_be_visible(timeout=240_000)  # the scene forms
        expect(page.locator("#status")).to_have_text(re.compile("done"), timeout=240_000)
        expect(page.locator("#view canvas#model")).to_be_visible()
        require_layout(page)
        other, _ = visit(browser, url, "desktop")  # somebody else sees the same
        expect(other.locator("#variants .card")).to_have_count(2)

        page.fill("#faces", "200")
        with page.expect_download(timeout=240_000) as download:
            page.click("#download")
        assert download.value.suggested_filename == "a-red-puppy.glb"
        file = tmp_path / "downloaded.glb"
        download.value.save_as(file)
        mesh, provenance = read_glb(file)
        assert len(mesh.faces) <= 200 and provenance.prompt == "a red puppy"
        page.select_option("#format", "stl-print")
        page.fill("#mm", "50")
        with page.expect_download(timeout=240_000) as download:
            page.click("#download")
        download.value.save_as(tmp_path / "print.stl")
        assert trimesh.load(tmp_path / "print.stl").extents.max() == pytest.approx(50, abs=0.1)

        page.click("#pick")
        expect(other.locator("#variants .card", has_text="picked as best")).to_have_count(1)
        assert (tmp_path / "made" / "a-red-puppy.glb").resolve().is_file()
        assert errors == []


@pytest.mark.parametrize("size", SIZES)
def test_an_uploaded_mesh_is_painted_and_downloaded(browser, tmp_path, options, size):
    file = artists_file(tmp_path / "car.glb")
    with studio(tmp_path / "made", *options, "--config", str(_painting(tmp_path))) as (url, _):
        page, errors = visit(browser, url, size)
        page.click("#paint summary")
        page.set_input_files("#mesh", str(_text_file(tmp_path)))
        expect(page.locator("#uploaded")).to_have_text("the file is not a glb file")
        page.set_input_files("#mesh", str(file))
        expect(page.locator("#uploaded")).to_have_text("car.glb will be painted")
        page.fill("#prompt", "a red mug")
        expect(page.locator("#go")).to_have_text("Paint")
        page.click("#go")
        expect(page.locator("#status")).to_have_text(re.compile("done"), timeout=240_000)
        expect(page.locator("#view canvas#model")).to_be_visible()
        require_layout(page)
        expect(page.locator("#faces-label")).to_be_hidden()
        page.select_option("#format", "obj")
        with page.expect_download(timeout=240_000) as download:
            page.click("#download")
        assert download.value.suggested_filename == "a-red-mug.zip"
        with page.expect_download() as download:
            page.click("#painted a")
        download.value.save_as(tmp_path / "painted.glb")
        painted = trimesh.load(tmp_path / "painted.glb")
        assert sorted(painted.geometry) == sorted(trimesh.load(file).geometry)
        assert errors == []


def _painting(folder: Path) -> Path:
    path = folder / "painting.yaml"
    path.write_text("steps: 6\noutput: {video_frames: 2, video_size: 32}\ncamera: {views: 2}\n")
    return path


def _text_file(folder: Path) -> Path:
    path = folder / "notes.glb"
    path.write_text("no mesh")
    return path


def test_a_run_is_viewed_framed_and_turned(browser, tmp_path: Path):
    """The object of the folder is a quad, blue above red."""
    run = make_run(tmp_path / "run")
    for size in SIZES:
        with serving(SingleRun(RunFolder(run)), port=0) as server:
            page, errors = visit(browser, server.url, size)
            expect(page.locator("#view canvas#model")).to_be_visible()
            expect(page.locator("#make")).to_be_hidden()
            require_layout(page)
            page.wait_for_timeout(1000)
            share, row, column = object_in(page)
            assert share > 0.1 and abs(row - 0.5) < 0.1 and abs(column - 0.5) < 0.1
            view = box(page, "#view")
            x, y = view["x"] + view["width"] / 2, view["y"] + view["height"] / 2
            page.mouse.move(x, y)
            page.mouse.down()
            page.mouse.move(x + 100, y, steps=4)
            page.mouse.up()
            page.wait_for_timeout(500)
            assert abs(object_in(page)[0] - share) > 0.01  # turned: the quad is seen at an angle
            page.click("#bar button[data-look='2']")
            page.wait_for_timeout(500)
            assert object_in(page)[0] < 0.01  # clay has no colour
            assert errors == []


def test_splats_are_drawn_as_they_are_rendered(browser, tmp_path: Path):
    """A cloud of 300 flat, coloured splats on black, seen from the page's first camera."""
    run = RunFolder(make_run(tmp_path / "run"))
    scene = _cloud(300)
    scene.writers()["splats.ply"](run.mesh / "splats.ply")
    with serving(SingleRun(run), port=0) as server:
        page, errors = visit(browser, server.url)
        page.click("#bar button[data-look='4']")
        page.evaluate("document.querySelector('#view').style.cssText += ';background:#000'")
        expect(page.locator("#splats a")).to_be_visible()
        page.wait_for_timeout(1000)
        picture = Image.open(io.BytesIO(page.locator("#view canvas").screenshot())).convert("RGB")
        assert errors == []
    shown = torch.from_numpy(np.asarray(picture) / 255).float()
    height, width = shown.shape[:2]
    radius = math.sqrt(3)  # of the cube from -1 to 1
    camera = orbit_cameras(*(torch.tensor([x]) for x in (
        math.degrees(0.5), math.degrees(0.3), 1.2 * radius / math.sin(0.3), math.degrees(0.6)
    )))  # fmt: skip
    rendered = scene.render(Views(camera, height, width, background=torch.zeros(3))).rgb[0]
    error = (shown - rendered.detach()).abs()
    assert rendered.mean() > 0.05
    assert error.mean() < 0.01 and error.flatten().quantile(0.99) < 0.1, error.mean()


def _cloud(n: int) -> GaussianScene:
    """Splats around the origin, in the middle of their bounding box."""
    scene = GaussianScene(
        GaussianSettings(count=n, blur=0.0), generator=torch.Generator().manual_seed(0)
    )
    generator = torch.Generator().manual_seed(1)
    splats = scene.splats
    with torch.no_grad():
        splats.means.copy_(torch.rand(n, 3, generator=generator) * 2 - 1)
        splats.means[:2] = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
        splats.log_scales.copy_((torch.rand(n, 3, generator=generator) * 0.15 + 0.01).log())
        splats.log_scales[:, 2] = math.log(0.01)
        splats.quaternions.copy_(torch.randn(n, 4, generator=generator))
        splats.colors.copy_(torch.rand(n, 3, generator=generator))
        splats.logits.copy_(torch.rand(n, generator=generator) * 3)
    return scene


def test_a_job_that_fails_shows_its_one_line_and_can_be_tried_again(browser, tmp_path, options):
    batch = BatchFolder(tmp_path / "made")
    jobs = plan_jobs([Entry("x", "a chair")], Options(prior=options[1], config=options[3]))
    (folder,) = prepare(batch, jobs)
    folder.run.path.write_text("a file where the run would be")
    with studio(batch.path, *options) as (url, _):
        page, _ = visit(browser, url, "phone")
        error = page.locator("#error")
        expect(error).to_contain_text("is a file; choose another folder", timeout=120_000)
        assert "\n" not in error.text_content()
        folder.run.path.unlink()
        page.click("#resume")
        expect(page.locator("#status")).to_have_text(re.compile("done"), timeout=240_000)
        expect(error).to_be_hidden()
