"""The commands `train`, `paint` and `resume`."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from dreamfusion.batch.plan import Options, plan_jobs
from dreamfusion.batch.prompts import Entry
from dreamfusion.cli import options
from dreamfusion.cli.batch import chooser_of, finish, make
from dreamfusion.cli.console import Console
from dreamfusion.cli.stopping import stoppable
from dreamfusion.config.layers import Layer, given, parse_assignments
from dreamfusion.config.nested import merged
from dreamfusion.runs.folder import Destination, RunFolder, find_run, slug
from dreamfusion.runs.plan import Plan, plan_resumed, plan_run
from dreamfusion.scenes.mesh.settings import Axis
from dreamfusion.utils.duration import Stopwatch, duration
from dreamfusion.utils.errors import RunWarning, UserError, command

OutOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder of the run. [default: runs/PROMPT]")
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")]
SeedOption = Annotated[int | None, typer.Option(help="Seed of everything random.")]


def train(
    prompt: options.PromptArgument,
    out: OutOption = None,
    overwrite: OverwriteOption = False,
    seed: SeedOption = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Number of seeds, as a batch in runs/PROMPT-seeds.")
    ] = None,
    keep: options.KeepOption = "all",
    judge: options.ChooserOption = None,
    steps: options.StepsOption = None,
    config: options.ConfigOption = None,
    set_: options.SetOption = None,
    prior: options.PriorOption = None,
    lora: options.LoraOption = None,
    estimator: options.EstimatorOption = None,
    scene: options.SceneOption = None,
    device: options.DeviceOption = None,
    view: options.ViewOption = False,
    verbose: options.VerboseOption = False,
    quiet: options.QuietOption = False,
    json_: options.JsonOption = False,
) -> None:
    """Make a 3D object from a prompt."""
    console, text = Console(quiet=quiet, json=json_, verbose=verbose), " ".join(prompt)
    assigned = _assigned(set_, lora, prior, estimator=estimator, scene=scene)
    if overwrite and (out is None or seeds is not None):
        raise UserError("--overwrite replaces the run in --out: pass --out, and no --seeds")
    if seeds is not None:
        if view:
            raise UserError("--view shows a single run and cannot be combined with --seeds")
        folder = out or Path("runs") / f"{slug(text)}-seeds"
        defaults = Options(seeds, seed or 0, steps, config, prior, device, settings=[assigned])
        jobs = plan_jobs([Entry("the prompt", text)], defaults)
        chooser = chooser_of(keep, judge, jobs)
        finish(console, folder, make(console, folder, jobs), chooser)
        return
    if keep != "all" or judge is not None:
        raise UserError("--keep and --judge choose among several seeds: add --seeds")
    where = _destination(out, overwrite, slug(text))
    named = given(prompt=text, seed=seed, steps=steps, device=device, prior=prior)
    _train(console, _plan(assigned, named, config, estimator), where, view)


def paint(
    mesh: Annotated[
        Path, typer.Argument(metavar="FILE", help="A .glb, .obj, .ply, .stl or .3mf file.")
    ],
    prompt: options.PromptArgument,
    out: OutOption = None,
    overwrite: OverwriteOption = False,
    up: Annotated[Axis, typer.Option(help="The file's axis that points upwards.")] = "+y",
    front: Annotated[Axis, typer.Option(help="The axis towards which the object looks.")] = "+z",
    seed: SeedOption = None,
    steps: options.StepsOption = None,
    config: options.ConfigOption = None,
    set_: options.SetOption = None,
    prior: options.PriorOption = None,
    lora: options.LoraOption = None,
    estimator: options.EstimatorOption = None,
    device: options.DeviceOption = None,
    view: options.ViewOption = False,
    verbose: options.VerboseOption = False,
    quiet: options.QuietOption = False,
    json_: options.JsonOption = False,
) -> None:
    """Paint a mesh: its shape, names and texture coordinates stay as they are."""
    console, text = Console(quiet=quiet, json=json_, verbose=verbose), " ".join(prompt)
    path = mesh.expanduser().absolute()  # a run may be resumed from another folder
    scene = {"name": "mesh", "file": str(path), "up": up, "front": front}
    assigned = merged({"scene": scene}, _assigned(set_, lora, prior, estimator=estimator))
    where = _destination(out, overwrite, slug(text))
    named = given(prompt=text, seed=seed, steps=steps, device=device, prior=prior)
    plan = _plan(assigned, named, config, estimator)
    console.say(f"mesh      {mesh}, up {up}, front {front}: see previews/step_0000000.png")
    _train(console, plan, where, view)


def _assigned(
    set_: list[str] | None, lora: list[str] | None, prior: str | None, **names: str | None
) -> dict[str, Any]:
    """The settings of --set and --lora, with the names of their prior, estimator and scene."""
    chosen = [f"{section}.name={name}" for section, name in names.items() if name is not None]
    found = merged(parse_assignments([*chosen, *(set_ or [])]), options.loras_of(lora))
    return merged(given(prior=prior), found) if "prior" in found else found


def _destination(out: Path | None, overwrite: bool, name: str) -> Path | Destination:
    """The folder of a new run: --out, which must be free, or the next free one of this name."""
    if out is None:
        return Path("runs") / name
    chosen = Destination(out, overwrite)
    chosen.check()
    return chosen


def _plan(
    assigned: Mapping[str, Any], named: Mapping[str, Any], config: str | None, estimator: str | None
) -> Plan:
    """Plan a new run. Warns if the prior's preset is not tuned for the estimator."""
    layers = [Layer("--set", assigned)] if assigned else []
    plan = plan_run([*layers, Layer("command line", named)], preset=config)
    if estimator not in (None, "sds") and config is None:
        presets = [layer.name for layer in plan.layers if layer.name.startswith("preset ")]
        if presets and not presets[-1].endswith(f"-{estimator}"):
            warning = f"no preset is tuned for {estimator} with this prior: using its defaults"
            warnings.warn(RunWarning(warning), stacklevel=1)
    return plan


def resume(
    run_dir: options.RunArgument,
    steps: options.StepsOption = None,
    set_: options.SetOption = None,
    device: options.DeviceOption = None,
    prior: Annotated[
        str | None, typer.Option("--prior", metavar="PATH", help="New location of the run's prior.")
    ] = None,
    view: options.ViewOption = False,
    verbose: options.VerboseOption = False,
    quiet: options.QuietOption = False,
    json_: options.JsonOption = False,
) -> None:
    """Resume a run exactly where it stopped."""
    run = find_run(run_dir)
    changes = parse_assignments(set_ or [])
    plan = plan_resumed(run, steps=steps, device=device, prior=prior, settings=changes)
    _train(Console(quiet=quiet, json=json_, verbose=verbose), plan, run, view)


def _train(console: Console, plan: Plan, where: Path | RunFolder | Destination, view: bool) -> None:
    """Train, and print the progress and the paths of all written files."""
    watch = Stopwatch("starting")
    console.say(f"prompt    {plan.config.prompt}, read as: {plan.canonical_prompt}")
    if not isinstance(where, RunFolder):
        console.detail(f"settings  {' < '.join(layer.name for layer in plan.layers)}")
    console.say("          loading the diffusion model")
    from dreamfusion.cli.narrator import Narrator
    from dreamfusion.runs.train import train_run

    with stoppable() as stopping, Narrator(console, stopping, view) as narrator:
        outcome = train_run(plan, where, observer=narrator, watch=watch, stop=stopping)
    if not outcome.finished:
        at, path = outcome.state.step, outcome.run.path
        console.say(f"stopped at step {at}; to resume: {command('resume', path)}")
        console.result({"run": path, "step": at, "finished": False})
        raise typer.Exit(stopping.status)
    report = narrator.print_written(outcome)
    stages = {stage: round(seconds, 1) for stage, seconds in outcome.seconds.items()}
    parts = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in stages.items())
    console.say(f"done in   {duration(sum(outcome.seconds.values()))}")
    console.detail(f"          {parts}")
    total = round(sum(outcome.seconds.values()), 1)
    console.result(report | {"seconds": total, "stages": stages})
