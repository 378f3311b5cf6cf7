"""The report in a real browser, if installed."""

import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from dreamfusion.report import write_report
from tests.helpers.run_folders import COLORS, make_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
WEBGL = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")
def test_the_viewer_shows_the_mesh_upright_and_in_its_colors(tmp_path):
    """The quad's texture is blue above red."""
    page = write_report([make_run(tmp_path / "run")])
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
