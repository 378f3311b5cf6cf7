"""Attempts in processes of their own, by the real code around them, at runs that take no time.

What stands in for the command line writes what a run leaves: settings, a line of metrics a step, a
checkpoint a step. The prompt says what happens to it: "crash" and "refuse" end with status 1 and 2,
"slow" takes a tenth of a second a step, "die once" and "freeze once" stop themselves after their
second step with SIGKILL and SIGSTOP, in their first attempt.
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
    """Let engines start this module."""
    monkeypatch.setattr(attempts, "MODULE", "tests.helpers.fast_attempts")
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", root + os.pathsep + os.environ.get("PYTHONPATH", ""))


def steps_of(folder: JobFolder) -> list[int]:
    """The steps logged by the run that a job ended with."""
    lines = folder.result.metrics.read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def state_of(folder: JobFolder) -> str:
    """The newest checkpoint of the run that a job ended with."""
    return sorted(folder.result.checkpoints.glob("*.json"))[-1].read_text()


def main(arguments: list[str]) -> int:
    """As the command line would, `train` or `resume`."""
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
    with log as metrics, stoppable() as stopping, stopping.gently():
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
