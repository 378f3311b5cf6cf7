"""A run small enough for a test."""

from dreamfusion.config.layers import build_config

TINY = {
    "prompt": "a red puppy",
    "steps": 8,
    "camera": {"views": 2},
    "render": {"resolution": {"start": 8, "end": 16, "begin": 0.5, "finish": 0.5}},
    "shading": {"lambertian": 0.5, "textureless": 0.5},
    "scene": {
        "field": {"levels": 3, "features": 2, "log2_table_size": 10, "max_resolution": 32},
        "occupancy": {"resolution": 16, "update_every": 3},
    },
}


def tiny(prior, *changes):
    """The configuration of a tiny run with `prior`, with changes."""
    return build_config(prior.card.settings, TINY, *changes)
