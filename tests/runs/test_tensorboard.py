"""The log for TensorBoard, read by TensorBoard."""

import importlib.util
from types import SimpleNamespace

import pytest

from dreamfusion.cli.app import main
from dreamfusion.config.layers import build_config
from dreamfusion.runs import metrics as eventlog
from dreamfusion.runs import train as loop
from dreamfusion.runs.folder import create_run
from dreamfusion.runs.metrics import scalars
from dreamfusion.training.trainer import StepMetrics


def read_back(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()


def metrics_of(step):
    return StepMetrics(
        step, 0.5, "albedo", 32, [100, 300], 1.0, 0.25, 0.5, 3.0,
        {"guidance": 4.0, "sds_gradient": step / 8}, {"sds": 3.0},
    )  # fmt: skip


@pytest.fixture
def go_on(monkeypatch, tmp_path):
    """Runs only the logging part of training, from one step to another or until it is killed."""
    pytest.importorskip("tensorboard")
    run = create_run(tmp_path / "run")

    monkeypatch.setattr(loop, "write_preview", lambda run, state, config: None)
    monkeypatch.setattr(loop, "save_checkpoint", lambda *_, **__: run.checkpoints.mkdir())

    def do(start, end, *, killed_after=None, **logging):
        state = SimpleNamespace(step=start)

        def steps(stop):
            while state.step < end:
                if state.step == killed_after:
                    raise RuntimeError("killed")
                state.step += 1
                yield metrics_of(state.step)

        changes = {"output": {"preview_every": 3, "checkpoint_every": 1000}, "logging": logging}
        config = build_config({"steps": end}, changes)
        list(loop.optimise(run, SimpleNamespace(state=state, config=config, steps=steps)))
        return run

    return do


def test_scalars_are_the_numbers_and_the_means_of_lists():
    metrics = {"step": 3, "flag": True, "shading": "albedo", "norm": 2, "timesteps": [1, 2]}
    assert scalars(metrics) == {"norm": 2.0, "timesteps": 1.5}


def test_metrics_are_logged(go_on):
    events = read_back(go_on(0, 6, tensorboard=True).tensorboard)
    assert events.Tags()["scalars"] == [
        "train/seconds", "train/size", "train/timesteps", "train/guidance", "train/sds_gradient",
        "train/gradient_norm", "train/opacity", "train/entropy", "train/loss",
        "train/loss_sds",
    ]  # fmt: skip
    logged = events.Scalars("train/sds_gradient")
    assert [(event.step, event.value) for event in logged] == [(n, n / 8) for n in range(1, 7)]


def test_a_killed_run_resumes_the_same_log_without_repeated_steps(go_on):
    with pytest.raises(RuntimeError, match="killed"):
        go_on(0, 9, killed_after=7, tensorboard=True)
    events = read_back(go_on(4, 9, tensorboard=True).tensorboard)
    assert [event.step for event in events.Scalars("train/opacity")] == list(range(1, 10))


def test_without_the_setting_there_is_no_log(go_on):
    assert not go_on(0, 2).tensorboard.exists()


def test_without_the_package_no_run_starts(tmp_path, monkeypatch, capsys):
    found = importlib.util.find_spec

    def find_spec(name, *arguments):
        return None if name == "tensorboard" else found(name, *arguments)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(eventlog.importlib.util, "find_spec", find_spec)
    assert main(["train", "a red mug", "--set", "logging.tensorboard=true"]) == 2
    captured = capsys.readouterr()
    assert captured.err == (
        "error: logging.tensorboard needs TensorBoard: pip install 'dreamfusion[tensorboard]'\n"
    )
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_an_invalid_value_is_reported(capsys):
    assert main(["train", "a red mug", "--set", "logging.tensorboard=3"]) == 2
    expected = "error: logging.tensorboard takes true or false, not 3\n"
    assert capsys.readouterr().err == expected
