"""The same loss on an image, on discs, on Bézier curves, and on a NeRF."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

import dreamfusion as df
from dreamfusion.evaluation.image_task import side_cameras
from scripts.plots import image_columns
from scripts.why_sds.generators import SIZE, Curves, Discs, Pixels, distil
from scripts.why_sds.measures import SIDE, Subjects
from scripts.why_sds.result import Result, Row

NOUN = "corgi"
NAMES = {Pixels: "pixels", Discs: "80 discs", Curves: "40 strokes"}


def run(prior: df.Prior, *, steps: int = 120, seeds: int = 1) -> Result:
    """SDS with the settings of the embedded preset, on four kinds of generators.

    The NeRF has one seed and is shown from two sides; only the first is measured.
    """
    config = df.config_for(NOUN, prior, steps=steps, settings={"camera.views": 3})
    # Noise that is anchored to the surface needs one, which images do not have.
    settings: Any = replace(config.estimator, surface_noise=None)  # type: ignore[call-arg]
    subjects = Subjects.of(NOUN, seeds)
    conditions = subjects.conditions(prior)
    rows: list[Row] = []
    shown: dict[str, Tensor] = {}
    for kind, name in NAMES.items():
        generator = kind(seeds)
        images = distil(generator, settings.build(prior, seed=0), conditions, steps=steps)
        shown[name], numbers = images, sum(one[0].numel() for one in generator.parameters())
        rows.append(
            {"generator": kind.__name__.lower(), "parameters": numbers, **subjects.measure(images)}
        )
    trainer = df.Trainer(config, prior)
    for _ in trainer:
        pass
    scene: Any = trainer.state.scene
    seen = scene.images(side_cameras()[SIDE::4], size=SIZE).movedim(-1, 1)
    shown["NeRF"], shown["NeRF, from\nbehind"] = seen.split(1)
    numbers = sum(p.numel() for group in scene.optimizer.param_groups for p in group["params"])
    measured = Subjects.of(NOUN, 1).measure(seen[:1])
    rows.append({"generator": "NeRF", "parameters": numbers, **measured, "extreme": ""})
    return Result(rows, image_columns(shown, size=160))
