"""The training data: the geometry of the toy world, rendered once, and batches shaded from it."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from queue import Queue
from typing import Any, ClassVar

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dreamfusion.graphics.cameras import sample_cameras
from dreamfusion.toyworld.objects import (
    ADJECTIVES,
    COLOR_INDEX,
    COLORS,
    NOUNS,
    PALETTE_TABLE,
    downsample,
    held_out_pairs,
    make_object,
    shade,
    view,
)
from dreamfusion.utils.machine import usable_cores
from scripts.embedded_prior.language import caption

SIZE = 64
SUPERSAMPLE = 2
# The cameras and lights of the training images; SDS samples from the same ranges.
CAMERA: dict[str, Any] = {
    "elevation_deg": [-12.0, 72.0],
    "distance": [2.65, 2.85],
    "fov_y_deg": [40.0, 40.0],
}
LIGHT: dict[str, Any] = {"ambient": 0.4, "direction_std": 0.6, "distance": [8.0, 8.0]}
# Plain colours, each channel uniform in this range, so that white and black objects are visible.
# Training from scratch should start with a narrow range: the background cannot be predicted at high
# noise levels, and its error would dominate the loss.
BACKGROUND: tuple[float, float] = (0.1, 0.9)
# Relative frequency of nouns, if not 1: faces take longer to learn than simple solids.
FACES = "corgi cat rabbit duck penguin owl bear pig elephant fish turtle dinosaur"
SLOW = f"{FACES} mug sofa airplane"
QUICK = "ball cube cone cylinder pyramid apple banana carrot donut pumpkin star bottle"
SHARES = {**dict.fromkeys(SLOW.split(), 1.5), **dict.fromkeys(QUICK.split(), 0.5)}
# Faces are small and visible only from the front: increase the frequency of these views.
FACE_SHARE, FACE_AZIMUTH_DEG = 4.0, 60.0
SHADING_SHARES = {"albedo": 0.35, "lambertian": 0.45, "textureless": 0.2}
THUMBNAIL = 16
PER_SHAPE = 8  # views of each shape


@dataclass(frozen=True)
class Geometry:
    """Geometry buffers of the toy world: n views, each SIZE * SUPERSAMPLE pixels wide."""

    normals: NDArray[np.int8]  # (n, s, s, 3), unit vectors times 127
    color_index: NDArray[np.uint8]  # (n, s, s)
    noun: NDArray[np.uint8]
    adjective: NDArray[np.uint8]  # 0: none
    azimuth_deg: NDArray[np.float32]
    elevation_deg: NDArray[np.float32]
    towards_camera: NDArray[np.float32]  # (n, 3) unit vectors


def render_geometry(views_per_noun: int, seed: int, cache: Path) -> Geometry:
    """Render all nouns in many shapes, with eight views of each from random cameras."""
    file = cache / f"geometry-{views_per_noun}-{seed}.npz"
    if file.exists():
        with np.load(file) as saved:
            return Geometry(**{name: saved[name] for name in saved.files})
    n = len(NOUNS) * views_per_noun
    started = time.time()
    starts = range(0, n, PER_SHAPE)
    parts: list[Geometry] = []
    # One process per core, spawned rather than forked, since CUDA does not survive a fork.
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(usable_cores(), spawned) as pool:
        work = partial(_views_of_shape, views_per_noun=views_per_noun, seed=seed)
        for start, part in zip(starts, pool.map(work, starts, chunksize=4), strict=True):
            parts.append(part)
            if start % (PER_SHAPE * 100) == 0:
                print(f"geometry: {start}/{n} views, {time.time() - started:.0f} s", flush=True)
    names = [field.name for field in fields(Geometry)]
    out = Geometry(*(np.concatenate([getattr(part, k) for part in parts])[:n] for k in names))
    cache.mkdir(parents=True, exist_ok=True)
    np.savez(file, **vars(out))
    return out


def _views_of_shape(start: int, *, views_per_noun: int, seed: int) -> Geometry:
    """PER_SHAPE views of one shape, with indices from `start`."""
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    rng = np.random.default_rng([seed, start])
    noun = start // views_per_noun
    adjectives = list(ADJECTIVES)
    which = int(rng.integers(1, len(adjectives) + 1)) if rng.random() < 0.2 else 0
    adjective = adjectives[which - 1] if which else None
    obj = make_object(NOUNS[noun].name, "main", adjective, rng)
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    ranges: dict[str, Any] = {name: tuple(values) for name, values in CAMERA.items()}
    cameras = sample_cameras(PER_SHAPE, **ranges, generator=generator)
    buffers = view(obj, cameras, SIZE * SUPERSAMPLE)
    position = cameras.positions.numpy()
    return Geometry(
        np.round(buffers.normals * 127).astype(np.int8),
        buffers.color_index.astype(np.uint8),
        np.full(PER_SHAPE, noun, np.uint8),
        np.full(PER_SHAPE, which, np.uint8),
        cameras.azimuth_deg.numpy(),
        cameras.elevation_deg.numpy(),
        position / np.linalg.norm(position, axis=1, keepdims=True),
    )


class ToyPictures:
    """Training batches: views of `geometry` with random colours, lights and backgrounds.

    Batches depend only on seed, step and rank; images are rendered on `device`. Before step
    `half_steps`, and then in every other step, a batch has twice as many images at half the size;
    with None, never.
    """

    shading_shares: ClassVar = SHADING_SHARES

    def __init__(
        self,
        geometry: Geometry,
        batch: int,
        seed: int,
        *,
        rank: int = 0,
        half_steps: int | None = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.geometry, self.batch, self.seed, self.rank = geometry, batch, seed, rank
        self.half_steps = half_steps
        self.normals = torch.from_numpy(geometry.normals).to(device)
        self.color_index = torch.from_numpy(geometry.color_index).to(device)
        held = set(held_out_pairs())
        self.colors_of = [[c for c in COLORS if (n.name, c) not in held] for n in NOUNS]
        shares = np.array([SHARES.get(noun.name, 1.0) for noun in NOUNS])[geometry.noun]
        has_face = np.isin([noun.name for noun in NOUNS], FACES.split())[geometry.noun]
        from_front = np.abs((geometry.azimuth_deg + 180) % 360 - 180) < FACE_AZIMUTH_DEG
        shares[has_face & from_front] *= FACE_SHARE
        self.cumulative_shares = np.cumsum(shares / shares.sum())

    def __call__(self, step: int) -> tuple[Tensor, list[str]]:
        """The batch of a step: images (b, 3, size, size) in [0, 1], and captions."""
        rng = np.random.default_rng([self.seed, 1, step, self.rank])
        half = self.half_steps is not None and (step < self.half_steps or step % 2 == 1)
        shrink = 2 if half else 1
        pictures, captions = self._captioned(self.batch * shrink, shrink, BACKGROUND, rng)
        return pictures, ["" if rng.random() < 0.12 else text for text in captions]

    def thumbnails(self, step: int, batch: int) -> tuple[Tensor, list[str]]:
        """Small images (batch, 3, THUMBNAIL, THUMBNAIL) on gray, and captions."""
        rng = np.random.default_rng([self.seed, 2, step, self.rank])
        return self._captioned(batch, SIZE // THUMBNAIL, (0.5, 0.5), rng)

    def _captioned(
        self, batch: int, shrink: int, background: tuple[float, float], rng: np.random.Generator
    ) -> tuple[Tensor, list[str]]:
        rows = np.searchsorted(self.cumulative_shares, rng.random(batch) * (1 - 1e-9))
        shares = self.shading_shares
        shadings = rng.choice(list(shares), batch, p=list(shares.values()))
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
        """Images (n, 3, size, size) of n rows of the geometry; size is SIZE / `shrink`."""
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
        """The main colour of a view, and its caption."""
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
    """The palette with `color` as main colour, slightly perturbed colours, and a random background
    with channels in the given range."""
    palette = PALETTE_TABLE.copy()
    palette[COLOR_INDEX["main"]] = palette[COLOR_INDEX[color]]
    palette = np.clip(palette + rng.normal(0, spread, palette.shape), 0, 1).astype(np.float32)
    palette[0] = rng.uniform(*background, size=3)
    return palette


def prefetch(batch: Callable[[int], tuple[Tensor, Any]], start: int, stop: int) -> Queue[Any]:
    """A queue, filled by a thread with the batches of steps start to stop - 1."""
    queue: Queue[Any] = Queue(maxsize=4)

    def work() -> None:
        for step in range(start, stop):
            queue.put(batch(step))

    threading.Thread(target=work, daemon=True).start()
    return queue
