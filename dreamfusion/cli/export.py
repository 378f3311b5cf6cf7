"""The commands `export` and `render`: the mesh of a run, and images of it."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from dreamfusion.cli import options
from dreamfusion.cli.console import Console
from dreamfusion.runs.folder import RunFolder, find_run
from dreamfusion.utils.errors import UserError, command

SCENE_PIXELS = 256  # by default; larger images of a scene are slow and no sharper


def export(
    run_dir: options.RunArgument,
    out: options.FileOption = None,
    format_: Annotated[
        options.MeshFormat | None,
        typer.Option("--format", help="File format. [default: glb; for a print: stl]"),
    ] = None,
    resolution: Annotated[
        int | None,
        typer.Option(min=8, max=1024, help="Cells across the box. [default: as configured]"),
    ] = None,
    faces: Annotated[
        int | None, typer.Option(min=4, help="At most this many. [default: as configured]")
    ] = None,
    texture: Annotated[
        int | None,
        typer.Option(min=0, max=16384, help="Texels per side; 0: none. [default: as configured]"),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Density of the surface. [default: automatic]")
    ] = None,
    origin: Annotated[
        options.OriginChoice, typer.Option(help="What lies at the origin.")
    ] = "center",
    for_: Annotated[
        Literal["print", "scene"] | None,
        typer.Option(
            "--for",
            help="print: millimetres, +Z up, a flat base; as stl or 3mf. scene: splats, as ply, "
            "glb, spz, splat or ksplat, or a painted mesh, as glb.",
        ),
    ] = None,
    size_mm: Annotated[
        float | None,
        typer.Option(
            min=1, max=2000, metavar="MM", help="Longest side of the print. [default: 80]"
        ),
    ] = None,
    verbose: options.VerboseOption = False,
    quiet: options.QuietOption = False,
    json_: options.JsonOption = False,
) -> None:
    """Write the mesh of a run to --out or DIR/mesh/model.FORMAT."""
    console = Console(quiet=quiet, json=json_, verbose=verbose)
    run = find_run(run_dir)
    if for_ == "scene":
        return _export_scene(console, run, out)
    if for_ is None and size_mm is not None:
        raise UserError("--size-mm is the size of a print: add --for print")
    if for_ is not None and (faces, texture, origin) != (None, None, "center"):
        raise UserError("a print has no --faces, --texture or --origin: omit them")
    default = run.mesh / ("model.glb" if for_ is None else "print.stl")
    target = options.target_of(out, format_, default)
    if for_ is None and target.suffix.lower() == ".3mf":
        raise UserError("3mf is a format for prints: add --for print")
    if target.suffix.lower().removeprefix(".") not in get_args(options.MeshFormat):
        formats = ", ".join(get_args(options.MeshFormat))
        raise UserError(f"cannot write {target}: the formats are {formats}")
    settings = run.read_config()
    from dreamfusion.cli.narrator import mesh_report, print_mesh, print_print
    from dreamfusion.runs.checkpoint import load_scene
    from dreamfusion.runs.export import ExportOptions, write_model, write_print

    chosen = ExportOptions(resolution, faces, texture, threshold, origin)
    saved = load_scene(run, settings)

    def say(stage: str) -> None:
        console.say(f"          {stage}")

    target.parent.mkdir(parents=True, exist_ok=True)
    if for_ is not None:
        printed = write_print(target, saved, settings, size_mm or 80.0, chosen, say=say)
        print_print(console, printed)
        console.result(asdict(printed))
        return
    written = write_model(target, saved, settings, chosen, say=say)
    print_mesh(console, written)
    console.result(mesh_report(written))


def _export_scene(console: Console, run: RunFolder, out: Path | None) -> None:
    """Write the scene of a run itself. Raises UserError for another scene or format."""
    from dreamfusion.runs.checkpoint import load_scene

    writers = load_scene(run, run.read_config()).scene.writers()
    if not writers:
        raise UserError(f"the scene of {run.path} has no file of its own: omit --for")
    by_suffix = {Path(name).suffix: write for name, write in writers.items()}
    target = options.target_of(out, None, run.mesh / next(iter(writers)))
    if target.suffix.lower() not in by_suffix:
        formats = ", ".join(suffix.removeprefix(".") for suffix in by_suffix)
        raise UserError(f"cannot write {target}: the formats of this scene are {formats}")
    by_suffix[target.suffix.lower()](target)
    console.say(f"scene     {target}")
    console.result({"scene": target})


def render(
    run_dir: options.RunArgument,
    out: options.FileOption = None,
    mode: Annotated[options.Mode, typer.Option(help="What to render; grid: all modes.")] = "color",
    mesh: Annotated[
        bool, typer.Option("--mesh", help="Render DIR/mesh/model.glb instead of the scene.")
    ] = False,
    format_: Annotated[
        options.ImageFormat | None,
        typer.Option("--format", help="A video, an animation, or frames. [default: mp4]"),
    ] = None,
    background: Annotated[
        str | None,
        typer.Option(
            metavar="COLOR", help="white, black, transparent or #rrggbb. [default: as configured]"
        ),
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, max=10000, help="Frames. [default: as configured]")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=16,
            max=4096,
            help="Pixels per side. [default: as configured, a scene at most 256]",
        ),
    ] = None,
    elevation: Annotated[
        float, typer.Option(min=-89, max=89, metavar="DEG", help="Of the camera, degrees.")
    ] = 15.0,
    quiet: options.QuietOption = False,
    json_: options.JsonOption = False,
) -> None:
    """Write a turntable of a run to --out or DIR/render-MODE.FORMAT."""
    console = Console(quiet=quiet, json=json_)
    run = find_run(run_dir)
    name = f"render-{mode}" + ("-mesh" if mesh else "")
    target = options.target_of(out, format_, run.path / f"{name}.mp4")
    settings = run.read_config()
    import torch

    from dreamfusion.graphics.cameras import show_cameras
    from dreamfusion.graphics.media import parse_background, turntable_frames, write_turntable
    from dreamfusion.mesh.renderer import draw_mesh
    from dreamfusion.runs.checkpoint import draw_scene, load_scene

    color = settings.background.color
    behind = torch.tensor(color) if background is None else parse_background(background)
    if mesh:
        from dreamfusion.mesh.formats import moved, read_glb

        model = run.mesh / "model.glb"
        if not model.exists():
            raise UserError(f"{model} does not exist; write it with: {command('export', run.path)}")
        shape, provenance = read_glb(model)
        draw = draw_mesh(moved(shape, provenance.moved_from) if provenance else shape)
    else:
        draw = draw_scene(load_scene(run, settings).scene)
    count, pixels = frames or settings.output.video_frames, settings.output.video_size
    modes: Any = get_args(options.Mode)[:-1] if mode == "grid" else [mode]
    cameras = show_cameras(count, settings.camera, elevation_deg=elevation)
    size = size or (pixels if mesh else min(pixels, SCENE_PIXELS))
    images = turntable_frames(draw, cameras, size=size, modes=modes)
    target.parent.mkdir(parents=True, exist_ok=True)
    shown = console.track(images, count, "images")
    files = write_turntable(shown, target, count=count, background=behind)
    console.say(f"images    {files[0]}" + (f" to {files[-1].name}" if len(files) > 1 else ""))
    console.result({"files": files})
