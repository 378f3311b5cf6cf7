"""Folders that are copied in pieces are restored completely or not at all."""

from __future__ import annotations

import subprocess
import sys

import pytest

from scripts.pieces import cut, join
from tests.helpers import ROOT


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "prior"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "weights").write_bytes(bytes(range(256)) * 400)
    (folder / "card.md").write_text("a card")
    return folder


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_pieces_restore_the_folder(folder, tmp_path):
    files = cut(folder, tmp_path / "out", most=50_000)
    assert len(files) == 4 and all(file.stat().st_size <= 50_000 for file in files)
    before = contents(folder)
    (folder / "card.md").write_text("another card")
    (folder / "stranger").touch()
    join(tmp_path / "out", folder)
    assert contents(folder) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "prior"]


@pytest.mark.parametrize("harm", ["missing", "changed", "no list"])
def test_damage_is_reported_and_nothing_is_changed(folder, tmp_path, harm):
    files = cut(folder, tmp_path / "out", most=50_000)
    if harm == "changed":
        files[1].write_bytes(files[1].read_bytes()[:-1] + b"!")
    else:
        files[1 if harm == "missing" else -1].unlink()
    before = contents(folder)
    command = [sys.executable, "-m", "scripts.pieces", "join", tmp_path / "out", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: ")
    assert ("pieces.json" if harm == "no list" else "piece-01 is missing, or") in done.stderr
    assert contents(folder) == before


def test_the_shipped_prior_fits_the_limits_of_the_device_machine(tmp_path):
    files = cut(ROOT / "assets" / "embedded-prior", tmp_path)
    assert len(files) <= 6  # of eight; two are reserved for logs
    assert max(file.stat().st_size for file in files) < 16 << 20
