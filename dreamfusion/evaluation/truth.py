"""Compares a mesh with the toy world's object: overlap and colour."""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn.functional import grid_sample

from dreamfusion.mesh.extract import Mesh, vertex_normals
from dreamfusion.mesh.renderer import sample_texture
from dreamfusion.mesh.texture import TexturedMesh
from dreamfusion.mesh.topology import voxelise
from dreamfusion.toyworld.objects import NOUNS, WORDS, ToyObject, held_out_pairs

GRID = 64  # cells per axis of the box for the comparison of solids
_SAMPLES = 100_000  # points on the mesh for the comparison of colours

# (noun, colour): None is the natural colour. The second half are pairs held out of training.
PAIRS: tuple[tuple[str, str | None], ...] = tuple(map(tuple, WORDS["benchmark"]))


@dataclass(frozen=True)
class Truth:
    """Comparison of a mesh with the true object.

    iou: of the solids, in [0, 1], at the best rotation about the vertical axis and the best scale
    of the true object; these are yaw_deg and scale. held_out: whether training left this pair of
    noun and colour out.

    The others are means over the points of the true surface that the mesh has as well; 1 or None
    without any. color_error: absolute difference of sRGB albedo, in [0, 1]. saturation: difference
    of max(RGB) - min(RGB), in [-1, 1]; positive if the mesh is more saturated. normal_error_deg:
    angle between normals.
    """

    iou: float
    yaw_deg: float
    scale: float
    held_out: bool
    color_error: float = 1.0
    saturation: float | None = None
    normal_error_deg: float | None = None


def compare_with_truth(mesh: Mesh | TexturedMesh, toy: ToyObject) -> Truth:
    """Compare a closed mesh, in scene coordinates, with the true object."""
    solid = torch.from_numpy(voxelise(mesh.vertices, mesh.faces, GRID).astype(np.float32))
    iou, yaw, scale = best_overlap(solid, torch.from_numpy(toy.occupancy(GRID).astype(np.float32)))
    errors = surface_errors(mesh, solid, toy, yaw, scale)
    yaw_deg, held_out = (yaw + 180) % 360 - 180, (toy.noun, toy.color) in held_out_pairs()
    return Truth(iou, yaw_deg, scale, held_out, **errors)


def best_overlap(predicted: Tensor, truth: Tensor) -> tuple[float, float, float]:
    """(IoU, yaw in degrees, scale) of the best match of two solids in the box [-1, 1]^3.

    predicted, truth: (g, g, g) float, 1 inside, indexed [x, y, z]. A coarse-to-fine search finds
    the yaw (about +Y) and scale that match the truth to the prediction.
    """
    axis = (torch.arange(GRID) + 0.5) / GRID * 2 - 1
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")

    def overlap(yaw_deg: float, scale: float) -> float:
        yaw = torch.deg2rad(torch.tensor(yaw_deg))
        c, s = torch.cos(yaw), torch.sin(yaw)
        # Transform the points of the prediction to the frame of the true object.
        u, v, w = (c * x - s * z) / scale, y / scale, (s * x + c * z) / scale
        grid = torch.stack([w, v, u], dim=-1)[None]  # the last axis first, for grid_sample
        moved = grid_sample(truth[None, None], grid, align_corners=False)[0, 0]
        both = torch.minimum(moved, predicted).sum()
        return float(both / (moved + predicted - torch.minimum(moved, predicted)).sum())

    turns = [15.0 * i for i in range(24)]
    best = max((overlap(a, s), a, s) for a in turns for s in (0.85, 1.0, 1.15))
    for step_deg, step_scale in ((5.0, 0.07), (2.0, 0.03), (1.0, 0.015)):
        _, a0, s0 = best
        for i, j in itertools.product((-1, 0, 1), (-2, -1, 0, 1, 2)):
            yaw, scale = a0 + i * step_deg, s0 + j * step_scale
            best = max(best, (overlap(yaw, scale), yaw, scale))
    return best


def surface_errors(
    mesh: Mesh | TexturedMesh, solid: Tensor, toy: ToyObject, yaw_deg: float, scale: float
) -> dict[str, float]:
    """Compare each point of the toy's surface with the nearest point of the mesh: the last fields
    of `Truth`, or nothing if no point of the toy lies in the solid of the mesh."""
    vertices, faces, colors = toy.mesh(64)
    c, s = np.cos(np.radians(yaw_deg)), np.sin(np.radians(yaw_deg))
    turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    points = (vertices * scale) @ turn.T
    # Move points slightly below the surface, so that coinciding surfaces count as inside.
    cells = ((0.97 * points.clip(-0.999, 0.999) + 1) / 2 * GRID).astype(np.int64)
    there = (np.abs(points) < 1).all(axis=1) & (solid.numpy()[tuple(cells.T)] > 0.5)
    if not there.any():
        return {}
    sampled, sampled_colors, sampled_normals = surface_samples(mesh)
    nearest = cKDTree(sampled).query(points[there])[1]
    found, true = sampled_colors[nearest], colors[there]
    normals = vertex_normals(points, faces)[there]
    cosine = (sampled_normals[nearest] * normals).sum(axis=1).clip(-1, 1)
    return {
        "color_error": float(np.abs(found - true).mean()),
        "saturation": float((np.ptp(found, axis=1) - np.ptp(true, axis=1)).mean()),
        "normal_error_deg": float(np.degrees(np.arccos(cosine)).mean()),
    }


def surface_samples(mesh: Mesh | TexturedMesh) -> tuple[NDArray[np.float64], ...]:
    """Uniformly random points on a mesh, from a fixed seed, with sRGB colours and unit normals of
    their faces: three arrays (n, 3)."""
    rng = np.random.default_rng(0)
    a, b, c = np.moveaxis(mesh.vertices[mesh.faces], 1, 0)
    across = np.cross(b - a, c - a)
    length = np.linalg.norm(across, axis=1)
    chosen = rng.choice(len(length), _SAMPLES, p=length / length.sum())
    face, normals = mesh.faces[chosen], across[chosen] / length[chosen, None]
    weights = rng.dirichlet(np.ones(3), _SAMPLES)

    def at_points(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.einsum("nk,nkc->nc", weights, values[face])

    points = at_points(mesh.vertices)
    if isinstance(mesh, TexturedMesh):
        return points, sample_texture(mesh.texture, at_points(mesh.uv)), normals
    return points, at_points(mesh.colors), normals


def prompts(*, all_nouns: bool = False) -> list[str]:
    """The benchmark's prompts: of PAIRS, or of all nouns in their natural colours."""
    pairs = [(noun.name, None) for noun in NOUNS] if all_nouns else PAIRS
    return [prompt_of(noun, color) for noun, color in pairs]


def prompt_of(noun: str, color: str | None = None) -> str:
    """A prompt for a noun: "a red mug", "an owl"."""
    words = f"{color} {noun}" if color else noun
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
