"""Renders images of a mesh with the modes and lights of scenes, without OpenGL or a display, and
compares them with images of its scene."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamfusion.graphics import shading
from dreamfusion.graphics.cameras import Cameras
from dreamfusion.graphics.media import Draw
from dreamfusion.graphics.rasterize import rasterize
from dreamfusion.graphics.shading import ImageMode, over
from dreamfusion.mesh.extract import Mesh
from dreamfusion.mesh.texture import TexturedMesh, smooth_normals

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
    normals = smooth_normals(mesh)
    images = []
    for i in range(len(cameras)):
        camera = cameras[i : i + 1].to("cpu")
        large = _draw(mesh, normals, camera, height * supersample, width * supersample, mode)
        # Mean opacity, and mean colour weighted by opacity.
        mean = torch.nn.functional.avg_pool2d(large.movedim(-1, 0)[None], supersample)[0]
        mean = mean.movedim(0, -1)
        color = mean[..., :3] / mean[..., 3:].clamp(min=1e-6)
        images.append(shading.with_alpha(color, mean[..., 3]))
    return torch.stack(images)


def _draw(
    mesh: Mesh | TexturedMesh,
    normals: NDArray[np.float64],
    camera: Cameras,
    height: int,
    width: int,
    mode: ImageMode,
) -> Tensor:
    """Render RGBA (height, width, 4) with one sample per pixel, opaque or black and transparent."""
    transform = camera.T_world_camera[0]
    corners, inverse_depth = project(mesh.vertices, camera, height, width)
    face_of, weights = rasterize(corners[mesh.faces], inverse_depth[mesh.faces], height, width)
    seen = face_of >= 0
    picked, share = mesh.faces[face_of[seen]], weights[seen]

    def at_pixels(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.einsum("pk,pkc->pc", share, values[picked])

    points = torch.from_numpy(at_pixels(mesh.vertices)).float()
    normal = torch.nn.functional.normalize(torch.from_numpy(at_pixels(normals)).float(), dim=-1)
    if mode == "normals":
        color = shading.color_normals(normal)
    elif mode == "depth":
        color = shading.color_depth((points - transform[:3, 3]).norm(dim=-1), transform)
    else:
        color = torch.ones_like(points)
        if mode != "textureless":
            albedo = (
                sample_texture(mesh.texture, at_pixels(mesh.uv))
                if isinstance(mesh, TexturedMesh)
                else at_pixels(mesh.colors)
            )
            color = torch.from_numpy(albedo).float()
        if mode != "albedo":
            ambient = shading.SHOW_AMBIENT[mode]
            light = shading.show_light_position(transform).expand_as(points)
            shade = shading.lambertian(normal, points, light, ambient=ambient, diffuse=1 - ambient)
            color = color * shade[:, None]
    image = torch.zeros(height, width, 4)
    image[torch.from_numpy(seen)] = torch.nn.functional.pad(
        color.clamp(0.0, 1.0), (0, 1), value=1.0
    )
    return image


def project(
    vertices: NDArray[np.float64], camera: Cameras, height: int, width: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Project vertices to the image of the first camera: positions (v, 2) in pixels, and 1 / depth
    (v,), negative behind the camera. The inverse of `cameras.generate_rays`."""
    transform = camera.T_world_camera[0].double().numpy()
    seen = (vertices - transform[:3, 3]) @ transform[:3, :3]
    depth = -seen[:, 2]
    depth = np.where(np.abs(depth) < 1e-9, 1e-9, depth)
    focal = 0.5 * height / np.tan(0.5 * np.deg2rad(float(camera.fov_y_deg[0])))
    x = 0.5 * width + focal * seen[:, 0] / depth
    y = 0.5 * height - focal * seen[:, 1] / depth
    return np.stack([x, y], axis=1), 1.0 / depth


def sample_texture(texture: NDArray[np.uint8], uv: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bilinear samples (p, 3) in [0, 1] of a texture (h, w, 3) at uv (p, 2), v up."""
    image = torch.from_numpy(texture / 255.0).movedim(-1, 0)[None]
    grid = torch.from_numpy(np.stack([2.0 * uv[:, 0] - 1.0, 1.0 - 2.0 * uv[:, 1]], axis=1))
    sampled = torch.nn.functional.grid_sample(
        image, grid[None, None], padding_mode="border", align_corners=False
    )
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
