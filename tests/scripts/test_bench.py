"""The benchmark runs on this machine at a small size, so that it works the day a GPU is there."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.helpers import ROOT


@pytest.mark.parametrize("kind", ["sd", "sdxl", "if"])
def test_the_benchmark_prints_its_tables(kind):
    command = [sys.executable, "-m", "scripts.bench", "--random", kind, "--tiny", "--profile"]
    done = subprocess.run(
        [*command, "--device", "cpu", "--warm-up", "1", "--repeats", "1", "--", "camera.views=1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\| ([^|]+) \| ([\d.]+) \| ([\d.]+) \|$", done.stdout, flags=re.MULTILINE)
    names = [name for name, _, _ in rows]
    assert names[0].startswith("prior, forward, 1 views")
    assert names[1].startswith("autoencoder") == (kind != "if")
    assert sum(name.startswith("SDS step") for name in names) == 4
    assert all(float(seconds) > 0 for _, seconds, _ in rows)
    assert "| numba |" in done.stdout and "peak memory" in done.stdout
    assert "Self CPU" in done.stdout
