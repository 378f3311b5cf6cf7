"""File systems without locks, permissions and links, as with WSL, NFS, CIFS and exFAT."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import warnings
from pathlib import Path

import pytest

from dreamfusion.batch import attempt
from dreamfusion.batch.driver import driver_lock
from dreamfusion.batch.jobs import BatchFolder, JobFolder, create_json, write_json
from dreamfusion.runs.folder import RunFolder, locked
from dreamfusion.utils import file_system
from dreamfusion.utils.atomic_write import atomic_write
from dreamfusion.utils.errors import RunWarning
from dreamfusion.utils.file_system import copy_files, link_or_pointer


@pytest.fixture(autouse=True)
def forget_warnings():
    file_system._warned.clear()


def refuse(number):
    def fail(*arguments, **options):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_modes_files_are_written_with_one_warning(tmp_path, monkeypatch, number):
    monkeypatch.setattr(Path, "chmod", refuse(number))

    def write_two():
        for name in ("a.txt", "b.txt"):
            with atomic_write(tmp_path / name) as file:
                file.write_text("x")

    with pytest.warns(RunWarning, match="cannot set permissions in") as warned:
        write_two()
    assert len(warned) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_fsync_files_are_written(tmp_path, monkeypatch, number):
    monkeypatch.setattr(os, "fsync", refuse(number))
    with atomic_write(tmp_path / "a.txt") as file:
        file.write_text("x")
    assert (tmp_path / "a.txt").read_text() == "x"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_a_run_trains_with_a_warning(tmp_path, monkeypatch, number):
    monkeypatch.setattr(fcntl, "flock", refuse(number))
    with (
        pytest.warns(RunWarning, match="no file locks; start one"),
        locked(RunFolder(tmp_path)),
    ):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_locks_a_batch_continues_with_a_warning(tmp_path, monkeypatch, number):
    monkeypatch.setattr(fcntl, "flock", refuse(number))
    with (
        pytest.warns(RunWarning, match="make sure that only one batch"),
        driver_lock(BatchFolder(tmp_path)),
    ):
        pass


def test_without_locks_an_attempt_waits_for_the_recorded_end_of_the_previous_one(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(fcntl, "flock", refuse(errno.ENOLCK))
    monkeypatch.setattr(attempt.time, "sleep", lambda seconds: None)
    folder = JobFolder(tmp_path)
    write_json(folder.attempt_file(1), {"run": "run"})
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("steps: 4")
    with attempt._locked_run(folder, "run", 2, stale_seconds=0.0) as run:
        assert run.path.name == "run-of-attempt-2"  # its end is not recorded
        assert run.config.read_text() == "steps: 4"
    write_json(folder.end_file(1), {"code": -9})
    with attempt._locked_run(folder, "run", 3, stale_seconds=0.0) as run:
        assert run.path.name == "run"


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_without_hard_links_a_file_is_created_once(tmp_path, monkeypatch, number):
    monkeypatch.setattr(os, "link", refuse(number))
    assert create_json(tmp_path / "done.json", {"by": 1})
    assert not create_json(tmp_path / "done.json", {"by": 2})
    assert json.loads((tmp_path / "done.json").read_text()) == {"by": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["done.json"]


def test_a_full_disk_is_not_mistaken_for_missing_links(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", refuse(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        create_json(tmp_path / "done.json", {"by": 1})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_linked_or_named_in_a_file(tmp_path, monkeypatch):
    (tmp_path / "jobs" / "a").mkdir(parents=True)
    (tmp_path / "best").mkdir()
    link = tmp_path / "best" / "a-corgi"
    for _ in range(2):  # the second replaces the first
        assert link_or_pointer(link, tmp_path / "jobs" / "a") == link
        assert link.resolve() == tmp_path / "jobs" / "a"
    monkeypatch.setattr(Path, "symlink_to", refuse(errno.EPERM))
    made = link_or_pointer(link, tmp_path / "jobs" / "a")
    assert made == tmp_path / "best" / "a-corgi.txt" and not link.exists()
    assert (made.parent / made.read_text().strip()).resolve() == tmp_path / "jobs" / "a"


def test_a_run_is_copied_without_modes(tmp_path, monkeypatch):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "step_1.json").write_text("1")
    (tmp_path / "run" / ".lock").write_text("")
    monkeypatch.setattr(os, "chmod", refuse(errno.EPERM))
    attempt._copy_run(RunFolder(tmp_path / "run"), RunFolder(tmp_path / "copy"))
    found = {str(path.relative_to(tmp_path / "copy")) for path in (tmp_path / "copy").rglob("*")}
    assert found == {"checkpoints", "checkpoints/step_1.json"}
    with pytest.raises(FileExistsError), warnings.catch_warnings():
        copy_files(tmp_path / "run", tmp_path / "copy")
