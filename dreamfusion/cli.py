"""The command line: parses, prints, exits. Heavy libraries are imported where a command needs them,
so that help and errors of usage come at once."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dreamfusion import __version__
from dreamfusion.config import (
    Config,
    build_config,
    parse_assignments,
    to_mapping,
    to_yaml,
)
from dreamfusion.console import Console, duration
from dreamfusion.errors import UserError
from dreamfusion.presets import describe_preset, preset_for, preset_names, read_settings
from dreamfusion.prompts import slug, view_prompts
from dreamfusion.runs import RunFolder, create_run, free_path, open_run

if TYPE_CHECKING:
    from torch import Tensor

    from dreamfusion.priors import DiffusionPrior, PriorFolder
    from dreamfusion.session import Export
    from dreamfusion.trainer import TrainState
    from dreamfusion.turntable import Draw
    from dreamfusion.viewer.page import Page

USER_ERROR = 2
INTERRUPTED = 130

app = typer.Typer(
    help="Text to 3D by Score Distillation Sampling (DreamFusion).",
    epilog="Exit status: 0 done, 2 an error that you can mend, 130 stopped by Ctrl-C.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

PromptArgument = Annotated[str, typer.Argument(help='What to make, like "a corgi".')]
RunArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a run.")]
StepsOption = Annotated[int | None, typer.Option(help="Optimisation steps in all.")]
DeviceOption = Annotated[
    str | None, typer.Option(metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps.")
]
PriorOption = Annotated[
    str | None,
    typer.Option(metavar="PRIOR", help="auto, embedded, a diffusers folder or a hub id."),
]
ViewOption = Annotated[
    bool, typer.Option("--view", help="Show the run in the browser while it trains.")
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", help="Print only the paths of what was written.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object; all else goes to standard error.")
]


class MeshFormat(str, Enum):
    """Mesh formats that can be written."""

    glb = "glb"
    obj = "obj"
    ply = "ply"
    stl = "stl"
    usdz = "usdz"


class OriginChoice(Enum):
    """Where a mesh's origin lies: the middle of its box, of the box's base, or the scene's."""

    center = "center"
    base = "base"
    scene = "scene"


class Mode(str, Enum):
    """What a picture shows; grid: the others side by side."""

    color = "color"
    normals = "normals"
    depth = "depth"
    textureless = "textureless"
    grid = "grid"


class PictureFormat(str, Enum):
    """How a turntable is written."""

    mp4 = "mp4"
    gif = "gif"
    webp = "webp"
    png = "png"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status. User errors are one line on stderr and status 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if os.environ.get("RANK", "0") != "0":
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 -- until the process ends
    # Before torch is loaded: threads that wait asleep instead of spinning. On a machine that has
    # anything else to do, spinning makes a step ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        status = app(args=arguments or ["--help"], prog_name="dreamfusion", standalone_mode=False)
        return int(status or 0)
    except UserError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(
            f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
        )
    except (KeyboardInterrupt, typer.Abort):
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        # Errors of usage: typer shows no public base class of them, but all format themselves.
        if not hasattr(error, "format_message"):
            raise
        return _fail(error.format_message())


def _fail(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return USER_ERROR


def _print_version(value: bool) -> None:
    if value:
        print(f"dreamfusion {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Text to 3D by Score Distillation Sampling (DreamFusion)."""


@app.command(epilog='Example: dreamfusion train "a red mug" --steps 500 --seed 1')
def train(
    prompt: PromptArgument,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the run. [default: runs/PROMPT]"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    steps: StepsOption = None,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="PRESET|FILE",
            help="See `dreamfusion configs`. [default: the prior's]",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting; can be repeated."),
    ] = None,
    prior: PriorOption = None,
    device: DeviceOption = None,
    view: ViewOption = False,
    quiet: QuietOption = False,
    json_: JsonOption = False,
) -> None:
    """Make a 3D object from a prompt."""
    console = Console(quiet=quiet, json=json_)
    options: dict[str, Any] = {"prompt": prompt}
    options |= {
        key: value
        for key, value in {"seed": seed, "steps": steps, "device": device}.items()
        if value is not None
    }
    if prior is not None:
        options["prior"] = {"name": prior}
    changes = (parse_assignments(set_ or []), options)
    if config is None:
        folder = _find_prior(build_config(*changes))
        config = preset_for(folder.pipeline, has_card=folder.has_card)
    settings = build_config(read_settings(config), *changes)
    where = out or Path("runs") / slug(prompt)
    _optimise(console, settings, where, source=config, view=view)


@app.command(epilog="Example: dreamfusion resume runs/a-corgi --steps 1000")
def resume(
    run_dir: RunArgument,
    steps: StepsOption = None,
    device: DeviceOption = None,
    view: ViewOption = False,
    quiet: QuietOption = False,
    json_: JsonOption = False,
) -> None:
    """Go on with a run exactly where it stopped."""
    console = Console(quiet=quiet, json=json_)
    run = open_run(run_dir)
    settings = run.read_config()
    changes: dict[str, Any] = {} if steps is None else {"steps": steps}
    changes |= {} if device is None else {"device": device}
    _optimise(console, build_config(to_mapping(settings), changes), run, view=view)


@app.command(epilog="Example: dreamfusion export runs/a-corgi --format obj --faces 5000")
def export(
    run_dir: RunArgument,
    format_: Annotated[MeshFormat, typer.Option("--format", help="File format.")] = MeshFormat.glb,
    resolution: Annotated[
        int | None,
        typer.Option(min=8, max=1024, help="Cells across the box. [default: as configured]"),
    ] = None,
    faces: Annotated[
        int | None, typer.Option(min=4, help="Faces at most. [default: as configured]")
    ] = None,
    texture: Annotated[
        int | None,
        typer.Option(min=0, max=16384, help="Texels a side; 0: none. [default: as configured]"),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Density of the surface. [default: found]")
    ] = None,
    origin: Annotated[
        OriginChoice, typer.Option(help="What lies at the origin.")
    ] = OriginChoice.center,
    quiet: QuietOption = False,
    json_: JsonOption = False,
) -> None:
    """Write the mesh of a run to DIR/mesh/model.FORMAT, and say what it is worth."""
    console = Console(quiet=quiet, json=json_)
    run = open_run(run_dir)
    settings, state = _load(run, run.read_config())
    from dreamfusion.session import write_model

    written = write_model(
        run.mesh / f"model.{format_.value}",
        state,
        settings,
        resolution=resolution,
        faces=faces,
        texture=texture,
        threshold=threshold,
        origin=origin.value,
        say=lambda stage: console.say(f"          {stage}"),
    )
    _print_mesh(console, written)
    console.result(_mesh_report(written))


@app.command(epilog="Example: dreamfusion render runs/a-corgi --mode grid --format webp")
def render(
    run_dir: RunArgument,
    mode: Annotated[Mode, typer.Option(help="What to show; grid: all of them.")] = Mode.color,
    mesh: Annotated[
        bool, typer.Option("--mesh", help="Show DIR/mesh/model.glb, not the scene itself.")
    ] = False,
    format_: Annotated[
        PictureFormat, typer.Option("--format", help="A video, an animation, or frames.")
    ] = PictureFormat.mp4,
    background: Annotated[
        str | None,
        typer.Option(
            metavar="COLOR",
            help="white, black, transparent or #rrggbb. [default: as configured]",
        ),
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, max=10000, help="Frames. [default: as configured]")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=16, max=4096, help="Pixels a side. [default: as configured]"),
    ] = None,
    quiet: QuietOption = False,
    json_: JsonOption = False,
) -> None:
    """Write a turntable of a run to DIR/render-MODE.FORMAT."""
    console = Console(quiet=quiet, json=json_)
    run = open_run(run_dir)
    settings = run.read_config()
    from dreamfusion.turntable import parse_background

    behind = parse_background(background or _hex(settings.background.color))
    if mesh:
        from dreamfusion.meshfile import put_back, read_glb
        from dreamfusion.session import draw_mesh

        model = run.mesh / "model.glb"
        if not model.exists():
            raise UserError(f"there is no {model}; write it with: dreamfusion export {run.path}")
        shape, provenance = read_glb(model)
        draw = draw_mesh(put_back(shape, provenance) if provenance else shape)
    else:
        from dreamfusion.session import draw_scene

        here, state = _load(run, settings)
        draw = draw_scene(state, here)
    name = f"render-{mode.value}" + ("-mesh" if mesh else "")
    files = _write_turntable(
        console,
        run.path / f"{name}.{format_.value}",
        settings,
        draw,
        modes=[m.value for m in Mode if mode in (m, Mode.grid) and m != Mode.grid],
        count=frames or settings.output.video_frames,
        size=size or settings.output.video_size,
        background=behind,
    )
    console.say(f"pictures  {files[0]}" + (f" to {files[-1].name}" if len(files) > 1 else ""))
    console.result({"files": files})


@app.command(epilog="Example: dreamfusion view runs/a-corgi --open")
def view(
    run_dir: RunArgument,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="0: any. [default: the first free one from 8080]"),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    open_: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in a browser here.")
    ] = False,
) -> None:
    """Show a run in the browser, while it trains or after; Ctrl-C ends it."""
    console = Console()
    run = open_run(run_dir)
    from dreamfusion.session import require_checkpoint
    from dreamfusion.viewer.serve import serve_run

    require_checkpoint(run)
    try:
        with _interruptible(), _page(console, run.path.name, "Ctrl-C ends it", host, port) as page:
            if open_:
                import webbrowser

                webbrowser.open(page.url)
            serve_run(page, run)
    except KeyboardInterrupt:
        console.say("closed")


@app.command(epilog="Example: dreamfusion report runs/a-corgi runs/a-red-mug --out both.html")
def report(
    run_dirs: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="The folders of one or more runs.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Page to write. [default: DIR/report.html; of several: report.html]",
        ),
    ] = None,
    quiet: QuietOption = False,
    json_: JsonOption = False,
) -> None:
    """Write one HTML page on a run, or on several side by side, that needs no network."""
    from dreamfusion.report import write_report

    console = Console(quiet=quiet, json=json_)
    page = write_report(run_dirs, out)
    console.say(f"report    {page}")
    console.result({"files": [page]})


@app.command(epilog='Example: dreamfusion sample "a red mug" --count 4')
def sample(
    prompt: PromptArgument,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Picture to write. [default: samples/PROMPT.png]"),
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=256, help="Pictures, around the object.")] = 8,
    guidance: Annotated[float, typer.Option(min=0, help="Classifier-free guidance.")] = 5.0,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Denoising steps.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    prior: PriorOption = None,
    device: DeviceOption = None,
    quiet: QuietOption = False,
    json_: JsonOption = False,
) -> None:
    """Let the prior draw the prompt, view by view: what it thinks before you spend time."""
    console = Console(quiet=quiet, json=json_)
    changes: dict[str, Any] = {"prompt": prompt, "prior": {"name": prior or "auto"}}
    settings = build_config(changes, {"device": device or "auto"})
    _check_prompt(settings)
    target = out or Path("samples") / f"{slug(prompt)}.png"

    import torch

    from dreamfusion.media import contact_sheet, write_png
    from dreamfusion.priors.sampling import sample_images

    model = _load_prior(settings, to_train=False)
    vocabulary = model.card.vocabulary
    azimuth = [360.0 * i / count for i in range(count)]
    texts = view_prompts(vocabulary, vocabulary.canonical(prompt), azimuth, [15.0] * count)
    pictures = sample_images(
        model,
        model.encode_text(texts),
        model.encode_text([""]),
        guidance=guidance,
        steps=steps,
        generator=torch.Generator().manual_seed(seed),
    )
    target = free_path(target, suffix=target.suffix)
    write_png(contact_sheet(pictures.movedim(1, -1), columns=min(count, 8)), target)
    for text in dict.fromkeys(texts):
        console.say(f"          {text}")
    console.say(f"pictures  {target}")
    console.result({"files": [target], "prompts": texts})


@app.command()
def vocabulary(prior: PriorOption = None) -> None:
    """Print the words that a prior knows."""
    from dreamfusion.priors import find_prior, read_card

    folder = find_prior(prior or "embedded")
    card = read_card(folder.path)
    words = card.vocabulary.words
    if words is None:
        print(f"{folder.name} takes any words")
        return
    meanings: dict[str, list[str]] = {}
    for word, meaning in words.items():
        meanings.setdefault(meaning, [])
        if word != meaning:
            meanings[meaning].append(word)
    fillers = sorted(meanings.pop("", []))
    kinds = dict(card.kinds) or {"words": tuple(sorted(meanings))}
    for kind, members in kinds.items():
        print(f"{kind}:")
        for member in members:
            others = meanings.get(member, [])
            print(f"  {member}" + (f" ({', '.join(others)})" if others else ""))
    if fillers:
        print(f"ignored: {', '.join(fillers)}")


@app.command()
def configs(
    name: Annotated[
        str | None, typer.Argument(metavar="[PRESET|FILE]", help="Print it, every setting named.")
    ] = None,
) -> None:
    """List the presets, or print one with all its settings."""
    if name is not None:
        print(to_yaml(build_config(read_settings(name))), end="")
        return
    width = max(map(len, preset_names()))
    for preset in preset_names():
        print(f"{preset:{width}}  {describe_preset(preset)}")
    print("\nto use one: dreamfusion train PROMPT --config PRESET")


@app.command()
def doctor(
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what this machine has, and whether a run can start on it."""
    from dreamfusion.doctor import can_run, examine

    findings = examine(Path("runs"))
    ready = can_run(findings)
    if json_:
        import dataclasses
        import json

        report = {"can_run": ready, "findings": [dataclasses.asdict(found) for found in findings]}
        print(json.dumps(report, indent=2))
    else:
        for found in findings:
            print(f"{found.mark:<8} {found.name:<14}  {found.text}")
        verdict = "a run can start here" if ready else "no run can start here: mend the problems"
        print(f"{verdict} (what is missing is optional)")
    if not ready:
        raise typer.Exit(USER_ERROR)


def _find_prior(config: Config) -> PriorFolder:
    """The prior's folder; nothing heavy is imported for one that lies here."""
    from dreamfusion.priors import find_prior

    name, device = config.prior.name, "cpu"
    if name != "embedded" and not Path(name).is_dir():
        # What `auto` means, and which files of a hub's model are fetched, depends on the device.
        from dreamfusion.session import choose_device

        device = choose_device(config.device)
    return find_prior(name, device=device, dtype=config.prior.dtype)


def _check_prompt(config: Config) -> str:
    """Refuse what the prior cannot read before anything heavy is imported; how it reads it."""
    from dreamfusion.priors import read_card

    card = read_card(_find_prior(config).path)
    if config.prior.negative_prompt:
        card.vocabulary.canonical(config.prior.negative_prompt)
    return card.vocabulary.canonical(config.prompt)


def _load_prior(config: Config, *, to_train: bool) -> DiffusionPrior:
    """to_train: there will be steps, whose texts are known and which must fit into the memory."""
    from dreamfusion.priors import load_prior, read_card
    from dreamfusion.session import choose_device
    from dreamfusion.trainer import texts_of

    return load_prior(
        config.prior.name,
        device=choose_device(config.device),
        dtype=config.prior.dtype,
        prompts=texts_of(read_card(_find_prior(config).path), config) if to_train else None,
        views=config.camera.views if to_train else None,
        vae_checkpointing=config.prior.vae_checkpointing,
        vae_slicing=config.prior.vae_slicing,
        offload=config.prior.offload,
        compile=config.prior.compile,
    )


def _load(run: RunFolder, config: Config) -> tuple[Config, TrainState]:
    """A run's newest scene, and its settings, on whatever device is here."""
    from dreamfusion.session import choose_device, load_state, runnable_here

    config = runnable_here(config)
    return config, load_state(run, config, choose_device("auto"))


@contextmanager
def _page(
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


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C and a polite kill raise KeyboardInterrupt, even where a shell had them ignored."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _optimise(
    console: Console,
    config: Config,
    where: Path | RunFolder,
    *,
    source: str | None = None,
    view: bool = False,
) -> None:
    """Train from the start in a new folder at `where`, or go on with the run that is there.

    source: the preset or file that the settings came from. view: with a page in the browser.
    """
    started = time.monotonic()
    if config.logging.tensorboard:
        from dreamfusion.eventlog import require_tensorboard

        require_tensorboard()
    console.say(f"prompt    {config.prompt}, read as: {_check_prompt(config)}")
    if source is not None:
        console.say(f"settings  {source}, --set and options over it")

    from dreamfusion.memory import explain_out_of_memory
    from dreamfusion.parallel import any_process, from_first, is_first, process_group, share
    from dreamfusion.session import choose_device, optimise
    from dreamfusion.trainer import estimate_seconds, resolve

    device = choose_device(config.device)
    with (
        _stoppable() as stopping,
        explain_out_of_memory(),
        process_group(device),
        _page(console, config.prompt) if view and is_first() else nullcontext() as page,
    ):
        share(config.camera.views)
        prior = _load_prior(config, to_train=True)
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
            raise typer.Exit(INTERRUPTED)
        report = _finish(console, run, config, state) if is_first() else {}
    seconds = time.monotonic() - started
    console.say(f"{duration(seconds)} in all")
    console.result(report | {"seconds": round(seconds, 1)})


def _state_of(run: RunFolder, config: Config, device: str) -> TrainState:
    """The state to go on from. A run that was killed before its first checkpoint begins again, from
    the same seed."""
    from dreamfusion.checkpoint import checkpoints
    from dreamfusion.session import load_state
    from dreamfusion.trainer import new_state

    begun = bool(checkpoints(run.checkpoints))
    state = load_state(run, config, device) if begun else new_state(config, device)
    if config.steps < state.step:
        raise UserError(f"{run.path} is at step {state.step}, beyond {config.steps}")
    return state


def _finish(console: Console, run: RunFolder, config: Config, state: TrainState) -> dict[str, Any]:
    """Make and name the video and the mesh of a trained run; the report of them."""
    from dreamfusion.session import draw_scene, write_model
    from dreamfusion.turntable import parse_background

    output = config.output
    _write_turntable(
        console,
        run.video,
        config,
        draw_scene(state, config),
        modes=["color"],
        count=output.video_frames,
        size=output.video_size,
        background=parse_background(_hex(config.background.color)),
    )
    written = write_model(run.mesh / "model.glb", state, config)
    _print_mesh(console, written)
    console.say(f"video     {run.video}")
    console.say(f"previews  {run.previews}")
    console.say(f"settings  {run.config}")
    console.say(f"metrics   {run.metrics}")
    console.say(f"to show   dreamfusion report {run.path}")
    console.say(f"to look   dreamfusion view {run.path}")
    console.say(f"to go on  dreamfusion resume {run.path} --steps {config.steps * 2}")
    report = {"run": run.path, "step": state.step, "finished": True, "video": run.video}
    return report | _mesh_report(written)


def _write_turntable(
    console: Console,
    path: Path,
    config: Config,
    draw: Draw,
    *,
    modes: list[Any],
    count: int,
    size: int,
    background: Tensor | None,
) -> list[Path]:
    from dreamfusion.session import show_cameras
    from dreamfusion.turntable import turn, write_turn

    pictures = turn(draw, show_cameras(count, config), size=size, modes=modes)
    pictures = console.track(pictures, count, "pictures")
    return write_turn(pictures, path, count=count, background=background)


def _print_mesh(console: Console, written: Export) -> None:
    """Name the files of a mesh, and say what it is worth."""
    shape, looks = written.topology, written.agreement
    closed = f"watertight, genus {shape.genus}" if shape.watertight else "not watertight"
    pieces = "1 piece" if shape.components == 1 else f"{shape.components} pieces"
    size = " x ".join(f"{side:.2f}" for side in shape.size)
    for i, file in enumerate(written.files):
        console.say(f"{'' if i else 'mesh':<10}{file}")
    console.say(f"          {shape.vertices:,} vertices, {shape.faces:,} faces, {pieces}, {closed}")
    console.say(f"          size {size}, volume {shape.volume:.3f}")
    console.say(
        f"          looks like the scene: PSNR {looks.psnr_db:.1f} dB, silhouettes' IoU "
        f"{looks.silhouette_iou:.3f}"
    )
    if not looks.good:
        console.say(
            "          that is far from the scene: train for more steps, or export with a higher "
            "--resolution, more --faces or another --threshold"
        )


def _mesh_report(written: Export) -> dict[str, Any]:
    """What `_print_mesh` says, for scripts."""
    from dataclasses import asdict

    checks = asdict(written.topology) | asdict(written.agreement)
    return {"mesh": written.files, "checks": checks}


def _hex(color: Sequence[float]) -> str:
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in color)


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

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print_machine(console: Console, config: Config, prior: DiffusionPrior) -> None:
    import torch

    from dreamfusion.accelerators import chosen_backends

    kind = "latents" if prior.vae is not None else "pixels"
    threads = f", {torch.get_num_threads()} threads" if config.device == "cpu" else ""
    console.say(f"prior     {prior.name} ({kind}, {prior.image_size} x {prior.image_size})")
    console.say(f"device    {config.device}{threads}, {config.prior.dtype}")
    backends = chosen_backends(config, config.device)
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
