"""Files that come with the package: presets and the embedded prior."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def shipped(name: str) -> Path:
    """The folder `name` ("configs", "assets"): inside the package when that is installed, beside
    it in a checkout. It need not exist."""
    package = Path(str(files("dreamfusion")))
    installed = package / name
    return installed if installed.is_dir() else package.parent / name
