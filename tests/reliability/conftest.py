"""A short run, and processes that tests interrupt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.conftest import SMALL
from tests.helpers.forks import Child, Forks
from tests.helpers.tiny_priors import save_pixel_prior

# pytest --hypothesis-profile long tests/reliability
hypothesis.settings.register_profile("short", max_examples=200, deadline=None, derandomize=True)
hypothesis.settings.register_profile("long", max_examples=20_000, deadline=None)
hypothesis.settings.load_profile("short")

STEPS = 10
FILES = {
    "config.yaml", "layers.yaml", "metrics.jsonl", "prior.json", "stages.json", "video.mp4",
    "thumbnail.png",
    "mesh/model.glb", ".lock",
    "previews/step_0000004.png", "previews/step_0000008.png",
    "checkpoints/step_0000009.json", "checkpoints/step_0000009.safetensors",
    "checkpoints/step_0000010.json", "checkpoints/step_0000010.safetensors",
}  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """Runs commands. train: a complete command line except for --out."""

    forks: Forks
    prior: Path
    settings: Path

    def train(self, cwd: Path, *options: object, steps: int = STEPS, **more) -> Child:
        command = ["train", "a red puppy", "--prior", self.prior, "--config", self.settings]
        command += ["--steps", steps, "--out", "run", *options]
        return self.forks.start(*command, cwd=cwd, **more)

    def finish(self, cwd: Path) -> str:
        """Finish the run in `cwd`, in any state; returns the output."""
        if (cwd / "run" / "config.yaml").exists():
            status, output = self.forks.run("resume", "run", cwd=cwd)
        else:  # it had not begun
            child = self.train(cwd)
            status, output = child.wait(), child.output
        assert status == 0, output
        return output


@pytest.fixture(scope="session")
def bench(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("reliability")
    save_pixel_prior(folder / "prior")
    (folder / "settings.yaml").write_text(yaml.safe_dump(SMALL))
    return Bench(forks, folder / "prior", folder / "settings.yaml")


@dataclass(frozen=True)
class Whole:
    """An uninterrupted run: its last tensors, its mesh, and its duration."""

    tensors: dict[str, torch.Tensor]
    mesh: bytes
    seconds: float


@pytest.fixture(scope="session")
def whole(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    import time

    for _ in range(2):  # the second is timed: all is compiled by then
        cwd = tmp_path_factory.mktemp("whole")
        started = time.monotonic()
        child = bench.train(cwd)
        assert child.wait() == 0, child.output
        seconds = time.monotonic() - started
    assert files_of(cwd / "run") == FILES
    return Whole(last_tensors(cwd), (cwd / "run/mesh/model.glb").read_bytes(), seconds)


def last_tensors(cwd: Path) -> dict[str, torch.Tensor]:
    return load_file(cwd / "run" / "checkpoints" / f"step_{STEPS:07d}.safetensors")


def files_of(run: Path) -> set[str]:
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}


def assert_as_if_nothing_had_happened(cwd: Path, whole: Whole, *, besides: set[str]) -> None:
    """The run in `cwd` is bitwise identical to `whole`, with the same files and `besides`."""
    assert files_of(cwd / "run") - besides == FILES
    tensors = last_tensors(cwd)
    assert tensors.keys() == whole.tensors.keys()
    assert all(torch.equal(tensors[name], whole.tensors[name]) for name in tensors)
    assert (cwd / "run" / "mesh" / "model.glb").read_bytes() == whole.mesh
    from dreamfusion.runs.metrics import read_metrics

    rows = read_metrics(cwd / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
