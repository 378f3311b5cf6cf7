"""Compares a mesh with the toy world's object: overlap and colour."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamfusion.mesh.extract import Mesh
from dreamfusion.mesh.renderer import sample_texture
from dreamfusion.mesh.texture import TexturedMesh
from dreamfusion.mesh.voxels import voxelise
from dreamfusion.toyworld import NOUNS, ToyObject
from dreamfusion.toyworld.language import held_out_pairs

GRID = 64  # cells across the box in which solids are compared
_SAMPLES = 100_000  # points on the mesh whose colours are compared

# (noun, colour): None is the natural colour. The second half are pairs held out of training.
PAIRS: tuple[tuple[str, str | None], ...] = (
    ("corgi", None), ("chair", None), ("mug", None), ("snowman", None), ("rocket", None),
    ("mushroom", None), ("car", "red"), ("teapot", "green"), ("rabbit", "purple"),
    ("sofa", "turquoise"), ("castle", None), ("airplane", "blue"),
    ("duck", "pink"), ("cat", "blue"), ("elephant", "purple"), ("bear", "orange"),
    ("chair", "gray"), ("table", "red"), ("mug", "red"), ("house", "pink"), ("bus", "green"),
    ("hat", "purple"), ("pumpkin", "white"), ("cone", "blue"),
)  # fmt: skip


@dataclass(frozen=True)
class Truth:
    """Comparison of a mesh with the true object.

    iou: of the solids, in [0, 1], at the best rotation about the vertical axis and the best scale
    of the true object; these are yaw_deg and scale. color_error: mean absolute difference of sRGB
    albedo, in [0, 1]. held_out: whether training left this pair of noun and colour out.
    """

    iou: float
    yaw_deg: float
    scale: float
    color_error: float
    held_out: bool


def compare_with_truth(mesh: Mesh | TexturedMesh, toy: ToyObject) -> Truth:
    """Measure a closed mesh in the coordinates of its scene."""
    solid = torch.from_numpy(voxelise(mesh.vertices, mesh.faces, GRID).astype(np.float32))
    iou, yaw, scale = best_overlap(solid, torch.from_numpy(toy.occupancy(GRID).astype(np.float32)))
    error = color_error(mesh, solid, toy, yaw, scale)
    held_out = (toy.noun, toy.color) in held_out_pairs()
    return Truth(iou, (yaw + 180) % 360 - 180, scale, error, held_out)


def best_overlap(predicted: Tensor, truth: Tensor) -> tuple[float, float, float]:
    """(IoU, yaw in degrees, scale) of the best match of two solids in the box [-1, 1]^3.

    predicted, truth: (g, g, g) float, 1 inside, indexed [x, y, z]. The truth is rotated about +Y
    by yaw and scaled to match the prediction, in a search from coarse to fine.
    """
    axis = (torch.arange(GRID) + 0.5) / GRID * 2 - 1
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")

    def overlap(yaw_deg: float, scale: float) -> float:
        yaw = torch.deg2rad(torch.tensor(yaw_deg))
        c, s = torch.cos(yaw), torch.sin(yaw)
        # Each point of the prediction in the frame of the true object.
        u, v, w = (c * x - s * z) / scale, y / scale, (s * x + c * z) / scale
        grid = torch.stack([w, v, u], dim=-1)[None]  # grid_sample wants the last axis first
        moved = torch.nn.functional.grid_sample(
            truth[None, None], grid, align_corners=False, padding_mode="zeros"
        )[0, 0]
        both = torch.minimum(moved, predicted).sum()
        return float(both / (moved + predicted - torch.minimum(moved, predicted)).sum())

    turns = [15.0 * i for i in range(24)]
    candidates = [(overlap(a, s), a, s) for a in turns for s in (0.85, 1.0, 1.15)]
    best = max(candidates)
    for step_deg, step_scale in ((5.0, 0.07), (2.0, 0.03), (1.0, 0.015)):
        _, a0, s0 = best
        for i, j in itertools.product((-1, 0, 1), (-2, -1, 0, 1, 2)):
            yaw, scale = a0 + i * step_deg, s0 + j * step_scale
            best = max(best, (overlap(yaw, scale), yaw, scale))
    return best


def color_error(
    mesh: Mesh | TexturedMesh, solid: Tensor, toy: ToyObject, yaw_deg: float, scale: float
) -> float:
    """Mean |difference| between the albedo of the toy and that of the nearest point of the mesh,
    over surface points that both have."""
    from scipy.spatial import cKDTree  # type: ignore[import-untyped]

    vertices, _, colors = toy.mesh(64)
    c, s = np.cos(np.radians(yaw_deg)), np.sin(np.radians(yaw_deg))
    turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    points = (vertices * scale) @ turn.T
    # Points slightly below the surface, so that shared surfaces count as inside.
    cells = ((0.97 * points.clip(-0.999, 0.999) + 1) / 2 * GRID).astype(np.int64)
    there = (np.abs(points) < 1).all(axis=1) & (solid.numpy()[tuple(cells.T)] > 0.5)
    if not there.any():
        return 1.0
    places, found = surface_samples(mesh)
    nearest = cKDTree(places).query(points[there])[1]
    return float(np.abs(found[nearest] - colors[there]).mean())


def surface_samples(
    mesh: Mesh | TexturedMesh, n: int = _SAMPLES
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """n uniformly random points (n, 3) on a mesh, from a fixed seed, and their sRGB colours
    (n, 3)."""
    rng = np.random.default_rng(0)
    a, b, c = np.moveaxis(mesh.vertices[mesh.faces], 1, 0)
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    face = mesh.faces[rng.choice(len(area), n, p=area / area.sum())]
    weights = rng.dirichlet(np.ones(3), n)

    def at_points(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.einsum("nk,nkc->nc", weights, values[face])

    if isinstance(mesh, TexturedMesh):
        return at_points(mesh.vertices), sample_texture(mesh.texture, at_points(mesh.uv))
    return at_points(mesh.vertices), at_points(mesh.colors)


def prompts(*, all_nouns: bool = False) -> list[str]:
    """The prompts of the benchmark: of PAIRS, or of every noun in its natural colour."""
    pairs = [(noun.name, None) for noun in NOUNS] if all_nouns else PAIRS
    return [prompt_of(noun, color) for noun, color in pairs]


def prompt_of(noun: str, color: str | None = None) -> str:
    """A prompt for a noun: "a red mug", "an owl"."""
    words = f"{color} {noun}" if color else noun
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
