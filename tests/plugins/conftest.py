"""Installs the package acme_dreams: modules and metadata."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.forks import Forks

ENTRY_POINTS = """
[dreamfusion.estimators]
acme-averaged = acme_dreams:AveragedSettings
acme-broken = acme_dreams.nowhere:Settings
acme-function = acme_dreams:math

[dreamfusion.scenes]
acme-voxels = acme_dreams:VoxelSettings

[dreamfusion.priors]
acme-joint = acme_dreams:JointSettings
"""
SETTINGS = {
    "prior": {"name": "acme-joint"},
    "camera": {"views": 4},
    "render": {"resolution": 16},
    "scene": {
        "field": {"levels": 3, "features": 2, "log2_table_size": 10, "max_resolution": 32},
        "occupancy": {"resolution": 16, "update_every": 3},
    },
    "output": {
        "checkpoint_every": 3, "preview_every": 4, "video_frames": 2, "video_size": 32,
        "mesh_resolution": 24, "texture_size": 32,
    },
}  # fmt: skip


def install(folder: Path, entry_points: str, name: str = "acme_dreams") -> Path:
    """Write the result of `pip install --target FOLDER`."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    info.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    info.joinpath("entry_points.txt").write_text(entry_points)
    shutil.copy(Path(__file__).with_name("acme_dreams.py"), folder)
    return folder


@dataclass(frozen=True)
class Shell:
    """Runs the command line with the package installed."""

    forks: Forks
    site: Path
    settings: Path

    def run(self, *arguments: object, cwd: Path, **more: Any) -> subprocess.CompletedProcess[str]:
        return self.forks.complete(*arguments, cwd=cwd, site=self.site, **more)

    def train(self, *options: object, cwd: Path, **more) -> subprocess.CompletedProcess:
        command = ["train", "a red cube", "--config", self.settings, "--steps", 8]
        return self.run(*command, "--device", "cpu", "--out", "run", *options, cwd=cwd, **more)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("site"), ENTRY_POINTS)


@pytest.fixture(scope="session")
def shell(forks: Forks, site: Path, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    settings = tmp_path_factory.mktemp("settings") / "acme.yaml"
    settings.write_text(yaml.safe_dump(SETTINGS))
    return Shell(forks, site, settings)


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes the package importable in this process."""
    from dreamfusion.config import sections

    def forget():
        for function in (sections._entries, sections.find_section):
            function.cache_clear()

    monkeypatch.syspath_prepend(str(site))
    forget()
    yield
    forget()
