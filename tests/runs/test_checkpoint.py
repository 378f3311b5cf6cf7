"""Checkpoints are complete or absent, only the newest are kept, and problems are reported."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dreamfusion.runs import checkpoint
from dreamfusion.runs.checkpoint import (
    CheckpointError,
    checkpoints,
    load_checkpoint,
    load_scene,
    save_checkpoint,
    set_aside_damaged,
)
from dreamfusion.runs.folder import RunFolder
from dreamfusion.training.state import new_state
from dreamfusion.training.trainer import DivergedError, Trainer
from dreamfusion.utils.errors import RunWarning
from tests.helpers.states import untrained
from tests.helpers.tiny_runs import tiny

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_newest_checkpoints_are_kept(prior, tmp_path):
    config = tiny(prior)
    state = new_state(config, prior)
    trainer = Trainer(config, prior, state)
    for _ in range(4):
        trainer.step()
        save_checkpoint(tmp_path, state, keep=2)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "step_0000003.json", "step_0000003.safetensors",
        "step_0000004.json", "step_0000004.safetensors",
    ]  # fmt: skip
    again = new_state(config, prior)
    load_checkpoint(tmp_path, again)
    assert again.step == 4


def test_an_interrupted_write_leaves_the_previous_checkpoint(prior, tmp_path):
    config = tiny(prior)
    state = new_state(config, prior)
    Trainer(config, prior, state).step()
    save_checkpoint(tmp_path, state, keep=2)
    # A power failure after the tensors, before the JSON.
    (tmp_path / "step_0000002.safetensors").write_bytes(b"half")
    (tmp_path / ".step_0000003.safetensors.tmp").write_bytes(b"")
    again = new_state(config, prior)
    load_checkpoint(tmp_path, again)
    assert again.step == 1


def test_unusable_checkpoints_are_reported(prior, tmp_path):
    config = tiny(prior)
    state = new_state(config, prior)
    with pytest.raises(CheckpointError, match="there is no checkpoint in"):
        load_checkpoint(tmp_path, state)
    Trainer(config, prior, state).step()
    saved = save_checkpoint(tmp_path, state, keep=2)

    other = new_state(tiny(prior, {"scene": {"field": {"hidden": 16}}}), prior)
    with pytest.raises(CheckpointError, match=r"step_0000001\.json does not fit") as error:
        load_checkpoint(tmp_path, other)
    assert "\n" not in str(error.value)

    whole = saved.with_suffix(".safetensors").read_bytes()
    saved.with_suffix(".safetensors").write_bytes(whole[:-1])
    with pytest.raises(
        CheckpointError, match=r"damaged \(its checksum is wrong\), and there is no"
    ):
        load_checkpoint(tmp_path, state)
    saved.with_suffix(".safetensors").write_bytes(whole)
    load_checkpoint(tmp_path, state)
    assert checkpoints(tmp_path) == [saved]


def test_a_damaged_checkpoint_is_skipped(prior, tmp_path):
    config = tiny(prior)
    state = new_state(config, prior)
    trainer = Trainer(config, prior, state)
    for _ in range(3):
        trainer.step()
        newest = save_checkpoint(tmp_path, state, keep=3)
    flipped = bytearray(newest.with_suffix(".safetensors").read_bytes())
    flipped[-100] ^= 4
    newest.with_suffix(".safetensors").write_bytes(flipped)
    again = new_state(config, prior)
    with pytest.warns(RunWarning, match=r"3\.json is damaged .*; loading step 2 instead"):
        load_checkpoint(tmp_path, again)
    assert again.step == 2
    # The run continues from there, and damaged checkpoints are no longer counted.
    set_aside_damaged(tmp_path, again.step)
    assert [path.stem for path in checkpoints(tmp_path)] == ["step_0000001", "step_0000002"]
    again.step = 3
    save_checkpoint(tmp_path, again, keep=2)
    assert [path.stem for path in checkpoints(tmp_path)] == ["step_0000002", "step_0000003"]


def test_a_newer_format_is_refused_and_not_skipped(prior, tmp_path, monkeypatch):
    config = tiny(prior)
    state = new_state(config, prior)
    save_checkpoint(tmp_path, state, keep=2)
    state.step = 1
    monkeypatch.setattr(checkpoint, "FORMAT", 4)
    save_checkpoint(tmp_path, state, keep=2)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"has format 4, of dreamfusion .*install a newer"):
        load_checkpoint(tmp_path, state)


def test_numbers_that_are_not_finite_are_never_saved(prior, tmp_path):
    state = new_state(tiny(prior), prior)
    with torch.no_grad():
        state.scene.field.mlp.weight1[0, 0] = float("nan")
    with pytest.raises(
        DivergedError, match=r"before step 1: scene\.field\.mlp\.weight1 is no longer finite"
    ):
        save_checkpoint(tmp_path, state, keep=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["format-1", "format-2"])
def test_checkpoints_of_every_format_can_be_read(name, tmp_path):
    """These files were written by the first version with each format."""
    folder = Path(__file__).parent / "checkpoints" / name
    run = RunFolder(folder)
    with pytest.warns(RunWarning, match="sds is now called estimator; old names of settings still"):
        config = run.read_config()
    state = untrained(config)
    load_checkpoint(run.checkpoints, state)
    assert state.step == 3
    # The mean of its table, as printed when the file was written.
    mean = json.loads((folder / "expected.json").read_text())["table_rms"]
    table = state.scene.field.encoding.table
    assert table.square().mean().sqrt().item() == pytest.approx(mean, 1e-6)
    # Every number in the file is loaded, under its new name.
    written = load_file(run.checkpoints / "step_0000003.safetensors")
    save_checkpoint(tmp_path, state, keep=1)
    again = load_file(tmp_path / "step_0000003.safetensors")
    assert sorted(map(numbers, written.items())) == sorted(map(numbers, again.items()))
    shown = load_scene(run, config, "cpu")
    assert shown.step == 3
    assert torch.equal(shown.scene.field.encoding.table, written["ema_field.encoding.table"])


def numbers(entry):
    """The shape and values of a tensor; not of counters of fields, whose number has changed."""
    name, tensor = entry
    shape, values = tuple(tensor.shape), tuple(tensor.flatten().tolist())
    return () if "_extra_state" in name else (shape, values)
