"""Writes the shipped files: weights in diffusers' layout, a sheet of samples and the model card."""

from __future__ import annotations

import copy
import json
import platform
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, IFPipeline, UNet2DConditionModel
from PIL import Image, ImageDraw
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from dreamfusion.toyworld.objects import (
    ADJECTIVES,
    COLORS,
    NOUNS,
    SHADING_WORDS,
    azimuth_word,
    held_out_pairs,
)
from dreamfusion.utils.machine import usable_cores
from scripts.embedded_prior.data import BACKGROUND, CAMERA, FACE_SHARE, LIGHT, SIZE
from scripts.embedded_prior.language import TEMPLATE, vocabulary_file
from scripts.embedded_prior.model import mixed_precision, noise_schedule
from scripts.embedded_prior.words import encode

CARD = """# The embedded prior

A text-to-image diffusion model of toy objects, small enough to ship and to run on two CPU cores.
It lets `dreamfusion` work offline right after installation; it is not a general image model.

- **Kind**: pixel space, 64 x 64, v-prediction, squared-cosine schedule of 1000 steps; a
  `UNet2DConditionModel` and a `CLIPTextModel` trained together from scratch, in the folder layout
  of diffusers' `IFPipeline` (six output channels like DeepFloyd IF; the three variance channels
  are not trained). Weights in half precision, {megabytes:.1f} MB.
- **Why pixels**: in a first experiment, a latent model gave sharper outlines, but Score
  Distillation through its encoder gave wrong colours. In pixel space the colours were right.
- **Data**: {n_nouns} kinds of procedural objects (`dreamfusion/toyworld`), in varied shapes,
  colours, lights and on plain backgrounds, seen from elevations of {low:.0f} to {high:.0f}
  degrees; the faces of animals {face_share:.0f} times as often as their
  other sides. No third-party images, models or texts were used.
- **Training**: {words}
  {pictures:,} images, {spent} on {where} (shared with other work), torch {torch}, by
  `scripts/embedded_prior`{before}.
- **Held out**: {held} of {pairs} pairs of noun and colour were not used in training
  (`held_out_pairs.csv`), to measure composition.

## Vocabulary

`dreamfusion.json` contains every word that a prompt may use, the words for sixteen azimuths, five
elevations and three shadings, and the cameras, lights and backgrounds of the training data.

Nouns: {nouns}.

Colours: {colors}. Shapes: {adjectives}.

## Limits

The model can generate only single objects of these kinds: no scenes, counts, relations or
materials. Its images have 64 x 64 pixels and look like the toy world's shapes. Experiments that did
not improve it are described in docs/experiments.md.

## Samples

Ancestral samples, guidance 2, eight azimuths in each row, 45 degrees apart:

![samples](samples.png)
"""


SHEET_PROMPTS = (
    "corgi", "yellow chair", "blue mug", "green teapot", "red car", "castle", "purple rabbit",
    "airplane", "snowman", "turquoise sofa",
)  # fmt: skip


@torch.no_grad()
def sample_sheet(
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
    file: Path,
    *,
    guidance: float = 2.0,
    steps: int,
    size: int = SIZE,
) -> None:
    """Write a sheet of samples: one row per prompt, with eight azimuths."""
    device = unet.device
    scheduler = DDIMScheduler.from_config(
        noise_schedule().config,
        timestep_spacing="trailing",  # from pure noise
    )
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(0)
    rows = []
    for i, prompt in enumerate(SHEET_PROMPTS):
        texts = [
            TEMPLATE.format(
                prompt=prompt,
                azimuth=azimuth_word(45.0 * k),
                elevation="raised",
                shading=list(SHADING_WORDS.values())[1 if i % 3 else 0],
            )
            for k in range(8)
        ]
        text = encode(tokenizer, text_encoder, texts + [""] * 8)
        x = torch.randn(8, 3, size, size, generator=generator).to(device)
        for t in scheduler.timesteps:
            with mixed_precision(device):
                out = unet(torch.cat([x, x]), t, text, return_dict=False)[0][:, :3].float()
            cond, uncond = out.chunk(2)
            # New noise at every step (eta 1) corrects errors of earlier steps.
            x = scheduler.step(
                uncond + guidance * (cond - uncond), t, x, eta=1.0, generator=generator
            ).prev_sample
        strip = (x.clamp(-1, 1) * 127.5 + 127.5).permute(0, 2, 3, 1).byte().cpu().numpy()
        label = Image.new("RGB", (96, size), "white")
        ImageDraw.Draw(label).text((2, size // 2 - 6), prompt, fill="black")
        rows.append(np.concatenate([np.asarray(label), *strip], axis=1))
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(file)


def save_pipeline(
    folder: Path, tokenizer: CLIPTokenizer, text_encoder: nn.Module, unet: nn.Module
) -> None:
    """Write the prior in diffusers' layout and half precision, with its vocabulary file."""
    pipeline = IFPipeline(
        tokenizer=tokenizer,
        text_encoder=copy.deepcopy(text_encoder).to("cpu", torch.float16),
        unet=copy.deepcopy(unet).to("cpu", torch.float16),
        scheduler=noise_schedule(),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    vocabulary = vocabulary_file(CAMERA, LIGHT, BACKGROUND)
    (folder / "dreamfusion.json").write_text(json.dumps(vocabulary, indent=1) + "\n")
    pairs = "".join(f"{noun},{color}\n" for noun, color in held_out_pairs())
    (folder / "held_out_pairs.csv").write_text("noun,color\n" + pairs)


def write_card(
    folder: Path,
    *,
    thumbnails: int,
    pictures: int,
    seconds: float,
    device: torch.device,
    before: str,
) -> None:
    """Write README.md, the prior's model card.

    thumbnails, pictures: number of training images; no thumbnails if the text encoder was not
    trained separately. before: text about earlier training, or "".
    """
    sizes = {
        name: (folder / name).stat().st_size / 1e6
        for name in (
            "unet/diffusion_pytorch_model.safetensors",
            "text_encoder/model.safetensors",
        )
    }
    machine = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [row for row in cpuinfo.read_text().splitlines() if row.startswith("model name")]
        machine = models[0].partition(": ")[2] if models else machine
    where = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{usable_cores()} cores of {machine}"
    )
    held = held_out_pairs()
    (folder / "README.md").write_text(
        CARD.format(
            megabytes=sum(sizes.values()),
            words=f"the text encoder alone, on {thumbnails:,} captions of thumbnails; then both, on"
            if thumbnails
            else "text encoder and U-Net together, on",
            pictures=pictures,
            spent=f"{seconds / 3600:.1f} hours"
            if seconds > 3600
            else f"{seconds / 60:.1f} minutes",
            where=where,
            torch=torch.__version__,
            before=before,
            nouns=", ".join(noun.name for noun in NOUNS),
            n_nouns=len(NOUNS),
            colors=", ".join(COLORS),
            adjectives=", ".join(ADJECTIVES),
            held=len(held),
            pairs=len(NOUNS) * len(COLORS),
            face_share=FACE_SHARE,
            low=CAMERA["elevation_deg"][0],
            high=CAMERA["elevation_deg"][1],
        )
    )
