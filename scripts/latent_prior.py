#!/usr/bin/env python
"""Train a miniature of Stable Diffusion's very classes on the toy world: StableDiffusionPipeline,
AutoencoderKL, noise prediction, Stable Diffusion's schedule, and the paper's four view words.

    python -m scripts.latent_prior --out runs/latent-prior
    dreamfusion train "a corgi" --prior runs/latent-prior --config stable-diffusion

It is not shipped: it is for measuring what the preset of Stable Diffusion makes of objects whose
shapes are known. The autoencoder is trained first, by mean square error and a little KL, on the toy
world's pictures at twice their size; then text encoder and U-Net together, on its latents.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # share the cores: before torch is loaded

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTokenizer

from dreamfusion.graphics.media import contact_sheet, write_png
from dreamfusion.priors import DiffusionPrior
from dreamfusion.priors.sampling import sample_images
from dreamfusion.priors.view_prompts import PAPER_VIEWS, view_prompts
from dreamfusion.toyworld import NOUNS
from scripts.embedded_prior.data import ToyPictures, prefetch, render_geometry
from scripts.embedded_prior.descent import descend, learning_rate
from scripts.embedded_prior.model import make_models, mixed_precision
from scripts.embedded_prior.words import encode, learn_words, make_tokenizer
from scripts.measure_quality import prompt_of
from scripts.random_pipelines import stable_diffusion_schedule

SIZE = 128  # of the pictures; latents are an eighth of it
KL = 1e-6
WORDS = ("a", "an", "view", "side")  # that captions have and the embedded prior's have not
AUTOENCODER_SHARE = 0.25  # of the time


class FourViews(ToyPictures):
    """Pictures as a photograph is described: "a red mug, front view", never as clay."""

    shading_shares: ClassVar = {"albedo": 0.4, "lambertian": 0.6}

    def _caption(self, row: int, shading: str, rng: np.random.Generator) -> tuple[str, str]:
        g = self.geometry
        noun = NOUNS[g.noun[row]]
        allowed = self.colors_of[g.noun[row]]
        color = allowed[rng.integers(len(allowed))] if rng.random() < 0.55 else None
        prompt = prompt_of(noun.name, color)
        place = [float(g.azimuth_deg[row])], [float(g.elevation_deg[row])]
        return color or noun.color, view_prompts(PAPER_VIEWS, prompt, *place)[0]


def enlarged(pictures: Tensor) -> Tensor:
    """Pictures (n, 3, h, w) in [0, 1] as the autoencoder takes them, as a prior would resize."""
    return F.interpolate(pictures, (SIZE, SIZE), mode="bilinear") * 2 - 1


def make_autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        sample_size=SIZE,
        block_out_channels=(32, 64, 128, 128),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=16,
        force_upcast=False,
    )


def make_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIZE // 8,
        block_out_channels=(96, 192, 288),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=2,
        cross_attention_dim=128,
        attention_head_dim=6,  # heads, in spite of its name
    )


def autoencoder_loss(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    x = enlarged(pictures)
    with mixed_precision(x.device):
        found = vae.encode(x).latent_dist
        again = vae.decode(found.sample()).sample
    return (again.float() - x).square().mean() + KL * found.kl().float().mean()


def scale_latents(vae: AutoencoderKL, pictures: Tensor) -> None:
    """Set the factor that gives the latents of some pictures a variance of one."""
    with torch.no_grad():
        latents = vae.encode(enlarged(pictures)).latent_dist.mode()
    vae.register_to_config(scaling_factor=float(1.0 / latents.std()))


def noise_loss(
    models: nn.ModuleDict,
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    pictures: Tensor,
    captions: list[str],
) -> Tensor:
    """Mean square error of the predicted noise, one timestep a picture."""
    noise_schedule = stable_diffusion_schedule()
    with torch.no_grad(), mixed_precision(pictures.device):
        latents = vae.encode(enlarged(pictures)).latent_dist.sample().float()
    latents = latents * vae.config.scaling_factor
    t = torch.randint(1000, (len(latents),), device=latents.device)
    noise = torch.randn_like(latents)
    noisy = noise_schedule.add_noise(latents, noise, t)
    with mixed_precision(latents.device):
        text = encode(tokenizer, models["text_encoder"], captions)
        predicted = models["unet"](noisy, t, text, return_dict=False)[0]
    return (predicted.float() - noise).square().mean()


def steps_of(
    toys: ToyPictures,
    models: nn.Module,
    loss_of: Callable[[Tensor, list[str]], Tensor],
    *,
    steps: int,
    seconds: float,
    rate: float,
    what: str,
) -> None:
    """Train `models` for so many steps, or so long; the rate falls to zero by then."""
    optimizer = torch.optim.AdamW(models.parameters(), lr=rate, betas=(0.9, 0.99))
    queue = prefetch(lambda step: toys(2 * step), 0, steps)  # the odd ones are at half the size
    started, losses = time.time(), []
    for step in itertools.count(1):
        pictures, captions = queue.get()
        loss = loss_of(pictures, captions)
        left = min(1 - step / (steps + 1), 1 - (time.time() - started) / seconds)
        now = min(learning_rate(step, steps, 100, 0, rate), 5 * rate * max(left, 0.0))
        descend(loss, models, [optimizer], rate=now, world=1)
        losses.append(loss.detach())
        last = step == steps or time.time() - started > seconds
        if step % 200 == 0 or last:
            mean = float(torch.stack(losses[-200:]).mean())
            if not np.isfinite(mean):
                sys.exit(f"{what}, step {step}: the loss is {mean}")
            print(f"{what} {step}: loss {mean:.4f}, {time.time() - started:.0f} s", flush=True)
        if last:
            return


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    geometry = render_geometry(args.views_per_noun, args.seed, args.work)
    toys = FourViews(geometry, args.batch, args.seed, device=args.device)
    tokenizer = make_tokenizer(WORDS)
    vae, unet = make_autoencoder().to(args.device), make_unet()
    first = AUTOENCODER_SHARE * args.seconds
    steps_of(
        toys,
        vae,
        lambda pictures, _: autoencoder_loss(vae, pictures),
        steps=args.steps,
        seconds=first,
        rate=1e-3,
        what="autoencoder",
    )
    vae.requires_grad_(False).eval()
    scale_latents(vae, toys(0)[0])

    text_encoder, _ = make_models(tokenizer, args.seed)
    models = nn.ModuleDict({"text_encoder": text_encoder, "unet": unet}).to(args.device)
    words = min(args.steps, args.word_steps)
    learn_words(
        toys, tokenizer, text_encoder, steps=words, batch=12 * args.batch, peak=1e-3, world=1
    )
    steps_of(
        toys,
        models,
        lambda pictures, captions: noise_loss(models, vae, tokenizer, pictures, captions),
        steps=args.steps,
        seconds=args.seconds - first,
        rate=5e-4,
        what="denoiser",
    )
    StableDiffusionPipeline(
        vae=vae.half().cpu(),
        text_encoder=text_encoder.half().cpu(),
        tokenizer=tokenizer,
        unet=unet.half().cpu(),
        scheduler=stable_diffusion_schedule(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(args.out)
    show(args.out, args.device, args.sheet_steps)
    print(f"saved {args.out}")


def show(folder: Path, device: str, steps: int) -> None:
    """Draw a few prompts from the four views, in `steps` steps: samples.png beside the weights."""
    prior = DiffusionPrior.from_pretrained(str(folder), device=device)
    rows = []
    for prompt in ("a corgi", "a red mug", "a green teapot", "an airplane", "a castle"):
        texts = view_prompts(PAPER_VIEWS, prompt, [0.0, 90.0, 180.0, 0.0], [15.0, 15.0, 15.0, 70.0])
        generator = torch.Generator().manual_seed(0)
        rows.append(
            sample_images(
                prior,
                prior.encode_text(texts),
                prior.encode_text([""]),
                guidance=4.0,
                steps=steps,
                generator=generator,
            ).movedim(1, -1)
        )
    write_png(contact_sheet(torch.cat(rows).cpu(), columns=4), folder / "samples.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--seconds", type=float, default=3600, help="of training, at most, but for the words"
    )
    parser.add_argument("--word-steps", type=int, default=2000, help="of the text encoder alone")
    parser.add_argument("--steps", type=int, default=20_000, help="of each part, at most")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--views-per-noun", type=int, default=256)
    parser.add_argument("--sheet-steps", type=int, default=25, help="of each sample's denoising")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--work", type=Path, default=Path(".training/latent-prior"))
    parser.add_argument("--out", type=Path, default=Path("runs/latent-prior"))
    train(parser.parse_args())


if __name__ == "__main__":
    main()
