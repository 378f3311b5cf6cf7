"""Checkpoints: a safetensors file with every tensor and, beside it, a JSON file with the rest.

Both are written under other names and then renamed, the JSON last: a checkpoint whose JSON is
there is whole, whenever the power went.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dreamfusion.config.layers import override
from dreamfusion.config.schema import Config
from dreamfusion.runs.folder import RunFolder
from dreamfusion.training.state import TrainState, new_state
from dreamfusion.utils.errors import UserError
from dreamfusion.utils.version import __version__
from dreamfusion.utils.whole_file import whole_file

FORMAT = 1
_MODULES = ("field", "ema_field", "background", "occupancy")


class CheckpointError(UserError):
    """A checkpoint that is missing, broken or of another run."""


def save_checkpoint(folder: Path, state: TrainState, *, keep: int) -> Path:
    """Write `state` into `folder` and delete all but the newest `keep`; the JSON file's path."""
    stem = folder / f"step_{state.step:07d}"
    details = {"format": FORMAT, "step": state.step, "dreamfusion": __version__}
    with whole_file(stem.with_suffix(".safetensors")) as file:
        save_file(_tensors(state), file)
    with whole_file(stem.with_suffix(".json")) as file:
        file.write_text(json.dumps(details) + "\n")
    for old in checkpoints(folder)[:-keep]:
        old.unlink()
        old.with_suffix(".safetensors").unlink(missing_ok=True)
    return stem.with_suffix(".json")


def checkpoints(folder: Path) -> list[Path]:
    """The JSON files of all whole checkpoints in `folder`, oldest first."""
    return sorted(folder.glob("step_*.json"))


def load_checkpoint(folder: Path, state: TrainState) -> None:
    """Bring the newest checkpoint in `folder` into `state`, which has the same configuration.

    Raises CheckpointError if there is none, or it is broken or does not fit.
    """
    found = checkpoints(folder)
    if not found:
        raise CheckpointError(f"there is no checkpoint in {folder}")
    path = found[-1]
    try:
        details = json.loads(path.read_text())
        tensors = load_file(path.with_suffix(".safetensors"))
        if details["format"] != FORMAT:
            raise CheckpointError(
                f"{path} has format {details['format']}, this version reads {FORMAT}"
            )
        _restore(state, tensors, int(details["step"]))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path} cannot be read ({reason}); delete it to go on from the one before"
        ) from None


def runnable_here(config: Config) -> Config:
    """A run's settings for looking at it: backends that were forced for training may not be
    on this machine."""
    return override(config, {"field": {"backend": "auto"}, "render": {"backend": "auto"}})


def require_checkpoint(run: RunFolder) -> None:
    """Raises CheckpointError where there is nothing to look at yet."""
    if not checkpoints(run.checkpoints):
        every = run.read_config().output.checkpoint_every
        raise CheckpointError(
            f"{run.path} has no checkpoint yet: the first comes after {every} steps, or when the "
            f"run is stopped; if it trains no more: dreamfusion resume {run.path}"
        )


def load_state(run: RunFolder, config: Config, device: str) -> TrainState:
    """The state at the run's newest checkpoint. Raises CheckpointError."""
    require_checkpoint(run)
    state = new_state(config, device)
    load_checkpoint(run.checkpoints, state)
    return state


def _tensors(state: TrainState) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {"generator": state.generator.get_state()}
    for name, module in _modules(state):
        for key, value in module.state_dict().items():
            tensors[f"{name}.{key}"] = value
    for index, entries in state.optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            tensors[f"optimizer.{index}.{key}"] = value
    return {key: value.detach().cpu().contiguous() for key, value in tensors.items()}


def _modules(state: TrainState) -> list[tuple[str, nn.Module]]:
    found = ((name, getattr(state, name)) for name in _MODULES)
    return [(name, module) for name, module in found if module is not None]


def _restore(state: TrainState, tensors: dict[str, Tensor], step: int) -> None:
    for name, module in _modules(state):
        prefix = f"{name}."
        part = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        module.load_state_dict(part)
    moments: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, entry = key.split(".")
            moments.setdefault(int(index), {})[entry] = value
    groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": moments, "param_groups": groups})
    state.generator.set_state(tensors["generator"].to(torch.uint8))
    state.step = step
