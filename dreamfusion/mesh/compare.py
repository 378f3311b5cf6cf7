"""Compares images of a mesh with images of its scene."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamfusion.graphics.cameras import Cameras
from dreamfusion.graphics.shading import over
from dreamfusion.graphics.turntable import Draw
from dreamfusion.mesh.extract import Mesh
from dreamfusion.mesh.renderer import render_mesh
from dreamfusion.mesh.texture import TexturedMesh

# Below these values, a mesh is reported to differ from its scene.
LOW_PSNR_DB = 20.0
LOW_IOU = 0.9


@dataclass(frozen=True)
class Agreement:
    """Similarity of mesh and scene over all views: the peak signal-to-noise ratio in dB of colour
    images on white, and the mean intersection over union of silhouettes (alpha > 1/2)."""

    psnr_db: float
    silhouette_iou: float

    @property
    def good(self) -> bool:
        """Whether the mesh is close to the scene."""
        return self.psnr_db >= LOW_PSNR_DB and self.silhouette_iou >= LOW_IOU


def agreement(
    mesh: Mesh | TexturedMesh, draw: Draw, cameras: Cameras, *, size: int = 128
) -> Agreement:
    """Compare images of a mesh, `size` pixels per side, with images of its scene. The mesh is in
    the scene's frame (not yet moved to its origin)."""
    expected = draw(cameras, size, "color")
    images = render_mesh(mesh, cameras, height=size, width=size)
    return compare(expected, images)


def compare(expected: Tensor, found: Tensor) -> Agreement:
    """The agreement of two stacks of RGBA images (n, h, w, 4)."""
    white = torch.ones(3)
    error = float((over(expected, white) - over(found, white)).square().mean())
    solid, covered = expected[..., 3] > 0.5, found[..., 3] > 0.5
    both = (solid & covered).sum(dim=(1, 2))
    either = (solid | covered).sum(dim=(1, 2)).clamp(min=1)
    psnr = math.inf if error == 0 else -10.0 * math.log10(error)
    return Agreement(psnr, float((both / either).mean()))
