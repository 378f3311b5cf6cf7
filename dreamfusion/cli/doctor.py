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
from dreamfusion.scenes.nerf.scene import OPERATIONS
from dreamfusion.utils.backends import ACCELERATORS, interpreted, probe
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


def examine(runs: Path) -> list[Finding]:
    """All findings about this machine. runs: the parent folder of future runs."""
    return [
        Finding("ok", "dreamfusion", __version__),
        Finding("ok", "python", f"{platform.python_version()}, {platform.platform()}"),
        Finding("ok", "torch", f"{torch.__version__}, {_build()}"),
        Finding("ok", "processor", f"{usable_cores()} cores, {torch.get_num_threads()} threads"),
        *_memory(),
        *_devices(),
        *_accelerators(),
        _kernels(),
        *_priors(),
        *_extras(),
        _ffmpeg(),
        _disk(runs),
    ]


def _build() -> str:
    if torch.version.cuda is not None:
        return f"built for CUDA {torch.version.cuda}"
    return f"built for ROCm {torch.version.hip}" if torch.version.hip else "built without CUDA"


def _memory() -> Iterator[Finding]:
    """Free memory, on systems that report it without another package (Linux)."""
    memory = usable_memory()
    if memory is not None:
        text = f"{memory.free / GIB:.1f} GiB free of {memory.total / GIB:.1f}"
        yield Finding("ok", "memory", text)


def _devices() -> Iterator[Finding]:
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(i)
            free, total = torch.cuda.mem_get_info(i)
            text = (
                f"{torch.cuda.get_device_name(i)}, {free / GIB:.1f} GiB free of "
                f"{total / GIB:.1f}, compute capability {major}.{minor}; priors in float16"
            )
            yield Finding("ok", f"cuda:{i}", text)
        yield _compiler()
    elif shutil.which("nvidia-smi") and torch.version.cuda is None:
        text = (
            "an NVIDIA driver seems to be installed, but this torch is built without CUDA; see "
            "https://pytorch.org/get-started/locally"
        )
        yield Finding("missing", "cuda", text)
    else:
        yield Finding("missing", "cuda", "torch finds no NVIDIA GPU; runs use the CPU")
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


def _accelerators() -> Iterator[Finding]:
    for name in ACCELERATORS:
        found = {op.name: probe(op, name) for op in OPERATIONS if name in op.kernels}
        works = [operation for operation, tried in found.items() if tried.problem is None]
        problems: dict[str, list[str]] = {}
        for operation, tried in found.items():
            if tried.problem is not None:
                problems.setdefault(tried.problem, []).append(operation)
        texts = []
        if works:
            how = ", interpreted: slow" if name == "triton" and interpreted() else ""
            texts.append(f"works for {', '.join(works)}{how}")
        for problem, failed in problems.items():
            texts.append(f"{', '.join(failed)}: {problem}" if works else problem)
        version = next((tried.version for tried in found.values()), None)
        prefix = f"{version}: " if version is not None else ""
        yield Finding("missing" if problems else "ok", name, prefix + "; ".join(texts))


def _kernels() -> Finding:
    """Whether numba works, which meshes need on every device, and its cache folder."""
    try:
        import numpy as np

        from dreamfusion.graphics.rasterize import rasterize
        from dreamfusion.utils.compiling import cache_folder

        corners = np.array([[[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]]])
        seen, _ = rasterize(corners, np.ones((1, 3)), 2, 2)
        if seen[0, 0] != 0:
            raise RuntimeError("the rasterizer misses a triangle")
        folder = cache_folder()
    # Compiled packages raise many kinds of errors when they cannot be loaded.
    except Exception as error:
        reason = one_line(f"{type(error).__name__}: {error}", 160)
        return Finding("problem", "kernels", f"{reason}; try: pip install -U numba")
    if folder is None:
        text = (
            "no cache folder is writable: each run compiles its kernels again; set NUMBA_CACHE_DIR "
            "to a writable folder"
        )
        return Finding("missing", "kernel cache", text)
    return Finding("ok", "kernel cache", str(folder))


def _priors() -> Iterator[Finding]:
    """The embedded prior, and the pipelines in Hugging Face's cache; one usable prior suffices."""
    models = list(_cached_models())
    alternative = next((found.text for found in models if found.mark == "ok"), None)
    try:
        yield Finding("ok", "embedded prior", f"whole, {resolve_prior('embedded').path}")
    except PriorError as error:
        yield Finding("missing" if alternative else "problem", "embedded prior", str(error))
    yield from models


def _cached_models() -> Iterator[Finding]:
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    folder = Path(constants.HF_HUB_CACHE)
    repos = []
    # The last line below reports a missing cache.
    if folder.is_dir():
        try:
            repos = sorted(scan_cache_dir(folder).repos, key=lambda repo: repo.repo_id)
        except (CacheNotFound, OSError) as error:
            yield Finding("missing", "hub models", f"cannot read {folder}: {error}")
            return
    findings = []
    for repo in repos:
        revision = max(repo.revisions, key=lambda revision: revision.last_modified, default=None)
        if revision is None or not (revision.snapshot_path / "model_index.json").is_file():
            continue
        try:
            prior = resolve_prior(str(revision.snapshot_path))
        except PriorError as error:
            text = str(error).replace(str(revision.snapshot_path.resolve()), repo.repo_id)
            findings.append(Finding("missing", "hub model", text))
        else:
            text = f"--prior {repo.repo_id} ({prior.pipeline}, {repo.size_on_disk / GIB:.1f} GiB)"
            findings.append(Finding("ok", "hub model", text))
    yield from findings or [Finding("missing", "hub models", f"no diffusers pipeline in {folder}")]


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
        reason = " ".join(str(error).split())[:160]
        return Finding("problem", "ffmpeg", f"{reason}; try: pip install -U imageio-ffmpeg")


def _disk(runs: Path) -> Finding:
    """Whether the folder of the runs is writable, and its free space."""
    path = runs.absolute()
    folder = next(parent for parent in (path, *path.parents) if parent.exists())
    try:
        with tempfile.TemporaryDirectory(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        text = (
            f"cannot write to {folder}: {error.strerror}; change to a writable folder, or use --out"
        )
        return Finding("problem", "disk", text)
    if free < LEAST_FREE_DISK:
        return Finding(
            "problem", "disk", f"only {free / GIB:.2f} GiB free in {folder}; free some space"
        )
    return Finding("ok", "disk", f"{free / GIB:.1f} GiB free in {folder}")
