"""The report in a real browser, if installed."""

import dataclasses
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from dreamfusion.mesh.extract import Mesh
from dreamfusion.mesh.formats import read_glb, write_mesh
from dreamfusion.report import write_report
from tests.helpers.run_folders import COLORS, make_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
WEBGL = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")
@pytest.mark.parametrize("look", ["texture", "normal map", "vertex colors"])
def test_the_viewer_shows_the_mesh_upright_and_in_its_colors(tmp_path, look):
    """The quad is blue above red."""
    run = make_run(tmp_path / "run")
    file = run / "mesh" / "model.glb"
    quad, _ = read_glb(file)
    if look == "normal map":  # flat, as bytes
        flat = np.full((16, 16, 3), (128, 128, 255), np.uint8)
        write_mesh(dataclasses.replace(quad, normal_map=flat), file)
    elif look == "vertex colors":
        heights = (0, 0, 1, 1, 1, 1, 2, 2)
        vertices = np.array([[2 * (i % 2) - 1, y, 0] for i, y in enumerate(heights)], float)
        colors = np.repeat([COLORS["lower"], COLORS["upper"]], 4, axis=0) / 255
        faces = np.array([[0, 1, 3], [0, 3, 2], [4, 5, 7], [4, 7, 6]])
        write_mesh(Mesh(vertices, faces, colors), file)
    page = write_report([run])
    picture = tmp_path / "page.png"
    command = [CHROMIUM, "--headless=new", "--no-sandbox", *WEBGL, "--window-size=1200,700"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000"]
    command += [f"--screenshot={picture}", page.resolve().as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=280)
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)[:, :700]  # of the viewer
    rows = {}
    for name, (red, _, blue) in COLORS.items():
        (strong, weak) = (0, 2) if red > blue else (2, 0)
        alike = (pixels[..., strong] > 100) & (pixels[..., weak] < 0.45 * pixels[..., strong])
        rows[name] = np.nonzero(alike.sum(axis=1) > 60)[0]
        assert len(rows[name]) > 50, name
    assert rows["upper"].max() < rows["lower"].min() + 60  # the border is slanted by perspective
    assert rows["upper"].mean() + 50 < rows["lower"].mean()
