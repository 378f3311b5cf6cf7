"""A mesh as a scene: its shape is fixed, its colours are a hash grid at the surface."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from dreamfusion.graphics.shading import lambertian
from dreamfusion.graphics.triangles import project, rasterize
from dreamfusion.mesh.extract import Mesh, MeshError
from dreamfusion.mesh.texture import TexturedMesh
from dreamfusion.mesh.unseen import GRAZING, spread_colors
from dreamfusion.scenes.base import Rendered, Scene, Views, adam
from dreamfusion.scenes.mesh.atlas import NO_COORDINATES, as_textured, bake, sheets_of
from dreamfusion.scenes.mesh.model import Part, read_model
from dreamfusion.scenes.mesh.patch import patched
from dreamfusion.scenes.mesh.settings import MeshSettings
from dreamfusion.scenes.nerf.hashgrid import HashGrid
from dreamfusion.scenes.nerf.mlp import TwoLayerPerceptron
from dreamfusion.utils.errors import RunWarning, UserError
from dreamfusion.utils.files import write_bytes
from dreamfusion.utils.rng import Generators
from dreamfusion.utils.state import Progress

_POINTS_AT_ONCE = 1 << 18


class MeshScene(nn.Module, Scene):
    """A mesh from a file, in the box [-1, 1]^3. All on one device.

    generator: draws the initial values, on the CPU. start: a scene of the same kind and grid, whose
    colours initialise this one. Raises MeshError if the file cannot be painted, UserError for an
    incompatible start.
    """

    def __init__(
        self,
        settings: MeshSettings,
        *,
        device: str = "cpu",
        generator: torch.Generator,
        start: Scene | None = None,
    ) -> None:
        super().__init__()
        self.settings, self.model = settings, read_model(settings)
        self.sheets = sheets_of(self.model, settings.texture_size)
        for reason in {sheet.reason for sheet in self.sheets} - {"", NO_COORDINATES}:
            warnings.warn(
                RunWarning(f"{settings.file} has {reason}: new ones are made"), stacklevel=2
            )
        self._baked: list[NDArray[np.uint8]] | None = None
        self.grid = HashGrid(settings.grid, generator=generator)
        self.network = TwoLayerPerceptron(
            n_inputs=self.grid.n_outputs, n_hidden=settings.hidden, n_outputs=3, generator=generator
        )
        if start is not None:
            self._begin_with(start)
        model = self.model
        self.register_buffer("_vertices", torch.from_numpy(model.vertices), persistent=False)
        self.register_buffer("_faces", torch.from_numpy(model.faces), persistent=False)
        at_vertices = torch.from_numpy(np.hstack((model.places, model.vertices, model.normals)))
        self.register_buffer("_at_vertices", at_vertices.float(), persistent=False)
        # Which vertices training has seen, and what the file contained.
        self.register_buffer("seen", torch.zeros(len(model.vertices), dtype=torch.bool))
        self.register_buffer("file_sha256", torch.tensor(list(model.sha256), dtype=torch.uint8))
        self.to(device)
        rates = settings.optimizer
        groups = [
            (self.grid.parameters(), rates.grid_lr.start),
            (self.network.parameters(), rates.network_lr),
        ]
        self.optimizer = adam(groups, rates, device)

    has_shape = True
    _vertices: Tensor
    _faces: Tensor
    _at_vertices: Tensor
    seen: Tensor
    file_sha256: Tensor

    def _begin_with(self, start: Scene) -> None:
        try:
            if not isinstance(start, MeshScene):
                raise RuntimeError
            for part in ("grid", "network"):
                getattr(self, part).load_state_dict(getattr(start, part).state_dict())
        except RuntimeError:
            raise UserError(
                "a painted mesh can only start from another one with the same scene.grid and "
                "scene.hidden"
            ) from None

    def load_state_dict(
        self, state_dict: Mapping[str, Tensor], *args: object, **kw: object
    ) -> object:
        """Load the output of `state_dict`. Raises ValueError if the file has changed."""
        if not torch.equal(state_dict["file_sha256"].cpu(), self.file_sha256.cpu()):
            raise ValueError(f"{self.settings.file} has changed since")
        self._baked = None
        return super().load_state_dict(state_dict, *args, **kw)  # type: ignore[arg-type]

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.seen.device

    def before_step(self, progress: Progress, generator: torch.Generator) -> None:
        """Apply the schedule of the grid's learning rate."""
        self.optimizer.param_groups[0]["base_lr"] = self.settings.optimizer.grid_lr.at(*progress)

    def albedo(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """sRGB colours in (0, 1) of points of the box."""
        return torch.sigmoid(self.network(self.grid(points)))

    def render(self, views: Views, generator: Generators | None = None) -> Rendered:
        """See `Scene.render`. Nothing is sampled: a generator only tells that this is training, and
        the vertices count as seen."""
        views = views.to(self.device)
        if torch.is_grad_enabled() or generator is not None:
            return self._draw(views, training=generator is not None)
        parts = [self._draw(views[i : i + 1], training=False) for i in range(len(views.cameras))]
        columns = zip(*((p.rgb, p.opacity, p.depth, p.normals) for p in parts), strict=True)
        return Rendered(*(torch.cat(column) for column in columns))

    def _draw(self, views: Views, *, training: bool) -> Rendered:
        cameras, light, samples = views.cameras, views.lighting, self.settings.samples
        height, width = views.height * samples, views.width * samples
        points = project(self._vertices, cameras, height, width)
        fragments = rasterize(points, self._faces, height, width)
        places, positions, normals = fragments.interpolate(self._at_vertices).split(3, dim=-1)
        normals = torch.nn.functional.normalize(normals, dim=-1)
        to_camera = cameras.positions[fragments.pixels[0]] - positions
        distance = to_camera.norm(dim=-1, keepdim=True)
        if training:
            facing = (normals * to_camera).sum(-1).abs() > GRAZING * distance[:, 0]
            self.seen[fragments.corners[facing].reshape(-1)] = True
        shown = light.shading
        if training and shown == "textureless":
            raise UserError("images without colour cannot paint a mesh: set shading.textureless=0")
        color = torch.ones_like(places) if shown == "textureless" else self.albedo(places)
        if shown != "albedo" and light.position is not None:
            lights = light.position.expand(len(cameras), 3)[fragments.pixels[0]]
            shade = lambertian(normals, positions, lights, ambient=light.ambient)
            color = color * shade[:, None]
        values = torch.cat([color, torch.ones_like(distance), distance, normals], dim=-1)
        pooled = torch.nn.functional.avg_pool2d(fragments.images(values).movedim(-1, 1), samples)
        rgb, opacity, depth, normals = pooled.movedim(1, -1).split([3, 1, 1, 3], dim=-1)
        behind = rgb.new_ones(3) if views.background is None else views.background
        rgb = rgb + (1 - opacity) * behind.expand(len(cameras), 3)[:, None, None]
        depth = (depth / opacity.clamp(min=1e-6))[..., 0]
        return Rendered(rgb, opacity[..., 0], depth, torch.nn.functional.normalize(normals, dim=-1))

    def surface(self, *, resolution: int = 128, threshold: float | None = None) -> TexturedMesh:
        """The mesh with one texture of all materials. It has neither density nor resolution."""
        if threshold is not None:
            raise MeshError("a mesh has no density: omit the threshold")
        return as_textured(self.model, self.sheets, self._textures())

    def writers(self) -> Mapping[str, Callable[[Path | str], None]]:
        """The user's file with new textures: see `patch`."""

        def write(path: Path | str) -> None:
            write_bytes(path, patched(self.model, self.sheets, self._textures()))

        return {"painted.glb": write}

    def after_step(self, progress: Progress, generator: torch.Generator) -> None:
        """Forget the textures of earlier colours."""
        self._baked = None

    def _textures(self) -> list[NDArray[np.uint8]]:
        """Of each sheet. Baked once for the mesh and the file of a finished run."""
        if self._baked is None:
            self._baked = self._bake()
        return self._baked

    @torch.no_grad()
    def _bake(self) -> list[NDArray[np.uint8]]:
        """The textures. Parts that training has not seen get the colours around them."""
        model, seen = self.model, self.seen.cpu().numpy()
        colors = self._colors(model.places)
        # Vertices on a seam of the texture have neighbours on both of its sides.
        _, first, same = np.unique(
            model.vertices.round(6), axis=0, return_index=True, return_inverse=True
        )
        same = same.reshape(-1)
        welded = Mesh(model.vertices[first], same[model.faces], colors[first])
        filled, inner = spread_colors(welded, np.bincount(same, seen) > 0)
        placed = zip(model.placements, model.starts, strict=True)
        starts = {part.key: start for part, start in reversed(list(placed))}

        def paint(
            part: Part, corners: NDArray[np.int64], weights: NDArray[np.float64]
        ) -> NDArray[np.float64]:
            points = np.einsum("mc,mck->mk", weights, part.vertices[corners])
            at = same[corners + starts[part.key]]
            around = np.einsum("mc,mck->mk", weights, filled[at])
            share = (weights * inner[at]).sum(axis=1, keepdims=True)
            return share * self._colors(points) + (1.0 - share) * around

        return [bake(sheet, self.settings.texture_size, paint) for sheet in self.sheets]

    def _colors(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        pieces = torch.from_numpy(points).float().split(_POINTS_AT_ONCE)
        return torch.cat([self.albedo(p.to(self.device)).cpu() for p in pieces]).double().numpy()

    def about(self) -> list[str]:
        """What the file contains, and how it is placed."""
        model = self.model
        lines = [f"mesh      {len(model.faces):,} faces in {len(model.parts)} parts"]
        if model.skipped:
            lines.append(f"          {model.skipped} parts without faces are not painted")
        return lines
