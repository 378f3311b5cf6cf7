"""The network of the judge that ships: what a picture of the toy world shows, from which side."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from dreamfusion.toyworld import NOUNS, PALETTE

SIZE = 64  # pixels a side
AZIMUTHS = 8  # directions that are told apart; the first is the front, azimuth grows
NOUN_NAMES = tuple(noun.name for noun in NOUNS)
COLOR_NAMES = tuple(PALETTE)  # those of a prompt come first, then three that are some noun's own
_WIDTHS = (3, 32, 64, 128, 192)


class ToyNetwork(nn.Module):
    """Logits of noun, main colour, noun of a clay picture, and azimuth.

    Takes pictures (n, 3, SIZE, SIZE) in [0, 1]; gives a mapping of (n, nouns) "noun", (n, colours)
    "color", (n, nouns) "clay" and (n, AZIMUTHS) "azimuth".
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(_WIDTHS):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after)]
            layers += [nn.SiLU(), nn.Conv2d(after, after, 3, padding=1, groups=8), nn.SiLU()]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        heads = {
            "noun": len(NOUN_NAMES),
            "color": len(COLOR_NAMES),
            "clay": len(NOUN_NAMES),
            "azimuth": AZIMUTHS,
        }
        self.heads = nn.ModuleDict(
            {name: nn.Linear(4 * _WIDTHS[-1], n) for name, n in heads.items()}
        )

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        hidden = self.features(pictures * 2 - 1)
        return {name: head(hidden) for name, head in self.heads.items()}
