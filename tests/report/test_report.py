"""Reports on synthetic runs: complete, partial and broken ones."""

import base64
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import trimesh

from dreamfusion.batch.driver import prepare
from dreamfusion.batch.jobs import BatchFolder, write_json
from dreamfusion.cli.app import main
from dreamfusion.mesh.extract import Mesh
from dreamfusion.mesh.formats import write_mesh
from dreamfusion.mesh.provenance import Provenance
from dreamfusion.report import write_report
from dreamfusion.report.gallery import write_gallery
from dreamfusion.report.gather import gather, mesh_facts, thin
from tests.helpers.fast_attempts import job
from tests.helpers.run_folders import VIDEO, make_run


def colored_box():
    box = trimesh.creation.box(extents=(1.0, 2.0, 0.5))
    return Mesh(np.asarray(box.vertices), np.asarray(box.faces), np.full((8, 3), 0.5))


def report(capsys, *arguments):
    """The page and its path."""
    assert main(["report", *map(str, arguments), "--quiet"]) == 0
    path = capsys.readouterr().out.removesuffix("\n")
    with open(path, encoding="utf-8") as file:
        return file.read(), path


def shown_models(page):
    """The GLB files that the viewer shows."""
    found = re.findall(r'<script type="text/plain" id="model-\d+">(.*?)</script>', page)
    return [base64.b64decode(data) for data in found]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_run(tmp_path / "run")


def test_a_whole_run_shows_everything(run, capsys):
    page, path = report(capsys, "run")
    assert path == "run/report.html"
    assert "<h1>a red mug</h1>" in page
    assert '<li class="done">40 of 40 steps</li>' in page
    for chip in ("prior</span> auto", "device</span> cpu, auto", "dreamfusion</span> 0.0.7"):
        assert chip in page
    assert "<th>estimator.guidance</th><td><code>9.5</code></td><td><code>4</code></td>" in page
    differing, others = page.split("<details>")
    assert "<th>estimator.guidance</th>" not in others
    assert "<th>camera.views</th>" in others and "<th>camera.views</th>" not in differing
    for title in ("SDS gradient", "Gradient norm", "Opacity"):
        assert f"<b>{title}</b>" in page
    assert page.count("<svg") == 3
    assert "Guidance 4, Image size 32, Seconds per step 0.5" in page
    assert page.count("<img ") == 12
    assert "step 1<" in page and "step 40<" in page
    assert f'src="data:video/mp4;base64,{base64.b64encode(VIDEO).decode()}"' in page
    assert "<dt>Faces</dt><dd>2</dd>" in page
    assert shown_models(page) == [(run / "mesh" / "model.glb").read_bytes()]
    assert '<canvas data-model="model-0"' in page
    assert '<a download="run.glb" data-model="model-0">' in page
    assert "<dt>All steps</dt><dd>20 s</dd>" in page
    assert 'class="note"' not in page


def test_no_resource_is_fetched_and_no_other_script_runs(run, capsys):
    page, _ = report(capsys, "run")
    assert "http://" not in page and "https://" not in page
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(addresses) == 14
    assert all(address.startswith("data:") for address in addresses)
    assert not re.search(r"url\(|@import|import\(|fetch\(|XMLHttp", page)
    assert "default-src 'none'" in page
    assert "script-src 'sha256-" in page


def test_everything_is_escaped(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evil = "</title><script>alert(1)</script>\"'&"
    make_run(tmp_path / "<b>x", prompt=evil, prior={"negative_prompt": evil, "name": "<i>p"})
    make_run(tmp_path / "other", prompt="another")
    for dirs in (["<b>x"], ["<b>x", "other"]):
        page, _ = report(capsys, *dirs)
        assert "<script>alert" not in page and "<b>x" not in page and "<i>p" not in page
        assert page.split("</title>")[1].startswith("\n<style>")
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_facts_about_a_closed_box(tmp_path):
    write_mesh(colored_box(), tmp_path / "box.glb")
    assert "Step" not in dict(mesh_facts((tmp_path / "box.glb").read_bytes()))
    provenance = Provenance(70, (0.0, 0.0, 0.0), psnr_db=27.41, silhouette_iou=0.9352)
    write_mesh(colored_box(), tmp_path / "box.glb", provenance=provenance)
    facts = dict(mesh_facts((tmp_path / "box.glb").read_bytes()))
    assert facts["Step"] == "70"
    assert facts["PSNR to the scene"] == "27.4 dB"
    assert facts["Silhouette IoU with the scene"] == "0.935"
    assert facts["Watertight"] == "yes, genus 0"
    assert facts["Volume"] == "1.000"
    assert facts["Width × height × depth"] == "1.00 × 2.00 × 0.50"
    assert (facts["Faces"], facts["Pieces"], facts["Colour"]) == ("12", "1", "at vertices")


@pytest.mark.parametrize("content", [b"", b"glTF", b"not a mesh at all" * 10])
def test_an_unreadable_mesh_is_reported_in_a_note(run, capsys, content):
    (run / "mesh" / "model.glb").write_bytes(content)
    page, _ = report(capsys, "run")
    assert "mesh/model.glb cannot be read (" in page
    assert "<code>dreamfusion export run</code>" in page
    assert '<canvas data-model="model' not in page


def test_the_report_of_a_new_run_names_the_next_commands(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my run").mkdir()
    (tmp_path / "my run" / "config.yaml").write_text("prompt: a mug\n")
    page, _ = report(capsys, "my run")
    resume = "<code>dreamfusion resume &#39;my run&#39;</code>"
    assert f"Step 0 of 250. If the run has stopped, resume it: {resume}" in page
    export = "<code>dreamfusion export &#39;my run&#39;</code>"
    assert f"No mesh yet, or one too large for a page. To make one: {export}" in page
    assert "No preview yet" in page
    assert "No step is logged yet." in page
    assert "<svg" not in page


def test_the_report_of_a_stopped_run_names_export_and_render(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "run", done=7)
    (run / "video.mp4").unlink()
    (run / "mesh" / "model.glb").unlink()
    page, _ = report(capsys, "run")
    assert '<li class="partial">7 of 40 steps</li>' in page
    resume = "<code>dreamfusion resume run</code>"
    assert f"Step 7 of 40. If the run has stopped, resume it: {resume}" in page
    assert "<code>dreamfusion export run</code>" in page
    assert "<code>dreamfusion render run</code>" in page
    assert "<video" not in page and '<canvas data-model="model' not in page
    assert page.count("<svg") == 3


def test_broken_files_are_reported_and_left_out(run, capsys):
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(
            b'{"step": 41, "sds_gradient": NaN}\n[1]\n{"step": "x"}\n\xff\xfe\n{"step": 42, "cut'
        )
    (run / "previews" / "step_0000001.png").write_bytes(b"\x89PNG")
    (run / "previews" / "step_last.png").write_bytes(b"")
    (run / "video.mp4").write_bytes(b"no video")
    (run / "checkpoints" / "step_0000041.json").write_text("{")
    page, _ = report(capsys, "run")
    assert "4 of 45 lines of metrics.jsonl cannot be read and are skipped." in page
    assert "Cannot be read: step_0000001.png, step_last.png" in page
    assert "video.mp4 is not a video. To render it: <code>dreamfusion render run</code>" in page
    assert "nan" not in re.sub(r'"[^"]*"|<script.*', "", page, flags=re.DOTALL)
    assert page.count("<svg") == 3


def test_the_newest_video_and_other_modes_are_shown(run, capsys):
    (run / "render-color.mp4").write_bytes(VIDEO + b"newer")
    (run / "render-normals.mp4").write_bytes(VIDEO)
    os.utime(run / "video.mp4", (1e9, 1e9))
    page, _ = report(capsys, "run")
    assert page.count("<video") == 2
    assert base64.b64encode(VIDEO + b"newer").decode() in page
    assert "<figcaption>Normals</figcaption>" in page


def test_several_runs_are_shown_side_by_side(run, tmp_path, capsys):
    make_run(tmp_path / "other", prompt="a blue chair", done=9, seed=3)
    page, path = report(capsys, "run", "other")
    assert path == "report.html"
    assert page.count("<article") == 2
    assert "<h2>a red mug</h2>" in page and "<h2>a blue chair</h2>" in page
    assert len(shown_models(page)) == 2
    assert page.count("<video") == 2
    assert page.count("<svg") == 3  # the curves of both in one
    first_chart = page.split("<svg")[1].split("</svg>")[0]
    assert "<title>run</title>" in first_chart and "<title>other</title>" in first_chart
    differing = page.split("Settings that differ")[1].split("<details>")[0]
    assert "<th>seed</th><td><code>0</code></td><td class=changed><code>3</code></td>" in differing
    assert "estimator.guidance" not in differing
    assert "<code>dreamfusion resume other</code>" in page
    assert report(capsys, "run", "other")[1] == "report-2.html"


def test_only_an_older_report_is_overwritten(run, tmp_path, capsys):
    assert report(capsys, "run")[1] == report(capsys, "run")[1] == "run/report.html"
    (run / "report.html").write_text("mine")
    assert report(capsys, "run")[1] == "run/report-2.html"
    assert (run / "report.html").read_text() == "mine"
    assert report(capsys, "run", "--out", "new/page.html")[1] == "new/page.html"
    assert report(capsys, "run", "--out", "new/page.html")[1] == "new/page-2.html"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument 'DIR...'. See: dreamfusion report --help"),
        (["nowhere"], "no such folder: nowhere"),
        (["run", "."], ". contains no run; name a run in it, such as run"),
        (["run", "--out", "run"], "run is a folder: name a file, like run/report.html"),
        (["spoiled"], "spoiled/config.yaml: unknown setting stepps; did you mean steps?"),
        (["run", "--out", "run/config.yaml/page.html"], "File exists: run/config.yaml"),
    ],
)
def test_user_errors_have_one_line(run, tmp_path, capsys, arguments, message):
    (tmp_path / "spoiled").mkdir()
    (tmp_path / "spoiled" / "config.yaml").write_text("stepps: 3\n")
    assert main(["report", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"error: {message}\n"
    assert captured.out == ""


def test_a_report_does_not_import_torch(run):
    code = (
        "import sys; from dreamfusion.cli.app import main; assert main(['report', 'run']) == 0;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'diffusers', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


def test_the_content_of_a_run_is_read(run):
    read = gather(run)
    assert read.done and read.step == 40 and read.version == "0.0.7"
    assert read.curves["timesteps"].values == (150.0,) * 40
    assert read.step_seconds == (0.5,) * 40
    assert read.notes == []
    assert list(read.previews)[::11] == [1, 40]


@pytest.mark.parametrize(
    ("content", "stages"),
    [('{"training": 20.04, "drawing": 71}', {"training": 20.04, "drawing": 71.0}), ("[]", {})],
)
def test_the_stages_of_a_run(run, capsys, content, stages):
    assert gather(run).stages == {}
    (run / "stages.json").write_text(content)
    assert gather(run).stages == stages
    page, _ = report(capsys, "run")
    assert ("<dt>Drawing</dt><dd>1 min 11 s</dd>" in page) == bool(stages)


def test_splats_are_a_look_of_the_viewer(run, capsys):
    assert 'data-look="4"' not in report(capsys, "run")[0]
    (run / "mesh" / "splats.ply").write_bytes(b"ply ...")
    page, _ = report(capsys, "run")
    (data,) = re.findall(r'<script type="text/plain" id="splats-model-0">(.*?)</script>', page)
    assert base64.b64decode(data) == b"ply ..."
    assert 'data-splats="splats-model-0"' in page and 'data-look="4"' in page


def test_thinning_keeps_both_ends():
    assert thin(range(5), 12) == [0, 1, 2, 3, 4]
    thinned = thin(range(100), 12)
    assert len(thinned) == 12 and thinned[0] == 0 and thinned[-1] == 99


def test_settings_show_their_layers(run):
    write_report([run])
    page = (run / "report.html").read_text()
    row = page[page.index("<th>estimator.guidance</th>") :].split("</tr>")[0]
    assert "9.5" in row and "preset mine" in row
    (run / "layers.yaml").unlink()
    write_report([run])
    assert "preset mine" not in (run / "report.html").read_text()


def test_old_names_of_settings_are_shown_as_new_ones(run, capsys):
    for file in (run / "config.yaml", run / "layers.yaml"):
        text = file.read_text()
        assert "estimator:" in text
        file.write_text(text.replace("estimator:", "sds:"))
    assert main(["report", "run", "--quiet"]) == 0
    said = capsys.readouterr().err
    assert said.startswith("warning: sds is now called estimator;") and said.count("\n") == 1
    page = (run / "report.html").read_text(encoding="utf-8")
    row = page[page.index("<th>estimator.guidance</th>") :].split("</tr>")[0]
    assert "9.5" in row and "preset mine" in row and "sds.guidance" not in page


@pytest.mark.slow
def test_a_gallery_downloads_and_remembers_picks(tmp_path):
    """In a browser, from a copy of the file alone: its links survive being shared."""
    from tests.studio.test_browser import CHROMIUM, WEBGL, sync_api

    if CHROMIUM is None:
        pytest.skip("there is no chromium here")
    batch = BatchFolder(tmp_path / "toys")
    for folder in prepare(batch, [job("a mug"), job("a chair")]):
        make_run(folder.result.path)
        write_json(folder.done_file, {"run": "run", "seconds": 3.0})
    shared = tmp_path / "shared.html"
    write_gallery(batch.path).rename(shared)
    shutil.rmtree(batch.path)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=WEBGL)
        page = browser.new_page()
        page.goto(shared.as_uri())
        with page.expect_download() as download:
            page.click("article >> nth=0 >> a[download]")
        assert download.value.suggested_filename.startswith("a-chair-s0-")
        assert download.value.path().read_bytes()[:4] == b"glTF"
        assert page.locator("#picks").is_hidden()
        page.check("article >> nth=1 >> .pick")
        assert page.locator("#picks b").text_content() == "1"
        page.reload()
        assert page.locator(".pick:checked").count() == 1
        with page.expect_download() as download:
            page.click("#picks button")
        assert download.value.suggested_filename.startswith("a-mug-s0-")
        browser.close()
