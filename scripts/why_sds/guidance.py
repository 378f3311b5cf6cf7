"""SDS with guidance from 1 to 100."""

from __future__ import annotations

import dreamfusion as df
from dreamfusion.distillation.sds.settings import SDSSettings
from scripts.plots import image_columns
from scripts.why_sds.generators import Pixels, distil
from scripts.why_sds.measures import Subjects
from scripts.why_sds.result import Result, Row

# Guidance, and the bound to which the predicted clean image is clamped.
SCALES = ((1.0, None), (4.0, None), (10.0, None), (30.0, None), (100.0, None), (100.0, 1.0))


def run(prior: df.Prior, *, steps: int = 40, seeds: int = 3) -> Result:
    """SDS of several images of two nouns with each guidance: colours, and diversity over seeds."""
    at = df.Schedule.constant
    subjects = Subjects.of("corgi,mug", seeds)
    conditions, shown = subjects.conditions(prior), {}
    rows: list[Row] = []
    for scale, bound in SCALES:
        settings = SDSSettings(guidance=at(scale), t_max=at(0.98), clip_sample=bound)
        name = f"s = {scale:g}" + ("" if bound is None else ",\nclamped")
        images = Pixels(len(subjects.nouns))
        shown[name] = distil(images, settings.build(prior, seed=0), conditions, steps=steps)
        rows.append({"guidance": name.replace("\n", " "), **subjects.measure(shown[name])})
    shown["true\nimages"] = subjects.examples()
    rows.append({"guidance": "true images", **subjects.measure(shown["true\nimages"]), "psnr": ""})
    return Result(rows, image_columns(shown, size=112))
