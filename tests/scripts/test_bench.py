"""The benchmark runs on this machine at a small size, so that it works the day a GPU is there."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.helpers import ROOT


def test_the_benchmark_prints_its_tables():
    command = [sys.executable, "-m", "scripts.bench", "--random", "tiny", "--device", "cpu"]
    done = subprocess.run(
        [*command, "--warm-up", "1", "--repeats", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\| ([^|]+) \| ([\d.]+) \| ([\d.]+) \|$", done.stdout, flags=re.MULTILINE)
    names = [name for name, _, _ in rows]
    assert names[0].startswith("prior, forward") and names[1].startswith("autoencoder")
    assert sum(name.startswith("SDS step") for name in names) == 4
    assert all(float(seconds) > 0 for _, seconds, _ in rows)
    assert "| numba |" in done.stdout and "peak memory" in done.stdout
