# ruff: noqa: RUF009 -- every default is made by _setting, which returns a dataclass field
"""Every setting of a run: its type, its default, its range and one line on what it does.

The dataclasses are frozen, and their defaults are the library's too: functions that have such a
setting as an argument take its default from here.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from dreamfusion.config.schedules import Schedule

Range = tuple[float, float]


def _setting(default: Any, doc: str, *, low: float | None = None, high: float | None = None) -> Any:
    """A field with its one line of documentation and its inclusive range."""
    return dataclasses.field(default=default, metadata={"doc": doc, "low": low, "high": high})


def _section(cls: type) -> Any:
    return dataclasses.field(default_factory=cls)


@dataclass(frozen=True)
class PriorConfig:
    """Which diffusion model judges the pictures."""

    name: str = _setting("auto", "embedded, a diffusers folder, a hub id, or auto")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = _setting(
        "auto", "precision of the denoiser; auto: half where the device is fast at it"
    )
    vae_dtype: Literal["auto", "float32", "bfloat16", "float16"] = _setting(
        "auto",
        "precision of a latent prior's autoencoder; auto: half on CUDA, but float32 where its file "
        "says force_upcast (XL's and SD3's overflow in float16; bfloat16 halves their memory)",
    )
    negative_prompt: str = _setting("", "what the picture should not show")
    view_prompts: Literal["nearest", "blended", "none"] = _setting(
        "nearest", "the text says which side is seen: the nearest, a mix of two, or not at all"
    )
    perp_neg: float = _setting(
        0.0, "weight of Perp-Neg against the other sides, a cure for Janus; 0: off", low=0, high=10
    )
    vae_checkpointing: bool = _setting(
        False, "recompute a latent prior's encoder in the backward pass: less memory, slower"
    )
    vae_slicing: bool = _setting(
        False, "encode one picture at a time: with vae_checkpointing still less memory"
    )
    offload: bool = _setting(False, "keep on the CPU what is not at work: text encoders, decoder")
    compile: bool = _setting(False, "torch.compile the denoiser: minutes at first, then faster")


@dataclass(frozen=True)
class SDSConfig:
    """Score Distillation Sampling."""

    guidance: Schedule = _setting(
        Schedule.constant(4.0), "classifier-free guidance s: uncond + s (text - uncond)", low=0
    )
    t_min: Schedule = _setting(
        Schedule.constant(0.02), "least noise level, as a fraction of all", low=0, high=1
    )
    t_max: Schedule = _setting(
        Schedule(0.98, 0.5), "greatest noise level, as a fraction of all", low=0, high=1
    )
    weighting: Literal["sigma2", "uniform", "inverse_sqrt_snr"] = _setting(
        "sigma2", "w(t): sigma^2 (the paper), 1, or sigma/alpha (= 1/sqrt(SNR), at most 10)"
    )
    clip_sample: float | None = _setting(
        None,
        "where the guessed clean picture is cut off, 1 for a prior of pixels: colours are not "
        "overdone; null: nowhere",
        low=0.01,
    )
    surface_noise: Range | None = _setting(
        None,
        "from which fraction of the steps to which the noise clings to the surface, so that all "
        "views agree on small parts; null: never",
        low=0,
        high=1,
    )


@dataclass(frozen=True)
class CameraConfig:
    """Random cameras. A prior's card may say which ones it knows; without one they are near
    DreamFusion's (appendix A.2), but for a longer lens, with which the whole object is seen."""

    views: int = _setting(4, "pictures a step, stratified in azimuth", low=1, high=64)
    elevation_deg: Range = _setting((-10.0, 60.0), "range of elevations, degrees", low=-90, high=90)
    distance: Range = _setting((2.6, 3.2), "range of distances, scene units", low=0.1, high=100)
    fov_y_deg: Range | None = _setting(
        (35.0, 45.0),
        "vertical fields of view, degrees; null: see focal_length",
        low=1,
        high=150,
    )
    focal_length: Range | None = _setting(
        None, "range of focal lengths in picture widths, with fov_y_deg null", low=0.1, high=20
    )
    position_jitter: float = _setting(0.0, "half-width of a uniform offset", low=0, high=1)
    look_at_jitter: float = _setting(0.0, "deviation of the point looked at", low=0, high=1)
    up_jitter: float = _setting(0.0, "deviation of the up vector", low=0, high=1)


@dataclass(frozen=True)
class RenderConfig:
    """How pictures are rendered during training."""

    resolution: Schedule = _setting(
        Schedule(32, 64, 0.4, 0.4), "height and width in pixels (rounded to 8)", low=8, high=1024
    )
    step_size: Schedule = _setting(
        Schedule.constant(0.025),
        "distance of samples along a ray, scene units; results are shown with its end",
        low=0.001,
        high=0.5,
    )
    min_transmittance: float = _setting(
        1e-3, "samples that less of the light reaches are left out", low=0, high=0.5
    )
    backend: Literal["auto", "reference", "numba", "triton", "nerfacc"] = _setting(
        "auto", "what marches rays; reference: torch; auto: the first that works on the device"
    )


@dataclass(frozen=True)
class ShadingConfig:
    """Which share of the steps is lit, and how. A prior's card may say which light it knows;
    without one it is the paper's, but farther away."""

    lambertian: Schedule = _setting(
        Schedule(0.0, 0.5, 0.4, 0.4), "share of lit steps, the others show albedo", low=0, high=1
    )
    textureless: Schedule = _setting(
        Schedule.constant(0.4), "share of the lit steps without colour", low=0, high=1
    )
    ambient: float = _setting(0.1, "ambient part of the light, diffuse is the rest", low=0, high=1)
    light_spread: float = _setting(
        1.0, "deviation of the light's direction from the camera's", low=0, high=10
    )
    light_distance: Range = _setting(
        (4.0, 8.0), "range of light distances, scene units", low=0.1, high=100
    )


@dataclass(frozen=True)
class BackgroundConfig:
    """What stands behind the object."""

    kind: Literal["plain", "learned", "fixed"] = _setting(
        "plain", "a random colour each view, a small learned network, or one colour"
    )
    color: tuple[float, float, float] = _setting(
        (1.0, 1.0, 1.0), "the colour of kind fixed, and of previews", low=0, high=1
    )
    brightness: Range = _setting(
        (0.0, 1.0), "range of each channel of a random colour", low=0, high=1
    )
    plain_share: float = _setting(
        0.5, "share of steps in which kind learned makes way for a random colour", low=0, high=1
    )


@dataclass(frozen=True)
class FieldConfig:
    """The scene: a hash grid and a small network that give density and albedo."""

    levels: int = _setting(8, "levels of the hash grid", low=1, high=32)
    features: int = _setting(4, "features a level", low=1, high=8)
    log2_table_size: int = _setting(16, "log2 of the entries a level", low=8, high=24)
    base_resolution: int = _setting(8, "cells across the coarsest level", low=2, high=512)
    max_resolution: int = _setting(128, "cells across the finest level", low=2, high=8192)
    hidden: int = _setting(32, "width of the network", low=4, high=512)
    density_activation: Literal["softplus", "exp"] = _setting("softplus", "what makes density")
    blob: Literal["gaussian", "linear", "none"] = _setting("linear", "density at the start")
    blob_scale: float = _setting(10.0, "height of the blob, before the activation", low=0)
    blob_radius: float = _setting(0.5, "size of the blob, scene units", low=0.01, high=2)
    active_levels: Schedule = _setting(
        Schedule.constant(1.0), "share of the levels in use, coarse to fine", low=0, high=1
    )
    sharpness: Schedule = _setting(
        Schedule.constant(1.0),
        "factor on the activation's argument: how thin a surface can be",
        low=0.01,
        high=1000,
    )
    normal_epsilon: float = _setting(
        0.01, "half the spacing of the taps that normals are taken with", low=1e-4, high=0.2
    )
    backend: Literal["auto", "reference", "numba", "triton", "tinycudann"] = _setting(
        "auto", "what encodes; reference: torch; auto: the first that works on the device"
    )


@dataclass(frozen=True)
class OccupancyConfig:
    """The grid that remembers where the scene is empty."""

    resolution: int = _setting(64, "cells across the box", low=4, high=512)
    threshold: float = _setting(0.1, "density below which a cell is skipped", low=0)
    decay: float = _setting(
        0.3, "factor on remembered densities at each update", low=0.01, high=0.999
    )
    update_every: int = _setting(16, "steps between updates", low=1)


@dataclass(frozen=True)
class LossConfig:
    """Weights of the regularisers."""

    opacity: Schedule = _setting(
        Schedule.constant(0.0), "sqrt(opacity^2 + .01); threestudio's lambda_sparsity", low=0
    )
    entropy: Schedule = _setting(Schedule(0.003, 0.03), "binary entropy of opacity", low=0)
    sparsity: Schedule = _setting(
        Schedule.constant(0.0), "log(1 + 2 density^2) at samples, as in SNeRG", low=0
    )
    orientation: Schedule = _setting(
        Schedule.constant(0.0), "normals that look away from the camera, in lit steps", low=0
    )
    smoothness: Schedule = _setting(
        Schedule.constant(0.0), "normals that differ from their neighbours', in lit steps", low=0
    )


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam."""

    grid_lr: float = _setting(2e-2, "learning rate of the hash grid", low=0)
    network_lr: float = _setting(2e-3, "learning rate of the network", low=0)
    background_lr: float = _setting(1e-3, "learning rate of a learned background", low=0)
    scale: Schedule = _setting(Schedule.constant(1.0), "factor on all learning rates", low=0)
    warmup_steps: int = _setting(0, "steps in which the rates rise from nothing", low=0)
    ema: float = _setting(
        0.0, "decay of the moving average that is shown and exported; 0: none", low=0, high=0.9999
    )
    beta1: float = _setting(0.9, "decay of the first moment", low=0, high=0.9999)
    beta2: float = _setting(0.99, "decay of the second moment", low=0, high=0.99999)
    epsilon: float = _setting(1e-15, "guards the division", low=0)
    max_gradient_norm: float = _setting(0.0, "gradients are clipped to it; 0: never", low=0)


@dataclass(frozen=True)
class OutputConfig:
    """What is written to the run's folder."""

    checkpoint_every: int = _setting(100, "steps between checkpoints", low=1)
    checkpoints_kept: int = _setting(2, "how many of the newest stay", low=1)
    preview_every: int = _setting(50, "steps between preview pictures", low=1)
    video_frames: int = _setting(48, "frames of the turntable", low=1, high=10000)
    video_size: int = _setting(160, "height and width of the video", low=16, high=4096)
    mesh_resolution: int = _setting(128, "cells across the box for meshing", low=8, high=1024)
    mesh_faces: int = _setting(
        30000, "faces that the mesh may have at most", low=4, high=10_000_000
    )
    mesh_tolerance: float = _setting(
        0.25, "how far saving faces may move the surface, in cells; 0: not at all", low=0, high=10
    )
    texture_size: int = _setting(
        1024, "texels a side of the mesh's texture; 0: colours at vertices", low=0, high=16384
    )


@dataclass(frozen=True)
class LoggingConfig:
    """What is logged besides metrics.jsonl."""

    tensorboard: bool = _setting(
        False, "metrics and previews for TensorBoard too; needs dreamfusion[tensorboard]"
    )


@dataclass(frozen=True)
class Config:
    """A whole run."""

    prompt: str = _setting("", "what to make")
    seed: int = _setting(0, "of the run's one random stream", low=0, high=2**63 - 1)
    steps: int = _setting(250, "optimisation steps", low=1, high=10_000_000)
    device: str = _setting("auto", "auto, cpu, cuda, cuda:N or mps")
    prior: PriorConfig = _section(PriorConfig)
    sds: SDSConfig = _section(SDSConfig)
    camera: CameraConfig = _section(CameraConfig)
    render: RenderConfig = _section(RenderConfig)
    shading: ShadingConfig = _section(ShadingConfig)
    background: BackgroundConfig = _section(BackgroundConfig)
    field: FieldConfig = _section(FieldConfig)
    occupancy: OccupancyConfig = _section(OccupancyConfig)
    losses: LossConfig = _section(LossConfig)
    optimizer: OptimizerConfig = _section(OptimizerConfig)
    output: OutputConfig = _section(OutputConfig)
    logging: LoggingConfig = _section(LoggingConfig)
