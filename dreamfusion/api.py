"""dreamfusion from Python: what a notebook or a script uses, and what the command line stands on.

import dreamfusion as df

run = df.train("a corgi", steps=250)
pictures = run.scene.render(df.turntable_cameras(8), size=256, mode="normals")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamfusion.config.layers import Layer, build_config, nested, to_mapping
from dreamfusion.config.schema import Config
from dreamfusion.mesh.formats import as_trimesh, read_glb
from dreamfusion.priors import DiffusionPrior
from dreamfusion.priors.view_prompts import slug
from dreamfusion.report import report_html
from dreamfusion.runs.checkpoint import load_state, runnable_here
from dreamfusion.runs.export import Export, ExportOptions, write_model
from dreamfusion.runs.folder import RunFolder, find_run
from dreamfusion.runs.metrics import read_metrics
from dreamfusion.runs.plan import Plan, plan_again, plan_of_loaded, plan_run
from dreamfusion.runs.train import Observer, train_run
from dreamfusion.scenes.nerf.scene import Scene
from dreamfusion.training.trainer import StepMetrics, Trainer
from dreamfusion.utils.devices import choose_device

if TYPE_CHECKING:
    import trimesh

Callback = Callable[[StepMetrics], object]


def train(
    prompt: str,
    *,
    out: Path | str | None = None,
    steps: int | None = None,
    seed: int | None = None,
    prior: str | DiffusionPrior | None = None,
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
) -> Run:
    """Make a 3D object from a prompt; returns when it, its mesh and its video are done.

    out: folder of the run, or the next free name where something is there; runs/PROMPT where None.
    prior: embedded, a folder in diffusers' layout, a hub id, or one that is loaded.
    preset: name of a preset or a settings file; None takes the one that suits the prior.
    settings: over the preset, by dotted name ({"sds.guidance": 8}) or nested.
    callback: is given the metrics of each step as it is done.

    Raises UserError, one line that says what is wrong: ConfigError, PriorError, PromptError, …
    """
    options: dict[str, Any] = {"prompt": prompt}
    options |= {k: v for k, v in {"steps": steps, "seed": seed}.items() if v is not None}
    if isinstance(prior, str):
        options["prior"] = {"name": prior}
    layers = [Layer("settings", nested(settings or {})), Layer("arguments", options)]
    where = Path("runs") / slug(prompt) if out is None else Path(out)
    if isinstance(prior, DiffusionPrior):
        plan = plan_of_loaded(prior, layers, preset=preset)
        return _run(plan, where, callback, prior)
    return _run(plan_run(layers, preset=preset), where, callback)


def open_run(path: Path | str) -> Run:
    """The run in a folder. Raises RunError if there is none."""
    return Run(find_run(Path(path)))


@dataclass(frozen=True)
class Run:
    """A run on disk: its scene, its mesh, its metrics, and what can be made of it."""

    folder: RunFolder

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.folder.path

    @property
    def config(self) -> Config:
        """Every setting that it was made with."""
        return self.folder.read_config()

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The metrics of every step, oldest first: a table, as pandas.DataFrame takes it."""
        return read_metrics(self.folder.metrics)

    @property
    def scene(self) -> Scene:
        """The scene at the newest checkpoint, read anew. Raises CheckpointError."""
        config = runnable_here(self.config)
        return load_state(self.folder, config, choose_device("auto")).shown

    @property
    def mesh(self) -> trimesh.Trimesh:
        """The textured mesh, in scene units, +Y up, facing +Z; it is made if there is none yet."""
        model = self.folder.mesh / "model.glb"
        if not model.is_file():
            self.export(model)
        shape, _ = read_glb(model)
        return as_trimesh(shape)

    def resume(
        self,
        *,
        steps: int | None = None,
        prior: DiffusionPrior | None = None,
        callback: Callback | None = None,
    ) -> Run:
        """Go on exactly where it stopped, to `steps` in all; returns when it is done.

        prior: the one it was made with, if that was a loaded one.
        """
        changes = {} if steps is None else {"steps": steps}
        config = build_config(to_mapping(self.config), changes)
        layers = self.folder.layers_after("resume", changes)
        plan = plan_again(config, layers, prior=prior)
        return _run(plan, self.folder, callback, prior)

    def export(
        self,
        path: Path | str | None = None,
        *,
        faces: int | None = None,
        texture: int | None = None,
        resolution: int | None = None,
        threshold: float | None = None,
    ) -> Export:
        """Write the mesh to a .glb, .obj, .ply, .stl or .usdz file; DIR/mesh/model.glb where None.

        faces, texture, resolution, threshold: see `ExportOptions`. Raises MeshError.
        """
        config = runnable_here(self.config)
        state = load_state(self.folder, config, choose_device("auto"))
        options = ExportOptions(
            resolution=resolution, faces=faces, texture=texture, threshold=threshold
        )
        target = self.folder.mesh / "model.glb" if path is None else Path(path)
        return write_model(target, state, config, options)

    def _repr_html_(self) -> str:
        """The run's report, as a notebook shows it: prompt, turntable, mesh to turn, curves."""
        page = escape(report_html([self.path]))
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 640px; border: 0"></iframe>'


class _Tell(Observer):
    """Gives a callback each step's metrics."""

    def __init__(self, callback: Callback) -> None:
        self._callback = callback

    def steps(
        self, run: RunFolder, trainer: Trainer, steps: Iterator[StepMetrics]
    ) -> Iterable[StepMetrics]:
        for metrics in steps:
            self._callback(metrics)
            yield metrics


def _run(
    plan: Plan,
    where: Path | RunFolder,
    callback: Callback | None,
    prior: DiffusionPrior | None = None,
) -> Run:
    observer = None if callback is None else _Tell(callback)
    return Run(train_run(plan, where, prior=prior, observer=observer).run)
