#!/usr/bin/env python
"""Train the embedded prior on the toy world and save it in diffusers' folder layout.

    python scripts/train_embedded_prior.py --steps 6000 --out assets/embedded-prior

On a CPU, a process a core is faster than a thread a core (each has a batch of its own):

    torchrun --nproc-per-node 2 -m scripts.train_embedded_prior

Deterministic for a seed, resumable (run the same command again), on the CPU or on CUDA. What it
trains is a pixel-space text-to-image diffusion model, 64x64, v-prediction: a small
UNet2DConditionModel with a CLIPTextModel trained along with it. Working files (geometry of the
data, training state, sample sheets) go to `--work`, the model to `--out` when all steps are done.

Before that, in `--word-steps`, the text encoder learns alone what its words look like, from
thumbnails without noise (`learn_words`); Stable Diffusion's had learned from pictures too, by CLIP.
The first `--half-steps` are taken at half the size, on twice as many pictures each; after them
every other step is, so that the model remains a judge of both sizes.

Then Muon (`scripts/muon.py`) trains both: what few pictures tell apart, a front from a back, has a
small gradient, and with AdamW it was learned late. A step takes a third longer on two cores.

The learning rate is constant after its warm-up and falls linearly to zero over the last
`--decay-steps`: to go on from a finished state, ask for more steps; to end early, for fewer.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from queue import Queue
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # share the cores: before torch is loaded

import numpy as np
import torch
import torch.distributed as dist
from diffusers import DDIMScheduler, DDPMScheduler, IFPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dreamfusion.graphics.cameras import sample_cameras
from dreamfusion.toybox import ADJECTIVES, COLORS, NOUNS, make_object, shade, view
from dreamfusion.toybox.language import (
    SHADING_WORDS,
    TEMPLATE,
    azimuth_word,
    caption,
    caption_words,
    held_out_pairs,
    vocabulary_file,
)
from dreamfusion.toybox.objects import COLOR_INDEX, PALETTE_TABLE
from dreamfusion.toybox.render import downsample
from scripts.muon import Muon

SIZE = 64
SUPERSAMPLE = 2
# The cameras and lights of the training pictures; SDS draws its own from the same ranges.
CAMERA: dict[str, Any] = {
    "elevation_deg": [-12.0, 72.0],
    "distance": [2.65, 2.85],
    "fov_y_deg": [40.0, 40.0],
}
LIGHT: dict[str, Any] = {"ambient": 0.4, "direction_std": 0.6, "distance": [8.0, 8.0]}
# Plain, each channel by chance in this range: what is white or black must be seen against it, too.
# A model that begins from nothing had better begin with a narrow one: where there is much noise
# nobody can know a background, and its part of the loss drowns what the words have to say.
BACKGROUND: tuple[float, float] = (0.1, 0.9)
# How often a kind is shown, where that is not 1: faces take longer than solids to learn.
SLOW = "corgi cat rabbit duck penguin owl bear pig elephant fish turtle dinosaur mug sofa airplane"
QUICK = "ball cube cone cylinder pyramid apple banana carrot donut pumpkin star bottle"
SHARES = {**dict.fromkeys(SLOW.split(), 1.5), **dict.fromkeys(QUICK.split(), 0.5)}
SHADING_SHARES = {"albedo": 0.35, "lambertian": 0.45, "textureless": 0.2}
THUMBNAIL = 16
WORD_BATCH = 12  # captions in a step of the text encoder alone, for each picture of a later batch
MAX_TOKENS = 77  # what diffusers' IFPipeline pads prompts to
CARD = """# The embedded prior

A text-to-image diffusion model of toy objects, small enough to ship and to run on two CPU cores.
It exists so that `dreamfusion` works at once, offline; it is no general image model.

- **Kind**: pixel space, 64 x 64, v-prediction, squared-cosine schedule of 1000 steps; a
  `UNet2DConditionModel` and a `CLIPTextModel` trained together from scratch, in the folder layout
  of diffusers' `IFPipeline` (six output channels as DeepFloyd IF has; the three of the variance
  are not trained). Weights in half precision, {megabytes:.1f} MB.
- **Why pixels**: in a first experiment a latent model drew crisper outlines, but Score Distillation
  through its encoder gave wrong colours; pixel space gave the right ones at once.
- **Data**: {n_nouns} kinds of procedural objects (`dreamfusion/toybox`), in varied shapes, colours,
  lights and on plain backgrounds, seen from elevations of {low:.0f} to {high:.0f} degrees. No
  picture, model or text of anybody else's was used.
- **Training**: the text encoder alone, on {thumbnails:,} captions of thumbnails; then both, on
  {pictures:,} pictures, {hours:.1f} hours on {where} (shared with other work), torch {torch}, by
  `scripts/train_embedded_prior.py`{before}.
- **Held out**: {held} of {pairs} pairs of noun and colour were never shown
  (`held_out_pairs.csv`), to measure composition by.

## Vocabulary

`dreamfusion.json` holds it: every word that a prompt may use, the words for sixteen azimuths, five
elevations and three shadings, and the cameras, lights and backgrounds it was trained with.

Nouns: {nouns}.

Colours: {colors}. Shapes: {adjectives}.

## Limits

It knows single objects of these kinds, nothing else: no scenes, no counting, no relations, no
materials. It draws what the toy world's shapes look like, at 64 pixels.

## Samples

Ordinary ancestral samples, guidance 2, eight azimuths a row, 45 degrees apart:

![samples](samples.png)
"""
SHEET_PROMPTS = (
    "corgi", "yellow chair", "blue mug", "green teapot", "red car", "castle", "purple rabbit",
    "airplane", "snowman", "turquoise sofa",
)  # fmt: skip


@dataclass(frozen=True)
class Geometry:
    """The toy world's geometry, seen once: n views, each SIZE * SUPERSAMPLE pixels wide."""

    normals: NDArray[np.int8]  # (n, s, s, 3), unit vectors times 127
    color_index: NDArray[np.uint8]  # (n, s, s)
    noun: NDArray[np.uint8]
    adjective: NDArray[np.uint8]  # 0: none
    azimuth_deg: NDArray[np.float32]
    elevation_deg: NDArray[np.float32]
    towards_camera: NDArray[np.float32]  # (n, 3) unit vectors


def render_geometry(views_per_noun: int, seed: int, cache: Path) -> Geometry:
    """Every noun in many shapes, eight views of each, from random cameras."""
    file = cache / f"geometry-{views_per_noun}-{seed}.npz"
    if file.exists():
        with np.load(file) as saved:
            return Geometry(**{name: saved[name] for name in saved.files})
    per_shape, size = 8, SIZE * SUPERSAMPLE
    n = len(NOUNS) * views_per_noun
    out = Geometry(
        np.empty((n, size, size, 3), np.int8),
        np.empty((n, size, size), np.uint8),
        np.empty(n, np.uint8),
        np.empty(n, np.uint8),
        np.empty(n, np.float32),
        np.empty(n, np.float32),
        np.empty((n, 3), np.float32),
    )
    adjectives = list(ADJECTIVES)
    started = time.time()
    for start in range(0, n, per_shape):
        noun = start // views_per_noun
        rng = np.random.default_rng([seed, start])
        which = int(rng.integers(1, len(adjectives) + 1)) if rng.random() < 0.2 else 0
        adjective = adjectives[which - 1] if which else None
        obj = make_object(NOUNS[noun].name, "main", adjective, rng)
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        ranges: dict[str, Any] = {name: tuple(values) for name, values in CAMERA.items()}
        cameras = sample_cameras(per_shape, **ranges, generator=generator)
        buffers = view(obj, cameras, size)
        stop = min(start + per_shape, n)
        here, k = slice(start, stop), stop - start
        out.normals[here] = np.round(buffers.normals * 127)[:k]
        out.color_index[here] = buffers.color_index[:k]
        out.noun[here], out.adjective[here] = noun, which
        out.azimuth_deg[here] = cameras.azimuth_deg.numpy()[:k]
        out.elevation_deg[here] = cameras.elevation_deg.numpy()[:k]
        position = cameras.positions.numpy()[:k]
        out.towards_camera[here] = position / np.linalg.norm(position, axis=1, keepdims=True)
        if start % (per_shape * 100) == 0:
            print(f"geometry: {start}/{n} views, {time.time() - started:.0f} s", flush=True)
    cache.mkdir(parents=True, exist_ok=True)
    np.savez(file, **vars(out))
    return out


class ToyPictures:
    """Training batches: the views of `geometry`, coloured, lit and put on backgrounds anew.

    What is drawn depends on seed, step and rank alone; the pictures are made on `device`. Before
    step `half_steps`, and then in every other step, they are twice as many, at half the size.
    """

    def __init__(
        self,
        geometry: Geometry,
        batch: int,
        seed: int,
        *,
        rank: int = 0,
        half_steps: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.geometry, self.batch, self.seed, self.rank = geometry, batch, seed, rank
        self.half_steps = half_steps
        self.normals = torch.from_numpy(geometry.normals).to(device)
        self.color_index = torch.from_numpy(geometry.color_index).to(device)
        held = set(held_out_pairs())
        self.colors_of = [[c for c in COLORS if (n.name, c) not in held] for n in NOUNS]
        shares = np.array([SHARES.get(noun.name, 1.0) for noun in NOUNS])[geometry.noun]
        self.cumulative_shares = np.cumsum(shares / shares.sum())

    def __call__(self, step: int) -> tuple[Tensor, list[str]]:
        """The batch of a step: pictures (b, 3, size, size) in [0, 1], and captions."""
        rng = np.random.default_rng([self.seed, 1, step, self.rank])
        shrink = 2 if step < self.half_steps or step % 2 else 1
        pictures, captions = self._captioned(self.batch * shrink, shrink, BACKGROUND, rng)
        return pictures, ["" if rng.random() < 0.12 else text for text in captions]

    def thumbnails(self, step: int, batch: int) -> tuple[Tensor, list[str]]:
        """Small pictures (batch, 3, THUMBNAIL, THUMBNAIL) before gray, and captions."""
        rng = np.random.default_rng([self.seed, 2, step, self.rank])
        return self._captioned(batch, SIZE // THUMBNAIL, (0.5, 0.5), rng)

    def _captioned(
        self, batch: int, shrink: int, background: tuple[float, float], rng: np.random.Generator
    ) -> tuple[Tensor, list[str]]:
        rows = np.searchsorted(self.cumulative_shares, rng.random(batch) * (1 - 1e-9))
        shadings = rng.choice(list(SHADING_SHARES), batch, p=list(SHADING_SHARES.values()))
        palettes, captions = [], []
        for row, shading in zip(rows, shadings, strict=True):
            color, text = self._caption(int(row), str(shading), rng)
            palettes.append(random_palette(color, 0.02, background, rng))
            captions.append(text)
        towards_light = self.geometry.towards_camera[rows] + rng.normal(
            0, LIGHT["direction_std"], (batch, 3)
        )
        ambient = np.full(batch, LIGHT["ambient"])
        pictures = self.draw(rows, palettes, list(shadings), towards_light, ambient, shrink)
        return pictures, captions

    def draw(
        self,
        rows: NDArray[np.int64],
        palettes: list[NDArray[np.float32]],
        shadings: list[str],
        towards_light: NDArray[np.float64],
        ambient: NDArray[np.float64],
        shrink: int = 1,
    ) -> Tensor:
        """Pictures (n, 3, size, size) of n rows of the geometry; size is SIZE / `shrink`."""
        device = self.normals.device
        picked = torch.from_numpy(rows).to(device)
        light = torch.from_numpy(towards_light).float().to(device)
        shaded = shade(
            self.normals[picked][:, ::shrink, ::shrink].float() / 127,
            self.color_index[picked][:, ::shrink, ::shrink],
            palettes=torch.from_numpy(np.stack(palettes)).to(device),
            shadings=shadings,
            light_directions=nn.functional.normalize(light, dim=-1),
            ambient=torch.from_numpy(ambient).float().to(device),
        )
        return downsample(shaded, SUPERSAMPLE).movedim(-1, 1).contiguous()

    def _caption(self, row: int, shading: str, rng: np.random.Generator) -> tuple[str, str]:
        """The main colour that a view gets, and its caption."""
        g = self.geometry
        noun = NOUNS[g.noun[row]]
        color = None
        if rng.random() < 0.55:
            allowed = self.colors_of[g.noun[row]]
            color = allowed[rng.integers(len(allowed))]
        text = caption(
            noun.name,
            color,
            list(ADJECTIVES)[g.adjective[row] - 1] if g.adjective[row] else None,
            float(g.azimuth_deg[row]),
            float(g.elevation_deg[row]),
            shading,
            rng,
        )
        return color or noun.color, text


def random_palette(
    color: str, spread: float, background: tuple[float, float], rng: np.random.Generator
) -> NDArray[np.float32]:
    """The palette with `color` as main colour, each a little off, and a random background, each
    of its channels in the range given."""
    palette = PALETTE_TABLE.copy()
    palette[COLOR_INDEX["main"]] = palette[COLOR_INDEX[color]]
    palette = np.clip(palette + rng.normal(0, spread, palette.shape), 0, 1).astype(np.float32)
    palette[0] = rng.uniform(*background, size=3)
    return palette


def make_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer in which every caption word is one token, the same in every process.

    Byte-pair merges are learned from the word list until every word is whole. Not by the
    tokenizers library: its trainer breaks ties by chance, so that two processes, or a training and
    its continuation, would give a word different numbers.
    """
    words = caption_words()
    spelled = [[*word[:-1], word[-1] + "</w>"] for word in words]
    merges: list[tuple[str, str]] = []
    while any(len(parts) > 1 for parts in spelled):
        pairs = Counter(pair for parts in spelled for pair in pairwise(parts))
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        spelled = [_merge(parts, best) for parts in spelled]
    alphabet = sorted(ByteLevel.alphabet())
    symbols = [*alphabet, *(c + "</w>" for c in alphabet), *("".join(pair) for pair in merges)]
    symbols = list(dict.fromkeys([*symbols, "<|startoftext|>", "<|endoftext|>"]))
    vocab = {symbol: i for i, symbol in enumerate(symbols)}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_TOKENS)
    broken = [word for word in words if len(tokenizer(word).input_ids) != 3]
    assert not broken, f"not one token each: {broken}"
    return tokenizer


def _merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """`parts` with every occurrence of `pair`, from the left, joined."""
    merged: list[str] = []
    i = 0
    while i < len(parts):
        joined = tuple(parts[i : i + 2]) == pair
        merged.append("".join(pair) if joined else parts[i])
        i += 2 if joined else 1
    return merged


def make_models(tokenizer: CLIPTokenizer, seed: int) -> tuple[CLIPTextModel, UNet2DConditionModel]:
    torch.manual_seed(seed)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    # Order says nothing at first, so that the padding is the same all along, as long as it may be.
    for name, parameter in text_encoder.named_parameters():
        if name.endswith("position_embedding.weight"):
            nn.init.zeros_(parameter)
    # Thin at the top, where pixels are many, and wide at the bottom: on two CPU cores this is
    # what trains and runs fastest for its quality. The prompt also joins the time embedding
    # (addition_embed_type="text", as in DeepFloyd IF), so that every block hears it; that must be
    # wide: four times the thin first block, diffusers' default, would let no view words through.
    unet = UNet2DConditionModel(
        sample_size=SIZE,
        in_channels=3,
        out_channels=6,  # as DeepFloyd IF: noise and variance; the variance is not trained
        block_out_channels=(16, 32, 96, 192, 256),
        down_block_types=("DownBlock2D",) * 3 + ("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D") + ("UpBlock2D",) * 3,
        layers_per_block=1,
        cross_attention_dim=128,
        encoder_hid_dim=128,
        attention_head_dim=4,  # diffusers takes this as the number of heads
        norm_num_groups=8,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        time_embedding_dim=512,
        resnet_time_scale_shift="scale_shift",
    )
    return text_encoder, unet


def make_optimizers(models: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the weight matrices and convolutions within, AdamW for all others: embeddings,
    biases, scales, the first and the last layer."""
    named = list(models.named_parameters())
    inner = [
        parameter
        for name, parameter in named
        if parameter.ndim > 1
        and not any(
            outer in name for outer in ("embedding.weight", "positional", "conv_in", "conv_out")
        )
    ]
    chosen = set(map(id, inner))
    rest = [p for _, p in named if id(p) not in chosen]
    adam = torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    return [Muon(inner, lr=rate), adam]


def load_weights(folder: Path, text_encoder: CLIPTextModel, unet: UNet2DConditionModel) -> None:
    """Take over the models of a prior that this script saved. Their words must be the same."""
    saved = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    unet.load_state_dict(saved.float().state_dict())
    words = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder")
    text_encoder.load_state_dict(words.float().state_dict())


def learn_words(
    toys: ToyPictures,
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    *,
    steps: int,
    batch: int,
    peak: float,
    world: int,
) -> float:
    """Teach the text encoder alone to foretell thumbnails from captions, by least squares; the
    mean error of the last steps.

    A view word means something only together with a noun, so at first the diffusion loss hardly
    has a gradient for it, and that little drowns in noise: after 50,000 noisy pictures the views
    were still not told apart. Without noise, hundreds of captions a step cost little, and the
    text that the U-Net then gets says what is to be seen.
    """
    device = text_encoder.device
    width = text_encoder.config.hidden_size
    head = nn.Sequential(
        nn.Linear(width, 512), nn.SiLU(), nn.Linear(512, 3 * THUMBNAIL**2), nn.Unflatten(1, (3, -1))
    ).to(device)
    both = nn.ModuleList([text_encoder, head])
    optimizer = torch.optim.AdamW(both.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=0.01)
    queue = prefetch(lambda step: toys.thumbnails(step, batch), 0, steps)
    losses: list[float] = []
    started = time.time()
    for step in range(steps):
        pictures, captions = queue.get()
        ids = tokenizer(
            captions, padding="max_length", max_length=16, truncation=True, return_tensors="pt"
        ).input_ids
        # Any token from the end of the text on: all of them have seen all of it.
        end = (ids == tokenizer.eos_token_id).int().argmax(dim=1)
        generator = torch.Generator().manual_seed((toys.seed * 1_000_003 + step) * world)
        chance = torch.rand(batch, generator=generator)
        chosen = end + (chance * (ids.shape[1] - end)).long()
        hidden = text_encoder(ids.to(device)).last_hidden_state
        foretold = head(hidden[torch.arange(batch), chosen.to(device)])
        loss = (foretold - (pictures * 2 - 1).flatten(2)).square().mean()
        if not torch.isfinite(loss):
            sys.exit(f"words, step {step}: the loss is {loss.item()}")
        rate = learning_rate(step, steps, 200, steps // 3, peak)
        descend(loss, both, [optimizer], rate=rate, world=world)
        losses.append(loss.item())
        if toys.rank == 0 and (step + 1) % 100 == 0:
            seconds = time.time() - started
            print(
                f"words {step + 1}/{steps}: loss {np.mean(losses[-100:]):.4f}, {seconds:.0f} s",
                flush=True,
            )
    return float(np.mean(losses[-10:]))


def noise_schedule() -> DDPMScheduler:
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        variance_type="fixed_small",
        clip_sample=True,
    )


def prefetch(
    pictures: Callable[[int], tuple[Tensor, list[str]]], start: int, stop: int
) -> Queue[Any]:
    """A queue that a thread fills with the batches of steps start .. stop - 1."""
    queue: Queue[Any] = Queue(maxsize=4)

    def work() -> None:
        for step in range(start, stop):
            queue.put(pictures(step))

    threading.Thread(target=work, daemon=True).start()
    return queue


def encode(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, texts: list[str]) -> Tensor:
    ids = tokenizer(
        texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids
    return text_encoder(ids.to(text_encoder.device)).last_hidden_state


@torch.no_grad()
def sample_sheet(
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
    file: Path,
    *,
    autocast: Any,
    guidance: float = 2.0,
    steps: int,
    size: int = SIZE,
) -> None:
    """A row a prompt, eight azimuths a row: what the prior has learned, to look at."""
    device = unet.device
    scheduler = DDIMScheduler.from_config(
        noise_schedule().config,
        timestep_spacing="trailing",  # from noise alone
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
            with autocast():
                out = unet(torch.cat([x, x]), t, text, return_dict=False)[0][:, :3].float()
            cond, uncond = out.chunk(2)
            # Fresh noise at every step (eta 1) mends what the steps before got wrong.
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
    """Write the prior as diffusers does, in half precision, with its vocabulary beside it."""
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
    """README.md of the prior: what it is, from what, how long and where it was trained.

    thumbnails, pictures: how many were seen. before: what went before, or nothing.
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
        else f"{os.cpu_count()} cores of {machine}"
    )
    held = held_out_pairs()
    (folder / "README.md").write_text(
        CARD.format(
            megabytes=sum(sizes.values()),
            thumbnails=thumbnails,
            pictures=pictures,
            hours=seconds / 3600,
            where=where,
            torch=torch.__version__,
            before=before,
            nouns=", ".join(noun.name for noun in NOUNS),
            n_nouns=len(NOUNS),
            colors=", ".join(COLORS),
            adjectives=", ".join(ADJECTIVES),
            held=len(held),
            pairs=len(NOUNS) * len(COLORS),
            low=CAMERA["elevation_deg"][0],
            high=CAMERA["elevation_deg"][1],
        )
    )


def average_gradients(models: nn.Module, world: int) -> None:
    """The mean over all processes, in one exchange."""
    gradients = [p.grad for p in models.parameters() if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    parts = (flat / world).split([g.numel() for g in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.reshape(gradient.shape))


def descend(
    loss: Tensor,
    models: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    *,
    rate: float,
    world: int,
) -> None:
    """A step down `loss` at a learning rate, with the gradients of all processes, clipped."""
    models.zero_grad(set_to_none=True)
    loss.backward()
    if world > 1:
        average_gradients(models, world)
    nn.utils.clip_grad_norm_(models.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()


def learning_rate(step: int, steps: int, warmup: int, decay: int, peak: float) -> float:
    return peak * min(1.0, (step + 1) / warmup, max(steps - step, 1) / max(decay, 1))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--word-steps", type=int, default=4000, help="of the text encoder alone")
    parser.add_argument("--half-steps", type=int, default=5000, help="first steps at half size")
    parser.add_argument("--decay-steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--ema", type=float, default=0.999)
    parser.add_argument(
        "--noise-power", type=float, default=2.0, help="timesteps are 1 - u^it of all; 1: uniform"
    )
    parser.add_argument("--views-per-noun", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--save-every", type=int, default=250, help="steps between states")
    parser.add_argument("--sheet-every", type=int, default=1000, help="steps between sheets")
    parser.add_argument("--sheet-steps", type=int, default=25, help="denoising steps of a sheet")
    parser.add_argument("--work", type=Path, default=Path(".training/embedded-prior"))
    parser.add_argument("--init", type=Path, help="start from a saved prior's weights")
    parser.add_argument("--began-with", help="what --init had learned, for the model card")
    parser.add_argument("--out", type=Path, default=Path("assets/embedded-prior"))
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    device = torch.device(args.device)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1:
        dist.init_process_group("gloo")

    def autocast() -> Any:
        return torch.autocast(device.type, torch.bfloat16)

    # The first process renders and saves; the others wait, then read what it saved.
    if rank > 0:
        dist.barrier()
    geometry = render_geometry(args.views_per_noun, args.seed, args.work)
    if world > 1 and rank == 0:
        dist.barrier()
    toys = ToyPictures(
        geometry, args.batch, args.seed, rank=rank, half_steps=args.half_steps, device=device
    )
    tokenizer = make_tokenizer()
    text_encoder, unet = make_models(tokenizer, args.seed)
    if args.init is not None:
        load_weights(args.init, text_encoder, unet)
    models = nn.ModuleDict({"text_encoder": text_encoder, "unet": unet}).to(device)
    if device.type == "cpu":  # measured: a quarter less time each than the defaults
        unet.set_attn_processor(AttnProcessor())
        text_encoder.set_attn_implementation("eager")
    state_file, words_file = args.work / "state.pt", args.work / "words.pt"
    # A state, or a saved prior, holds the text encoder, too.
    begins = not state_file.exists() and args.init is None
    if begins and words_file.exists():
        text_encoder.load_state_dict(torch.load(words_file, map_location=device, weights_only=True))
    elif begins:
        learn_words(
            toys,
            tokenizer,
            text_encoder,
            steps=args.word_steps,
            batch=WORD_BATCH * args.batch,
            peak=1.5 * args.learning_rate,
            world=world,
        )
        if rank == 0:
            torch.save(text_encoder.state_dict(), words_file)
    average = copy.deepcopy(models).requires_grad_(False)
    print(f"{sum(p.numel() for p in models.parameters()) / 1e6:.1f} M parameters", flush=True)
    optimizers = make_optimizers(models, args.learning_rate)
    first, spent, seen = 0, 0.0, 0
    if state_file.exists():
        state = torch.load(state_file, map_location=device, weights_only=True)
        models.load_state_dict(state["models"])
        average.load_state_dict(state["average"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first, spent, seen = state["step"], state["seconds"], state["pictures"]
        print(f"resumed at step {first}", flush=True)

    scheduler = noise_schedule()
    alpha = scheduler.alphas_cumprod.sqrt().to(device)
    sigma = (1 - scheduler.alphas_cumprod).sqrt().to(device)
    queue = prefetch(toys, first, args.steps)
    losses: list[float] = []
    started, seen_before = time.time(), seen
    for step in range(first, args.steps):
        pictures, captions = queue.get()
        x = pictures * 2 - 1
        generator = torch.Generator().manual_seed((args.seed * 1_000_003 + step) * world + rank)
        # Many of the timesteps above 0.75, where the text alone says which shape, side and colour
        # there is; with less noise the picture tells, and the words are never learned.
        u = 1.0 - torch.rand(len(x), generator=generator) ** args.noise_power
        t = (u * (scheduler.config.num_train_timesteps - 1)).round().long().to(device)
        noise = torch.randn(x.shape, generator=generator).to(device)
        a, s = alpha[t][:, None, None, None], sigma[t][:, None, None, None]
        z, v = a * x + s * noise, a * noise - s * x
        with autocast():
            text = encode(tokenizer, text_encoder, captions)
            predicted = unet(z, t, text, return_dict=False)[0][:, :3]
        loss = (predicted.float() - v).square().mean()
        if not torch.isfinite(loss):
            sys.exit(f"step {step}: the loss is {loss.item()}")
        rate = learning_rate(step, args.steps, 200, args.decay_steps, args.learning_rate)
        descend(loss, models, optimizers, rate=rate, world=world)
        keep = min(args.ema, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(models.parameters()), 1 - keep)
        losses.append(loss.item())

        done = step + 1
        seen += len(pictures) * world
        if rank > 0:
            continue
        if done % 50 == 0:
            rate = (seen - seen_before) / (time.time() - started)
            print(
                f"step {done}/{args.steps}: loss {np.mean(losses[-50:]):.4f}, "
                f"{seen} pictures, {rate:.1f} a second",
                flush=True,
            )
        if done % args.save_every == 0 or done == args.steps:
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
        if done % args.sheet_every == 0 or done == args.steps:
            sheet = args.work / f"sheet-{done:06d}.png"
            sample_sheet(
                tokenizer,
                average["text_encoder"],
                average["unet"],
                sheet,
                autocast=autocast,
                steps=args.sheet_steps,
                size=SIZE // 2 if done < args.half_steps else SIZE,
            )
    if rank > 0:
        return
    save_pipeline(args.out, tokenizer, average["text_encoder"], average["unet"])
    shutil.copyfile(args.work / f"sheet-{args.steps:06d}.png", args.out / "samples.png")
    write_card(
        args.out,
        thumbnails=args.word_steps * WORD_BATCH * args.batch * world,
        pictures=seen,
        seconds=spent + time.time() - started,
        device=device,
        before=f"; it began with {args.began_with}" if args.began_with else "",
    )
    print(f"saved {args.out}")


if __name__ == "__main__":
    main()
