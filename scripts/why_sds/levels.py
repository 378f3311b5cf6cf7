"""Many noise levels against one."""

from __future__ import annotations

import dreamfusion as df
from dreamfusion.distillation.sds.settings import SDSSettings
from scripts.plots import image_columns
from scripts.why_sds.generators import Pixels, distil
from scripts.why_sds.measures import Subjects
from scripts.why_sds.result import Result, Row

RANGES = {
    "t = .1": (0.1, 0.1),
    "t = .3": (0.3, 0.3),
    "t = .5": (0.5, 0.5),
    "t = .7": (0.7, 0.7),
    "t = .9": (0.9, 0.9),
    ".02 to .98": (0.02, 0.98),
}


def run(prior: df.Prior, *, steps: int = 45, seeds: int = 1) -> Result:
    """SDS of images with one noise level for all steps, with all levels, and with falling ones.

    A corgi and a mug from grey noise, and each of them from a true image of the other.
    """
    at = df.Schedule.constant
    schedules = {name: (at(low), at(high)) for name, (low, high) in RANGES.items()}
    schedules["falling,\n.98 to .02"] = (df.Schedule(0.98, 0.02), df.Schedule(0.98, 0.02))
    subjects, others = Subjects.of("corgi,mug", seeds), Subjects.of("mug,corgi", seeds)
    n = len(subjects.nouns)
    conditions = Subjects(subjects.nouns * 2).conditions(prior)
    rows: list[Row] = []
    shown = {}
    for name, (low, high) in schedules.items():
        images = Pixels(2 * n)
        images.values.data[n:] = others.examples()
        settings = SDSSettings(guidance=at(4.0), t_min=low, t_max=high)
        shown[name] = distil(images, settings.build(prior, seed=0), conditions, steps=steps)
        grey, wrong = (subjects.measure(half) for half in shown[name].split(n))
        rows.append(
            {
                "levels": name.replace("\n", " "),
                "noun": grey["noun"],
                "psnr": grey["psnr"],
                "saturation": grey["saturation"],
                "extreme": grey["extreme"],
                "noun, other start": wrong["noun"],
                "psnr, other start": wrong["psnr"],
            }
        )
    return Result(rows, image_columns(shown, size=112))
