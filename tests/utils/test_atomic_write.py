import errno
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dreamfusion.utils.files import atomic_write


def test_a_file_appears_when_complete_and_its_folder_is_created(tmp_path):
    path = tmp_path / "new" / "page.html"
    with atomic_write(path) as file:
        file.write_text("half")
        assert file.suffix == ".html" and not path.exists()
    assert path.read_text() == "half"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_only_the_old_file(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")

    def write():
        with atomic_write(path) as file:
            file.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_permissions_of_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "plain.txt") as file:
            file.write_text("x")
        with atomic_write(tmp_path / "a.safetensors") as file:
            save_file({"x": torch.zeros(2)}, file)
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {mode}


def test_the_file_is_synced_before_its_name(tmp_path, monkeypatch):
    done = []
    sync, replace = os.fsync, Path.replace

    def watched_sync(handle):
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        sync(handle)

    def watched_replace(self, target):
        done.append("name")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    with atomic_write(tmp_path / "a.txt") as file:
        file.write_text("x")
    assert done == ["file", "name", "folder"]


@pytest.mark.parametrize(
    ("error", "where"),
    [
        (OSError(errno.ENOSPC, "no space left"), "fsync"),
        (KeyboardInterrupt(), "fsync"),
        (KeyboardInterrupt(), "chmod"),
    ],
)
def test_a_late_failure_leaves_no_temporary_file(tmp_path, monkeypatch, error, where):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(*arguments):
        raise error

    monkeypatch.setattr(os if where == "fsync" else Path, where, fail)

    def write():
        with atomic_write(path) as file:
            file.write_text("new")

    with pytest.raises(type(error)):
        write()
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
