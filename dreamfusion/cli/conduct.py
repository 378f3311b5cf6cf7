"""What `train` and `resume` do and say, from the first line to the paths of what was written."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from dreamfusion.cli.console import Console, duration
from dreamfusion.cli.results import mesh_report, print_mesh, write_turntable
from dreamfusion.config.schema import Config
from dreamfusion.runs.folder import RunFolder, create_run
from dreamfusion.utils.errors import UserError

if TYPE_CHECKING:
    from dreamfusion.diffusion.priors import DiffusionPrior, PriorFolder
    from dreamfusion.training.step import TrainState
    from dreamfusion.viewer.page import Page


def conduct(
    console: Console,
    config: Config,
    where: Path | RunFolder,
    *,
    source: str | None = None,
    view: bool = False,
) -> bool:
    """Train from the start in a new folder at `where`, or go on with the run that is there; whether
    it came to its end, not stopped by Ctrl-C.

    source: the preset or file that the settings came from. view: with a page in the browser.
    """
    started = time.monotonic()
    if config.logging.tensorboard:
        from dreamfusion.runs.tensorboard import require_tensorboard

        require_tensorboard()
    console.say(f"prompt    {config.prompt}, read as: {check_prompt(config)}")
    if source is not None:
        console.say(f"settings  {source}, --set and options over it")

    from dreamfusion.runs.session import choose_device, optimise
    from dreamfusion.training.distributed import (
        any_process,
        from_first,
        is_first,
        process_group,
        share,
    )
    from dreamfusion.training.step import estimate_seconds, resolve
    from dreamfusion.utils.out_of_memory import explain_out_of_memory

    device = choose_device(config.device)
    with (
        _stoppable() as stopping,
        explain_out_of_memory(),
        process_group(device),
        open_page(console, config.prompt) if view and is_first() else nullcontext() as page,
    ):
        share(config.camera.views)
        prior = load_prior_for(config, to_train=True)
        config = resolve(config, prior, device)
        _print_machine(console, config, prior)
        if isinstance(where, RunFolder):
            run = where
        else:
            run = RunFolder(from_first(create_run(where).path if is_first() else where))
        state = _state_of(run, config, device)
        if is_first():
            run.write_config(config)
        _print_plan(console, run, config, state, estimate_seconds(state, prior, config))
        steps = optimise(run, state, prior, config, stop=lambda: any_process(stopping(), device))
        if page is not None:
            from dreamfusion.viewer.serve import watch

            steps = watch(page, run, state, config, steps)
        console.steps(steps, total=config.steps, done=state.step)
        if state.step < config.steps:
            console.say(f"stopped at step {state.step}; to go on: dreamfusion resume {run.path}")
            console.result({"run": run.path, "step": state.step, "finished": False})
            return False
        report = _finish(console, run, config, state) if is_first() else {}
    seconds = time.monotonic() - started
    console.say(f"{duration(seconds)} in all")
    console.result(report | {"seconds": round(seconds, 1)})
    return True


def prior_folder(config: Config) -> PriorFolder:
    """The prior's folder; nothing heavy is imported for one that lies here."""
    from dreamfusion.diffusion.priors import find_prior

    name, device = config.prior.name, "cpu"
    if name != "embedded" and not Path(name).is_dir():
        # What `auto` means, and which files of a hub's model are fetched, depends on the device.
        from dreamfusion.runs.session import choose_device

        device = choose_device(config.device)
    return find_prior(name, device=device, dtype=config.prior.dtype)


def check_prompt(config: Config) -> str:
    """Refuse what the prior cannot read before anything heavy is imported; how it reads it."""
    from dreamfusion.diffusion.priors import read_card

    card = read_card(prior_folder(config).path)
    if config.prior.negative_prompt:
        card.vocabulary.canonical(config.prior.negative_prompt)
    return card.vocabulary.canonical(config.prompt)


def load_prior_for(config: Config, *, to_train: bool) -> DiffusionPrior:
    """to_train: there will be steps, whose texts are known and which must fit into the memory."""
    from dreamfusion.diffusion.priors import load_prior, read_card
    from dreamfusion.runs.session import choose_device
    from dreamfusion.training.step import texts_of

    return load_prior(
        config.prior.name,
        device=choose_device(config.device),
        dtype=config.prior.dtype,
        prompts=texts_of(read_card(prior_folder(config).path), config) if to_train else None,
        views=config.camera.views if to_train else None,
        vae_checkpointing=config.prior.vae_checkpointing,
        vae_slicing=config.prior.vae_slicing,
        offload=config.prior.offload,
        compile=config.prior.compile,
    )


@contextmanager
def open_page(
    console: Console,
    title: str,
    until: str = "until the run ends",
    host: str = "127.0.0.1",
    port: int | None = None,
) -> Iterator[Page]:
    """A page in the browser for the time of the block, whose address is said."""
    from dreamfusion.viewer.page import Page

    page = Page(f"dreamfusion: {title}", host=host, port=port)
    try:
        console.say(f"view      {page.url} ({until})")
        yield page
    finally:
        page.close()


def _state_of(run: RunFolder, config: Config, device: str) -> TrainState:
    """The state to go on from. A run that was killed before its first checkpoint begins again, from
    the same seed."""
    from dreamfusion.runs.checkpoint import checkpoints
    from dreamfusion.runs.session import load_state
    from dreamfusion.training.step import new_state

    begun = bool(checkpoints(run.checkpoints))
    state = load_state(run, config, device) if begun else new_state(config, device)
    if config.steps < state.step:
        raise UserError(f"{run.path} is at step {state.step}, beyond {config.steps}")
    return state


@contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
    """Ctrl-C or a polite kill asks to stop after the current step; a second one stops at once."""
    asked = False

    def ask(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        print("stopping after this step (again: at once)", file=sys.stderr, flush=True)

    with handling_stops(ask):
        yield lambda: asked


@contextmanager
def handling_stops(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Ctrl-C and a polite kill call `handler`, even where a shell had them ignored."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _print_machine(console: Console, config: Config, prior: DiffusionPrior) -> None:
    import torch

    from dreamfusion.nerf.operations import chosen_backends

    kind = "latents" if prior.vae is not None else "pixels"
    threads = f", {torch.get_num_threads()} threads" if config.device == "cpu" else ""
    console.say(f"prior     {prior.name} ({kind}, {prior.image_size} x {prior.image_size})")
    console.say(f"device    {config.device}{threads}, {config.prior.dtype}")
    backends = chosen_backends(config.field, config.render, config.device)
    console.say(f"backends  {backends}")
    for problem in backends.passed_over:
        console.say(f"          {problem}")
    if prior.expected_memory is not None:
        gib = prior.expected_memory / 2**30
        console.say(f"memory    about {gib:.1f} GiB of the GPU's (an estimate)")


def _print_plan(
    console: Console, run: RunFolder, config: Config, state: TrainState, seconds: float
) -> None:
    steps = f"{config.steps}" if state.step == 0 else f"{state.step} to {config.steps}"
    console.say(f"run       {run.path}")
    console.say(
        f"steps     {steps}, {config.camera.views} views each; expected {duration(seconds)}"
    )
    console.say(
        "shown     covered: share of the picture that is object; undecided: 0 when every pixel is\n"
        "          solid or empty, 1 at worst; push: how strongly the prior asks for changes"
    )


def _finish(console: Console, run: RunFolder, config: Config, state: TrainState) -> dict[str, Any]:
    """Make and name the video and the mesh of a trained run; the report of them."""
    import torch

    from dreamfusion.runs.session import draw_scene, write_model

    output = config.output
    write_turntable(
        console,
        run.video,
        config,
        draw_scene(state, config),
        modes=["color"],
        count=output.video_frames,
        size=output.video_size,
        background=torch.tensor(config.background.color),
    )
    written = write_model(run.mesh / "model.glb", state, config)
    print_mesh(console, written)
    console.say(f"video     {run.video}")
    console.say(f"previews  {run.previews}")
    console.say(f"settings  {run.config}")
    console.say(f"metrics   {run.metrics}")
    console.say(f"to show   dreamfusion report {run.path}")
    console.say(f"to look   dreamfusion view {run.path}")
    console.say(f"to go on  dreamfusion resume {run.path} --steps {config.steps * 2}")
    report = {"run": run.path, "step": state.step, "finished": True, "video": run.video}
    return report | mesh_report(written)
