"""The conditions of a prior's predictions: text embeddings and cameras."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dreamfusion.graphics.cameras import Cameras
from dreamfusion.utils.devices import send


@dataclass(frozen=True)
class TextEmbedding:
    """A model's embeddings of texts; valid for that model only.

    tokens: the input of cross-attention. pooled: for models that use it.
    """

    tokens: Float[Tensor, "b length width"]
    pooled: Float[Tensor, "b pooled_width"] | None = None

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __getitem__(self, which: slice | Int64[Tensor, " rows"]) -> TextEmbedding:
        """Some of the texts."""
        return self._map(lambda values: values[which])

    def expand(self, n: int) -> TextEmbedding:
        """Repeat a single text n times; n texts are returned unchanged, others raise ValueError."""
        if len(self) not in (1, n):
            raise ValueError(f"{len(self)} texts cannot stand for {n} images")
        return self._map(lambda values: values.expand(n, *values.shape[1:]))

    def lerp(self, other: TextEmbedding, weight: float | Float[Tensor, " b"]) -> TextEmbedding:
        """self + weight (other - self); weight is one number, or one for each text."""
        amount = send(torch.as_tensor(weight, dtype=self.tokens.dtype), self.tokens.device)
        return self._map(lambda a, b: a + amount.reshape(-1, *[1] * (a.dim() - 1)) * (b - a), other)

    @staticmethod
    def cat(parts: Sequence[TextEmbedding]) -> TextEmbedding:
        """Concatenate embeddings of the same model."""
        first, *others = parts
        return first._map(lambda *values: torch.cat(values), *others)

    def _map(self, function: Callable[..., Tensor], *others: TextEmbedding) -> TextEmbedding:
        """Apply `function` to the tokens, and to the pooled vectors if there are any."""
        tokens = function(self.tokens, *(other.tokens for other in others))
        if self.pooled is None:
            return TextEmbedding(tokens)
        return TextEmbedding(tokens, function(self.pooled, *(other.pooled for other in others)))


@dataclass(frozen=True)
class Condition:
    """The condition of a prediction for n images; rows of a group are consecutive.

    text: n embeddings. cameras: n cameras, or None for plain images. Most priors ignore them.
    """

    text: TextEmbedding
    cameras: Cameras | None = None

    def __len__(self) -> int:
        return len(self.text)

    def __getitem__(self, which: slice) -> Condition:
        """Some of the rows."""
        return Condition(self.text[which], None if self.cameras is None else self.cameras[which])

    def expand(self, n: int) -> Condition:
        """With a single text repeated for n images; see `TextEmbedding.expand`."""
        return Condition(self.text.expand(n), self.cameras)

    @staticmethod
    def cat(parts: Sequence[Condition]) -> Condition:
        """All rows, in order. All parts have cameras, or none has."""
        cameras = [part.cameras for part in parts if part.cameras is not None]
        text = TextEmbedding.cat([part.text for part in parts])
        return Condition(text, Cameras.cat(cameras) if cameras else None)


@dataclass(frozen=True)
class Conditions:
    """All conditions that an estimator may use for n images; each has n rows.

    text: the prompt with the words of each view. unconditional: the (possibly empty) negative
    prompt. opposed: texts of other sides with their weights, for Perp-Neg. named: the texts
    declared by the estimator's settings.
    """

    text: Condition
    unconditional: Condition
    opposed: Sequence[tuple[Condition, Float[Tensor, " b"]]] = ()
    named: Mapping[str, Condition] = field(default_factory=dict)
