"""R-Precision: whether an image matches its prompt better than others (DreamFusion, section 4)."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from dreamfusion.evaluation.judges import Judge, Look


class Retrieval(NamedTuple):
    """views: share of views in which the prompt scores highest. pooled: whether the prompt has the
    highest mean score over all views. rank: of the prompt by mean score, 1 is best. margin: its
    score minus that of the best distractor, mean over views, in logits; worst_margin: in the worst
    view. distractors: their number."""

    views: float
    pooled: bool
    rank: int
    margin: float
    worst_margin: float
    distractors: int


def retrieve(scores: Tensor) -> Retrieval:
    """Metrics of scores (views, 1 + distractors), whose first column belongs to the prompt.

    Requires at least one distractor. A distractor with the same score as the prompt ranks above it,
    so that constant scores do not count as a match.
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
    """The texts among `others` whose meaning differs from the prompt's, one per meaning."""
    own = judge.meaning(prompt, look)
    by_meaning = {judge.meaning(text, look): text for text in others}
    return [text for meaning, text in by_meaning.items() if meaning != own]
