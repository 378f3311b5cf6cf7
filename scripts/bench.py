#!/usr/bin/env python
"""Measure the time of the parts of a step (the prior's forward pass, its autoencoder, rendering,
whole SDS steps), of the work after the last step, of the hash grid with each usable backend, and on
a CPU, which has kernels for them, of drawing Gaussian splats and triangles.

    python -m scripts.bench                        # the embedded prior
    python -m scripts.random_pipelines sd FOLDER   # Stable Diffusion 1.5's size, random weights
    python -m scripts.bench --prior FOLDER -- camera.views=1 prior.compile=true

The scene is trained for `--warm-up` steps first, so that it contains an object. Settings are the
prior's preset. Prints Markdown tables; every value is the median of `--repeats`. With `--profile`,
also prints the slowest operators of a step.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import get_args

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # share the cores: before torch is loaded

import torch
from torch.profiler import ProfilerActivity, profile

from dreamfusion.config.layers import Layer, override, parse_assignments
from dreamfusion.diffusion.condition import Condition
from dreamfusion.graphics.cameras import Cameras, turntable_cameras
from dreamfusion.graphics.triangles import antialias, opposite_vertices, project, rasterize
from dreamfusion.priors import DiffusionPrior, load_prior
from dreamfusion.runs.checkpoint import SavedScene
from dreamfusion.runs.folder import RunFolder
from dreamfusion.runs.plan import plan_run
from dreamfusion.runs.train import Observer, finish
from dreamfusion.scenes.base import Views
from dreamfusion.scenes.gaussians.settings import GaussianSettings
from dreamfusion.scenes.nerf.hashgrid import Backend, encode, encoding_backend
from dreamfusion.scenes.nerf.scene import NerfScene
from dreamfusion.training.state import sample_views
from dreamfusion.training.trainer import Trainer
from dreamfusion.utils.backends import AcceleratorError, interpreted
from dreamfusion.utils.devices import choose_device
from dreamfusion.utils.duration import Stopwatch
from dreamfusion.utils.machine import peak_memory
from dreamfusion.utils.state import Progress


def median_seconds(work: Callable[[], object], repeats: int, device: str) -> float:
    """The median time of `work`, after two warm-up calls."""
    times = []
    for i in range(repeats + 2):
        started = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        if i >= 2:
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def encoding_rows(scene: NerfScene, count: int, repeats: int, device: str) -> Iterator[str]:
    """The rows of a table: points per second of each backend, forward and backward, for `count`
    points."""
    grid = scene.field.encoding
    generator = torch.Generator().manual_seed(0)
    points = (torch.rand(count, 3, generator=generator) * 2 - 1).to(device)
    kind, features = torch.device(device).type, grid.layout.n_features
    yield f"| encoding of {count} points | million points/s |"
    yield "|---|---|"
    for backend in get_args(Backend):
        if backend == "auto" or (backend == "triton" and interpreted()):
            continue  # the time of an interpreter is meaningless
        try:
            encoding_backend(backend, kind, features)
        except AcceleratorError:
            continue  # not usable

        def work(backend=backend) -> None:  # type: ignore[no-untyped-def]
            encode(points, grid.table, grid.layout, backend=backend).sum().backward()

        seconds = median_seconds(work, repeats, device)
        grid.table.grad = None
        yield f"| {backend} | {count / seconds / 1e6:.2f} |"


def splat_rows(repeats: int) -> Iterator[str]:
    """The rows of a table: milliseconds of forward and backward passes of 8 views of 64 pixels."""
    yield "| splats, 8 views of 64² | ms |"
    yield "|---|---|"
    cameras = turntable_cameras(8)
    for count in (2000, 3000, 5000, 20000):
        scene = GaussianSettings(count=count).build(
            device="cpu", generator=torch.Generator().manual_seed(0)
        )
        views = Views(cameras, 64, 64, background=torch.ones(3))

        def work(scene=scene, views=views) -> None:  # type: ignore[no-untyped-def]
            scene.render(views).rgb.square().sum().backward()

        yield f"| {count} | {1000 * median_seconds(work, repeats, 'cpu'):.1f} |"


def triangle_rows(repeats: int) -> Iterator[str]:
    """The rows of a table: milliseconds to draw spheres with gradients for vertices and colours,
    with antialiased silhouettes; 4 views of 64 pixels with 2 x 2 samples, and one of 512 pixels."""
    yield "| faces | 4 views of 64², 2 × 2 samples, ms | 1 view of 512², ms |"
    yield "|---|---|---|"
    for rings, around in ((72, 72), (224, 224)):
        points, faces = _sphere(rings, around)
        points.requires_grad_()
        colors = torch.rand(len(points), 3, requires_grad=True)
        opposite = opposite_vertices(faces)
        cells = []
        for views, size in ((4, 128), (1, 512)):
            cameras = turntable_cameras(views)
            draw = partial(_draw_triangles, points, faces, colors, opposite, cameras, size)
            cells.append(f"{1000 * median_seconds(draw, repeats, 'cpu'):.1f}")
        yield f"| {len(faces):,} | {' | '.join(cells)} |"


def _draw_triangles(
    points: torch.Tensor,
    faces: torch.Tensor,
    colors: torch.Tensor,
    opposite: torch.Tensor,
    cameras: Cameras,
    size: int,
) -> None:
    found = rasterize(project(points, cameras, size, size), faces, size, size)
    images = found.images(found.interpolate(colors))
    antialias(images, found, opposite).square().sum().backward()


def _sphere(rings: int, around: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A sphere of radius 0.7 with 2 (rings - 1) around faces, and its vertices."""
    polar = torch.linspace(0, torch.pi, rings + 1)[:, None].expand(-1, around)
    turn = (torch.arange(around) * (2 * torch.pi / around))[None].expand(rings + 1, -1)
    points = [polar.sin() * turn.cos(), polar.cos(), polar.sin() * turn.sin()]
    at = torch.arange((rings + 1) * around).reshape(rings + 1, around)
    a, b = at[:-1], at[1:]
    c, d = a.roll(-1, dims=1), b.roll(-1, dims=1)
    faces = [torch.stack([a, c, b], -1)[1:], torch.stack([c, d, b], -1)[:-1]]
    return 0.7 * torch.stack(points, -1).reshape(-1, 3), torch.cat(faces).reshape(-1, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompt", default="a corgi")
    parser.add_argument("--prior", default="embedded")
    parser.add_argument("--points", type=int, default=1 << 17, help="to encode at once")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--warm-up", type=int, default=60, help="training steps before timing")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--profile", action="store_true", help="the operators of one step")
    parser.add_argument("settings", nargs="*", help="after --, KEY=VALUE as for --set")
    args = parser.parse_args()

    measure(args)


def measure(args: argparse.Namespace) -> None:
    """Print the tables, each row as soon as it is available."""
    device = choose_device(args.device)
    asked = {"prompt": args.prompt, "device": device, "prior": {"name": args.prior}}
    plan = plan_run([Layer("bench", asked), Layer("--set", parse_assignments(args.settings))])
    assert plan.prior is not None
    prior = load_prior(plan.prior, plan.config.prior, device=device, views=plan.config.camera.views)
    assert isinstance(prior, DiffusionPrior)
    # The last step of a run, in which all losses are active.
    trainer = Trainer(plan.config, prior)
    for _ in range(args.warm_up):
        trainer.step()

    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    n = plan.config.camera.views
    text = prior.encode_text([plan.canonical_prompt]).expand(2 * n)
    condition = Condition(text)
    noisy = torch.randn(2 * n, *prior.shape, device=device)
    timesteps = torch.full((2 * n,), 500, device=device)

    @torch.no_grad()
    def predict() -> None:
        prior.predict(noisy, timesteps, condition)

    forward = median_seconds(predict, args.repeats, device)
    print("| what | seconds | ÷ prior |\n|---|---|---|")
    _row(f"prior, forward, {n} views with guidance ({2 * n} pictures)", forward, forward)
    autoencoder = 0.0
    if prior.vae is not None:
        pictures = torch.rand(n, 3, 64, 64, device=device, requires_grad=True)
        autoencoder = median_seconds(
            lambda: prior.encode_image(pictures).sum().backward(), args.repeats, device
        )
        what = f"autoencoder, {n} pictures at {prior.image_size}², forward + backward"
        _row(what, autoencoder, forward)
    for size in (32, 64):
        for lit in (0.0, 1.0):
            shading = {"lambertian": lit, "textureless": 0.0}
            settings = override(plan.config, {"render": {"resolution": size}, "shading": shading})
            here = Trainer(settings, prior, trainer.state)
            kind = "lambertian" if lit else "albedo"
            where = f"{n} views at {size}², {kind}"
            generator = torch.Generator().manual_seed(0)

            last = Progress(settings.steps - 1, settings.steps)

            def draw(here=here, generator=generator, last=last) -> None:  # type: ignore[no-untyped-def]
                views = sample_views(here.config, last, generator)
                here.state.scene.render(views, generator).rgb.sum().backward()

            def step(here=here, generator=generator, last=last) -> None:  # type: ignore[no-untyped-def]
                _, _, terms, _ = here.loss(last, generator)
                torch.stack(list(terms.values())).sum().backward()

            for what, work in (("render, forward + backward", draw), ("SDS step", step)):
                seconds = median_seconds(work, args.repeats, device)
                here.state.scene.optimizer.zero_grad(set_to_none=True)
                _row(f"{what}, {where}", seconds, forward)
            rest = 1.0 - (forward + autoencoder) / seconds
            print(f"| of that step not the prior, {size}², {kind} | {rest:.0%} | |", flush=True)
    _stages(trainer)
    if args.profile:
        _profile(trainer, device)
    peak = (peak_memory() or 0) / (1 << 30)
    if device.startswith("cuda"):
        peak = torch.cuda.max_memory_allocated() / (1 << 30)
    where = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor()
    print()
    scene = trainer.state.scene
    if isinstance(scene, NerfScene):
        for line in encoding_rows(scene, args.points, args.repeats, device):
            print(line, flush=True)
        print()
    for rows in (splat_rows, triangle_rows) if device == "cpu" else ():
        for line in rows(args.repeats):
            print(line, flush=True)
        print()
    for line in scene.about():
        print(line)
    print(
        f"{device}, {where or platform.machine()}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}, prior {prior.name} in {prior.dtype}; "
        f"peak memory {peak:.2f} GiB"
    )
    if prior.expected_memory is not None:
        print(f"the estimate was {prior.expected_memory / (1 << 30):.2f} GiB")


def _stages(trainer: Trainer) -> None:
    """Measure the work after the last step of a run, once."""
    watch = Stopwatch("")
    with tempfile.TemporaryDirectory(prefix="dreamfusion-bench-") as folder:
        saved = SavedScene(trainer.state.step, trainer.state.scene.averaged)
        finish(RunFolder(Path(folder)), trainer.config, saved, Observer(), watch)
    print("\n| after the last step | seconds |\n|---|---|")
    for stage, seconds in list(watch.seconds().items())[1:]:
        print(f"| {stage} | {seconds:.2f} |", flush=True)


def _profile(trainer: Trainer, device: str) -> None:
    """Print the operators of one training step, slowest first."""
    activities = [ProfilerActivity.CPU]
    activities += [ProfilerActivity.CUDA] if device.startswith("cuda") else []
    with profile(activities=activities) as found:
        trainer.step()
    key = "self_cuda_time_total" if device.startswith("cuda") else "self_cpu_time_total"
    print(f"\n```\n{found.key_averages().table(sort_by=key, row_limit=25)}```")


def _row(what: str, seconds: float, forward: float) -> None:
    print(f"| {what} | {seconds:.3f} | {seconds / forward:.2f} |", flush=True)


if __name__ == "__main__":
    main()
