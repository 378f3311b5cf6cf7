"""Checkpoints: a safetensors file with all tensors, and a JSON file with the other values.

Both are written under temporary names and then renamed, the JSON last: if the JSON exists, the
checkpoint is complete, even after a power failure. The JSON contains the checksum of the tensor
file, whose metadata repeats the other entries of the JSON. Thus damage to either file is detected,
and the previous checkpoint is loaded.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dreamfusion.config.schema import Config
from dreamfusion.graphics.media import Draw
from dreamfusion.priors.identity import PriorIdentity, read_identity
from dreamfusion.runs.folder import RunFolder, Stage, stages_of, step_of
from dreamfusion.scenes.base import Scene, render_image
from dreamfusion.training.state import TrainState
from dreamfusion.training.trainer import DivergedError
from dreamfusion.utils.devices import choose_device
from dreamfusion.utils.errors import RunWarning, UserError, command, one_line
from dreamfusion.utils.files import atomic_write, write_text
from dreamfusion.utils.optimizers import load_optimizer, optimizer_tensors, under
from dreamfusion.utils.version import __version__

FORMAT = 3  # 1 has no checksum, 1 and 2 have other names: see _with_new_names


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged or from another run."""


class DamagedError(CheckpointError):
    """A checkpoint whose files were changed after they were written."""


def save_checkpoint(folder: Path, state: TrainState, *, keep: int) -> Path:
    """Write `state` into `folder` and delete all but the newest `keep`. Returns the JSON's path.
    Raises DivergedError, and writes nothing, if a number is not finite; OSError if the file cannot
    be written, in which case earlier checkpoints are kept."""
    stem = folder / f"step_{state.step:07d}"
    tensors = tensors_of(state)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise DivergedError(
                f"training diverged before step {state.step + 1}: {name} is no longer finite"
            )
    details = {
        "format": FORMAT,
        "step": state.step,
        "rollbacks": state.rollbacks,
        "rolled_back_at": state.rolled_back_at,
        "dreamfusion": __version__,
    }
    with atomic_write(stem.with_suffix(".safetensors")) as file:
        try:
            save_file(tensors, file, metadata={"details": json.dumps(details)})
        except SafetensorError as error:
            found = re.search(r"os error (\d+)", str(error))
            number = int(found[1]) if found else errno.EIO
            raise OSError(number, os.strerror(number), str(file)) from None
        checksum = _sha256(file)
    write_text(stem.with_suffix(".json"), json.dumps(details | {"sha256": checksum}) + "\n")
    keep_newest(folder, keep)
    return stem.with_suffix(".json")


def keep_newest(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and tensor files without a checkpoint."""
    found = checkpoints(folder)
    for old in found[:-keep]:
        old.unlink()
    kept = {path.stem for path in found[-keep:]}
    for tensors_file in folder.glob("step_*.safetensors"):
        if tensors_file.stem not in kept:
            tensors_file.unlink()


def checkpoints(folder: Path) -> list[Path]:
    """The JSON files of all checkpoints in `folder`, oldest first."""
    found = [path for path in folder.glob("step_*.json") if re.fullmatch(r"step_\d+", path.stem)]
    return sorted(found, key=step_of)


def load_checkpoint(folder: Path, state: TrainState) -> None:
    """Load the newest intact checkpoint in `folder` into `state`, which has the same configuration.

    Newer checkpoints that are damaged are skipped with a RunWarning. Raises CheckpointError if none
    can be read, or if it belongs to a newer version or another configuration.
    """
    _newest(folder, lambda tensors, details: restore(state, tensors, details))


def _newest(folder: Path, use: Callable[[dict[str, Tensor], dict[str, Any]], object]) -> int:
    """Call `use` with the newest intact checkpoint; returns its step. See `load_checkpoint`."""
    damage: list[str] = []
    found: list[Path] | None = None
    while (now := checkpoints(folder)) != found:  # training may delete the oldest meanwhile
        found, damage = now, []
        for path in reversed(found):
            try:
                tensors, details = _read(path)
            except DamagedError as error:
                damage.append(str(error))
                continue
            try:
                use(tensors, details)
            except torch.OutOfMemoryError:
                raise
            except (KeyError, ValueError, RuntimeError) as error:
                raise CheckpointError(
                    f"{path} does not fit the settings of its run: {one_line(error, 120)}; "
                    "settings that change the shape of the scene or of the estimator need a new run"
                ) from None
            step = int(details["step"])
            if damage:
                warnings.warn(RunWarning(f"{damage[0]}; loading step {step} instead"), stacklevel=3)
            return step
    if not found:
        raise CheckpointError(f"there is no checkpoint in {folder}")
    raise CheckpointError(f"{damage[0]}, and there is no older intact checkpoint")


def set_aside_damaged(folder: Path, step: int) -> None:
    """Rename the damaged checkpoints after `step`, so that `keep_newest` ignores them."""
    for path in checkpoints(folder):
        if step_of(path) > step:
            path.replace(path.with_suffix(".damaged"))


def require_checkpoint(run: RunFolder) -> None:
    """Raise CheckpointError if the run has no checkpoint yet."""
    if not checkpoints(run.checkpoints):
        every = run.read_config().output.checkpoint_every
        raise CheckpointError(
            f"{run.path} has no checkpoint yet: the first is written after {every} steps, or when "
            f"the run is stopped; if it has stopped, run: {command('resume', run.path)}"
        )


@dataclass(frozen=True)
class SavedScene:
    """A scene to view or export, its step, and the prior that it was trained with, if known."""

    step: int
    scene: Scene
    prior: PriorIdentity | None = None


def draw_scene(scene: Scene) -> Draw:
    """Return a function that renders a scene."""
    return lambda cameras, size, mode: render_image(
        scene, cameras, height=size, width=size, mode=mode
    )


def load_scene(run: RunFolder, config: Config, device: str | None = None) -> SavedScene:
    """Load the EMA scene of the run's newest intact checkpoint; see `load_checkpoint`.

    device: None takes the best available one. Backends in the settings of the run are ignored,
    since this machine may lack them.
    """
    require_checkpoint(run)
    stage = _last_begun(run, config)
    run, config = stage.folder(run), stage.config
    scene: Scene = config.scene.viewable().build(  # type: ignore[attr-defined]
        device=choose_device("auto") if device is None else device,
        generator=torch.Generator().manual_seed(config.seed),
    )
    step = _newest(run.checkpoints, lambda saved, _: scene.load_state_dict(under(saved, "scene")))
    return SavedScene(step, scene.averaged, read_identity(run.prior))


def _last_begun(run: RunFolder, config: Config) -> Stage:
    """The last stage that has a checkpoint."""
    return next(s for s in reversed(stages_of(config)) if checkpoints(s.folder(run).checkpoints))


def copy_scene(source: RunFolder, target: RunFolder) -> None:
    """Copy the newest checkpoint and the settings of a run to another folder, for `load_scene`.
    Raises CheckpointError if there is no checkpoint."""
    require_checkpoint(source)
    stage = _last_begun(source, source.read_config())
    target.checkpoints.mkdir(parents=True, exist_ok=True)
    newest = checkpoints(stage.folder(source).checkpoints)[-1]
    for file in (newest.with_suffix(".safetensors"), newest):
        with atomic_write(target.checkpoints / file.name) as part:
            shutil.copyfile(file, part)
    target.write_config(replace(stage.config, start=""))


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the details of a checkpoint, both verified. Raises DamagedError, or
    CheckpointError for a format that this version does not support."""
    file = path.with_suffix(".safetensors")
    try:
        details = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(details, dict):
            raise ValueError("it contains no mapping")
        checksum = details.pop("sha256", None)
        unchecked = details.get("format") == 1 and checksum is None
        if not unchecked and checksum != _sha256(file):
            raise ValueError("its checksum is wrong")
        with safe_open(file, framework="pt") as content:
            metadata = json.loads((content.metadata() or {}).get("details", "null"))
            if not unchecked and metadata != details:
                raise ValueError("its two files contradict each other")
            if details["format"] not in (1, 2, FORMAT):
                raise CheckpointError(
                    f"{path} has format {details['format']}, of dreamfusion "
                    f"{details.get('dreamfusion')}; this is {__version__}, which reads formats up "
                    f"to {FORMAT}: install a newer one"
                )
            if details["step"] != step_of(path):
                raise ValueError("its name gives another step")
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
            return _with_new_names(tensors, details)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise DamagedError(f"{path} is damaged ({one_line(error)})") from None


def tensors_of(state: TrainState) -> dict[str, Tensor]:
    """All tensors of a state, by name."""
    moments = optimizer_tensors(state.scene.optimizer)
    tensors: dict[str, Any] = {"generator": state.generator.get_state()}
    tensors |= {f"scene.{name}": value for name, value in state.scene.state_dict().items()}
    tensors |= {f"estimator.{name}": value for name, value in state.estimator.state_dict().items()}
    tensors |= {f"optimizer.{name}": value for name, value in moments.items()}
    return {k: torch.as_tensor(v).detach().cpu().contiguous() for k, v in tensors.items()}


def restore(state: TrainState, tensors: Mapping[str, Tensor], details: Mapping[str, Any]) -> None:
    """Restore a state from its tensors and the other values of a checkpoint. No object is rebuilt,
    since building an estimator may change its prior."""
    # The scene comes first: it may replace the optimiser's parameters.
    state.scene.load_state_dict(under(tensors, "scene"))
    load_optimizer(state.scene.optimizer, under(tensors, "optimizer"))
    state.estimator.load_state_dict(under(tensors, "estimator"))
    state.generator.set_state(tensors["generator"].to(torch.uint8))
    state.step = int(details["step"])
    state.rollbacks = int(details.get("rollbacks", 0))
    state.rolled_back_at = int(details.get("rolled_back_at", 0))


def _with_new_names(
    tensors: dict[str, Tensor], details: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Convert a checkpoint to format 3; earlier formats have no prefix "scene."."""
    parts = ("field.", "ema_field.", "background.", "occupancy.")
    renamed = {}
    for name, value in tensors.items():
        new = f"scene.{name}" if name.startswith(parts) else name
        renamed[new.replace("scene.occupancy.floor", "scene.occupancy.lower_bound")] = value
    return renamed, {"rollbacks": details.get("setbacks", 0), **details}
