"""A mesh from splats: the surface of their summed density, with the colours that cameras see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray

from dreamfusion.graphics.cameras import generate_rays, turntable_cameras
from dreamfusion.mesh.extract import MeshError, silhouette_threshold
from dreamfusion.scenes.base import Views
from dreamfusion.scenes.gaussians.kernels import add_density
from dreamfusion.utils.threads import run_pieces

if TYPE_CHECKING:
    from dreamfusion.scenes.gaussians.scene import GaussianScene

_ELEVATIONS_DEG = (-25.0, 10.0, 50.0)
_NEIGHBOURS = 24  # splats that colour a point of the surface


@torch.no_grad()
def density_grid(scene: GaussianScene, resolution: int) -> NDArray[np.float32]:
    """Density of the splats, sum_i opacity_i exp(-p_i(x)), at the centres of resolution^3 cells of
    the box [-1, 1]^3, [x, y, z]. Raises MeshError if a splat is not finite."""
    splats = scene.splats
    if not all(bool(parameter.isfinite().all()) for parameter in splats.parameters()):
        raise MeshError("the splats are not finite: the run has diverged")
    tensors = (splats.means, splats.covariances(scene.settings.blur), splats.opacities)
    means, covariances, opacities = (tensor.double().cpu() for tensor in tensors)
    inverses = torch.linalg.inv(covariances)
    arrays = (part.numpy() for part in (means, covariances, inverses, opacities))
    grid = np.zeros((resolution,) * 3, np.float32)
    run_pieces(add_density, resolution, *arrays, grid, at_least=4)
    return grid


@torch.no_grad()
def find_threshold(scene: GaussianScene, density: NDArray[np.float32], size: int = 64) -> float:
    """See `silhouette_threshold`."""
    volume = torch.from_numpy(density).permute(2, 1, 0)[None, None]  # z, y, x, for grid_sample
    peaks, opaque = [], []
    along = torch.linspace(1.0, 5.0, 200)
    for elevation_deg in _ELEVATIONS_DEG:
        cameras = turntable_cameras(4, elevation_deg=elevation_deg)
        rays = generate_rays(cameras, size, size)
        for i in range(len(cameras)):
            directions = rays.directions[i].reshape(-1, 1, 3) * along[:, None]
            points = (rays.origins[i].reshape(-1, 1, 3) + directions)[None, None]
            values = torch.nn.functional.grid_sample(volume, points, align_corners=False)
            peaks.append(values[0, 0, 0].amax(dim=-1))
        opaque.append(scene.render(Views(cameras, size, size)).opacity.cpu().reshape(-1) > 0.5)
    return silhouette_threshold(torch.cat(peaks), torch.cat(opaque))


class SplatColors:
    """The colours that a camera facing a point of the surface sees: those of the nearest splats,
    composited along the ray."""

    @torch.no_grad()
    def __init__(self, scene: GaussianScene) -> None:
        from scipy.spatial import cKDTree  # type: ignore[import-untyped]

        splats = scene.splats
        visible = (splats.opacities > 0.05).nonzero()[:, 0]
        tensors = (splats.means, splats.covariances(scene.settings.blur), splats.opacities)
        parts = [tensor[visible].double().cpu() for tensor in (*tensors, splats.colors)]
        self._means, covariances, self._opacities, self._colors = parts
        self._inverses = torch.linalg.inv(covariances)
        self._tree: Any = cKDTree(self._means.numpy())

    @torch.no_grad()
    def __call__(
        self, points: Float64[np.ndarray, "m 3"], normals: Float64[np.ndarray, "m 3"]
    ) -> Float64[np.ndarray, "m 3"]:
        k = min(_NEIGHBOURS, len(self._means))
        found = []
        for start in range(0, len(points), 1 << 14):
            point = torch.from_numpy(points[start : start + (1 << 14)])
            inwards = -torch.from_numpy(normals[start : start + (1 << 14)])
            near = torch.from_numpy(self._tree.query(point.numpy(), k)[1].reshape(len(point), k))
            Q, offset = self._inverses[near], self._means[near] - point[:, None]
            across = (Q @ inwards[:, None, :, None])[..., 0]  # (m, k, 3)
            # The power along the ray is least at this distance from the point.
            depth = (across * offset).sum(-1) / (across * inwards[:, None]).sum(-1)
            gap = offset - depth[..., None] * inwards[:, None]
            power = 0.5 * (gap * (Q @ gap[..., None])[..., 0]).sum(-1)
            alpha = (self._opacities[near] * torch.exp(-power)).clamp(max=0.99)
            order = depth.argsort(dim=1)
            alpha = alpha.gather(1, order)
            passed = torch.cumprod(1 - alpha, dim=1)
            weights = alpha * torch.nn.functional.pad(passed, (1, 0), value=1.0)[:, :-1] + 1e-9
            colors = self._colors[near.gather(1, order)]
            seen = (weights[..., None] * colors).sum(1) / weights.sum(1, keepdim=True)
            found.append(seen.clamp(0.0, 1.0))
        return torch.cat(found).numpy()
