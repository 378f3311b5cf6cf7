"""Kernels compile in any state of numba's cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from numba.core.caching import IndexDataCacheFile

from dreamfusion.utils import compiling
from tests.helpers import ROOT

ADD = """
from dreamfusion.utils.compiling import compiled

@compiled(nogil=True)
def add(a, b):
    return a + b

print(add(1, 2), add(1.5, 2.0), sum(add.stats.cache_hits.values()))
"""


def run(script: Path, **environment: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script" / "add.py"
    path.parent.mkdir()
    path.write_text(ADD)
    return path


def cut_short(content: bytes) -> bytes:
    return content[: len(content) // 2]


def garbage(content: bytes) -> bytes:
    return b"\x80\x04garbage" * 20


def empty(content: bytes) -> bytes:
    return b""


@pytest.mark.parametrize(
    ("kind", "damage"),
    [("nbi", cut_short), ("nbi", empty), ("nbc", garbage), ("nbc", cut_short)],
)
def test_a_damaged_cache_is_rebuilt(script, tmp_path, kind, damage):
    cache = tmp_path / "cache"
    assert run(script, NUMBA_CACHE_DIR=str(cache)) == "3 3.5 0\n"
    assert run(script, NUMBA_CACHE_DIR=str(cache)) == "3 3.5 2\n"
    files = list(cache.rglob(f"*.{kind}"))
    assert files
    for file in files:
        file.write_bytes(damage(file.read_bytes()))
    first, second, _ = run(script, NUMBA_CACHE_DIR=str(cache)).split()
    assert (first, second) == ("3", "3.5")
    assert run(script, NUMBA_CACHE_DIR=str(cache)) == "3 3.5 2\n"


def test_all_cached_kernels_go_through_one_decorator():
    for path in (ROOT / "dreamfusion").rglob("*.py"):
        if path.name != "compiling.py":
            assert "cache=True" not in path.read_text(encoding="utf-8"), path


def test_without_a_writable_folder_kernels_are_compiled_in_memory(monkeypatch):
    def nowhere(*arguments, **options):
        raise RuntimeError("cannot cache function 'add': no locator available")

    monkeypatch.setattr(compiling.FunctionCache, "__init__", nowhere)
    assert compiling.cache_folder() is None
    assert compiling.compiled()(lambda a, b: a + b)(1, 2) == 3


def test_a_cache_that_becomes_read_only_causes_no_error(monkeypatch, tmp_path):
    monkeypatch.setattr(compiling.numba.config, "CACHE_DIR", str(tmp_path))
    add = compiling.compiled()(lambda a, b: a + b)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(IndexDataCacheFile, "save", full)
    assert add(1, 2) == 3


def test_a_damaged_index_on_a_full_disk_causes_no_error(monkeypatch, tmp_path):
    monkeypatch.setattr(compiling.numba.config, "CACHE_DIR", str(tmp_path))
    compiling.compiled()(add_one)(1)
    (index,) = tmp_path.rglob("*.nbi")
    index.write_bytes(b"")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(IndexDataCacheFile, "_save_index", full)
    assert compiling.compiled()(add_one)(1) == 2


def add_one(number):
    return number + 1


KERNELS = """
import sys
from dreamfusion.graphics.triangles import rasterize
from dreamfusion.scenes.nerf.scene import OPERATIONS
from dreamfusion.toyworld import sdf
from dreamfusion.utils.backends import probe
from dreamfusion.utils.compiling import cache_folder
for operation in OPERATIONS:
    assert probe(operation, "numba") is None, probe(operation, "numba")
print(cache_folder())
"""


@pytest.fixture
def nobody(tmp_path):
    """Runs a script as a user without name and home, with a read-only copy of the package."""
    setpriv = shutil.which("setpriv")
    if os.name != "posix" or os.geteuid() != 0 or setpriv is None:
        pytest.skip("only root may become another user")
    home = Path("/var/tmp") / f"dreamfusion-test-{os.getpid()}"
    shutil.copytree(ROOT / "dreamfusion", home / "dreamfusion")
    for name in ("assets", "configs"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, home / name)
    for cache in home.rglob("__pycache__"):
        shutil.rmtree(cache)
    (home / "work").mkdir()
    (home / "work").chmod(0o777)
    (home / "tmp").mkdir()
    (home / "tmp").chmod(0o1777)

    def run_as_nobody(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
        keep = {"PATH": os.environ["PATH"], "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
        return subprocess.run(
            [
                *(setpriv, "--reuid=54321", "--regid=54321", "--clear-groups"),
                *(sys.executable, *arguments),
            ],
            env={**keep, "PYTHONPATH": str(home), "TMPDIR": str(home / "tmp"), **environment},
            cwd=home / "work",
            capture_output=True,
            text=True,
        )

    try:
        if run_as_nobody("-c", "import numpy, typer").returncode != 0:
            pytest.skip("another user cannot read this environment (.ci/run's can be read)")
        yield run_as_nobody, home
    finally:
        shutil.rmtree(home)


def test_a_user_without_a_home_compiles_kernels_in_memory(nobody):
    run_as_nobody, home = nobody
    done = run_as_nobody("-c", textwrap.dedent(KERNELS))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "None\n"
    assert list((home / "work").iterdir()) == []  # no folder named ~
    caches = {"NUMBA_CACHE_DIR": str(home / "tmp")}
    done = run_as_nobody("-c", textwrap.dedent(KERNELS), **caches)
    assert done.returncode == 0, done.stderr
    assert list((home / "tmp").rglob("*.nbc"))


@pytest.mark.slow
def test_doctor_reports_the_missing_kernel_cache(nobody):
    run_as_nobody, _ = nobody
    done = run_as_nobody("-m", "dreamfusion", "doctor", HOME="/")
    assert done.returncode == 0, done.stderr
    lines = {line[9:23].strip(): line for line in done.stdout.splitlines()}
    assert lines["kernel cache"].startswith("missing")
    assert " works (" in lines["numba"]
