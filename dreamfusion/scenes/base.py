"""The interface of scenes, and a function that renders images of any scene."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamfusion.graphics import shading
from dreamfusion.graphics.cameras import Cameras
from dreamfusion.graphics.shading import ImageMode, Lighting, Shading
from dreamfusion.mesh.extract import MeshError, Surface
from dreamfusion.mesh.texture import TexturedMesh
from dreamfusion.scenes.settings import AdamSettings
from dreamfusion.utils.devices import send
from dreamfusion.utils.rng import Generators
from dreamfusion.utils.state import Progress, Stateful

WHITE = (1.0, 1.0, 1.0)
# The shading of each mode that is lit.
SHOWN_SHADINGS: dict[ImageMode, Shading] = {"color": "lambertian", "textureless": "textureless"}


@dataclass(frozen=True)
class Views:
    """Views to render.

    height, width: pixels. background: sRGB, of all views or of each; None is the scene's own.
    normals: whether to return them even if the lighting does not need them. A scene that cannot be
    lit raises ValueError for lighting other than "albedo".
    """

    cameras: Cameras
    height: int
    width: int
    lighting: Lighting = field(default_factory=Lighting)
    background: Float[Tensor, "*views 3"] | None = None
    normals: bool = False

    def to(self, device: torch.device) -> Views:
        """The same views with every tensor on `device`."""
        background = None if self.background is None else send(self.background, device)
        cameras, lighting = self.cameras.to(device), self.lighting.to(device)
        return replace(self, cameras=cameras, lighting=lighting, background=background)

    def __getitem__(self, which: slice) -> Views:
        background = self.background
        if background is not None and background.ndim == 2:
            background = background[which]
        cameras, lighting = self.cameras[which], self.lighting[which]
        return replace(self, cameras=cameras, lighting=lighting, background=background)


@dataclass(frozen=True)
class Rendered:
    """Images of views.

    rgb: in [0, 1], background included. depth: along the ray, scene units; None for a plain image.
    normals: world frame, where the views need them. A scene may return a subclass that holds more
    for its own `regularisers`.
    """

    rgb: Float[Tensor, "views h w 3"]
    opacity: Float[Tensor, "views h w"]
    depth: Float[Tensor, "views h w"] | None = None
    normals: Float[Tensor, "views h w 3"] | None = None


class Scene(Stateful, Protocol):
    """Anything with parameters that renders images: a radiance field, splats, a mesh, an image.

    optimizer: made by the scene; each group has `base_lr`, which `before_step` may change. The
    trainer sets lr = base_lr x factor, clips and steps. A scene that adds or removes parameters
    does so in `after_step` and `load_state_dict`, and updates the optimiser's groups and state; no
    other object stores a list of parameters. device: of the parameters. can_be_lit: whether it
    supports lighting other than "albedo". has_shape: whether it shows an object before training,
    of which a run then writes a preview.
    """

    optimizer: torch.optim.Optimizer
    device: torch.device
    can_be_lit: bool = True
    has_shape: bool = False

    def render(self, views: Views, generator: Generators | None = None) -> Rendered:
        """Render views, which may be on another device. Differentiable.

        generator: jitters samples during training, one for each view; None: no jitter. Without
        gradients, a scene renders in chunks, so that any size fits into memory.
        """
        ...

    def regularisers(
        self, rendered: Rendered, progress: Progress, generator: torch.Generator
    ) -> Mapping[str, Float[Tensor, ""]]:
        """Weighted scalar losses by name, of what `render` returned."""
        return {}

    def before_step(self, progress: Progress, generator: torch.Generator) -> None:
        """Schedules, occupancy. generator: the run's, the same in all processes; how many numbers
        are drawn must not depend on the device or the scene."""
        return None

    def after_step(self, progress: Progress, generator: torch.Generator) -> None:
        """Moving average, densification."""
        return None

    @property
    def averaged(self) -> Scene:
        """The scene with averaged parameters, for display and export; itself without averaging."""
        return self

    def surface(
        self, *, resolution: int = 128, threshold: float | None = None
    ) -> Surface | TexturedMesh:
        """The scene as a mesh. resolution: cells across the box. threshold: of density; None finds
        one. Raises MeshError."""
        raise MeshError("this scene cannot be converted to a mesh")

    def writers(self) -> Mapping[str, Callable[[Path | str], None]]:
        """Functions that write the scene itself, not its mesh, by the name of the file: a run ends
        with the first of them, and its suffix tells the format ("splats.ply", "splats.spz")."""
        return {}

    def about(self) -> list[str]:
        """Lines for the log at the start of a run: backends in use, and skipped ones."""
        return []

    def images(
        self,
        cameras: Cameras,
        *,
        size: int,
        mode: ImageMode = "color",
        background: tuple[float, float, float] = WHITE,
    ) -> Float[Tensor, "views {size} {size} 3"]:
        """Images to look at, in [0, 1], on the CPU, on a plain background.

        mode: color, albedo, normals, depth or textureless.
        """
        rgba = render_image(self, cameras, height=size, width=size, mode=mode)
        return shading.over(rgba, torch.tensor(background, dtype=torch.float32))


def adam(
    groups: Iterable[tuple[Iterable[Tensor], float]], settings: AdamSettings, device: str
) -> torch.optim.Adam:
    """The optimiser of a scene. groups: parameters on a device, and their `base_lr`."""
    return torch.optim.Adam(
        [{"params": list(parameters), "base_lr": rate} for parameters, rate in groups],
        lr=0.0,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        fused=not device.startswith("mps"),
    )


def update_average(average: nn.Module, trained: nn.Module, decay: float, step: int) -> None:
    """average <- keep average + (1 - keep) trained; keep is the decay, but lower in early steps."""
    keep = min(decay, (step + 1) / (step + 10))
    for old, new in zip(average.parameters(), trained.parameters(), strict=True):
        old.lerp_(new, 1.0 - keep)


@torch.no_grad()
def render_image(
    scene: Scene, cameras: Cameras, *, height: int, width: int, mode: ImageMode = "color"
) -> Float[Tensor, "views {height} {width} 4"]:
    """RGBA images to show, on the CPU, without gradients or jitter.

    mode: "color" is softly lit from the camera's upper left, "albedo" unlit, "textureless" the
    same light on white clay, "normals" and "depth" as colours. Alpha is the opacity, straight:
    see `shading.over`.
    """
    if mode not in shading.IMAGE_MODES:
        raise ValueError(f"unknown mode {mode!r}")
    lit = SHOWN_SHADINGS.get(mode, "albedo") if scene.can_be_lit else "albedo"
    images = []
    for i in range(len(cameras)):
        one = cameras[i : i + 1]
        transform = one.T_world_camera[0]
        position = shading.show_light_position(transform)
        light = Lighting(lit, position, shading.SHOW_AMBIENT.get(mode, 1.0))
        out = scene.render(
            Views(one, height, width, light, torch.zeros(3), normals=mode == "normals")
        )
        opacity, rgb = out.opacity[0].cpu(), out.rgb[0].cpu()
        if mode == "normals" and out.normals is not None:
            color = shading.color_normals(out.normals[0].cpu())
        elif mode == "depth" and out.depth is not None:
            color = shading.color_depth(out.depth[0].cpu(), transform.cpu())
        else:
            color = rgb / opacity[..., None].clamp(min=1e-6)
        images.append(shading.with_alpha(color, opacity))
    return torch.stack(images)
