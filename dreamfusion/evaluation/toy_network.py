"""The network of the shipped judge: classifies noun, colour and side of toy-world images."""

import itertools

from torch import Tensor, nn

from dreamfusion.toyworld.objects import NOUNS, PALETTE

SIZE = 64  # height and width of the input, pixels
AZIMUTHS = 8  # classes of azimuth, in order; the first is the front
NOUN_NAMES = tuple(noun.name for noun in NOUNS)
COLOR_NAMES = tuple(PALETTE)  # those of prompts first, then three natural colours of nouns
_WIDTHS = (3, 32, 64, 128, 192)


class ToyNetwork(nn.Module):
    """Predicts noun, main colour, noun of an uncoloured (clay) image, and azimuth.

    Input: images (n, 3, SIZE, SIZE) in [0, 1]. Output: a mapping of logits, (n, nouns) "noun",
    (n, colours) "color", (n, nouns) "clay" and (n, AZIMUTHS) "azimuth".
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

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        hidden = self.features(images * 2 - 1)
        return {name: head(hidden) for name, head in self.heads.items()}
