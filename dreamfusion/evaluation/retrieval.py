"""R-Precision: is a picture's own prompt found among others? (DreamFusion, section 4.)"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from dreamfusion.evaluation.judges import Judge, Look


class Retrieval(NamedTuple):
    """views: share of views whose own prompt scores highest. pooled: whether it does in the mean of
    all views. rank: its place in that mean, 1 the best. margin: how far it scores above the best
    distractor, mean over views; worst_margin: in the worst view; logits, below 0 where it loses."""

    views: float
    pooled: bool
    rank: int
    margin: float
    worst_margin: float
    distractors: int


def retrieve(scores: Tensor) -> Retrieval:
    """What scores (views, 1 + distractors) say, the first column being the prompt's own.

    There is at least one distractor. One that scores as high as the prompt is above it: a judge
    that sees nothing finds nothing.
    """
    margins = scores[:, 0] - scores[:, 1:].max(dim=1).values
    pooled = scores.mean(dim=0)
    rank = 1 + int((pooled[1:] >= pooled[0]).sum())
    return Retrieval(
        views=float((margins > 0).float().mean()),
        pooled=rank == 1,
        rank=rank,
        margin=float(margins.mean()),
        worst_margin=float(margins.min()),
        distractors=scores.shape[1] - 1,
    )


def distractors_for(judge: Judge, prompt: str, others: Sequence[str], look: Look) -> list[str]:
    """The texts among `others` that mean something else than the prompt, each meaning once."""
    own = judge.meaning(prompt, look)
    by_meaning = {judge.meaning(text, look): text for text in others}
    return [text for meaning, text in by_meaning.items() if meaning != own]
