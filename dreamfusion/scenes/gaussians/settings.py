"""Settings of the scene `gaussians`. No torch: see `code`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from dreamfusion.config.schedules import Schedule
from dreamfusion.config.sections import setting, subsection
from dreamfusion.scenes.settings import AveragedAdamSettings, SceneSettings


def _falling(start: float) -> Schedule:
    return Schedule(start, start / 5, shape="geometric")


@dataclass(frozen=True)
class SplatRates(AveragedAdamSettings):
    """Adam: a learning rate for each kind of parameter, and common parameters."""

    means: Schedule = setting(_falling(1e-2), "learning rate of centres, scene units", low=0)
    scales: float = setting(2e-2, "learning rate of the logarithms of axes", low=0)
    rotations: float = setting(2e-2, "learning rate of quaternions", low=0)
    opacities: float = setting(0.15, "learning rate of logits of opacities", low=0)
    colors: Schedule = setting(_falling(0.06), "learning rate of colours", low=0)


@dataclass(frozen=True)
class GaussianSettings(SceneSettings):
    """Gaussian splats in the box [-1, 1]^3. Their number does not change."""

    code: ClassVar[str] = "dreamfusion.scenes.gaussians.scene:GaussianScene"
    name: str = setting("gaussians", "name of the kind of scene")
    count: int = setting(3000, "number of splats", low=16, high=2_000_000)
    radius: float = setting(0.5, "radius of the initial ball of splats, scene units", low=0.01)
    opacity: float = setting(0.2, "initial opacity", low=0.01, high=0.99)
    blur: float = setting(
        0.015, "width added to every splat in all directions, scene units", low=1e-4, high=0.2
    )
    max_scale: float = setting(0.15, "longest axis of a splat, scene units", low=0.005, high=2)
    sharpness: Schedule = setting(
        Schedule(1.0, 8.0, 0.15, 0.6, "geometric"),
        "factor on logits of opacities; a larger one makes them nearly 0 or 1",
        low=0.01,
        high=1000,
    )
    relocate_every: int = setting(
        20, "steps between moves of transparent splats onto others; 0: never", low=0
    )
    smoothness: Schedule = setting(
        Schedule(0.0, 0.02, 0.4, 0.4), "differences of neighbouring normals of the depth", low=0
    )
    optimizer: SplatRates = subsection(SplatRates)

    def layer(self) -> Mapping[str, Any]:
        return {"shading": {"lambertian": 0}}
