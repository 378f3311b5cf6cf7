"""Fake attempts, in separate processes that use the real code around the run.

The fake command line writes the files of a run: settings, a line of metrics per step, a checkpoint
per step. The prompt determines its behaviour: "crash" and "refuse" exit with status 1 and 2, "slow"
takes a tenth of a second per step, "die once" and "freeze once" stop the first attempt after its
second step with SIGKILL and SIGSTOP.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from dreamfusion.batch import attempt as attempts
from dreamfusion.batch.jobs import Job, JobFolder
from dreamfusion.cli.stopping import stoppable


def job(prompt: str, *, seed: int = 0, steps: int = 4) -> Job:
    """A job for `main`."""
    return Job(prompt, seed, 1, {"steps": steps, "seed": seed}, settings={"steps": steps})


def use_fast_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make engines start this module."""
    monkeypatch.setattr(attempts, "MODULE", "tests.helpers.fast_attempts")
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", root + os.pathsep + os.environ.get("PYTHONPATH", ""))


def steps_of(folder: JobFolder) -> list[int]:
    """The steps logged by the finished run of a job."""
    lines = folder.result.metrics.read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def state_of(folder: JobFolder) -> str:
    """The newest checkpoint of the finished run of a job."""
    return sorted(folder.result.checkpoints.glob("*.json"))[-1].read_text()


def main(arguments: list[str]) -> int:
    """Simulates the commands `train` and `resume`."""
    if arguments[0] == "train":
        run = Path(arguments[arguments.index("--out") + 1])
        (run / "checkpoints").mkdir(parents=True)
        settings = dict(a.split("=") for a in arguments if "=" in a)
        prompt, steps = arguments[1], int(settings["steps"])
        (run / "config.yaml").write_text(json.dumps({"prompt": prompt, "steps": steps}))
    else:
        run = Path(arguments[1])
        prompt, steps = json.loads((run / "config.yaml").read_text()).values()
    if prompt == "crash":
        raise RuntimeError("it fell over")
    if prompt == "refuse":
        sys.stderr.write("error: that cannot be made\n")
        return 2
    saved = sorted((run / "checkpoints").glob("step_*.json"))
    step, value = json.loads(saved[-1].read_text()) if saved else (0, prompt)
    begun = step
    log = (run / "metrics.jsonl").open("a")
    with log as metrics, stoppable() as stopping, stopping.training():
        while step < steps:
            if stopping():
                return 130
            step, value = step + 1, hashlib.sha256(f"{value}{step}".encode()).hexdigest()
            metrics.write(json.dumps({"step": step, "seconds": 0.1}) + "\n")
            metrics.flush()
            (run / "checkpoints" / f"step_{step:07d}.json").write_text(json.dumps([step, value]))
            if prompt.endswith("once") and begun == 0 and step == 2:
                os.kill(os.getpid(), signal.SIGKILL if "die" in prompt else signal.SIGSTOP)
            time.sleep(0.1 if prompt.startswith("slow") else 0.0)
    sys.stdout.write(json.dumps({"finished": True}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(attempts.attempt(sys.argv[1:], main))
