"""Locates files that are shipped with the package: presets and assets."""

from importlib.resources import files
from pathlib import Path


def shipped(name: str) -> Path:
    """The folder `name` ("configs", "assets"): inside an installed package, next to the package in
    a checkout. It may not exist."""
    package = Path(str(files("dreamfusion")))
    installed = package / name
    return installed if installed.is_dir() else package.parent / name
