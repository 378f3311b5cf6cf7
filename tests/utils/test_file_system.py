"""File systems without locks, permissions and links, as with WSL, NFS, CIFS and exFAT."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from pathlib import Path

import pytest

from dreamfusion.batch import attempt
from dreamfusion.batch.driver import driver_lock
from dreamfusion.batch.jobs import BatchFolder, JobFolder, create_json, write_json
from dreamfusion.runs.folder import RunFolder, locked
from dreamfusion.utils.errors import RunWarning
from dreamfusion.utils.files import atomic_write, make_link


def refuse(number):
    def fail(*arguments, **options):
        raise OSError(number, os.strerror(number))

    return fail


def test_without_modes_files_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "chmod", refuse(errno.EPERM))
    with atomic_write(tmp_path / "a.txt") as file:
        file.write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


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


def test_a_file_is_created_once(tmp_path):
    assert create_json(tmp_path / "1.json", {"by": 1})
    assert not create_json(tmp_path / "1.json", {"by": 2})
    assert json.loads((tmp_path / "1.json").read_text()) == {"by": 1}


def test_an_attempt_killed_before_it_wrote_its_file_keeps_the_run(tmp_path):
    folder = JobFolder(tmp_path)
    write_json(folder.attempt_file(1), {"run": "run-of-attempt-1"})
    folder.attempt_file(2).touch()
    assert folder.newest_attempt() == 2 and folder.run.path.name == "run-of-attempt-1"


def test_a_folder_is_linked(tmp_path, monkeypatch):
    (tmp_path / "jobs" / "a").mkdir(parents=True)
    (tmp_path / "best").mkdir()
    link = tmp_path / "best" / "a-corgi"
    for _ in range(2):  # the second replaces the first
        assert make_link(link, tmp_path / "jobs" / "a") == link
        assert link.resolve() == tmp_path / "jobs" / "a"
    monkeypatch.setattr(Path, "symlink_to", refuse(errno.EPERM))
    assert make_link(link, tmp_path / "jobs" / "a") == tmp_path / "jobs" / "a"
    assert not link.exists()


def test_a_run_is_copied_without_hidden_files(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "step_1.json").write_text("1")
    (tmp_path / "run" / ".lock").write_text("")
    attempt._copy_run(RunFolder(tmp_path / "run"), RunFolder(tmp_path / "copy"))
    found = {str(path.relative_to(tmp_path / "copy")) for path in (tmp_path / "copy").rglob("*")}
    assert found == {"checkpoints", "checkpoints/step_1.json"}
