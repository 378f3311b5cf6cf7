"""Checkpoints: whole or not there, the newest few, and named when they cannot be used."""

import pytest

from dreamfusion.runs.checkpoint import (
    CheckpointError,
    checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from dreamfusion.training.state import new_state
from dreamfusion.training.trainer import Trainer
from tests.helpers.tiny_runs import tiny

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_newest_checkpoints_stay(prior, tmp_path):
    config = tiny(prior)
    state = new_state(config, "cpu")
    trainer = Trainer(config, prior, state)
    for _ in range(4):
        trainer.step()
        save_checkpoint(tmp_path, state, keep=2)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "step_0000003.json", "step_0000003.safetensors",
        "step_0000004.json", "step_0000004.safetensors",
    ]  # fmt: skip
    again = new_state(config, "cpu")
    load_checkpoint(tmp_path, again)
    assert again.step == 4


def test_a_write_cut_short_leaves_the_checkpoint_before(prior, tmp_path):
    config = tiny(prior)
    state = new_state(config, "cpu")
    Trainer(config, prior, state).step()
    save_checkpoint(tmp_path, state, keep=2)
    # The power went after the tensors, before the JSON.
    (tmp_path / "step_0000002.safetensors").write_bytes(b"half")
    (tmp_path / ".step_0000003.safetensors.tmp").write_bytes(b"")
    again = new_state(config, "cpu")
    load_checkpoint(tmp_path, again)
    assert again.step == 1


def test_unusable_checkpoints_are_named(prior, tmp_path):
    config = tiny(prior)
    state = new_state(config, "cpu")
    with pytest.raises(CheckpointError, match="there is no checkpoint in"):
        load_checkpoint(tmp_path, state)
    Trainer(config, prior, state).step()
    saved = save_checkpoint(tmp_path, state, keep=2)

    other = new_state(tiny(prior, {"field": {"hidden": 16}}), "cpu")
    with pytest.raises(CheckpointError, match=r"step_0000001\.json cannot be read") as error:
        load_checkpoint(tmp_path, other)
    assert "\n" not in str(error.value)

    saved.with_suffix(".safetensors").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match=r"step_0000001\.json cannot be read"):
        load_checkpoint(tmp_path, state)
    saved.write_text('{"format": 7}')
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path, state)
    assert checkpoints(tmp_path) == [saved]
