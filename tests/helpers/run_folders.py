"""Writes folders of synthetic runs."""

import json

import numpy as np
import yaml
from PIL import Image

from dreamfusion.mesh.formats import write_mesh
from dreamfusion.mesh.texture import TexturedMesh

VIDEO = b"\0\0\0\x18ftypisom" + bytes(100)


COLORS = {"lower": (250, 20, 10), "upper": (10, 60, 240)}  # of the texture's halves


def write_textured(path):
    """A quad from (-1, 0, 0) to (1, 2, 0) with the whole texture, blue above red."""
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
    vertices = np.c_[2 * uv[:, 0] - 1, 2 * uv[:, 1], np.zeros(4)]
    texture = np.zeros((8, 8, 3), np.uint8)
    texture[:4], texture[4:] = COLORS["upper"], COLORS["lower"]
    faces, normals = np.array([[0, 1, 2], [0, 2, 3]]), np.tile([0.0, 0.0, 1.0], (4, 1))
    write_mesh(TexturedMesh(vertices, faces, normals, uv, texture), path)


def write_metrics(run, steps):
    lines = [
        {"step": step, "seconds": 0.5, "shading": "albedo", "size": 32, "timesteps": [100, 200],
         "guidance": 4.0, "sds_gradient": 1 / step, "gradient_norm": 10.0 ** (step % 4),
         "opacity": 0.3 + step / 100, "entropy": 0.1}
        for step in range(1, steps + 1)
    ]  # fmt: skip
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def make_run(path, *, prompt="a red mug", done=40, **changes):
    """A complete folder of a run, with `done` of 40 steps."""
    (path / "previews").mkdir(parents=True)
    (path / "checkpoints").mkdir()
    config = {
        "prompt": prompt,
        "steps": 40,
        "device": "cpu",
        "estimator": {"guidance": 9.5},
        **changes,
    }
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    layers = {"preset mine": {"estimator": {"guidance": 9.5}}, "command line": {"prompt": prompt}}
    (path / "layers.yaml").write_text(yaml.safe_dump(layers, sort_keys=False))
    write_metrics(path, done)
    for step in range(1, done + 1):
        Image.new("RGB", (16, 4), (step, 0, 0)).save(path / "previews" / f"step_{step:07d}.png")
    (path / "video.mp4").write_bytes(VIDEO)
    details = {"format": 1, "step": done, "dreamfusion": "0.0.7"}
    (path / "checkpoints" / f"step_{done:07d}.json").write_text(json.dumps(details))
    write_textured(path / "mesh" / "model.glb")
    return path
