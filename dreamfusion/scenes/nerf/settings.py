"""Settings of the scene `nerf`. No torch: see `code`."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from dreamfusion.config.schedules import Schedule
from dreamfusion.config.sections import setting, subsection
from dreamfusion.scenes.settings import AveragedAdamSettings, SceneSettings


@dataclass(frozen=True)
class HashGridConfig:
    """A multiresolution hash grid."""

    levels: int = setting(8, "levels of the hash grid", low=1, high=32)
    features: int = setting(4, "features per level", low=1, high=8)
    log2_table_size: int = setting(
        16, "log2 of the largest number of entries per level", low=8, high=24
    )
    base_resolution: int = setting(8, "cells across the coarsest level", low=2, high=512)
    max_resolution: int = setting(128, "cells across the finest level", low=2, high=8192)
    backend: Literal["auto", "reference", "numba", "triton", "tinycudann"] = setting(
        "auto", "encoder; reference: plain torch; auto: the first that works on the device"
    )


@dataclass(frozen=True)
class FieldConfig(HashGridConfig):
    """A hash grid and a small network for density and albedo."""

    hidden: int = setting(32, "width of the network", low=4, high=512)
    density_activation: Literal["softplus", "exp"] = setting(
        "softplus", "activation of the density"
    )
    blob: Literal["gaussian", "linear", "none"] = setting("linear", "shape of the initial density")
    blob_scale: float = setting(10.0, "height of the initial blob, before the activation", low=0)
    blob_radius: float = setting(0.5, "radius of the initial blob, scene units", low=0.01, high=2)
    active_levels: Schedule = setting(
        Schedule.constant(1.0), "share of active levels, coarse to fine", low=0, high=1
    )
    sharpness: Schedule = setting(
        Schedule.constant(1.0),
        "factor on the activation's argument; a larger one makes surfaces thinner",
        low=0.01,
        high=1000,
    )
    normal_epsilon: float = setting(
        0.01, "half the spacing of the finite differences of normals", low=1e-4, high=0.2
    )


@dataclass(frozen=True)
class OccupancyConfig:
    """The grid of occupied cells; empty ones are skipped."""

    resolution: int = setting(64, "cells across the box", low=4, high=512)
    threshold: float = setting(0.1, "density below which a cell is skipped", low=0)
    decay: float = setting(0.3, "factor on stored densities at each update", low=0.01, high=0.999)
    update_every: int = setting(16, "steps between updates", low=1)


@dataclass(frozen=True)
class MarchingConfig:
    """Samples along rays."""

    step_size: Schedule = setting(
        Schedule.constant(0.025),
        "distance of samples along a ray, scene units; results are rendered with the end value",
        low=0.001,
        high=0.5,
    )
    min_transmittance: float = setting(
        1e-3, "transmittance below which samples are skipped", low=0, high=0.5
    )
    min_normal_weight: float = setting(
        2.0, "weight per scene unit below which samples have the mean shade of their ray", low=0
    )
    backend: Literal["auto", "reference", "numba", "triton", "nerfacc"] = setting(
        "auto", "ray marcher; reference: plain torch; auto: the first that works on the device"
    )


@dataclass(frozen=True)
class NerfLossConfig:
    """Weights of the regularisers of density and normals."""

    sparsity: Schedule = setting(
        Schedule.constant(0.0), "log(1 + 2 density^2) at samples, as in SNeRG", low=0
    )
    orientation: Schedule = setting(
        Schedule.constant(0.0), "normals that face away from the camera, in lit steps", low=0
    )
    smoothness: Schedule = setting(
        Schedule.constant(0.0), "differences of neighbouring normals, in lit steps", low=0
    )


@dataclass(frozen=True)
class AdamConfig(AveragedAdamSettings):
    """Adam: a learning rate for each part of the scene, and common parameters."""

    grid_lr: float = setting(2e-2, "learning rate of the hash grid", low=0)
    network_lr: float = setting(2e-3, "learning rate of the network", low=0)
    background_lr: float = setting(1e-3, "learning rate of a learned background", low=0)


@dataclass(frozen=True)
class NerfSettings(SceneSettings):
    """A radiance field in the box [-1, 1]^3."""

    code: ClassVar[str] = "dreamfusion.scenes.nerf.scene:NerfScene"
    name: str = setting("nerf", "name of the kind of scene")
    field: FieldConfig = subsection(FieldConfig)
    occupancy: OccupancyConfig = subsection(OccupancyConfig)
    marching: MarchingConfig = subsection(MarchingConfig)
    losses: NerfLossConfig = subsection(NerfLossConfig)
    optimizer: AdamConfig = subsection(AdamConfig)

    def check(self) -> None:
        if self.field.base_resolution > self.field.max_resolution:
            raise ValueError("field.base_resolution must not exceed field.max_resolution")

    def viewable(self) -> SceneSettings:
        """Without backends requested for training, which the viewing machine may not have."""
        return replace(
            self,
            field=replace(self.field, backend="auto"),
            marching=replace(self.marching, backend="auto"),
        )
