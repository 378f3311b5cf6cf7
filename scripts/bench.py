#!/usr/bin/env python
"""Time the parts of a step: the prior's forward pass, rendering, whole SDS steps, and the encoding
by every backend that works on the device.

    python -m scripts.bench --prompt "a corgi" --warm-up 60

The scene is trained for `--warm-up` steps first, so that rays meet a real object. Prints a
Markdown table; every figure is the median of `--repeats`.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import get_args

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # share the cores: before torch is loaded

import torch

from dreamfusion.accelerators import AcceleratorError, chosen_backends, encoding_backend
from dreamfusion.config import build_config
from dreamfusion.hashgrid import Backend, encode
from dreamfusion.priors import load_prior
from dreamfusion.session import choose_device
from dreamfusion.trainer import (
    TrainState,
    compute_loss,
    new_state,
    render_views,
    resolve,
    sample_views,
    train_step,
)


def median_seconds(work: Callable[[], object], repeats: int, device: str) -> float:
    """The median time of `work`, after two tries that do not count."""
    times = []
    for i in range(repeats + 2):
        started = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        if i >= 2:
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def encoding_rows(state: TrainState, repeats: int, device: str) -> list[str]:
    """A table: what each backend encodes, forward and backward, in points a second."""
    grid = state.field.encoding
    generator = torch.Generator().manual_seed(0)
    points = (torch.rand(1 << 17, 3, generator=generator) * 2 - 1).to(device)
    kind, features = torch.device(device).type, grid.layout.n_features
    lines = [f"| encoding of {len(points)} points | million points/s |", "|---|---|"]
    for backend in get_args(Backend):
        if backend == "auto":
            continue
        try:
            encoding_backend(backend, kind, features)
        except AcceleratorError:
            continue  # not here

        def work(backend=backend) -> None:  # type: ignore[no-untyped-def]
            encode(points, grid.table, grid.layout, backend=backend).sum().backward()

        seconds = median_seconds(work, repeats, device)
        grid.table.grad = None
        lines.append(f"| {backend} | {len(points) / seconds / 1e6:.2f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompt", default="a corgi")
    parser.add_argument("--prior", default="embedded")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--warm-up", type=int, default=60, help="training steps before timing")
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()

    device = choose_device(args.device)
    prior = load_prior(args.prior, device=device)
    config = build_config({"prompt": args.prompt, "steps": max(args.warm_up, 1)})
    config = resolve(config, prior, device)
    state = new_state(config, device)
    for _ in range(args.warm_up):
        train_step(state, prior, config)

    n = config.camera.views
    text = prior.encode_text([prior.card.vocabulary.canonical(args.prompt)]).expand(2 * n)
    shape = prior.encode_image(torch.zeros(1, 3, prior.image_size, prior.image_size)).shape[1:]
    noisy = torch.randn(2 * n, *shape, device=device)
    timesteps = torch.full((2 * n,), 500, device=device)
    forward = median_seconds(lambda: prior.predict(noisy, timesteps, text), args.repeats, device)

    lines = [
        "| what | seconds | ÷ prior |",
        "|---|---|---|",
        f"| prior, forward, {n} views with guidance ({2 * n} pictures) | {forward:.3f} | 1.00 |",
    ]
    for size in (32, prior.image_size if prior.vae is None else 64):
        for lit in (0.0, 1.0):
            kind = "lambertian" if lit else "albedo"
            settings = build_config(
                {
                    "prompt": args.prompt,
                    "render": {"resolution": size},
                    "shading": {"lambertian": lit, "textureless": 0.0},
                }
            )
            settings = resolve(settings, prior, device)
            generator = torch.Generator().manual_seed(0)

            def draw(settings=settings, generator=generator) -> None:  # type: ignore[no-untyped-def]
                views = sample_views(state, settings, 0, generator)
                render_views(state, settings, views, generator).rgb.sum().backward()

            def step(settings=settings, generator=generator) -> None:  # type: ignore[no-untyped-def]
                compute_loss(state, prior, settings, 0, generator)[0].backward()

            for name, work in (("render, forward + backward", draw), ("SDS step", step)):
                seconds = median_seconds(work, args.repeats, device)
                state.optimizer.zero_grad(set_to_none=True)
                lines.append(
                    f"| {name}, {n} views at {size}², {kind} | {seconds:.3f} | "
                    f"{seconds / forward:.2f} |"
                )
    unit = 1 << 30 if sys.platform == "darwin" else 1 << 20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    where = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor()
    print("\n".join([*lines, "", *encoding_rows(state, args.repeats, device)]))
    print(f"\n{chosen_backends(config, device)}", end="")
    print(
        f"\n{device}, {where or platform.machine()}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}, prior {prior.name} in {prior.dtype}; peak memory {peak:.2f} GiB"
    )


if __name__ == "__main__":
    main()
