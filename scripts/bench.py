#!/usr/bin/env python
"""Time the parts of a step: the prior's forward pass, its autoencoder, rendering, whole SDS steps,
and the encoding by every backend that works on the device.

    python -m scripts.bench                        # the embedded prior
    python -m scripts.bench --random full          # Stable Diffusion 1.5's size, random weights
    python -m scripts.bench --random tiny          # the same classes, to try the script on a CPU

The scene is trained for `--warm-up` steps first, so that rays meet a real object. Settings are the
prior's preset. Prints Markdown tables; every figure is the median of `--repeats`.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # share the cores: before torch is loaded

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dreamfusion.config.layers import Layer, override
from dreamfusion.diffusion.priors import load_prior, resolve_prior
from dreamfusion.nerf.hashgrid import Backend, encode, encoding_backend
from dreamfusion.nerf.operations import chosen_backends
from dreamfusion.runs.plan import plan_run
from dreamfusion.training.state import TrainState
from dreamfusion.training.trainer import Trainer
from dreamfusion.training.views import sample_views
from dreamfusion.utils.backends import AcceleratorError, interpreted
from dreamfusion.utils.devices import choose_device


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


def encoding_rows(state: TrainState, repeats: int, device: str) -> Iterator[str]:
    """The rows of a table: what each backend encodes, forward and backward, in points a second."""
    grid = state.field.encoding
    generator = torch.Generator().manual_seed(0)
    points = (torch.rand(1 << 17, 3, generator=generator) * 2 - 1).to(device)
    kind, features = torch.device(device).type, grid.layout.n_features
    yield f"| encoding of {len(points)} points | million points/s |"
    yield "|---|---|"
    for backend in get_args(Backend):
        if backend == "auto" or (backend == "triton" and interpreted()):
            continue  # an interpreter's time says nothing
        try:
            encoding_backend(backend, kind, features)
        except AcceleratorError:
            continue  # not here

        def work(backend=backend) -> None:  # type: ignore[no-untyped-def]
            encode(points, grid.table, grid.layout, backend=backend).sum().backward()

        seconds = median_seconds(work, repeats, device)
        grid.table.grad = None
        yield f"| {backend} | {len(points) / seconds / 1e6:.2f} |"


def save_random_pipeline(folder: Path, *, full: bool) -> None:
    """A StableDiffusionPipeline of random weights, in half precision: timings do not care.

    full: with the numbers of Stable Diffusion 1.5 (860 million weights in the U-Net); else tiny.
    """
    width = 768 if full else 32
    # CLIP's vocabulary is not ours to ship; ours takes its place before as large an embedding.
    tokenizer = CLIPTokenizer.from_pretrained(resolve_prior("embedded").path / "tokenizer")
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=12 if full else 1,
            num_attention_heads=12 if full else 2,
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=64 if full else 16,  # 8 would end in one pixel, which has no norm by itself
        block_out_channels=(320, 640, 1280, 1280) if full else (32, 32, 32, 32),
        cross_attention_dim=width,
        attention_head_dim=8,  # heads, in spite of its name
    )
    vae = AutoencoderKL(
        sample_size=512 if full else 128,
        block_out_channels=(128, 256, 512, 512) if full else (32, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        force_upcast=False,  # which the original's file does not say, and diffusers would
    )
    scheduler = DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
    )
    StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=text_encoder.half(),
        tokenizer=tokenizer,
        unet=unet.half(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompt", default="a corgi")
    parser.add_argument("--prior", default="embedded")
    parser.add_argument("--random", choices=("full", "tiny"), help="in place of --prior")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--warm-up", type=int, default=60, help="training steps before timing")
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="dreamfusion-bench-") as scratch:
        if args.random is not None:
            save_random_pipeline(Path(scratch), full=args.random == "full")
        measure(args, args.prior if args.random is None else scratch)


def measure(args: argparse.Namespace, name: str) -> None:
    """Print the tables for the prior `name`, each row as soon as it is measured."""
    device = choose_device(args.device)
    plan = plan_run(
        [Layer("bench", {"prompt": args.prompt, "device": device, "prior": {"name": name}})]
    )
    assert plan.prior is not None
    prior = load_prior(plan.prior, plan.config.prior, device=device)
    # A run's last step, as long as that run is: every loss is on.
    trainer = Trainer(plan.config, prior)
    for _ in range(args.warm_up):
        trainer.step()

    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    n = plan.config.camera.views
    text = prior.encode_text([plan.reading]).expand(2 * n)
    blank = torch.zeros(1, 3, prior.image_size, prior.image_size, device=device)
    noisy = torch.randn(2 * n, *prior.encode_image(blank).shape[1:], device=device)
    timesteps = torch.full((2 * n,), 500, device=device)
    forward = median_seconds(lambda: prior.predict(noisy, timesteps, text), args.repeats, device)
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

            def draw(here=here, generator=generator) -> None:  # type: ignore[no-untyped-def]
                last, own = here.config.steps - 1, here.state.background
                views = sample_views(here.config, last, generator, own_background=own)
                here.render(views, generator).rgb.sum().backward()

            def step(here=here, generator=generator) -> None:  # type: ignore[no-untyped-def]
                here.loss(here.config.steps - 1, generator)[0].backward()

            for what, work in (("render, forward + backward", draw), ("SDS step", step)):
                seconds = median_seconds(work, args.repeats, device)
                here.state.optimizer.zero_grad(set_to_none=True)
                _row(f"{what}, {where}", seconds, forward)
            rest = 1.0 - (forward + autoencoder) / seconds
            print(f"| of that step not the prior, {size}², {kind} | {rest:.0%} | |", flush=True)
    unit = 1 << 30 if sys.platform == "darwin" else 1 << 20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    if device.startswith("cuda"):
        peak = torch.cuda.max_memory_allocated() / (1 << 30)
    where = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor()
    print()
    for line in encoding_rows(trainer.state, args.repeats, device):
        print(line, flush=True)
    print(f"\n{chosen_backends(plan.config.field, plan.config.render, device)}", end="")
    print(
        f"\n{device}, {where or platform.machine()}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}, prior {prior.name} in {prior.dtype}; peak memory {peak:.2f} GiB"
    )


def _row(what: str, seconds: float, forward: float) -> None:
    print(f"| {what} | {seconds:.3f} | {seconds / forward:.2f} |", flush=True)


if __name__ == "__main__":
    main()
