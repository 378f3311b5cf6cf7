import json
import os
import shutil
import sys

import imageio_ffmpeg
import pytest
import torch

from dreamfusion import __version__
from dreamfusion.cli import doctor
from dreamfusion.cli.app import main
from dreamfusion.priors import resolve as folder
from dreamfusion.scenes.nerf.scene import OPERATIONS
from dreamfusion.utils.backends import probe
from dreamfusion.utils.machine import usable_cores
from tests.helpers.tiny_priors import save_latent_prior


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    """An empty folder for runs; accelerators are not tested."""
    monkeypatch.setattr(
        doctor, "probe", lambda operation, name: None if name == "numba" else "not installed"
    )
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def report(capsys, status=0):
    """The output of `dreamfusion doctor`: (mark, text) by name."""
    capsys.readouterr()  # earlier output
    assert main(["doctor"]) == status
    captured = capsys.readouterr()
    assert captured.err == ""
    *lines, verdict = captured.out.splitlines()
    assert verdict.startswith("no run can start here" if status else "a run can start here")
    found = {line[9:23].strip(): (line[:8].strip(), line[25:]) for line in lines}
    assert len(found) == len(lines)
    assert {mark for mark, _ in found.values()} <= {"ok", "missing", "problem"}
    return found


def test_a_plain_machine_can_run(capsys):
    found = report(capsys)
    assert found["dreamfusion"] == ("ok", __version__)
    assert found["python"][1].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert found["torch"][1].startswith(f"{torch.__version__}, built ")
    assert f"{usable_cores()} cores" in found["processor"][1]
    assert found["triton"][0] == "missing"
    assert found["triton"][1].startswith("not installed (")
    assert found["embedded prior"][0] == "ok"
    assert found["ffmpeg"][0] == "ok" and found["ffmpeg"][1].endswith(
        imageio_ffmpeg.get_ffmpeg_exe()
    )
    assert found["disk"][0] == "ok" and "GiB free in" in found["disk"][1]
    if not torch.cuda.is_available():
        assert found["cuda"][0] == "missing"


def test_json_contains_the_same_findings(capsys):
    lines = report(capsys)
    assert main(["doctor", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["can_run"] is True
    assert {found["name"] for found in content["findings"]} == set(lines)
    assert all(set(found) == {"mark", "name", "text"} for found in content["findings"])


def test_without_numba_no_run_can_start(capsys, monkeypatch):
    def fail():
        raise OSError("libllvm.so: wrong ELF class\nELFCLASS32")

    for operation in OPERATIONS:
        if "numba" in operation.kernels:
            monkeypatch.setitem(operation.kernels, "numba", fail)
    monkeypatch.setattr(doctor, "probe", probe.__wrapped__)
    mark, text = report(capsys, status=2)["numba"]
    assert mark == "problem" and text.endswith("; try: pip install -U numba")
    assert text.startswith("OSError: libllvm.so: wrong ELF class ELFCLASS32 (")


def test_without_the_embedded_prior_no_run_can_start(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(folder, "shipped", lambda name: tmp_path / "nothing")
    mark, text = report(capsys, status=2)["embedded prior"]
    assert mark == "problem" and "model_index.json" in text
    assert main(["doctor", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["can_run"] is False


def test_missing_files_of_the_embedded_prior_are_reported(capsys, monkeypatch, tmp_path):
    prior = save_latent_prior(tmp_path / "embedded-prior")
    (prior / "scheduler" / "scheduler_config.json").unlink()
    monkeypatch.setattr(folder, "shipped", lambda name: tmp_path)
    assert "scheduler_config.json" in report(capsys, status=2)["embedded prior"][1]


def test_an_unwritable_folder_is_a_problem(capsys, monkeypatch):
    with open("runs", "w"):
        pass
    mark, text = report(capsys, status=2)["disk"]
    assert mark == "problem"
    assert text.startswith("cannot write to ") and "Not a directory" in text
    os.unlink("runs")
    os.mkdir("runs")
    os.chmod("runs", 0o500)
    if os.geteuid() != 0:  # root may write anywhere
        assert "Permission denied" in report(capsys, status=2)["disk"][1]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="/proc is Linux's")
def test_a_file_system_without_write_support_is_a_problem(capsys, monkeypatch):
    monkeypatch.chdir("/proc")
    mark, text = report(capsys, status=2)["disk"]
    assert mark == "problem" and text.startswith("cannot write to /proc: ")


def test_a_full_disk_is_a_problem(capsys, monkeypatch):
    usage = shutil.disk_usage(".")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert report(capsys, status=2)["disk"][1].startswith("0.00 GiB free in ")


def test_without_ffmpeg_no_run_can_start(capsys, monkeypatch):
    def fail():
        raise RuntimeError("No ffmpeg exe could be found.\nInstall ffmpeg")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", fail)
    assert report(capsys, status=2)["ffmpeg"] == (
        "problem",
        "No ffmpeg exe could be found. Install ffmpeg; try: pip install -U imageio-ffmpeg",
    )


def test_the_kernel_cache_is_reported(capsys, monkeypatch, tmp_path):
    from dreamfusion.utils import compiling

    monkeypatch.setattr(compiling.numba.config, "CACHE_DIR", str(tmp_path / "kernels"))
    mark, text = report(capsys)["kernel cache"]
    assert mark == "ok" and text.startswith(str(tmp_path / "kernels"))
    monkeypatch.setattr(compiling, "cache_folder", lambda: None)
    assert report(capsys)["kernel cache"] == (
        "missing",
        "no cache folder is writable: each run compiles its kernels again; set NUMBA_CACHE_DIR "
        "to a writable folder",
    )


def test_extras_are_listed_with_their_installation(capsys, monkeypatch):
    needed = [
        "torch", 'trimesh>=4; extra == "usd"', 'no-such-package>=1; extra == "print"',
        'pytest; extra == "test"',
    ]  # fmt: skip
    monkeypatch.setattr(doctor, "requires", lambda name: needed)
    found = {name: line for name, line in report(capsys).items() if name.startswith("[")}
    assert set(found) == {"[usd]", "[print]"}
    assert found["[usd]"][0] == "ok" and found["[usd]"][1].startswith("trimesh ")
    advice = "no no-such-package; to add it: pip install 'dreamfusion[print]'"
    assert found["[print]"] == ("missing", advice)
