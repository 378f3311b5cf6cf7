"""Renders images of a mesh with the modes and lights of scenes, without OpenGL or a display, and
compares them with images of its scene."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample

from dreamfusion.graphics import shading
from dreamfusion.graphics.cameras import Cameras
from dreamfusion.graphics.media import Draw
from dreamfusion.graphics.shading import ImageMode, over
from dreamfusion.graphics.triangles import Fragments, project, rasterize
from dreamfusion.mesh.extract import Mesh
from dreamfusion.mesh.texture import TexturedMesh

# Below these values, a mesh is reported to differ from its scene.
LOW_PSNR_DB = 20.0
LOW_IOU = 0.9


def render_mesh(
    mesh: Mesh | TexturedMesh,
    cameras: Cameras,
    *,
    height: int,
    width: int,
    mode: ImageMode = "color",
    supersample: int = 2,
) -> Tensor:
    """Render RGBA images (n, height, width, 4) of a mesh in the scene's frame, on the CPU.

    Modes, light and alpha are as in `scenes.base.render_image`, so that the images can be compared.
    supersample: samples per pixel and axis. Raises ValueError for an unknown mode.
    """
    if mode not in shading.IMAGE_MODES:
        raise ValueError(f"unknown mode {mode!r}")
    vertices, faces = torch.tensor(mesh.vertices), torch.tensor(mesh.faces)
    size = (height * supersample, width * supersample)
    images = []
    for i in range(len(cameras)):
        camera = cameras[i : i + 1].to("cpu")
        fragments = rasterize(project(vertices, camera, *size), faces, *size)
        color = _colors(mesh, fragments, camera, mode).clamp(0.0, 1.0)
        rgba = fragments.images(torch.nn.functional.pad(color, (0, 1), value=1.0))
        # Mean opacity, and mean colour weighted by opacity.
        mean = torch.nn.functional.avg_pool2d(rgba.movedim(-1, 1), supersample)[0].movedim(0, -1)
        color = mean[..., :3] / mean[..., 3:].clamp(min=1e-6)
        images.append(shading.with_alpha(color, mean[..., 3]))
    return torch.stack(images)


def _colors(
    mesh: Mesh | TexturedMesh, fragments: Fragments, camera: Cameras, mode: ImageMode
) -> Tensor:
    """The colours (m, 3) of the covered pixels of one image."""
    transform = camera.T_world_camera[0]

    def at_pixels(values: NDArray[np.float64]) -> Tensor:
        return fragments.interpolate(torch.tensor(values))

    points = at_pixels(mesh.vertices).float()
    normal = torch.nn.functional.normalize(at_pixels(mesh.normals).float(), dim=-1)
    if mode == "normals":
        return shading.color_normals(normal)
    if mode == "depth":
        return shading.color_depth((points - transform[:3, 3]).norm(dim=-1), transform)
    if mode == "textureless":
        color = torch.ones_like(points)
    elif isinstance(mesh, TexturedMesh):
        albedo = sample_texture(mesh.texture, at_pixels(mesh.uv).numpy())
        color = torch.from_numpy(albedo).float()
    else:
        color = at_pixels(mesh.colors).float()
    if mode == "albedo":
        return color
    light = shading.show_light_position(transform).expand_as(points)
    shade = shading.lambertian(normal, points, light, ambient=shading.SHOW_AMBIENT[mode])
    return color * shade[:, None]


def sample_texture(texture: NDArray[np.uint8], uv: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bilinear samples (p, 3) in [0, 1] of a texture (h, w, 3) at uv (p, 2), v up."""
    image = torch.from_numpy(texture / 255.0).movedim(-1, 0)[None]
    grid = torch.from_numpy(np.stack([2.0 * uv[:, 0] - 1.0, 1.0 - 2.0 * uv[:, 1]], axis=1))
    sampled = grid_sample(image, grid[None, None], padding_mode="border", align_corners=False)
    return sampled[0, :, 0].T.numpy()


def draw_mesh(mesh: Mesh | TexturedMesh) -> Draw:
    """Return a function that renders a mesh."""
    return lambda cameras, size, mode: render_mesh(
        mesh, cameras, height=size, width=size, mode=mode
    )


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
