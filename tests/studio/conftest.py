"""A studio with a tiny prior, in another process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.helpers import ROOT
from tests.helpers.tiny_priors import save_pixel_prior

SETTINGS = {
    "steps": 30,
    "camera": {"views": 2},
    "render": {"resolution": 16},
    "scene": {
        "field": {"levels": 3, "features": 2, "log2_table_size": 10, "max_resolution": 32},
        "occupancy": {"resolution": 16},
    },
    "output": {
        "checkpoint_every": 10, "video_frames": 2, "video_size": 32, "mesh_resolution": 24,
        "texture_size": 64,
    },
}  # fmt: skip


@pytest.fixture(scope="session")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The options of a studio with a tiny prior, which knows corgi, mug, chair and red."""
    folder = tmp_path_factory.mktemp("options")
    settings = folder / "tiny.yaml"
    settings.write_text(yaml.safe_dump(SETTINGS))
    return ["--prior", str(save_pixel_prior(folder / "prior")), "--config", str(settings)]


@contextmanager
def studio(folder: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run the studio in a folder; yields its address and its process, which is terminated."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dreamfusion", "studio", str(folder), "--port", "0", *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        assert line.startswith("page      http://"), process.communicate()
        yield line.split()[1], process
    finally:
        process.terminate()
        process.communicate(timeout=120)
