"""The folder of --out is used literally, and files in it are deleted only on request."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dreamfusion.runs.folder import Destination, RunError, RunFolder, locked
from tests.helpers.run_folders import make_run


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("left", [[], [".lock"], [".lock", "layers.yaml", ".config.123.yaml"]])
def test_an_unused_folder_is_accepted(tmp_path, left):
    assert Destination(tmp_path / "new").prepare() == tmp_path / "new"
    for name in left:
        (tmp_path / name).write_text("")
    assert Destination(tmp_path).prepare() == tmp_path


def test_a_run_is_not_replaced_without_overwrite(tmp_path):
    run = make_run(tmp_path / "my run")
    before = files(run)
    with pytest.raises(RunError) as error:
        Destination(run).prepare()
    assert str(error.value) == (
        f"{run} already contains a run; to resume it: dreamfusion resume '{run}'; to replace it, "
        "add --overwrite; or choose another folder with --out"
    )
    assert files(run) == before


def test_a_run_is_removed_with_overwrite(tmp_path):
    run = make_run(tmp_path / "run")
    for name in ("render-grid.webp", "report.html", "report-2.html", "evaluation.json", ".lock"):
        (run / name).write_text("")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("")
    os.symlink(elsewhere, run / "render-color")  # the link is removed, but not its target
    destination = Destination(run, overwrite=True)
    destination.check()
    assert (run / "config.yaml").exists()  # `check` removes nothing
    assert destination.prepare() == run
    assert files(run) == {".lock"} and (elsewhere / "kept").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_other_files_are_never_removed(tmp_path, overwrite):
    (tmp_path / "photo.jpg").write_text("dear")
    with pytest.raises(RunError, match="is not empty and contains no run; choose another folder"):
        Destination(tmp_path, overwrite).prepare()
    with pytest.raises(RunError, match="is a file; choose another folder"):
        Destination(tmp_path / "photo.jpg", overwrite).prepare()
    assert files(tmp_path) == {"photo.jpg"}


def test_a_run_with_other_files_in_it_is_not_removed(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "notes.txt").write_text("dear")
    before = files(run)
    with pytest.raises(
        RunError, match=r"cannot overwrite .*: notes\.txt in it is not part of a run"
    ):
        Destination(run, overwrite=True).prepare()
    assert files(run) == before


def test_a_settings_file_of_another_program_is_not_a_run(tmp_path):
    (tmp_path / "config.yaml").write_text("server: {port: 80}")
    with pytest.raises(RunError, match="is not empty and contains no run"):
        Destination(tmp_path, overwrite=True).prepare()
    assert files(tmp_path) == {"config.yaml"}


def test_a_run_that_trains_is_not_removed(tmp_path):
    run = make_run(tmp_path / "run")
    with locked(RunFolder(run)), pytest.raises(RunError, match="being trained by another process"):
        Destination(run, overwrite=True).prepare()
    assert (run / "config.yaml").exists()


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    make_run(tmp_path / "run")
    with pytest.raises(RunError, match="already contains a run"):
        Destination(Path("~/run")).check()
