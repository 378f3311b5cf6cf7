"""The training loop: models, loss, steps and saved state."""

from __future__ import annotations

import copy
import shutil
import sys
import time
from argparse import Namespace
from functools import cache
from pathlib import Path

import torch
import torch.distributed as dist
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTokenizer

from dreamfusion.utils.launch import launch
from scripts.embedded_prior.card import sample_sheet, save_pipeline, write_card
from scripts.embedded_prior.data import SIZE, ToyPictures, prefetch, render_geometry
from scripts.embedded_prior.descent import descend, learning_rate
from scripts.embedded_prior.model import (
    load_weights,
    make_models,
    make_optimizers,
    mixed_precision,
    noise_schedule,
)
from scripts.embedded_prior.words import WORD_BATCH, learn_words, make_tokenizer, tokens

LOOK_EVERY = 50  # steps
DECAY = 0.4  # share of a time limit over which the learning rate decreases


def train(args: Namespace) -> None:
    """Train with the options `args` (see `__main__`), from the state in the working folder if it
    exists, and save the result."""
    device = torch.device(args.device)
    group = launch()
    rank, world = (0, 1) if group is None else (group.rank, group.world_size)
    if world > 1:
        dist.init_process_group("gloo")
    toys = _pictures(args, rank, world)
    tokenizer = make_tokenizer()
    models = _models(args, tokenizer, toys, world)
    average = copy.deepcopy(models).requires_grad_(False)
    print(f"{sum(p.numel() for p in models.parameters()) / 1e6:.1f} M parameters", flush=True)
    optimizers = make_optimizers(models, args.learning_rate)
    state_file = args.work / "state.pt"
    first, spent, seen = 0, 0.0, 0
    if state_file.exists():
        state = torch.load(state_file, map_location=device, weights_only=True)
        models.load_state_dict(state["models"])
        average.load_state_dict(state["average"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first, spent, seen = state["step"], state["seconds"], state["pictures"]
        print(f"resumed at step {first}", flush=True)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        pictures, captions = toys(step)
        return pictures, tokens(tokenizer, captions)

    queue = prefetch(batch, first, args.steps)
    losses: list[Tensor] = []  # since the last log line: reading each one would wait for the GPU
    started, seen_before, done = time.time(), seen, first
    for step in range(first, args.steps):
        pictures, ids = queue.get()
        generator = torch.Generator(device)  # sampled on the device that uses it
        generator.manual_seed((args.seed * 1_000_003 + step) * world + rank)
        loss = denoising_loss(models, pictures, ids, args.noise_power, generator)
        rate = learning_rate(step, args.steps, 200, args.decay_steps, args.learning_rate)
        left = _time_left(args.began, args.seconds, world)
        rate *= min(1.0, left / DECAY)
        descend(loss, models, optimizers, rate=rate, world=world)
        keep = min(args.ema, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(models.parameters()), 1 - keep)
        losses.append(loss.detach())

        done = step + 1
        last = done == args.steps or left == 0
        seen += len(pictures) * world
        save = done % args.save_every == 0 or last
        if done % LOOK_EVERY == 0 or save:
            means = torch.stack(losses)
            losses.clear()
            if not means.isfinite().all():
                bad = done - len(means) + int((~means.isfinite()).nonzero()[0])
                sys.exit(f"step {bad}: the loss is {means[~means.isfinite()][0].item()}")
            mean = means.mean().item()
        if rank > 0:
            if last:
                break
            continue
        if done % LOOK_EVERY == 0:
            pace = (seen - seen_before) / (time.time() - started)
            print(
                f"step {done}/{args.steps}: loss {mean:.4f}, {seen} pictures, {pace:.1f} a second",
                flush=True,
            )
        if save:
            state = {
                "models": models.state_dict(),
                "average": average.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "step": done,
                "seconds": spent + time.time() - started,
                "pictures": seen,
            }
            torch.save(state, state_file.with_suffix(".tmp"))
            state_file.with_suffix(".tmp").replace(state_file)
        if done % args.sheet_every == 0 or last:
            sample_sheet(
                tokenizer,
                average["text_encoder"],
                average["unet"],
                _sheet(args, done),
                steps=args.sheet_steps,
                size=SIZE // 2 if done < (args.half_steps or 0) else SIZE,
            )
        if last:
            break
    if rank > 0:
        return
    save_pipeline(args.out, tokenizer, average["text_encoder"], average["unet"])
    shutil.copyfile(_sheet(args, done), args.out / "samples.png")
    write_card(
        args.out,
        thumbnails=0 if args.init else args.word_steps * WORD_BATCH * args.batch * world,
        pictures=seen,
        seconds=spent + time.time() - started,
        device=device,
        before=f"; it began with {args.began_with}" if args.began_with else "",
    )
    print(f"saved {args.out}")


def denoising_loss(
    models: nn.ModuleDict,
    pictures: Tensor,
    ids: Tensor,
    noise_power: float,
    generator: torch.Generator,
) -> Tensor:
    """Mean squared error of the predicted v = alpha eps - sigma x0, with one timestep per image.

    pictures: (b, 3, size, size) in [0, 1]. ids: (b, MAX_TOKENS) tokens of the captions.
    noise_power: see `__main__`.
    """
    x = pictures * 2 - 1
    # Sample many timesteps above 0.75, where only the text determines shape, side and colour. At
    # lower noise levels, the image determines them, and the words are not learned.
    u = 1.0 - torch.rand(len(x), generator=generator, device=x.device) ** noise_power
    alphas_cumprod = _alphas_cumprod(x.device)
    t = (u * (len(alphas_cumprod) - 1)).round().long()
    noise = torch.randn(x.shape, generator=generator, device=x.device)
    signal = alphas_cumprod[t][:, None, None, None]
    alpha, sigma = signal.sqrt(), (1 - signal).sqrt()
    z, v = alpha * x + sigma * noise, alpha * noise - sigma * x
    with mixed_precision(x.device):
        text = models["text_encoder"](ids.to(x.device)).last_hidden_state
        predicted = models["unet"](z, t, text, return_dict=False)[0][:, :3]
    return (predicted.float() - v).square().mean()


@cache
def _alphas_cumprod(device: torch.device) -> Tensor:
    return noise_schedule().alphas_cumprod.to(device)


def _pictures(args: Namespace, rank: int, world: int) -> ToyPictures:
    """The training images of this process. The first process renders their geometry and saves it;
    the others wait and load it."""
    if rank > 0:
        dist.barrier()
    geometry = render_geometry(args.views_per_noun, args.seed, args.work)
    if world > 1 and rank == 0:
        dist.barrier()
    return ToyPictures(
        geometry, args.batch, args.seed, rank=rank, half_steps=args.half_steps, device=args.device
    )


def _models(
    args: Namespace, tokenizer: CLIPTokenizer, toys: ToyPictures, world: int
) -> nn.ModuleDict:
    """The initial text encoder and U-Net: new ones, with a text encoder trained on words, or those
    of `args.init`. The caller loads a saved state."""
    text_encoder, unet = make_models(tokenizer, args.seed)
    if args.init is not None:
        load_weights(args.init, text_encoder, unet)
    models = nn.ModuleDict({"text_encoder": text_encoder, "unet": unet}).to(args.device)
    if args.device == "cpu":  # measured: 25 % faster than the defaults
        unet.set_attn_processor(AttnProcessor())
        text_encoder.set_attn_implementation("eager")
    words = args.work / "words.pt"
    if (args.work / "state.pt").exists() or args.init is not None:
        return models
    if words.exists():
        saved = torch.load(words, map_location=args.device, weights_only=True)
        text_encoder.load_state_dict(saved)
        return models
    learn_words(
        toys,
        tokenizer,
        text_encoder,
        steps=args.word_steps,
        batch=WORD_BATCH * args.batch,
        peak=1.5 * args.learning_rate,
        world=world,
    )
    if toys.rank == 0:
        torch.save(text_encoder.state_dict(), words)
    return models


def _time_left(began: float, seconds: float | None, world: int) -> float:
    """The remaining share of the time, the minimum over all processes. All must call this."""
    if seconds is None:
        return 1.0
    left = torch.tensor(max(0.0, 1.0 - (time.time() - began) / seconds))
    if world > 1:
        dist.all_reduce(left, dist.ReduceOp.MIN)
    return float(left)


def _sheet(args: Namespace, step: int) -> Path:
    return args.work / f"sheet-{step:06d}.png"
