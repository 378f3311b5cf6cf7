#!/usr/bin/env python
"""Arrange animations of the same size and length in a grid of four columns, as an animated WebP.

python -m scripts.montage OUT.webp FILE.webp...
"""

from __future__ import annotations

import sys

from PIL import Image, ImageSequence


def montage(files: list[str], out: str, columns: int = 4) -> None:
    """Write the grid of these files, from the upper left, to `out`."""
    animations = [Image.open(file) for file in files]
    size = animations[0].size
    rows = -(-len(files) // columns)
    frames = []
    for images in zip(*(ImageSequence.Iterator(one) for one in animations), strict=True):
        frame = Image.new("RGB", (columns * size[0], rows * size[1]), "white")
        for i, image in enumerate(images):
            frame.paste(image.convert("RGB"), (i % columns * size[0], i // columns * size[1]))
        frames.append(frame)
    frames[0].save(out, save_all=True, append_images=frames[1:], duration=80, loop=0, quality=80)


if __name__ == "__main__":
    montage(sys.argv[2:], sys.argv[1])
