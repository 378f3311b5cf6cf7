"""Checks whether a run can start on this machine. Prints nothing."""

import os
import platform
import re
import shutil
import sysconfig
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from packaging.requirements import Requirement

from dreamfusion.priors import PriorError, resolve_prior
from dreamfusion.scenes.gaussians.rasterizer import RASTERIZING
from dreamfusion.scenes.nerf.scene import OPERATIONS
from dreamfusion.utils.backends import ACCELERATORS, probe
from dreamfusion.utils.errors import one_line
from dreamfusion.utils.machine import usable_cores, usable_memory
from dreamfusion.utils.version import __version__

Mark = Literal["ok", "missing", "problem"]

GIB = 1 << 30
# A run with the default settings writes about 20 MB; this is enough for several.
LEAST_FREE_DISK = GIB // 4


class Finding(NamedTuple):
    """One line of the report.

    mark: "ok"; "missing" for an optional item; "problem" if it prevents all runs.
    """

    mark: Mark
    name: str
    text: str


def examine(runs: Path) -> Iterator[Finding]:
    """All findings about this machine. runs: the parent folder of future runs."""
    yield Finding("ok", "dreamfusion", __version__)
    yield Finding("ok", "python", f"{platform.python_version()}, {platform.platform()}")
    cuda, hip = torch.version.cuda, torch.version.hip
    build = f"CUDA {cuda}" if cuda else f"ROCm {hip}" if hip else "CPUs alone"
    yield Finding("ok", "torch", f"{torch.__version__}, built for {build}")
    cores, threads = usable_cores(), torch.get_num_threads()
    yield Finding("ok", "processor", f"{cores} cores, {threads} threads")
    if (memory := usable_memory()) is not None:
        text = f"{memory.free / GIB:.1f} GiB free of {memory.total / GIB:.1f}"
        yield Finding("ok", "memory", text)
    yield from _devices()
    yield from map(_accelerator, ACCELERATORS)
    yield _cache()
    yield _prior()
    yield from _extras()
    yield _ffmpeg()
    yield _disk(runs)


def _devices() -> Iterator[Finding]:
    for i in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(i)
        free, total = torch.cuda.mem_get_info(i)
        text = (
            f"{torch.cuda.get_device_name(i)}, {free / GIB:.1f} GiB free of "
            f"{total / GIB:.1f}, compute capability {major}.{minor}; priors in float16"
        )
        yield Finding("ok", f"cuda:{i}", text)
    if torch.cuda.is_available():
        yield _compiler()
    else:
        text = (
            "torch finds no NVIDIA GPU; runs use the CPU. If there is one, install its driver and "
            "a torch built for CUDA: https://pytorch.org/get-started/locally"
        )
        yield Finding("missing", "cuda", text)
    if torch.backends.mps.is_available():
        yield Finding("ok", "mps", "Apple GPU: selectable with --device mps, never tested by us")


def _compiler() -> Finding:
    """The compiler and headers that Triton needs to build its driver, found in Triton's way."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    lacking = [] if compiler else ["no gcc and no clang"]
    lacking += [] if header.is_file() else [f"no {header} (a package like python3-dev has it)"]
    if lacking:
        text = f"{', '.join(lacking)}: Triton cannot build its driver; torch is used instead"
        return Finding("missing", "compiler", text)
    return Finding("ok", "compiler", f"{compiler}, with Python's headers, for Triton's driver")


def _accelerator(name: str) -> Finding:
    """For which operations an accelerator works, and why not for the others. Every run needs numba,
    for its mesh."""
    outcomes: dict[str, list[str]] = {}
    for operation in (*OPERATIONS, RASTERIZING):
        if name in operation.kernels:
            outcome = probe(operation, name) or f"{_version(name)} works"
            outcomes.setdefault(outcome, []).append(operation.name)
    text = "; ".join(f"{outcome} ({', '.join(names)})" for outcome, names in outcomes.items())
    if outcomes.keys() == {f"{_version(name)} works"}:
        return Finding("ok", name, text)
    if name == "numba":
        return Finding("problem", name, f"{text}; try: pip install -U numba")
    return Finding("missing", name, text)


def _version(name: str) -> str:
    try:
        return installed_version(name)
    except PackageNotFoundError:
        return "it"


def _cache() -> Finding:
    try:
        from dreamfusion.utils.compiling import cache_folder

        folder = cache_folder()
    except (ImportError, OSError):  # numba is broken, as reported above
        folder = None
    if folder is None:
        text = (
            "no cache folder is writable: each run compiles its kernels again; set NUMBA_CACHE_DIR "
            "to a writable folder"
        )
        return Finding("missing", "kernel cache", text)
    return Finding("ok", "kernel cache", str(folder))


def _prior() -> Finding:
    try:
        return Finding("ok", "embedded prior", f"whole, {resolve_prior('embedded').path}")
    except PriorError as error:
        return Finding("problem", "embedded prior", f"{error}; try: pip install --force-reinstall")


def _extras() -> Iterator[Finding]:
    """The optional packages, by extra, without those for developers."""
    needed: dict[str, list[str]] = {}
    for requirement in map(Requirement, requires("dreamfusion") or []):
        if marker := re.search(r'extra == "(\w+)"', str(requirement.marker or "")):
            needed.setdefault(marker[1], []).append(requirement.name)
    for extra, names in needed.items():
        if extra in ("dev", "docs", "test"):
            continue
        try:
            found = [f"{name} {installed_version(name)}" for name in names]
            yield Finding("ok", f"[{extra}]", ", ".join(found))
        except PackageNotFoundError as error:
            text = f"no {error.name}; to add it: pip install 'dreamfusion[{extra}]'"
            yield Finding("missing", f"[{extra}]", text)


def _ffmpeg() -> Finding:
    import imageio_ffmpeg

    try:
        path = imageio_ffmpeg.get_ffmpeg_exe()
        return Finding("ok", "ffmpeg", f"{imageio_ffmpeg.get_ffmpeg_version()}, {path}")
    # RuntimeError if there is no ffmpeg, OSError if it cannot be executed.
    except (RuntimeError, OSError) as error:
        text = f"{one_line(error, 160)}; try: pip install -U imageio-ffmpeg"
        return Finding("problem", "ffmpeg", text)


def _disk(runs: Path) -> Finding:
    """Whether the folder of the runs is writable, and its free space."""
    folder = next(path for path in (runs.absolute(), *runs.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryDirectory(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        text = f"cannot write to {folder}: {error.strerror}; use another folder, or --out"
        return Finding("problem", "disk", text)
    mark: Mark = "problem" if free < LEAST_FREE_DISK else "ok"
    return Finding(mark, "disk", f"{free / GIB:.2f} GiB free in {folder}")
