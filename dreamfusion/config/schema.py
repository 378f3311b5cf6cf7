# ruff: noqa: RUF009 -- every default is made by `setting`, which returns a dataclass field
"""Every setting of a run: its type, its default, its range and one line on what it does.

The dataclasses are frozen, and their defaults are the library's too: functions that have such a
setting as an argument take its default from here.
"""

from __future__ import annotations

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

    name: str = setting("auto", "embedded, a diffusers folder, a hub id, or auto")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto", "precision of the denoiser; auto: half where the device is fast at it"
    )
    vae_dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto",
        "precision of a latent prior's autoencoder; auto: half on CUDA, but float32 where its file "
        "says force_upcast (XL's and SD3's overflow in float16; bfloat16 halves their memory)",
    )
    negative_prompt: str = setting("", "what the images should not show")
    view_prompts: Literal["nearest", "blended", "none"] = setting(
        "nearest", "the text says which side is seen: the nearest, a mix of two, or not at all"
    )
    perp_neg: float = setting(
        0.0, "weight of Perp-Neg against the other sides, a cure for Janus; 0: off", low=0, high=10
    )
    lora: tuple[str, ...] = setting(
        (),
        "LoRA files to merge into the weights, each FILE or FILE:WEIGHT; needs dreamfusion[lora]",
    )
    vae_checkpointing: bool = setting(
        False, "recompute a latent prior's encoder in the backward pass: less memory, slower"
    )
    vae_slicing: bool = setting(
        False, "encode one image at a time: with vae_checkpointing even less memory"
    )
    offload: bool = setting(False, "keep idle parts on the CPU: text encoders, decoder")
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
    position_jitter: float = setting(0.0, "half-width of a uniform offset", low=0, high=1)
    look_at_jitter: float = setting(0.0, "deviation of the point looked at", low=0, high=1)
    up_jitter: float = setting(0.0, "deviation of the up vector", low=0, high=1)


@dataclass(frozen=True)
class RenderConfig:
    """How images are rendered during training."""

    resolution: Schedule = setting(
        Schedule(32, 64, 0.4, 0.4), "height and width in pixels (rounded to 8)", low=8, high=1024
    )


@dataclass(frozen=True)
class ShadingConfig:
    """The share of lit steps, and their light. A prior's card may override it. The default is the
    paper's light at a greater distance."""

    lambertian: Schedule = setting(
        Schedule(0.0, 0.5, 0.4, 0.4), "share of lit steps, the others show albedo", low=0, high=1
    )
    textureless: Schedule = setting(
        Schedule.constant(0.4), "share of the lit steps without colour", low=0, high=1
    )
    ambient: float = setting(0.1, "ambient part of the light, diffuse is the rest", low=0, high=1)
    light_spread: float = setting(
        0.57,
        "deviation of the light around the camera, as a share of the camera's distance",
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
        "plain", "a random colour each view, a small learned network, or one colour"
    )
    color: tuple[float, float, float] = setting(
        (1.0, 1.0, 1.0), "the colour of kind fixed, and of previews", low=0, high=1
    )
    brightness: Range = setting(
        (0.0, 1.0), "range of each channel of a random colour", low=0, high=1
    )
    plain_share: float = setting(
        0.5, "share of steps in which kind learned makes way for a random colour", low=0, high=1
    )


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses on opacity, for every scene. A scene has regularisers of its own."""

    opacity: Schedule = setting(
        Schedule.constant(0.0), "sqrt(opacity^2 + .01); threestudio's lambda_sparsity", low=0
    )
    entropy: Schedule = setting(Schedule(0.003, 0.03), "binary entropy of opacity", low=0)


@dataclass(frozen=True)
class OptimizerConfig:
    """Settings of the optimiser for every kind of scene."""

    scale: Schedule = setting(Schedule.constant(1.0), "factor on all learning rates", low=0)
    warmup_steps: int = setting(0, "steps in which the rates rise from nothing", low=0)
    max_gradient_norm: float = setting(0.0, "gradients are clipped to it; 0: never", low=0)


@dataclass(frozen=True)
class OutputConfig:
    """Files in the run's folder."""

    checkpoint_every: int = setting(100, "steps between checkpoints", low=1)
    checkpoints_kept: int = setting(2, "how many of the newest stay", low=1)
    preview_every: int = setting(50, "steps between preview images", low=1)
    video_frames: int = setting(48, "frames of the turntable", low=1, high=10000)
    video_size: int = setting(160, "height and width of the video", low=16, high=4096)
    mesh_resolution: int = setting(128, "cells across the box for meshing", low=8, high=1024)
    mesh_faces: int = setting(30000, "faces that the mesh may have at most", low=4, high=10_000_000)
    mesh_tolerance: float = setting(
        0.25, "how far saving faces may move the surface, in cells; 0: not at all", low=0, high=10
    )
    texture_size: int = setting(
        1024, "texels a side of the mesh's texture; 0: colours at vertices", low=0, high=16384
    )


@dataclass(frozen=True)
class LoggingConfig:
    """What is logged besides metrics.jsonl."""

    tensorboard: bool = setting(
        False, "metrics and previews for TensorBoard too; needs dreamfusion[tensorboard]"
    )


@dataclass(frozen=True)
class Config:
    """A whole run."""

    prompt: str = setting("", "what to make")
    seed: int = setting(0, "of the run's one random stream", low=0, high=2**63 - 1)
    steps: int = setting(250, "optimisation steps", low=1, high=10_000_000)
    schedule_steps: int = setting(
        0, "the length that schedules refer to, where they end before the run; 0: steps", low=0
    )
    device: str = setting("auto", "auto, cpu, cuda, cuda:N or mps")
    start: str = setting("", "the run whose scene this one starts from")
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
        metadata={"doc": "further stages: what differs from the settings above, by a stage's name"},
    )

    def progress(self, step: int) -> Progress:
        """How far a run is after so many steps, as schedules take it."""
        return Progress(step, self.schedule_steps or self.steps)

    def with_steps(self, steps: int | None) -> dict[str, int]:
        """What changes where this run is resumed to another number of steps. Schedules keep the
        length that the run began with, and stay at their ends beyond it."""
        if steps is None:
            return {}
        return {"steps": steps, "schedule_steps": self.schedule_steps or self.steps}
