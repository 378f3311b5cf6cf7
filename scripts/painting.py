"""Measures `paint`: paints the toy world's own meshes and compares them with their true colours.

    python -m scripts.painting OUT corgi mug "purple bus" --estimator sds --set steps=240

Prints, for each prompt: the mean absolute difference of sRGB, over points of the surface that can
be seen from outside; the same over points that do not have the object's main colour; the seconds
from the mesh file to the painted file, without the loading of the prior. Writes OUT/results.json
and OUT/sheet.png: the true object and the painted one from six sides.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray

from dreamfusion.config.layers import Layer, parse_assignments
from dreamfusion.config.nested import merged
from dreamfusion.graphics.cameras import Cameras, orbit_cameras
from dreamfusion.graphics.media import write_png
from dreamfusion.graphics.triangles import project, rasterize
from dreamfusion.mesh.extract import Mesh
from dreamfusion.mesh.renderer import render_mesh, sample_texture
from dreamfusion.priors import load_prior
from dreamfusion.runs.plan import plan_run
from dreamfusion.toyworld.objects import ToyObject, make_object
from dreamfusion.training.state import new_state
from dreamfusion.training.trainer import Trainer
from dreamfusion.utils.threads import fixed_order

N_POINTS = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("prompts", nargs="+", help="NOUN or COLOUR NOUN")
    parser.add_argument("--estimator", default="sds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows, images, prior = [], [], None
    for prompt in args.prompts:
        toy = make_object(*_words(prompt))
        vertices, faces, _ = toy.mesh(96)
        file = args.out / f"{prompt.replace(' ', '-')}.glb"
        trimesh.Trimesh(vertices, faces, process=False).export(file)
        begun = time.perf_counter()
        scene = {"name": "mesh", "file": str(file)}
        settings = merged({"scene": scene}, parse_assignments(args.set))
        settings = merged({"estimator": {"name": args.estimator}}, settings)
        plan = plan_run(
            [Layer("--set", settings), Layer("prompt", {"prompt": prompt, "seed": args.seed})]
        )
        if prior is None:
            loading = time.perf_counter()
            prior = load_prior(plan.prior, plan.config.prior, device="cpu")  # type: ignore[arg-type]
            begun += time.perf_counter() - loading
        with fixed_order():
            state = new_state(plan.config, prior)
            for _ in Trainer(plan.config, prior, state):
                pass
        painted: Any = state.scene.surface()
        write = next(iter(state.scene.writers().values()))
        write(file.with_name(f"{file.stem}-painted.glb"))
        seconds = time.perf_counter() - begun
        row = {"prompt": prompt, **errors(painted, toy, vertices, faces), "seconds": seconds}
        rows.append(row)
        print(
            " ".join(f"{k}={v:.4f}" if isinstance(v, float) else v for k, v in row.items()),
            flush=True,
        )
        colors = toy.albedo(vertices.astype(np.float32)).astype(np.float64)
        true = Mesh(vertices.astype(np.float64), faces.astype(np.int64), colors)
        both = [_row(true), _row(_unfitted(painted, vertices))]
        images.append(torch.cat(both, dim=1))
    mean = {
        key: float(np.mean([row[key] for row in rows])) for key in ("outside", "parts", "seconds")
    }
    print("mean", mean)
    (args.out / "results.json").write_text(json.dumps({"rows": rows, "mean": mean}, indent=1))
    write_png(torch.cat(images), args.out / "sheet.png")


def _words(prompt: str) -> tuple[str, str | None]:
    try:
        make_object(prompt, None)
    except (KeyError, ValueError):
        color, noun = prompt.split(" ", 1)
        return noun, color
    return prompt, None


def _unfitted(painted: Any, vertices: NDArray[Any]) -> Any:
    """The painted mesh in the frame of the file."""
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    scale = (high - low).max() / (painted.vertices.max(0) - painted.vertices.min(0)).max()
    return replace(painted, vertices=painted.vertices * scale + (low + high) / 2)


def errors(
    painted: Any, toy: ToyObject, vertices: NDArray[Any], faces: NDArray[Any]
) -> dict[str, float]:
    """Mean differences between the texture and the true colours; see the top of this file."""
    corners = vertices[faces].astype(np.float64)
    area = np.linalg.norm(
        np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
    )
    random = np.random.default_rng(0)
    face = random.choice(len(faces), N_POINTS, p=area / area.sum())
    a, b = np.sqrt(random.random(N_POINTS)), random.random(N_POINTS)
    weights = np.stack([1 - a, a * (1 - b), a * b], axis=1)[..., None]
    points = (corners[face] * weights).sum(axis=1).astype(np.float32)
    true = toy.albedo(points)
    uv = (painted.uv[painted.faces[face]] * weights).sum(axis=1)
    difference = np.abs(sample_texture(painted.texture, uv) - true).mean(axis=1)
    outside = _seen(vertices, faces)[face]
    other = outside & ~(true == np.median(true, axis=0)).all(axis=1)
    return {
        "outside": float(difference[outside].mean()),
        "parts": float(difference[other].mean()) if other.any() else 0.0,
    }


def _seen(vertices: NDArray[Any], faces: NDArray[Any]) -> NDArray[np.bool_]:
    """Faces that some of 120 cameras on a sphere around the object see."""
    i = np.arange(120) + 0.5
    elevation = torch.from_numpy(np.degrees(np.arcsin(2 * i / 120 - 1))).float()
    azimuth = torch.from_numpy(i * 180 * (3 - 5**0.5) % 360).float()
    cameras = orbit_cameras(azimuth, elevation, torch.full((120,), 2.75), torch.full((120,), 40.0))
    seen = np.zeros(len(faces), dtype=bool)
    indices = torch.from_numpy(faces.astype(np.int64))
    for start in range(0, 120, 8):
        some = cameras[start : start + 8]
        drawn = rasterize(
            project(torch.from_numpy(vertices).double(), some, 512, 512), indices, 512, 512
        )
        seen[drawn.face_of[drawn.face_of >= 0].unique().numpy()] = True
    return seen


def _row(mesh: Any) -> torch.Tensor:
    cameras: Cameras = orbit_cameras(
        torch.tensor([0.0, 40.0, 90.0, 180.0, 300.0, 20.0]),
        torch.tensor([10.0, 15.0, 15.0, 15.0, 45.0, -30.0]),
        torch.full((6,), 2.75),
        torch.full((6,), 40.0),
    )
    rgba = render_mesh(mesh, cameras, height=96, width=96, mode="albedo")
    return torch.cat(list(rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]), dim=1)


if __name__ == "__main__":
    main()
