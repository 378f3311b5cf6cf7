#!/usr/bin/env python
"""Make a list of prompts by `dreamfusion batch`, judge them by `dreamfusion evaluate`, and hold
each against the toy world's own object.

    python -m scripts.measure_quality --out runs/quality           # 24 pairs of noun and colour
    python -m scripts.measure_quality --out runs/nouns --nouns     # all 52 nouns as they are

What only the toy world knows is measured here: volume IoU and colour error, best over a rotation
about the vertical axis and a scale. A table (Markdown, JSON) and a contact sheet are written: eight
views a row, colour above, normals below. Run again, it keeps finished runs and goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, fields
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
from dreamfusion.runs.checkpoint import load_state
from dreamfusion.runs.folder import find_run
from dreamfusion.runs.preview import show_cameras
from dreamfusion.scenes.nerf.renderer import RadianceField, render_image
from dreamfusion.toyworld import NOUNS, PALETTE, ToyObject, make_object
from dreamfusion.toyworld.language import held_out_pairs

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
VIEWS, GRID = 8, 64


@dataclass(frozen=True)
class Result:
    """What was measured of one run. iou: in [0, 1]; color_error: mean absolute difference of sRGB
    albedo in [0, 1]; the rest is the judge's: see `evaluate.rows.Row`."""

    prompt: str
    seed: int
    held_out: bool
    iou: float
    yaw_deg: float
    scale: float
    color_error: float
    r1_color: float
    r1_shaded: float
    r1_geometry: float
    margin: float
    fronts: int
    mesh_psnr_db: float
    watertight: bool
    seconds: float
    gib: float


def dreamfusion(*arguments: str) -> dict[str, Any]:
    """Run a command of ours, and return what it tells scripts; exits where it fails."""
    command = [sys.executable, "-m", "dreamfusion", *arguments, "--json"]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if process.returncode != 0:
        sys.exit(f"dreamfusion {arguments[0]} failed")
    return dict(json.loads(process.stdout))


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


def measure(run_dir: Path, toy: ToyObject, file: Path) -> dict[str, Any]:
    """What the toy world knows of a finished run; writes pictures of its scene to `file`."""
    run = find_run(run_dir)
    config = run.read_config()
    state = load_state(run, config, "cpu")
    cameras: Cameras = show_cameras(VIEWS, config)

    threshold = find_threshold(state.shown)
    solid = solid_volume(density_grid(state.shown, GRID), threshold) > 0
    predicted = torch.from_numpy(solid.astype(np.float32))
    truth = torch.from_numpy(toy.occupancy(GRID).astype(np.float32))
    iou, yaw, scale = best_overlap(predicted, truth)

    def row(mode: str) -> Tensor:
        rgba = render_image(state.shown, cameras, height=96, width=96, mode=mode)  # type: ignore[arg-type]
        return torch.cat(list(over(rgba, torch.ones(3))), dim=1)

    rows = torch.cat([row("color"), row("normals")])
    Image.fromarray((rows * 255).byte().numpy()).save(file)
    return {
        "iou": iou,
        "yaw_deg": (yaw + 180) % 360 - 180,
        "scale": scale,
        "color_error": color_error(state.shown.field, predicted, toy, yaw, scale),
    }


def write_table(results: list[Result], out: Path) -> str:
    """table.md and results.json; returns the table."""
    lines = [
        "| prompt | pair seen in training | IoU | colour error | R@1 colour | R@1 shaded "
        "| R@1 geometry | margin | mesh: PSNR, dB | watertight | seconds | GiB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]

    def row(name: str, seen: str, group: list[Result]) -> str:
        def mean(key: str) -> float:
            return float(np.mean([getattr(r, key) for r in group]))

        closed = f"{sum(r.watertight for r in group)} of {len(group)}"
        if len(group) == 1:
            closed = "yes" if group[0].watertight else "no"
        return (
            f"| {name} | {seen} | {mean('iou'):.2f} | {mean('color_error'):.3f} | "
            f"{mean('r1_color'):.0%} | {mean('r1_shaded'):.0%} | {mean('r1_geometry'):.0%} | "
            f"{mean('margin'):.2f} | {mean('mesh_psnr_db'):.1f} | {closed} | "
            f"{mean('seconds'):.0f} | {mean('gib'):.2f} |"
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
    parser.add_argument("--seeds", type=int, default=1, help="seeds a prompt, from 0")
    parser.add_argument("--only", nargs="*", help="prompts such as 'red mug', instead of the list")
    parser.add_argument("--nouns", action="store_true", help="all nouns in their own colours")
    parser.add_argument("extra", nargs="*", help="after --, arguments for `dreamfusion batch`")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    chosen = tuple((noun.name, None) for noun in NOUNS) if args.nouns else PROMPTS
    if args.only:
        chosen = tuple(noun_and_color(text) for text in args.only)
    pair_of = {prompt_of(noun, color): (noun, color) for noun, color in chosen}
    prompts = args.out / "prompts.txt"
    prompts.write_text("\n".join(pair_of) + "\n")
    shelf = str(args.out)
    batch = dreamfusion(
        "batch", str(prompts), "--out", shelf, "--seeds", str(args.seeds), *args.extra
    )
    asked = {str(Path(job["run"]).resolve()) for job in batch["jobs"]}
    judged = dreamfusion("evaluate", shelf, "--judge", "toy")["rows"]

    held_out, results, entries = set(held_out_pairs()), [], []
    for row in judged:
        if str(Path(row["run"]).resolve()) not in asked:
            continue  # of another list, in the same folder
        if row["reason"]:
            print(f"{row['run']} is left out: {row['reason']}")
            continue
        prompt, pair = row["prompt"], pair_of[row["prompt"]]
        picture = Path(row["run"]).parent / "views.png"
        known = measure(Path(row["run"]), make_object(*pair), picture)
        figures: dict[str, Any] = {f.name: row[f.name] for f in fields(Result) if f.name in row}
        results.append(Result(held_out=pair in held_out, **known, **figures))
        entries.append((f"{prompt} {row['seed']}" if args.seeds > 1 else prompt, picture))
    if not results:
        sys.exit("there is nothing to measure")
    print(write_table(results, args.out))
    write_sheet(entries, args.out / "sheet.png")


def prompt_of(noun: str, color: str | None) -> str:
    """What is asked for: "a red mug", "an owl"."""
    words = f"{color} {noun}" if color else noun
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def noun_and_color(text: str) -> tuple[str, str | None]:
    """The pair that words like "red mug" mean."""
    color, _, noun = text.partition(" ")
    return (noun, color) if color in PALETTE and noun else (text, None)


if __name__ == "__main__":
    main()
