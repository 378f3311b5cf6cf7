"""Starts Python in separate processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.helpers import ROOT


def launch(processes: int, *arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """Run Python with these arguments, with torchrun for several processes."""
    command = [sys.executable]
    if processes > 1:
        # On a separate port, since tests run in parallel.
        command += ["-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(processes)]
    return subprocess.run(
        [*command, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )
