"""A toy world of procedural objects: training data of the embedded prior, and ground truth."""

from dreamfusion.toyworld.nouns import NOUNS, Noun
from dreamfusion.toyworld.objects import (
    ADJECTIVES,
    COLORS,
    PALETTE,
    GeometryBuffers,
    ToyObject,
    make_object,
)
from dreamfusion.toyworld.render import shade, view

__all__ = [
    "ADJECTIVES",
    "COLORS",
    "NOUNS",
    "PALETTE",
    "GeometryBuffers",
    "Noun",
    "ToyObject",
    "make_object",
    "shade",
    "view",
]
