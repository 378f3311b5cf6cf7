"""Settings of the scene `mesh`. No torch: see `code`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from dreamfusion.config.schedules import Schedule
from dreamfusion.config.sections import setting, subsection
from dreamfusion.scenes.nerf.settings import HashGridConfig
from dreamfusion.scenes.settings import AdamSettings, SceneSettings

Axis = Literal["+x", "-x", "+y", "-y", "+z", "-z"]


@dataclass(frozen=True)
class PaintRates(AdamSettings):
    """Adam: learning rates, and common parameters."""

    grid_lr: Schedule = setting(
        Schedule(0.15, 0.015, shape="geometric"), "learning rate of the hash grid", low=0
    )
    network_lr: float = setting(2e-3, "learning rate of the network", low=0)


@dataclass(frozen=True)
class MeshSettings(SceneSettings):
    """A mesh from a file, which stays as it is, and its colours, a hash grid at its surface."""

    code: ClassVar[str] = "dreamfusion.scenes.mesh.scene:MeshScene"
    name: str = setting("mesh", "name of the kind of scene")
    file: str = setting("", "the mesh: .glb, .obj, .ply, .stl or .3mf")
    up: Axis = setting("+y", "the file's axis that points upwards")
    front: Axis = setting("+z", "the file's axis towards which the object looks")
    size: float = setting(
        1.45, "longest side of the mesh's box, to which it is scaled, scene units", low=0.1, high=2
    )
    samples: int = setting(2, "samples per pixel and axis", low=1, high=8)
    texture_size: int = setting(1024, "texels per side of each texture", low=16, high=8192)
    hidden: int = setting(32, "width of the network", low=4, high=512)
    grid: HashGridConfig = subsection(HashGridConfig)
    optimizer: PaintRates = subsection(PaintRates)

    def check(self) -> None:
        if self.up[1] == self.front[1]:
            raise ValueError("up and front must be different axes")

    def layer(self) -> Mapping[str, Any]:
        shading = {"lambertian": 0, "textureless": 0}
        return {"shading": shading, "losses": {"entropy": 0, "opacity": 0}}

    def require_files(self) -> None:
        from dreamfusion.scenes.mesh.model import read_model

        read_model(self)

    def viewable(self) -> SceneSettings:
        """Without a backend requested for training, which the viewing machine may not have."""
        return replace(self, grid=replace(self.grid, backend="auto"))
