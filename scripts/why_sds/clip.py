"""SDS against guidance by a classifier of images and texts, as CLIP."""

from __future__ import annotations

import torch
from torch import Tensor

import dreamfusion as df
from dreamfusion.distillation.clip.settings import CLIPSettings
from dreamfusion.distillation.sds.settings import SDSSettings
from dreamfusion.evaluation.guides import ToyGuideSettings
from dreamfusion.evaluation.judges import NOUN_NAMES
from scripts.plots import image_columns
from scripts.why_sds.generators import Discs, Pixels, distil
from scripts.why_sds.measures import Subjects, judge
from scripts.why_sds.result import Result, Row


def run(prior: df.Prior, *, steps: int = 120, seeds: int = 1) -> Result:
    """Pixels and discs, moved by the shipped classifier and by SDS."""
    subjects = Subjects.of("corgi,mug", seeds)
    at = df.Schedule.constant
    guide = ToyGuideSettings().build(device="cpu", prompts=None)
    by_classifier = CLIPSettings(transmittance_weight=0.0).build(guide, seed=0)
    by_sds = SDSSettings(guidance=at(4.0), t_max=at(0.98)).build(prior, seed=0)
    ways = {
        "classifier": (by_classifier, subjects.conditions(guide)),
        "SDS": (by_sds, subjects.conditions(prior)),
    }
    shown: dict[str, Tensor] = {}
    rows: list[Row] = []
    for name, (estimator, conditions) in ways.items():
        for kind in (Pixels, Discs):
            label = f"{name},\n{kind.__name__.lower()}"
            images = kind(len(subjects.nouns))
            shown[label] = distil(
                images, estimator, conditions, cameras=subjects.cameras, steps=steps
            )
            own = probability("toy", subjects, shown[label])
            other = probability("toy-b", subjects, shown[label])
            measured = subjects.measure(shown[label])
            rows.append(
                {
                    "method": label.replace("\n", " "),
                    "p(noun), guiding": own,
                    "p(noun), other": other,
                    "psnr": measured["psnr"],
                }
            )
    return Result(rows, image_columns(shown, size=144))


def probability(name: str, subjects: Subjects, images: Tensor) -> float:
    """The mean probability of the subjects' nouns by a classifier."""
    found = judge(name).logits(images.movedim(1, -1))["noun"].softmax(dim=1)
    rows = torch.arange(len(images))
    return float(found[rows, [NOUN_NAMES.index(noun) for noun in subjects.nouns]].mean())
