#!/usr/bin/env python
"""The whole way from Python, once: train, look, export, go on, open again.

    python -m scripts.walkthrough [--steps 60] [--out walkthrough]

With the embedded prior and 60 steps it takes about half a minute on two CPU cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import dreamfusion as df
from dreamfusion.graphics.media import contact_sheet, write_png


def main() -> None:
    parser = argparse.ArgumentParser(description="The whole way from Python, once.")
    parser.add_argument("--prompt", default="a red mug")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("walkthrough"))
    args = parser.parse_args()

    # A run trains, keeps its checkpoints, and ends with a mesh and a video.
    run = df.train(
        args.prompt,
        out=args.out,
        steps=args.steps,
        callback=lambda m: print(f"step {m.step}: loss {m.loss:.4f}, opacity {m.opacity:.0%}"),
    )
    print(f"trained   {run.path}, {len(run.metrics)} steps")

    # Its scene can be seen from anywhere, in any mode.
    pictures = run.scene.render(df.turntable_cameras(8), size=96, mode="color")
    write_png(contact_sheet(pictures, columns=8), run.path / "sheet.png")
    print(f"looked    {run.path / 'sheet.png'}")

    # Its mesh is a file of any format, and a trimesh object.
    written = run.export(run.path / "mesh" / "small.obj", faces=2000)
    print(f"exported  {written.files[0]}, {written.topology.faces} faces")
    print(f"mesh      {run.mesh}")

    # It goes on where it stopped, in this process or in another.
    again = df.open_run(run.path).resume(steps=args.steps + 10)
    print(f"resumed   {again.config.steps} steps; the last: {again.metrics[-1]['loss']:.4f}")


if __name__ == "__main__":
    main()
