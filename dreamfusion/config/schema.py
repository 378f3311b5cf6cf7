"""All settings of a run, each with its type, default, range and a one-line description.

The dataclasses are frozen. Functions with such a setting as an argument take its default from here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dreamfusion.config.schedules import Schedule
from dreamfusion.config.sections import (
    ESTIMATORS,
    PRIORS,
    SCENES,
    Section,
    named_section,
    setting,
    subsection,
)
from dreamfusion.utils.state import Progress

Range = tuple[float, float]


@dataclass(frozen=True)
class PriorConfig:
    """The diffusion model."""

    name: str = setting("auto", "model: auto, embedded, a folder in diffusers' layout or a hub id")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto", "precision of the denoiser; auto: half precision if it is fast on the device"
    )
    vae_dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto",
        "precision of a latent prior's autoencoder; auto: half on CUDA, but float32 if its config "
        "has force_upcast (XL's and SD3's overflow in float16; bfloat16 halves their memory)",
    )
    negative_prompt: str = setting("", "description of what the images should not show")
    view_prompts: Literal["nearest", "blended", "none"] = setting(
        "nearest", "view words in the prompt: of the nearest view, a blend of the nearest two, none"
    )
    perp_neg: float = setting(
        0.0, "weight of Perp-Neg against other views, to reduce Janus faces; 0: off", low=0, high=10
    )
    lora: tuple[str, ...] = setting(
        (),
        "LoRA files to merge into the weights, each FILE or FILE:WEIGHT; needs dreamfusion[lora]",
    )
    vae_checkpointing: bool = setting(
        False, "recompute a latent prior's encoder in the backward pass: less memory, slower"
    )
    vae_slicing: bool = setting(
        False, "encode one image at a time: saves more memory with vae_checkpointing"
    )
    offload: bool = setting(False, "keep unused parts (text encoders, decoder) on the CPU")
    compile: bool = setting(False, "torch.compile the denoiser: minutes at first, then faster")


@dataclass(frozen=True)
class CameraConfig:
    """Random cameras. A prior's card may override them. The defaults are close to DreamFusion's
    (appendix A.2), but with a longer focal length, so that the whole object is visible."""

    views: int = setting(4, "images per step, stratified in azimuth", low=1, high=64)
    elevation_deg: Range = setting((-10.0, 60.0), "range of elevations, degrees", low=-90, high=90)
    distance: Range = setting((2.6, 3.2), "range of distances, scene units", low=0.1, high=100)
    fov_y_deg: Range | None = setting(
        (35.0, 45.0), "vertical fields of view, degrees; null: see focal_length", low=1, high=150
    )
    focal_length: Range | None = setting(
        None, "range of focal lengths in image widths, with fov_y_deg null", low=0.1, high=20
    )
    position_jitter: float = setting(
        0.0, "half-width of a uniform offset of the position, scene units", low=0, high=1
    )
    look_at_jitter: float = setting(
        0.0, "standard deviation of the look-at point, scene units", low=0, high=1
    )
    up_jitter: float = setting(0.0, "standard deviation of the up vector", low=0, high=1)


@dataclass(frozen=True)
class RenderConfig:
    """Rendering of images during training."""

    resolution: Schedule = setting(
        Schedule(32, 64, 0.4, 0.4), "height and width in pixels (rounded to 8)", low=8, high=1024
    )


@dataclass(frozen=True)
class ShadingConfig:
    """Share of lit steps, and their light. A prior's card may override it. The default is the
    paper's light at a greater distance."""

    lambertian: Schedule = setting(
        Schedule(0.0, 0.5, 0.4, 0.4), "share of lit steps; the others show albedo", low=0, high=1
    )
    textureless: Schedule = setting(
        Schedule.constant(0.4), "share of the lit steps without colour", low=0, high=1
    )
    ambient: float = setting(0.1, "ambient share of the light; the rest is diffuse", low=0, high=1)
    light_spread: float = setting(
        0.57,
        "standard deviation of the light around the camera, as a fraction of the camera distance",
        low=0,
        high=10,
    )
    light_distance: Range = setting(
        (4.0, 8.0), "range of light distances, scene units", low=0.1, high=100
    )


@dataclass(frozen=True)
class BackgroundConfig:
    """The background behind the object."""

    kind: Literal["plain", "learned", "fixed"] = setting(
        "plain", "a random colour per view, a small trained network, or one colour"
    )
    color: tuple[float, float, float] = setting(
        (1.0, 1.0, 1.0), "RGB colour of the kind fixed, and of previews", low=0, high=1
    )
    brightness: Range = setting(
        (0.0, 1.0), "range of each channel of a random colour", low=0, high=1
    )
    plain_share: float = setting(
        0.5, "share of steps in which a random colour replaces the kind learned", low=0, high=1
    )


@dataclass(frozen=True)
class LossConfig:
    """Weights of the opacity losses of all scenes. Each scene has further regularisers."""

    opacity: Schedule = setting(
        Schedule.constant(0.0),
        "weight of sqrt(opacity^2 + .01); threestudio's lambda_sparsity",
        low=0,
    )
    entropy: Schedule = setting(Schedule(0.003, 0.03), "weight of opacity's binary entropy", low=0)


@dataclass(frozen=True)
class OptimizerConfig:
    """Settings of the optimiser for all kinds of scenes."""

    scale: Schedule = setting(Schedule.constant(1.0), "factor on all learning rates", low=0)
    warmup_steps: int = setting(0, "steps of linear warm-up of the learning rates", low=0)
    max_gradient_norm: float = setting(0.0, "norm to clip gradients to; 0: no clipping", low=0)


@dataclass(frozen=True)
class OutputConfig:
    """Files in the run's folder."""

    checkpoint_every: int = setting(100, "steps between checkpoints", low=1)
    checkpoints_kept: int = setting(2, "number of newest checkpoints to keep", low=1)
    preview_every: int = setting(50, "steps between preview images", low=1)
    video_frames: int = setting(48, "frames of the turntable video", low=1, high=10000)
    video_size: int = setting(512, "height and width of the video, pixels", low=16, high=4096)
    mesh_resolution: int = setting(128, "cells per axis of the meshing grid", low=8, high=1024)
    mesh_faces: int = setting(30000, "maximum number of faces of the mesh", low=4, high=10_000_000)
    mesh_tolerance: float = setting(
        0.25, "maximum surface error of simplification, cells; 0: unlimited", low=0, high=10
    )
    texture_size: int = setting(
        1024,
        "height and width of the mesh's texture, texels; 0: vertex colours; of a painted mesh: "
        "scene.texture_size",
        low=0,
        high=16384,
    )


@dataclass(frozen=True)
class LoggingConfig:
    """Logging in addition to metrics.jsonl."""

    tensorboard: bool = setting(
        False, "log metrics to TensorBoard, too; needs dreamfusion[tensorboard]"
    )


@dataclass(frozen=True)
class Config:
    """All settings of a run."""

    prompt: str = setting("", "description of the object")
    seed: int = setting(0, "seed of the run's random numbers", low=0, high=2**63 - 1)
    steps: int = setting(250, "optimisation steps", low=1, high=10_000_000)
    schedule_steps: int = setting(
        0, "steps that schedules span, if they end before the run; 0: all steps", low=0
    )
    device: str = setting("auto", "device: auto, cpu, cuda, cuda:N or mps")
    start: str = setting("", "run whose scene is the initial scene")
    prior: PriorConfig = field(default_factory=PriorConfig, metadata={"group": PRIORS})
    estimator: Section = named_section(ESTIMATORS, "sds")
    scene: Section = named_section(SCENES, "nerf")
    camera: CameraConfig = subsection(CameraConfig)
    render: RenderConfig = subsection(RenderConfig)
    shading: ShadingConfig = subsection(ShadingConfig)
    background: BackgroundConfig = subsection(BackgroundConfig)
    losses: LossConfig = subsection(LossConfig)
    optimizer: OptimizerConfig = subsection(OptimizerConfig)
    output: OutputConfig = subsection(OutputConfig)
    logging: LoggingConfig = subsection(LoggingConfig)
    stages: Mapping[str, Any] = field(
        default_factory=dict,
        metadata={"doc": "further stages by name, each with its differences from these settings"},
    )

    def progress(self, step: int) -> Progress:
        """The position of a step in the run's schedules."""
        return Progress(step, self.schedule_steps or self.steps)

    def with_steps(self, steps: int | None) -> dict[str, int]:
        """The settings to change for resuming to another number of steps. Schedules keep their
        original length, and their end values beyond it."""
        if steps is None:
            return {}
        return {"steps": steps, "schedule_steps": self.schedule_steps or self.steps}
