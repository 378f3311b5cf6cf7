"""The Python API of dreamfusion, for notebooks and scripts.

import dreamfusion as df

run = df.train("a corgi", steps=250)
images = run.scene.images(df.turntable_cameras(8), size=256, mode="normals")
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from dreamfusion.config.layers import Layer, build_config, given, nested
from dreamfusion.config.schema import Config
from dreamfusion.mesh.formats import as_trimesh, read_glb
from dreamfusion.report import report_html
from dreamfusion.runs.checkpoint import load_scene
from dreamfusion.runs.export import Export, ExportOptions, write_model
from dreamfusion.runs.folder import Destination, RunFolder, find_run, slug
from dreamfusion.runs.metrics import read_metrics
from dreamfusion.runs.plan import Plan, plan_resumed, plan_run
from dreamfusion.runs.train import Observer, train_run
from dreamfusion.scenes.base import Scene
from dreamfusion.training.state import TrainState
from dreamfusion.training.trainer import Loss, StepMetrics, Trainer

if TYPE_CHECKING:
    import trimesh

    from dreamfusion.distillation.settings import EstimatorSettings
    from dreamfusion.priors.base import Prior

Callback = Callable[[StepMetrics], object]


def train(
    prompt: str,
    *,
    out: Path | str | None = None,
    overwrite: bool = False,
    steps: int | None = None,
    seed: int | None = None,
    prior: str | Path | Prior | None = None,
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    losses: Sequence[Loss] = (),
    callback: Callback | None = None,
    progress: bool | None = None,
) -> Run:
    """Make a 3D object from a prompt. Returns when the scene, its mesh and its video are done.

    out: folder of the run, which must be empty or absent; None takes runs/PROMPT or the next free
        name, runs/PROMPT-2, …
    overwrite: replace an existing run in `out`.
    prior: embedded, a folder in diffusers' layout, a hub id, or a loaded prior.
    preset: name of a preset or a settings file; None chooses the preset that suits the prior.
    settings: override the preset, by dotted name ({"estimator.guidance": 8}) or nested.
    losses: additional losses, each a function of (scene, progress, generator) that returns weighted
        scalars by name.
    callback: called with the metrics of each step, for example by a logger.
    progress: show a progress bar; None shows one in notebooks.

    Raises UserError with a message of one line (ConfigError, PriorError, PromptError, …), and
    TypeError for a prior of another type.
    """
    where = Path("runs") / slug(prompt) if out is None else Destination(Path(out), overwrite)
    if isinstance(where, Destination):
        where.check()
    plan = _plan(prompt, prior, preset, settings, steps=steps, seed=seed)
    observer = _Callback(callback, progress)
    return Run(train_run(plan, where, losses=losses, observer=observer).run)


def config_for(
    prompt: str,
    prior: str | Path | Prior | None = None,
    *,
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    steps: int | None = None,
    seed: int | None = None,
) -> Config:
    """The settings that `train` would use with these arguments, for use with `Trainer`.

    Raises the same errors as `train`.
    """
    return _plan(prompt, prior, preset, settings, steps=steps, seed=seed).config


def _plan(
    prompt: str,
    prior: str | Path | Prior | None,
    preset: str | None,
    settings: Mapping[str, Any] | None,
    **arguments: int | None,
) -> Plan:
    name = str(prior) if isinstance(prior, (str, Path)) else None
    layers = [
        Layer("settings", nested(settings or {})),
        Layer("arguments", given(prompt=prompt, prior=name, **arguments)),
    ]
    loaded = None if name is not None else prior
    if loaded is not None and not (hasattr(prior, "predict") and hasattr(prior, "encode_text")):
        raise TypeError(
            f"prior is a name, a path or an object with the interface of dreamfusion.Prior, not "
            f"{prior!r}"
        )
    return plan_run(layers, preset=preset, prior=loaded)  # type: ignore[arg-type]


def distill(
    scene: Scene,
    prior: Prior,
    prompt: str,
    *,
    estimator: EstimatorSettings | None = None,
    steps: int = 250,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    losses: Sequence[Loss] = (),
    callback: Callback | None = None,
) -> Scene:
    """Optimise a scene with a prior, in memory, and return the same scene.

    scene: any object with the interface `Scene`. estimator: settings of the estimator; None takes
    SDS with default settings. settings: other settings, such as cameras and lights, which override
    the prior's card. Raises UserError.
    """
    base = {"prompt": prompt, "steps": steps, "seed": seed}
    config = build_config(prior.card.settings, nested(settings or {}), base)
    if estimator is not None:
        config = replace(config, estimator=estimator)
    generator = torch.Generator().manual_seed(seed)
    state = TrainState(0, scene, config.estimator.build(prior, seed=seed), generator)
    for metrics in Trainer(config, prior, state, losses=losses):
        if callback is not None:
            callback(metrics)
    return scene


def open_run(path: Path | str) -> Run:
    """The run in a folder. Raises RunError if there is none."""
    return Run(find_run(Path(path)))


@dataclass(frozen=True)
class Run:
    """A run on disk: its scene, mesh and metrics, and methods to resume and export it."""

    folder: RunFolder

    @property
    def path(self) -> Path:
        """The folder of the run."""
        return self.folder.path

    @property
    def config(self) -> Config:
        """All settings of the run."""
        return self.folder.read_config()

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The metrics of every step, oldest first, in a form that pandas.DataFrame accepts."""
        return read_metrics(self.folder.metrics)

    @property
    def scene(self) -> Scene:
        """The scene at the newest checkpoint, loaded at each access. Raises CheckpointError."""
        return load_scene(self.folder, self.config).scene

    @property
    def mesh(self) -> trimesh.Trimesh:
        """The textured mesh, in scene units, +Y up, facing +Z. Exported first if necessary."""
        model = self.folder.mesh / "model.glb"
        if not model.is_file():
            self.export(model)
        shape, _ = read_glb(model)
        return as_trimesh(shape)

    def resume(
        self,
        *,
        steps: int | None = None,
        prior: Prior | None = None,
        settings: Mapping[str, Any] | None = None,
        losses: Sequence[Loss] = (),
        callback: Callback | None = None,
        progress: bool | None = None,
    ) -> Run:
        """Resume the run exactly where it stopped, up to `steps` in total. Returns when it is done.

        Schedules keep their original length, and their end values beyond it. prior: the run's
        prior, if it was a loaded object. settings: to change from here on. losses, callback,
        progress: as in `train`. Raises UserError.
        """
        plan = plan_resumed(self.folder, steps=steps, prior=prior, settings=nested(settings or {}))
        observer = _Callback(callback, progress)
        return Run(train_run(plan, self.folder, losses=losses, observer=observer).run)

    def export(
        self,
        path: Path | str | None = None,
        *,
        faces: int | None = None,
        texture: int | None = None,
        resolution: int | None = None,
        threshold: float | None = None,
    ) -> Export:
        """Write the mesh to a .glb, .obj, .ply, .stl or .usdz file. None: DIR/mesh/model.glb.

        faces, texture, resolution, threshold: see `ExportOptions`. Raises MeshError.
        """
        config = self.config
        options = ExportOptions(resolution, faces, texture, threshold)
        target = self.folder.mesh / "model.glb" if path is None else Path(path)
        return write_model(target, load_scene(self.folder, config), config, options)

    def _repr_html_(self) -> str:
        """The run's report, for notebooks: prompt, turntable, interactive mesh, curves."""
        page = escape(report_html([self.path]))
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 640px; border: 0"></iframe>'


class _Callback(Observer):
    """Calls a function with the metrics of each step, and shows a progress bar."""

    def __init__(self, callback: Callback | None, progress: bool | None) -> None:
        self._callback = callback
        self._progress = "ipykernel" in sys.modules if progress is None else progress

    def steps(
        self, run: RunFolder, trainer: Trainer, steps: Iterator[StepMetrics]
    ) -> Iterable[StepMetrics]:
        total, done, prompt = trainer.config.steps, trainer.state.step, trainer.config.prompt
        with tqdm(desc=prompt, total=total, initial=done, disable=not self._progress) as bar:
            for metrics in steps:
                bar.update(metrics.step - bar.n)
                if self._callback is not None:
                    self._callback(metrics)
                yield metrics
