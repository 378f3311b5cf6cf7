"""The command line: parses, prints, exits. Heavy libraries are imported where a command needs them,
so that help and errors of usage come at once."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dreamfusion import __version__
from dreamfusion.cli.conduct import (
    check_prompt,
    conduct,
    handling_stops,
    load_prior_for,
    open_page,
    prior_folder,
)
from dreamfusion.cli.console import Console
from dreamfusion.cli.results import mesh_report, print_mesh, write_turntable
from dreamfusion.config.presets import describe_preset, preset_for, preset_names, read_settings
from dreamfusion.config.schema import (
    Config,
    build_config,
    parse_assignments,
    to_mapping,
    to_yaml,
)
from dreamfusion.diffusion.view_prompts import slug, view_prompts
from dreamfusion.runs.folder import RunFolder, free_path, open_run
from dreamfusion.utils.errors import UserError

if TYPE_CHECKING:
    from dreamfusion.training.step import TrainState

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
        folder = prior_folder(build_config(*changes))
        config = preset_for(folder.pipeline, has_card=folder.has_card)
    settings = build_config(read_settings(config), *changes)
    where = out or Path("runs") / slug(prompt)
    if not conduct(console, settings, where, source=config, view=view):
        raise typer.Exit(INTERRUPTED)


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
    if not conduct(console, build_config(to_mapping(settings), changes), run, view=view):
        raise typer.Exit(INTERRUPTED)


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
    from dreamfusion.runs.session import write_model

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
    print_mesh(console, written)
    console.result(mesh_report(written))


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
    import torch

    from dreamfusion.graphics.turntable import parse_background

    behind: torch.Tensor | None = torch.tensor(settings.background.color)
    if background is not None:
        behind = parse_background(background)
    if mesh:
        from dreamfusion.mesh.formats import put_back, read_glb
        from dreamfusion.runs.session import draw_mesh

        model = run.mesh / "model.glb"
        if not model.exists():
            raise UserError(f"there is no {model}; write it with: dreamfusion export {run.path}")
        shape, provenance = read_glb(model)
        draw = draw_mesh(put_back(shape, provenance) if provenance else shape)
    else:
        from dreamfusion.runs.session import draw_scene

        here, state = _load(run, settings)
        draw = draw_scene(state, here)
    name = f"render-{mode.value}" + ("-mesh" if mesh else "")
    files = write_turntable(
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
    from dreamfusion.runs.session import require_checkpoint
    from dreamfusion.viewer.serve import serve_run

    require_checkpoint(run)
    try:
        with (
            handling_stops(signal.default_int_handler),
            open_page(console, run.path.name, "Ctrl-C ends it", host, port) as page,
        ):
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
    check_prompt(settings)
    target = out or Path("samples") / f"{slug(prompt)}.png"

    import torch

    from dreamfusion.diffusion.sampler import sample_images
    from dreamfusion.graphics.media import contact_sheet, write_png

    model = load_prior_for(settings, to_train=False)
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
    from dreamfusion.diffusion.priors import find_prior, read_card

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
    from dreamfusion.cli.doctor import can_run, examine

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


def _load(run: RunFolder, config: Config) -> tuple[Config, TrainState]:
    """A run's newest scene, and its settings, on whatever device is here."""
    from dreamfusion.runs.session import choose_device, load_state, runnable_here

    config = runnable_here(config)
    return config, load_state(run, config, choose_device("auto"))
