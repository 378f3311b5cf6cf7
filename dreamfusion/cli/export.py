"""The commands `export` and `render`: the mesh of a run, and images of it."""

from typing import Annotated, Any, get_args

import typer

from dreamfusion.cli import options
from dreamfusion.cli.console import Console
from dreamfusion.runs.folder import find_run
from dreamfusion.utils.commands import command
from dreamfusion.utils.errors import UserError


def export(
    run_dir: options.RunArgument,
    format_: Annotated[options.MeshFormat, typer.Option("--format", help="File format.")] = "glb",
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
    quiet: options.QuietOption = False,
    json_: options.JsonOption = False,
) -> None:
    """Write the mesh of a run to DIR/mesh/model.FORMAT, and print how close it is to the scene."""
    console = Console(quiet=quiet, json=json_)
    run = find_run(run_dir)
    settings = run.read_config()
    from dreamfusion.cli.results import mesh_report, print_mesh
    from dreamfusion.runs.checkpoint import load_scene
    from dreamfusion.runs.export import ExportOptions, write_model

    written = write_model(
        run.mesh / f"model.{format_}",
        load_scene(run, settings),
        settings,
        ExportOptions(resolution, faces, texture, threshold, origin),
        say=lambda stage: console.say(f"          {stage}"),
    )
    print_mesh(console, written)
    console.result(mesh_report(written))


def render(
    run_dir: options.RunArgument,
    mode: Annotated[options.Mode, typer.Option(help="What to render; grid: all modes.")] = "color",
    mesh: Annotated[
        bool, typer.Option("--mesh", help="Render DIR/mesh/model.glb instead of the scene.")
    ] = False,
    format_: Annotated[
        options.ImageFormat, typer.Option("--format", help="A video, an animation, or frames.")
    ] = "mp4",
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
        int | None, typer.Option(min=16, max=4096, help="Pixels per side. [default: as configured]")
    ] = None,
    quiet: options.QuietOption = False,
    json_: options.JsonOption = False,
) -> None:
    """Write a turntable of a run to DIR/render-MODE.FORMAT."""
    console = Console(quiet=quiet, json=json_)
    run = find_run(run_dir)
    settings = run.read_config()
    import torch

    from dreamfusion.graphics.cameras import show_cameras
    from dreamfusion.graphics.turntable import parse_background, turntable_frames, write_turntable
    from dreamfusion.runs.checkpoint import load_scene
    from dreamfusion.runs.preview import draw_mesh, draw_scene

    color = settings.background.color
    behind = torch.tensor(color) if background is None else parse_background(background)
    if mesh:
        from dreamfusion.mesh.formats import put_back, read_glb

        model = run.mesh / "model.glb"
        if not model.exists():
            raise UserError(f"{model} does not exist; write it with: {command('export', run.path)}")
        shape, provenance = read_glb(model)
        draw = draw_mesh(put_back(shape, provenance) if provenance else shape)
    else:
        draw = draw_scene(load_scene(run, settings).scene)
    count = frames or settings.output.video_frames
    modes: Any = get_args(options.Mode)[:-1] if mode == "grid" else [mode]
    images = turntable_frames(
        draw,
        show_cameras(count, settings.camera),
        size=size or settings.output.video_size,
        modes=modes,
    )
    name = f"render-{mode}" + ("-mesh" if mesh else "")
    files = write_turntable(
        console.track(images, count, "images"),
        run.path / f"{name}.{format_}",
        count=count,
        background=behind,
    )
    console.say(f"images    {files[0]}" + (f" to {files[-1].name}" if len(files) > 1 else ""))
    console.result({"files": files})
