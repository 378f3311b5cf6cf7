#!/usr/bin/env python
"""Compare settings for latent priors on the twin of Stable Diffusion, whose objects are known.

    python -m scripts.latent_study runs/twin/pipeline runs/study
    python -m scripts.latent_study runs/twin/pipeline runs/study falling --seeds 2 --steps 1000

Sixteen configurations of the preset `stable-diffusion`, each with one difference or all together,
and combinations of the best ones, run as a comparison (`dreamfusion compare`), which resumes when
it is started again. Then prints for each configuration, as means over objects and seeds:

    iou, colour      of the mesh and the true object, see docs/evaluate.md
    fog              share of the pixels that show the object (opacity above .05) with an opacity
                     below .95, over 12 views of 96 pixels
    extreme          share of the object's colour channels below .02 or above .98
    largest          share of the solid's volume in its largest piece, before small ones are dropped
    fronts           share of animals with one front

Writes OUT/study.json and OUT/sheet.png: a row for each configuration, two views of each object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from scipy import ndimage  # type: ignore[import-untyped]

from dreamfusion.batch.jobs import BatchFolder, read_json
from dreamfusion.config.nested import merged
from dreamfusion.evaluation.comparison import METHODS_FILE, measure_objects
from dreamfusion.evaluation.rows import EVALUATION, subjects_in
from dreamfusion.graphics.cameras import turntable_cameras
from dreamfusion.graphics.shading import over
from dreamfusion.mesh.extract import MeshError
from dreamfusion.runs.checkpoint import load_scene
from dreamfusion.runs.folder import RunFolder
from dreamfusion.scenes.base import render_image
from dreamfusion.scenes.nerf.surface import density_grid, find_threshold
from scripts.plots import image_rows

KINDS = ("car", "rocket", "corgi", "mug", "chair", "mushroom")
VISIBLE, OPAQUE, DARK, BRIGHT = 0.05, 0.95, 0.02, 0.98

# Sizes for images of 64 pixels on a CPU, schedules of the preset as fractions of a run, and sharp
# surfaces. Settings that the preset has adopted from this study are reset.
BASE: dict[str, Any] = {
    "extends": "stable-diffusion",
    "estimator": {
        "guidance": 20,
        "t_min": 0.02,
        "t_max": {"start": 0.98, "end": 0.5, "begin": 0.5, "finish": 1},
        "clip_pixels": None,
    },
    "shading": {"lambertian": {"start": 0, "end": 0.75, "begin": 0.2, "finish": 0.2}},
    "scene": {
        "field": {
            "levels": 8,
            "features": 4,
            "log2_table_size": 16,
            "base_resolution": 8,
            "max_resolution": 128,
            "hidden": 32,
            "sharpness": {
                "start": 1,
                "end": 12,
                "begin": 0.15,
                "finish": 0.6,
                "shape": "geometric",
            },
        },
        "marching": {"step_size": 0.025, "min_normal_weight": 2},
        "losses": {
            "orientation": {"start": 0.0006, "end": 0.06, "begin": 0, "finish": 0.5},
            "smoothness": 0,
        },
    },
    "output": {
        "checkpoint_every": 200,
        "preview_every": 200,
        "video_frames": 8,
        "video_size": 64,
        "mesh_resolution": 96,
        "texture_size": 512,
    },
}
_FALLING: dict[str, Any] = {
    "t_min": {"start": 0.9, "end": 0.2},
    "t_max": {"start": 0.98, "end": 0.5},
}
_NORMALS: dict[str, Any] = {"marching": {"min_normal_weight": 0}}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "preset": {"estimator": {"guidance": 100}, "scene": {"field": {"sharpness": 1}}},
    "guidance-100": {"estimator": {"guidance": 100}},
    "guidance-50": {"estimator": {"guidance": 50}},
    "guidance-20": {},
    "guidance-7.5": {"estimator": {"guidance": 7.5}},
    "rescaled": {"estimator": {"guidance": 50, "rescale": 0.5}},
    "clamped": {"estimator": {"guidance": 50, "clip_sample": 3}},
    "pixel-clipped": {"estimator": {"guidance": 50, "clip_pixels": 0.1}},
    "all-normals": {"scene": _NORMALS},
    "orientation": {
        "scene": {
            "losses": {"orientation": {"start": 0.006, "end": 0.6, "begin": 0, "finish": 0.5}}
        }
    },
    "four-views": {"camera": {"views": 4}},
    "falling": {"estimator": _FALLING},
    "sqrt": {
        "estimator": {
            "t_min": {"start": 0.98, "end": 0.2, "shape": "sqrt"},
            "t_max": {"start": 0.98, "end": 0.2, "shape": "sqrt"},
        }
    },
    "dreamtime": {"estimator": {"timesteps": "dreamtime", "t_max": 0.98}},
    "smooth": {"scene": {"losses": {"smoothness": 0.02}}},
    "combined": {
        "estimator": {
            **_FALLING,
            "guidance": {"start": 20, "end": 7.5},
            "weighting": "inverse_sqrt_snr",
        },
        "camera": {"views": 4},
        "losses": {"entropy": {"start": 0, "end": 0.02, "begin": 0.5}},
        "scene": {"losses": {"smoothness": 0.02}, "optimizer": {"grid_lr": 0.03}},
    },
}

# What the first sixteen suggested: falling noise levels for colours, normals everywhere for shape.
CONFIGURATIONS |= {
    "normals-falling": {"estimator": _FALLING, "scene": _NORMALS},
    "normals-falling-7.5": {
        "estimator": {**_FALLING, "guidance": {"start": 20, "end": 7.5}},
        "scene": _NORMALS,
    },
    "normals-falling-clipped": {
        "estimator": {**_FALLING, "guidance": 50, "clip_pixels": 0.1},
        "scene": _NORMALS,
    },
    "combined-normals": merged(CONFIGURATIONS["combined"], {"scene": _NORMALS}),
    "fast": {  # three times the learning rate
        "estimator": {**_FALLING, "guidance": {"start": 20, "end": 7.5}},
        "scene": merged(_NORMALS, {"optimizer": {"grid_lr": 0.03}}),
    },
    "above-0.2": {"estimator": {"t_min": 0.2}, "scene": _NORMALS},
}

# What these suggested: low guidance, all but the lowest noise levels, normals everywhere.
_LOW: dict[str, Any] = {"estimator": {"guidance": 7.5, "t_min": 0.2}, "scene": _NORMALS}
_FAST: dict[str, Any] = {"scene": {"optimizer": {"grid_lr": 0.03}}}
_CLIPPED: dict[str, Any] = {"estimator": {"clip_pixels": 0.1}}
_LOW_CLIPPED = merged(_LOW, _CLIPPED)
_LOW_SMOOTH = merged(_LOW_CLIPPED, CONFIGURATIONS["smooth"])
_FALLING_SMOOTH = merged(_LOW_SMOOTH, {"estimator": _FALLING})
_SETTLING: dict[str, Any] = {
    "optimizer": {"scale": {"start": 1, "end": 0.1, "begin": 0.3, "finish": 1}},
    "scene": {"optimizer": {"ema": 0.99}},
}
CONFIGURATIONS |= {
    "low": _LOW,
    "low-clipped": _LOW_CLIPPED,
    "low-fast": merged(_LOW, _FAST),
    "low-clipped-fast": merged(_LOW_CLIPPED, _FAST),
    "low-clipped-smooth": _LOW_SMOOTH,
    "falling-clipped-smooth": _FALLING_SMOOTH,
    "new-preset": merged(_FALLING_SMOOTH, {"estimator": {"guidance": 50}}),
    "settling": merged(merged(_FALLING_SMOOTH, _FAST), _SETTLING),
    # Near the preset of the embedded prior.
    "like-embedded": merged(
        CONFIGURATIONS["combined-normals"],
        {
            "estimator": {"guidance": {"start": 8, "end": 2}},
            "scene": {"optimizer": {"grid_lr": 0.06}},
        },
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("prior", type=Path, help="folder of the pipeline")
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(CONFIGURATIONS)}"
    )
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=600, help="of one view each")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args(arguments)
    names = args.names or list(CONFIGURATIONS)
    if unknown := [name for name in names if name not in CONFIGURATIONS]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(CONFIGURATIONS)}")
    folder = args.out / "settings"
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        text = yaml.safe_dump(merged(BASE, CONFIGURATIONS[name]), sort_keys=False)
        (folder / f"{name}.yaml").write_text(f"# {name}\n{text}")
    runs = args.out / "runs"
    files = [str(folder / f"{name}.yaml") for name in names]
    command = [sys.executable, "-m", "dreamfusion", "compare", *files, "--out", str(runs)]
    command += ["--nouns", args.kinds, "--seeds", str(args.seeds), "--jobs", str(args.jobs)]
    command += ["--evaluations", str(2 * args.steps), "--prior", str(args.prior)]
    subprocess.run(command, check=True)
    report(args.out, runs)


def report(out: Path, runs: Path) -> None:
    """Measure all runs that are done, print the table and write the files."""
    measure_objects(BatchFolder(runs))
    about = read_json(runs / METHODS_FILE)
    rows: list[dict[str, Any]] = []
    images: dict[tuple[str, int], list[torch.Tensor]] = defaultdict(list)
    for subject in subjects_in(runs):
        known = about.get(subject.run.path.parent.name)
        if known is None or subject.problem is not None:
            continue
        name, steps = known["method"], known["evaluations"] // 2
        figures, image = measure(subject.run)
        rows.append(
            {
                "name": name,
                "steps": steps,
                "prompt": subject.prompt,
                "seed": subject.seed,
                **figures,
            }
        )
        images[name, steps].append(image)
    order = [*CONFIGURATIONS]
    images = dict(sorted(images.items(), key=lambda item: (item[0][1], order.index(item[0][0]))))
    columns = ("iou", "colour", "fog", "extreme", "largest", "fronts", "seconds")
    print(f"{'':24}{'steps':>6}{'runs':>6}" + "".join(f"{column:>10}" for column in columns))
    for name, steps in images:
        mine = [row for row in rows if (row["name"], row["steps"]) == (name, steps)]
        means = (
            np.mean([row[column] for row in mine if row[column] is not None] or [np.nan])
            for column in columns
        )
        print(f"{name:24}{steps:6}{len(mine):6}" + "".join(f"{mean:10.3f}" for mean in means))
    (out / "study.json").write_text(json.dumps(rows, indent=1))
    sheet = {f"{name}, {steps}": torch.cat(found) for (name, steps), found in images.items()}
    image_rows(sheet, label_width=190).save(out / "sheet.png")
    print(f"{len(rows)} runs are done; {out / 'sheet.png'}")


def measure(run: RunFolder) -> tuple[dict[str, float | None], torch.Tensor]:
    """The figures of a run, and two views of it on white, (2, 3, 96, 96)."""
    evaluation: Mapping[str, Any] = read_json(run.path / EVALUATION)
    scene = load_scene(run, run.read_config()).scene
    rgba = render_image(scene, turntable_cameras(12), height=96, width=96, mode="albedo")
    color, opacity = rgba[..., :3], rgba[..., 3]
    seen = opacity > VISIBLE
    channels = color[opacity > OPAQUE]
    extreme = (channels < DARK) | (channels > BRIGHT)
    figures = {
        "iou": evaluation.get("iou"),
        "colour": evaluation.get("color_error"),
        "fog": float((opacity[seen] < OPAQUE).float().mean()) if seen.any() else None,
        "extreme": float(extreme.float().mean()) if len(channels) else None,
        "largest": largest(scene),
        "fronts": None if (found := evaluation.get("fronts")) is None else float(found == 1),
        "seconds": evaluation.get("seconds"),
    }
    return figures, over(rgba[[1, 5]], torch.ones(3)).movedim(-1, 1)


@torch.no_grad()
def largest(scene: Any) -> float | None:
    """The share of the largest piece in the solid of a NeRF, of which export drops small pieces;
    None if it is empty."""
    try:
        threshold = find_threshold(scene)
    except MeshError:
        return None
    labels, _ = ndimage.label(density_grid(scene, 96) > threshold)
    sizes = np.bincount(labels.ravel())[1:]
    return float(sizes.max() / sizes.sum()) if len(sizes) else None


if __name__ == "__main__":
    main()
