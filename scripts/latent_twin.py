#!/usr/bin/env python
"""Train a small latent diffusion model of Stable Diffusion's classes on the toy world.

    python -m scripts.latent_twin runs/twin --cache runs/twin-cache --kinds all --images 1000000
    dreamfusion train "a car" --prior runs/twin/pipeline

It is a StableDiffusionPipeline: AutoencoderKL (a quarter of 64 pixels, 4 channels), CLIP text
encoder, noise prediction, Stable Diffusion's beta schedule, and the four view words of the
DreamFusion paper. Training resumes from CACHE/autoencoder.pt and OUT/denoiser.pt, which are written
every five minutes; every batch is a function of seed and step. The autoencoder is trained on all
kinds, and also on images like those of unfinished scenes: faded, blurred, noisy, with smooth
backgrounds.

Captions: "fair" ones name the nearest view. "web" ones imitate captions of photographs: most images
show the front, a third of the captions name no view, and 40 % of three-quarter views are called a
side view.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # share the cores: before torch is loaded

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn

from dreamfusion.graphics.cameras import sample_cameras
from dreamfusion.priors.view_prompts import PAPER_VIEWS
from dreamfusion.toyworld.objects import COLORS, NOUNS, downsample, make_object, shade, view
from scripts.embedded_prior.data import random_palette
from scripts.embedded_prior.model import make_models, mixed_precision
from scripts.embedded_prior.words import encode, learn_words, make_tokenizer
from scripts.random_pipelines import stable_diffusion_schedule

SIZE, SUPERSAMPLE = 64, 2
CAMERA: dict[str, Any] = {
    "elevation_deg": (-12.0, 66.0),
    "distance": (2.55, 3.25),
    "fov_y_deg": (35.0, 45.0),
    "position_jitter": 0.05,
    "look_at_jitter": 0.05,
    "up_jitter": 0.02,
}
DISTANCE = 2.9
FAIR = "corgi duck owl car rocket airplane mug teapot chair mushroom house snowman"
ANIMALS = "corgi cat rabbit duck penguin owl bear pig elephant fish turtle dinosaur"
SHADINGS = {"albedo": 0.45, "lambertian": 0.4, "textureless": 0.15}
THUMBNAIL = 16
AUTOENCODER_BATCH, BATCH = 32, 64
SAVE_SECONDS = 300  # between checkpoints


def render_geometry(cache: Path, shapes: int) -> dict[str, Any]:
    """Render eight views of each of `shapes` variants of every kind, from random cameras."""
    if cache.exists():
        return torch.load(cache, weights_only=True)
    out: dict[str, list[Any]] = {
        k: [] for k in ("normals", "color", "kind", "az", "el", "position")
    }
    started = time.time()
    for kind, noun in enumerate(NOUNS):
        rng = np.random.default_rng([7, kind])
        for shape in range(shapes):
            generator = torch.Generator().manual_seed(10_000 * kind + shape)
            cameras = sample_cameras(8, **CAMERA, generator=generator)
            seen = view(make_object(noun.name, "main", None, rng), cameras, SIZE * SUPERSAMPLE)
            out["normals"].append(torch.from_numpy(np.round(seen.normals * 127).astype(np.int8)))
            out["color"].append(torch.from_numpy(seen.color_index.astype(np.uint8)))
            out["kind"].append(torch.full((8,), kind))
            out["az"].append(cameras.azimuth_deg)
            out["el"].append(cameras.elevation_deg)
            out["position"].append(cameras.positions)
        print(f"geometry: {noun.name}, {time.time() - started:.0f} s", flush=True)
    whole = {name: torch.cat(parts) for name, parts in out.items()}
    torch.save(whole, cache)
    return whole


class Images:
    """Batches of images and captions, determined by seed and step."""

    rank = 0

    def __init__(
        self,
        geometry: dict[str, Any],
        kinds: list[str],
        captions: str,
        colors: float,
        seed: int,
    ) -> None:
        names = [noun.name for noun in NOUNS]
        chosen = torch.isin(geometry["kind"], torch.tensor([names.index(k) for k in kinds]))
        self.geometry = {name: values[chosen] for name, values in geometry.items()}
        self.captions, self.colors, self.seed = captions, colors, seed
        azimuth = (self.geometry["az"] + 180) % 360 - 180
        front = (azimuth.abs() < 45).numpy()
        shares = np.full(len(front), 1.0)
        if captions == "web":  # 70 % of the images show the front
            shares = np.where(front, 0.7 / front.sum(), 0.3 / (~front).sum())
        self.cumulative = np.cumsum(shares / shares.sum())

    def _rows(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return np.searchsorted(self.cumulative, rng.random(n) * (1 - 1e-9))

    def draw(
        self,
        rows: np.ndarray,
        colors: list[str],
        background: tuple[float, float],
        rng: np.random.Generator,
        shrink: int = 1,
    ) -> Tensor:
        g, n = self.geometry, len(rows)
        palettes = np.stack([random_palette(color, 0.02, background, rng) for color in colors])
        # Around the camera's position as in DreamFusion (appendix A.2), or around its direction;
        # one sixth of the latter are behind the object.
        position = g["position"][rows].numpy()
        around = np.where(rng.random((n, 1)) < 0.6, position, position / DISTANCE)
        light = torch.from_numpy(around + rng.normal(0, 1, (n, 3))).float()
        images = shade(
            g["normals"][rows][:, ::shrink, ::shrink].float() / 127,
            g["color"][rows][:, ::shrink, ::shrink],
            palettes=torch.from_numpy(palettes),
            shadings=list(rng.choice(list(SHADINGS), n, p=list(SHADINGS.values()))),
            light_directions=F.normalize(light, dim=-1),
            ambient=torch.from_numpy(rng.choice([0.1, 0.4], n)).float(),
        )
        return downsample(images, SUPERSAMPLE).movedim(-1, 1).contiguous()

    def _caption(self, row: int, color: str | None, rng: np.random.Generator) -> str:
        name = NOUNS[int(self.geometry["kind"][row])].name
        prompt = " ".join(word for word in ("a", color, name) if word)
        azimuth, elevation = float(self.geometry["az"][row]), float(self.geometry["el"][row])
        if self.captions == "web":
            off = abs((azimuth + 180) % 360 - 180)
            if rng.random() < 1 / 3:
                return prompt
            if 22.5 < off < 67.5 and elevation < 60:
                return f"{prompt}, {'side' if rng.random() < 0.4 else 'front'} view"
        return PAPER_VIEWS.view_prompt(prompt, azimuth, elevation)

    def captioned(
        self,
        step: int,
        n: int,
        stream: int = 1,
        shrink: int = 1,
        background: tuple[float, float] = (0.0, 1.0),
    ) -> tuple[Tensor, list[str]]:
        rng = np.random.default_rng([self.seed, stream, step])
        rows = self._rows(n, rng)
        named = [
            str(rng.choice(list(COLORS))) if rng.random() < self.colors else None for _ in rows
        ]
        natural = [NOUNS[int(self.geometry["kind"][row])].color for row in rows]
        colors = [a or b for a, b in zip(named, natural, strict=True)]
        texts = [
            self._caption(int(row), color, rng) for row, color in zip(rows, named, strict=True)
        ]
        return self.draw(rows, colors, background, rng, shrink), texts

    def batch(self, step: int) -> tuple[Tensor, list[str]]:
        images, texts = self.captioned(step, BATCH)
        rng = np.random.default_rng([self.seed, 3, step])
        return images, ["" if rng.random() < 0.12 else text for text in texts]

    def thumbnails(self, step: int, n: int) -> tuple[Tensor, list[str]]:
        return self.captioned(step, n, 2, SIZE // THUMBNAIL, (0.5, 0.5))

    def unfinished(self, step: int, n: int) -> Tensor:
        """For the autoencoder, which must also encode unfinished scenes: any colours, some images
        faded, blurred or noisy, some backgrounds not plain."""
        rng = np.random.default_rng([self.seed, 4, step])
        rows = self._rows(n, rng)
        colors = [
            str(rng.choice(list(COLORS)))
            if rng.random() < 0.5
            else NOUNS[int(self.geometry["kind"][row])].color
            for row in rows
        ]
        images = self.draw(rows, colors, (0.0, 1.0), rng)
        generator = torch.Generator().manual_seed(step)
        fate = torch.from_numpy(rng.random(n))
        small = F.avg_pool2d(images, 8 if step % 2 else 4)
        blurred = F.interpolate(small, (SIZE, SIZE), mode="bilinear")
        share = torch.rand(n, 1, 1, 1, generator=generator)
        images = torch.where((fate < 0.2)[:, None, None, None], images.lerp(blurred, share), images)
        plain = torch.rand(n, 3, 1, 1, generator=generator)
        corners = torch.rand(n, 3, 2, 2, generator=generator)
        smooth = F.interpolate(corners, (SIZE, SIZE), mode="bilinear", align_corners=True)
        behind = torch.where((share > 0.5), plain.expand_as(smooth), smooth)
        faded = ((fate > 0.2) & (fate < 0.4))[:, None, None, None]
        images = torch.where(faded, images.lerp(behind, share), images)
        noise = (
            0.1
            * torch.rand(n, 1, 1, 1, generator=generator)
            * torch.randn(images.shape, generator=generator)
        )
        return torch.where((fate > 0.9)[:, None, None, None], images + noise, images).clamp(0, 1)


def make_autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        sample_size=SIZE,
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        force_upcast=False,
    )


def make_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIZE // 4,
        block_out_channels=(64, 128, 192),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,  # the number of heads, despite the name
        norm_num_groups=8,
        resnet_time_scale_shift="scale_shift",
        time_embedding_dim=512,
    )


def train(
    models: nn.Module,
    ema: nn.Module | None,
    loss_of: Callable[[int], Tensor],
    file: Path,
    *,
    steps: int,
    batch: int,
    peak: float,
    weight_decay: float,
    what: str,
    saved: Callable[[], None] = lambda: None,
) -> None:
    """Train with AdamW, from the state in `file` if it exists. The learning rate is proportional to
    the square root of the remaining share of the steps."""
    optimizer = torch.optim.AdamW(
        models.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
    )
    start = 0
    if file.exists():
        state = torch.load(file, weights_only=True)
        models.load_state_dict(state["models"])
        optimizer.load_state_dict(state["optimizer"])
        if ema is not None:
            ema.load_state_dict(state["ema"])
        start = state["step"]
        print(f"{what}: resumed at step {start} of {steps}", flush=True)

    def save(step: int) -> None:
        state = {
            "models": models.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
            "ema": ema.state_dict() if ema is not None else {},
        }
        part = file.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, file)
        saved()

    losses: list[float] = []
    clock = last = time.time()
    for step in range(start, steps):
        torch.manual_seed(step)
        loss = loss_of(step)
        if not torch.isfinite(loss):
            raise SystemExit(f"{what}, step {step}: the loss is {loss.item()}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(models.parameters(), 1.0)
        done = step / steps
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1.0, (step + 1) / 100) * max(1 - done, 0.0) ** 0.5
        optimizer.step()
        if ema is not None:
            decay = min(0.995, (step + 1) / (step + 10))
            with torch.no_grad():
                for average, p in zip(ema.parameters(), models.parameters(), strict=True):
                    average.lerp_(p, 1 - decay)
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            rate = 100 * batch / (time.time() - clock)
            clock = time.time()
            print(
                f"{what} {step + 1}/{steps}: loss {np.mean(losses[-100:]):.4f}, "
                f"{rate:.0f} images/s",
                flush=True,
            )
        if time.time() - last > SAVE_SECONDS:
            save(step + 1)
            last = time.time()
    if start < steps or not file.exists():
        save(steps)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--kinds", default="fair", help="fair, animals, all")
    parser.add_argument("--captions", choices=["fair", "web"], default="fair")
    parser.add_argument("--colors", type=float, default=0.0, help="share of captions with a colour")
    parser.add_argument("--images", type=int, default=250_000)
    parser.add_argument("--autoencoder-images", type=int, default=100_000)
    parser.add_argument("--shapes", type=int, default=40)
    parser.add_argument("--word-steps", type=int, default=800, help="of the text encoder alone")
    parser.add_argument("--cache", type=Path, required=True, help="folder that trainings share")
    parser.add_argument(
        "--start", type=Path, metavar="OUT", help="of another training: begin with its weights"
    )
    args = parser.parse_args(arguments)
    kinds = {"fair": FAIR.split(), "animals": ANIMALS.split(), "all": [n.name for n in NOUNS]}
    args.out.mkdir(parents=True, exist_ok=True)
    args.cache.mkdir(parents=True, exist_ok=True)
    geometry = render_geometry(args.cache / f"geometry-{args.shapes}.pt", args.shapes)
    everything = Images(geometry, kinds["all"], "fair", 0.5, 0)
    images = Images(geometry, kinds[args.kinds], args.captions, args.colors, 1)

    torch.manual_seed(0)
    vae = make_autoencoder()
    vae.to(memory_format=torch.channels_last)

    def autoencoder_loss(step: int) -> Tensor:
        x = everything.unfinished(step, AUTOENCODER_BATCH) * 2 - 1
        with mixed_precision(x.device):
            found = vae.encode(x).latent_dist
            again = vae.decode(found.sample()).sample
        error = again.float() - x
        return error.square().mean() + 0.03 * error.abs().mean() + 1e-6 * found.kl().float().mean()

    train(
        vae,
        None,
        autoencoder_loss,
        args.cache / "autoencoder.pt",
        steps=args.autoencoder_images // AUTOENCODER_BATCH,
        batch=AUTOENCODER_BATCH,
        peak=1.5e-3,
        weight_decay=0.01,
        what="autoencoder",
    )
    vae.requires_grad_(False).eval()
    with torch.no_grad():
        x = everything.captioned(10**6, 128)[0] * 2 - 1
        latents = vae.encode(x).latent_dist.mode()
        error = (vae.decode(latents).sample - x).square().mean() / 4
    vae.register_to_config(scaling_factor=float(1.0 / latents.std()))
    print(f"autoencoder: {-10 * float(torch.log10(error)):.2f} dB", flush=True)

    tokenizer = make_tokenizer(("a", "view", "side"))
    text_encoder, _ = make_models(tokenizer, 0)
    words = args.out / "words.pt"
    if words.exists():
        text_encoder.load_state_dict(torch.load(words, weights_only=True))
    elif args.start is None and not (args.out / "denoiser.pt").exists():
        learn_words(
            images, tokenizer, text_encoder, steps=args.word_steps, batch=256, peak=1e-3, world=1
        )
        torch.save(text_encoder.state_dict(), words)
    torch.manual_seed(1)
    models = nn.ModuleDict({"text_encoder": text_encoder, "unet": make_unet()})
    # A sixth faster without bfloat16.
    models["unet"].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ema = nn.ModuleDict({"text_encoder": make_models(tokenizer, 0)[0], "unet": make_unet()})
    if args.start is not None:
        models.load_state_dict(torch.load(args.start / "denoiser.pt", weights_only=True)["models"])
    ema.load_state_dict(models.state_dict())
    ema.requires_grad_(False)
    noises = stable_diffusion_schedule()

    def denoiser_loss(step: int) -> Tensor:
        x, texts = images.batch(step)
        with torch.no_grad(), mixed_precision(x.device):
            z = vae.encode(x * 2 - 1).latent_dist.sample().float() * vae.config.scaling_factor
        t = torch.randint(1000, (len(z),))
        noise = torch.randn_like(z)
        with mixed_precision(z.device):
            different = list(dict.fromkeys(texts))
            encoded = encode(tokenizer, models["text_encoder"], different)
            text = encoded[[different.index(each) for each in texts]]
            predicted = models["unet"](noises.add_noise(z, noise, t), t, text, return_dict=False)[0]
        return (predicted.float() - noise).square().mean()

    def save_pipeline() -> None:
        StableDiffusionPipeline(
            vae=vae,
            text_encoder=ema["text_encoder"],
            tokenizer=tokenizer,
            unet=ema["unet"],
            scheduler=noises,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(args.out / "pipeline")

    train(
        models,
        ema,
        denoiser_loss,
        args.out / "denoiser.pt",
        steps=args.images // BATCH,
        batch=BATCH,
        peak=1e-3,
        weight_decay=0.01,
        what="denoiser",
        saved=save_pipeline,
    )
    print("done", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
