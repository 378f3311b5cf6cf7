#!/usr/bin/env python
"""Train a list of prompts through the command line, and measure what came out.

    python -m scripts.measure_quality --out runs/quality

Each prompt is trained by the installed `dreamfusion` in a process of its own, so that wall time and
peak memory are a user's. Then each result is held against the toy world's own object (volume IoU
and colour error, best over a rotation about the vertical axis and a scale), its pictures are shown
to a classifier trained for the purpose (`scripts/toy_classifier.py`), and a table (Markdown, JSON)
and a contact sheet are written: eight views a row, colour above, normals below. What the export
found of the mesh stands in the table, too. Run again, it keeps finished runs and goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # share the cores: before torch is loaded

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from dreamfusion.graphics.cameras import Cameras
from dreamfusion.graphics.shading import over
from dreamfusion.mesh.extract import density_grid, find_threshold, solid_volume
from dreamfusion.mesh.formats import read_glb
from dreamfusion.mesh.topology import topology
from dreamfusion.nerf.renderer import RadianceField, render_image
from dreamfusion.runs.checkpoint import load_state
from dreamfusion.runs.folder import find_run
from dreamfusion.runs.preview import show_cameras
from dreamfusion.toybox import ToyObject, make_object
from dreamfusion.toybox.language import held_out_pairs
from scripts.toy_classifier import COLOR_NAMES, NOUN_NAMES, ToyClassifier, train_classifier

# (noun, colour): None is the natural colour. The second half are pairs that training never showed.
PROMPTS: tuple[tuple[str, str | None], ...] = (
    ("corgi", None),
    ("chair", None),
    ("mug", None),
    ("snowman", None),
    ("rocket", None),
    ("mushroom", None),
    ("car", "red"),
    ("teapot", "green"),
    ("rabbit", "purple"),
    ("sofa", "turquoise"),
    ("castle", None),
    ("airplane", "blue"),
    ("duck", "pink"),
    ("cat", "blue"),
    ("elephant", "purple"),
    ("bear", "orange"),
    ("chair", "gray"),
    ("table", "red"),
    ("mug", "red"),
    ("house", "pink"),
    ("bus", "green"),
    ("hat", "purple"),
    ("pumpkin", "white"),
    ("cone", "blue"),
)
VIEWS, VIEW_SIZE, GRID = 8, 64, 64
# Runs a command, its output on standard error, and prints its peak memory. A process of its own,
# and a small one: a child's peak counts from what its parent holds when it is started.
_MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=sys.stderr)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


@dataclass(frozen=True)
class Result:
    """What was measured of one prompt. iou, noun, color: shares in [0, 1]; color_error: mean
    absolute difference of sRGB albedo in [0, 1]; psnr_db, silhouette_iou: of the mesh against the
    scene, as the export found them; peak_gib: of the training process."""

    prompt: str
    seed: int
    held_out: bool
    iou: float
    yaw_deg: float
    scale: float
    color_error: float
    noun: float
    color: float
    psnr_db: float
    silhouette_iou: float
    watertight: bool
    seconds: float
    peak_gib: float


def train_prompt(prompt: str, seed: int, folder: Path, extra: list[str]) -> tuple[float, float]:
    """Run `dreamfusion train`; wall seconds and peak GiB, also kept beside the run."""
    note = folder.with_suffix(".cost.json")
    if note.exists():
        cost = json.loads(note.read_text())
        return cost["seconds"], cost["peak_gib"]
    command = [sys.executable, "-m", "dreamfusion", "train", prompt, "--out", str(folder)]
    started = time.monotonic()
    with folder.with_suffix(".log").open("w") as log:
        process = subprocess.run(
            [sys.executable, "-c", _MEASURED, *command, "--seed", str(seed), *extra],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    seconds = time.monotonic() - started
    if process.returncode != 0:
        sys.exit(f"training {prompt!r} failed: see {folder.with_suffix('.log')}")
    peak = int(process.stdout) / (1 << 30 if sys.platform == "darwin" else 1 << 20)
    note.write_text(json.dumps({"seconds": seconds, "peak_gib": peak}))
    return seconds, peak


def best_overlap(predicted: Tensor, truth: Tensor) -> tuple[float, float, float]:
    """(IoU, yaw in degrees, scale) of the best match of two solids in the box [-1, 1]^3.

    predicted, truth: (g, g, g) float, 1 inside, indexed [x, y, z]. The truth is turned about +Y
    by yaw and scaled to meet the prediction; the search goes from coarse to fine.
    """
    axis = (torch.arange(GRID) + 0.5) / GRID * 2 - 1
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")

    def overlap(yaw_deg: float, scale: float) -> float:
        yaw = torch.deg2rad(torch.tensor(yaw_deg))
        c, s = torch.cos(yaw), torch.sin(yaw)
        # Where each point of the prediction lies in the truth's own frame.
        u, v, w = (c * x - s * z) / scale, y / scale, (s * x + c * z) / scale
        grid = torch.stack([w, v, u], dim=-1)[None]  # grid_sample wants the last axis first
        moved = torch.nn.functional.grid_sample(
            truth[None, None], grid, align_corners=False, padding_mode="zeros"
        )[0, 0]
        both = torch.minimum(moved, predicted).sum()
        return float(both / (moved + predicted - torch.minimum(moved, predicted)).sum())

    turns = [15.0 * i for i in range(24)]
    candidates = [(overlap(a, s), a, s) for a in turns for s in (0.85, 1.0, 1.15)]
    best = max(candidates)
    for step_deg, step_scale in ((5.0, 0.07), (2.0, 0.03), (1.0, 0.015)):
        _, a0, s0 = best
        for i in (-1, 0, 1):
            for j in (-2, -1, 0, 1, 2):
                yaw, scale = a0 + i * step_deg, s0 + j * step_scale
                best = max(best, (overlap(yaw, scale), yaw, scale))
    return best


def color_error(
    field: RadianceField, solid: Tensor, toy: ToyObject, yaw_deg: float, scale: float
) -> float:
    """Mean |difference| of albedo over surface points of the toy that the prediction also has."""
    vertices, _, colors = toy.mesh(64)
    yaw = np.radians(yaw_deg)
    c, s = np.cos(yaw), np.sin(yaw)
    turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=np.float32)
    points = torch.from_numpy((vertices * 0.97 * scale) @ turn.T).float()
    inside = (points.abs() < 1).all(dim=1)
    cells = ((points.clamp(-0.999, 0.999) + 1) / 2 * GRID).long()
    there = inside & (solid[cells[:, 0], cells[:, 1], cells[:, 2]] > 0.5)
    if not bool(there.any()):
        return 1.0
    with torch.no_grad():
        albedo = field(points[there]).albedo
    return float((albedo - torch.from_numpy(colors)[there]).abs().mean())


def classify(classifier: ToyClassifier, pictures: Tensor, toy: ToyObject) -> tuple[float, float]:
    """Shares of pictures (n, h, w, 3) in which noun and colour are named rightly."""
    with torch.no_grad():
        for_noun, for_color = classifier(pictures.movedim(-1, 1))
    noun = (for_noun.argmax(1) == NOUN_NAMES.index(toy.noun)).float().mean()
    color = (for_color.argmax(1) == COLOR_NAMES.index(toy.color)).float().mean()
    return float(noun), float(color)


def measure(run_dir: Path, toy: ToyObject, classifier: ToyClassifier, file: Path) -> dict[str, Any]:
    """Everything that a finished run is measured by; writes pictures of its scene to `file`."""
    run = find_run(run_dir)
    config = run.read_config()
    state = load_state(run, config, "cpu")
    cameras: Cameras = show_cameras(VIEWS, config)

    threshold = find_threshold(state.shown)
    solid = solid_volume(density_grid(state.shown, GRID), threshold) > 0
    predicted = torch.from_numpy(solid.astype(np.float32))
    truth = torch.from_numpy(toy.occupancy(GRID).astype(np.float32))
    iou, yaw, scale = best_overlap(predicted, truth)

    def pictures(mode: str, size: int) -> Tensor:
        rgba = render_image(
            state.shown,
            cameras,
            height=size,
            width=size,
            mode=mode,  # type: ignore[arg-type]
        )
        return over(rgba, torch.ones(3))

    noun, color = classify(classifier, pictures("color", VIEW_SIZE), toy)
    rows = [torch.cat(list(pictures(mode, 96)), dim=1) for mode in ("color", "normals")]
    Image.fromarray((torch.cat(rows) * 255).byte().numpy()).save(file)
    return {
        "iou": iou,
        "yaw_deg": (yaw + 180) % 360 - 180,
        "scale": scale,
        "color_error": color_error(state.shown.field, predicted, toy, yaw, scale),
        "noun": noun,
        "color": color,
        **check_mesh(run.mesh / "model.glb"),
    }


def check_mesh(file: Path) -> dict[str, Any]:
    """What the mesh of a run says of its likeness to the scene, and whether it is watertight."""
    mesh, origin = read_glb(file)
    if origin is None or origin.psnr_db is None or origin.silhouette_iou is None:
        sys.exit(f"{file} does not say how far it looks like its scene: export it again")
    return {
        "psnr_db": origin.psnr_db,
        "silhouette_iou": origin.silhouette_iou,
        "watertight": topology(mesh.vertices, mesh.faces).watertight,
    }


def write_table(results: list[Result], out: Path) -> str:
    """table.md and results.json; returns the table."""
    lines = [
        "| prompt | pair seen in training | IoU | colour error | views: noun | views: colour "
        "| mesh: PSNR, dB | mesh: IoU | watertight | seconds | GiB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]

    def row(name: str, seen: str, group: list[Result]) -> str:
        def mean(key: str) -> float:
            return float(np.mean([getattr(r, key) for r in group]))

        closed = f"{sum(r.watertight for r in group)} of {len(group)}"
        if len(group) == 1:
            closed = "yes" if group[0].watertight else "no"
        return (
            f"| {name} | {seen} | {mean('iou'):.2f} | {mean('color_error'):.3f} | "
            f"{mean('noun'):.0%} | {mean('color'):.0%} | {mean('psnr_db'):.1f} | "
            f"{mean('silhouette_iou'):.3f} | {closed} | {mean('seconds'):.0f} | "
            f"{mean('peak_gib'):.2f} |"
        )

    lines += [row(r.prompt, "no" if r.held_out else "yes", [r]) for r in results]
    for name, group in (
        ("mean, seen pairs", [r for r in results if not r.held_out]),
        ("mean, unseen pairs", [r for r in results if r.held_out]),
        ("mean of all", results),
    ):
        if group:
            lines.append(row(f"**{name}**", "", group))
    worst = min(results, key=lambda r: r.iou)
    lines.append(f"\nWorst IoU: {worst.iou:.2f} ({worst.prompt}).")
    text = "\n".join(lines) + "\n"
    (out / "table.md").write_text(text)
    (out / "results.json").write_text(json.dumps([asdict(r) for r in results], indent=1) + "\n")
    return text


def write_sheet(entries: list[tuple[str, Path]], file: Path) -> None:
    """All prompts' pictures under each other, each labelled."""
    strips = []
    for label, picture in entries:
        image = Image.open(picture).convert("RGB")
        strip = Image.new("RGB", (image.width + 110, image.height), "white")
        strip.paste(image, (110, 0))
        ImageDraw.Draw(strip).text((4, image.height // 4), label.replace(" ", "\n"), fill="black")
        strips.append(np.asarray(strip))
    Image.fromarray(np.concatenate(strips)).save(file, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--cache", type=Path, default=Path(".cache"))
    parser.add_argument("--seeds", type=int, default=1, help="seeds a prompt, from 0")
    parser.add_argument("--only", nargs="*", help="prompts such as 'red mug', instead of the list")
    parser.add_argument("--train-only", action="store_true", help="leave measuring to a later call")
    parser.add_argument("extra", nargs="*", help="after --, arguments for `dreamfusion train`")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    held_out = set(held_out_pairs())
    chosen = PROMPTS
    if args.only:
        chosen = tuple(_noun_and_color(text) for text in args.only)
    classifier = None if args.train_only else train_classifier(args.cache)

    results, entries = [], []
    for noun, color in chosen:
        words = f"{color} {noun}" if color else noun
        prompt = f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
        for seed in range(args.seeds):
            folder = args.out / f"{prompt.replace(' ', '-')}-{seed}"
            seconds, peak = train_prompt(prompt, seed, folder, args.extra)
            if classifier is None:
                continue
            picture = folder.with_suffix(".png")
            measured = measure(folder, make_object(noun, color), classifier, picture)
            results.append(
                Result(prompt, seed, (noun, color) in held_out, **measured,
                       seconds=seconds, peak_gib=peak)
            )  # fmt: skip
            entries.append((f"{prompt} {seed}" if args.seeds > 1 else prompt, picture))
            r = results[-1]
            print(
                f"{prompt} ({seed}): IoU {r.iou:.2f}, colour error {r.color_error:.3f}, noun "
                f"{r.noun:.0%}, colour {r.color:.0%}, {r.seconds:.0f} s, {r.peak_gib:.2f} GiB",
                flush=True,
            )
    if results:
        print(write_table(results, args.out))
        write_sheet(entries, args.out / "sheet.png")
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    print(f"measured in {args.out} (this script's own peak: {own:.1f} GiB)")


def _noun_and_color(text: str) -> tuple[str, str | None]:
    color, _, noun = text.partition(" ")
    return (noun, color) if color in COLOR_NAMES and noun else (text, None)


if __name__ == "__main__":
    main()
