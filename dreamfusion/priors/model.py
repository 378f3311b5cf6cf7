"""A frozen text-to-image diffusion model, in pixels or latents, loaded through diffusers."""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import diffusers
import torch
import torch.nn.functional as F
from torch import Tensor

from dreamfusion.config.schema import PriorConfig
from dreamfusion.diffusion.condition import Condition, TextEmbedding
from dreamfusion.diffusion.predictions import PredictionKind
from dreamfusion.priors.base import Prior
from dreamfusion.priors.card import PriorCard, PriorSettings
from dreamfusion.priors.layout import (
    LAYOUTS,
    PIPELINES,
    PriorError,
    check_kind,
    group_size_of,
    pipeline_class,
    require_json,
    sample_size,
    weights_stem,
)
from dreamfusion.priors.loading import NoiseSchedule, load_part, quiet, read_schedule
from dreamfusion.priors.memory import check_memory, estimate_memory
from dreamfusion.priors.mvdream.unet import view_inputs
from dreamfusion.priors.resolve import ResolvedPrior, resolve_prior
from dreamfusion.priors.text import TextEncoders, encoders_of, encoders_of_pipe
from dreamfusion.utils.devices import has_bfloat16
from dreamfusion.utils.errors import RunWarning, one_line, out_of_memory
from dreamfusion.utils.threads import n_workers, pieces, run_all

if TYPE_CHECKING:
    from dreamfusion.priors.adapter import AdaptedPrior

# The halves of an autoencoder. Training never uses the second.
ENCODER = ("encoder", "quant_conv")
DECODER = ("decoder", "post_quant_conv")


def _with_gradient_in_range(encode: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """encode(images) with a backward pass within the range of half precision.

    The gradient is scaled by a power of two so that its largest value is about one, and scaled back
    after the encoder. The gradient of a mean over pixels is too small for half precision, that of a
    sum may be too large. Scaling by a power of two loses no precision in float32.
    """
    scale = torch.ones(())

    def normalise(grad: Tensor) -> Tensor:
        nonlocal scale
        # Bounded to avoid overflow for a zero gradient, without synchronising with a GPU.
        scale = torch.exp2(-torch.log2(grad.abs().amax()).floor().clamp(-120.0, 120.0))
        return grad * scale

    images = images.view_as(images)
    encoded = encode(images)
    if encoded.requires_grad and images.requires_grad:
        encoded.register_hook(normalise)
        images.register_hook(lambda grad: grad / scale)
    return encoded


@dataclass(kw_only=True, eq=False)
class DiffusionPrior:
    """A prior from a diffusers pipeline: see `priors.base.Prior`.

    A pixel model denoises images, a latent model the latents of its autoencoder. The denoiser is a
    U-Net or a transformer. No parameter requires gradients.

    pipeline: class name of its diffusers pipeline.
    image_size: height and width of its input images, in pixels.
    channels: of the denoised images or latents. Further output channels of a U-Net (DeepFloyd's
        also predicts variances) are dropped.
    group_size: the number of views that are denoised jointly; MVDream's 4, else 1.
    expected_memory: estimated bytes of GPU memory of a step, if known.
    """

    name: str
    pipeline: str
    card: PriorCard
    denoiser: Any
    schedule: NoiseSchedule
    text: TextEncoders
    vae: Any | None = None
    offload: bool = False
    expected_memory: int | None = None

    def __post_init__(self) -> None:
        denoiser, vae, schedule = self.denoiser, self.vae, self.schedule
        self.device: torch.device = denoiser.device
        self.dtype: torch.dtype = denoiser.dtype
        self.channels: int = denoiser.config.in_channels
        shrink = 1 if vae is None else 2 ** (len(vae.config.block_out_channels) - 1)
        size = sample_size(self.name, self.pipeline, denoiser.config)
        self.image_size: int = size * shrink
        self.shape: tuple[int, ...] = (self.channels, size, size)
        self.prediction: PredictionKind = schedule.prediction
        self.alphas, self.sigmas = schedule.alphas, schedule.sigmas
        # Stable Diffusion XL is conditioned on the size of the image before and after cropping, and
        # on the crop's corner; here the image is not cropped.
        whole = (self.image_size, self.image_size, 0, 0, self.image_size, self.image_size)
        self._sizes = torch.tensor(whole, dtype=self.dtype, device=self.device)
        # The input of a latent model is (latent - mean) x scaling_factor / std. Some configurations
        # have one mean and std per channel, some only a shift.
        config = {} if vae is None else vae.config
        mean, std = config.get("latents_mean"), config.get("latents_std")
        self._latent_statistics: Any = (float(config.get("shift_factor") or 0.0), 1.0)
        if mean is not None and std is not None:
            self._latent_statistics = tuple(
                torch.tensor(x, device=self.device).reshape(1, -1, 1, 1) for x in (mean, std)
            )
        self._is_unet = isinstance(denoiser, diffusers.UNet2DConditionModel)
        self.group_size = group_size_of(self.pipeline)

    @property
    def preset(self) -> str:
        """The default preset for this prior."""
        has_card = self.card.vocabulary.words is not None
        return "embedded" if has_card else str(PIPELINES[self.pipeline]["preset"])

    @classmethod
    def from_pretrained(
        cls,
        name: str = "embedded",
        *,
        device: str = "cpu",
        dtype: str = "auto",
        prompts: Sequence[str] | None = None,
    ) -> DiffusionPrior:
        """The prior `name`: embedded, a folder in diffusers' layout or a hub id; see
        `load_prior`. Raises PriorError."""
        options = PriorConfig(dtype=dtype)  # type: ignore[arg-type]
        return cast(DiffusionPrior, load_prior(name, options, device=device, prompts=prompts))

    @classmethod
    def from_pipe(cls, pipe: Any, *, card: PriorCard | None = None) -> DiffusionPrior:
        """A prior from a loaded diffusers pipeline, on its device and in its precision.

        The models are frozen and shared with the pipeline, except for an autoencoder that overflows
        in float16. card: its words and views; None takes the paper's four views. Raises PriorError
        for an unsupported class, scheduler or combination of parts.
        """
        kind = type(pipe).__name__
        if kind not in (supported := [name for name in LAYOUTS if pipeline_class(name) == name]):
            raise PriorError(f"a {kind} is not supported; use a {', '.join(supported)}")
        name = str(pipe.config.get("_name_or_path") or kind)
        configs = {}  # as in the files of the models
        for part in LAYOUTS[kind]:
            if getattr(pipe, part, None) is not None and weights_stem(part) is not None:
                config = getattr(pipe, part).config
                configs[part] = dict(config) if isinstance(config, dict) else config.to_dict()
        text = encoders_of_pipe(pipe, name, configs)
        check_kind(name, kind, configs, pipe.config)
        denoiser = pipe.unet if getattr(pipe, "unet", None) is not None else pipe.transformer
        vae = getattr(pipe, "vae", None)
        if vae is not None and vae.dtype == torch.float16 and vae.config.force_upcast:
            vae = copy.deepcopy(vae).float()  # it overflows in half precision
        for module in (denoiser, vae):
            if module is not None:
                module.requires_grad_(False).eval()
        prior = cls(
            name=name,
            pipeline=kind,
            card=PriorCard() if card is None else card,
            denoiser=denoiser,
            schedule=read_schedule(
                type(pipe.scheduler).__name__, pipe.scheduler.config, name, denoiser
            ),
            text=text,
            vae=vae,
        )
        check_parts(prior, "")
        return prior

    def encode_image(self, images: Tensor) -> Tensor:
        """Encode images (n, 3, h, w) in [0, 1] of any size for the denoiser: resized to
        `image_size` and mapped to [-1, 1]; for a latent model, the mean of their latents.
        Differentiable, float32."""
        size = (self.image_size, self.image_size)
        if tuple(images.shape[-2:]) != size:
            # On Apple GPUs, torch lacks the backward pass of antialiasing.
            smooth = images.shape[-1] > self.image_size and images.device.type != "mps"
            images = F.interpolate(images, size, mode="bilinear", antialias=smooth)
        images = images * 2.0 - 1.0
        if self.vae is None:
            return images
        vae = self.vae
        latents = _with_gradient_in_range(
            lambda x: vae.encode(x.to(vae.dtype)).latent_dist.mode().float(), images
        )
        mean, std = self._latent_statistics
        return (latents - mean) * (self.vae.config.scaling_factor / std)

    @torch.no_grad()
    def decode_image(self, encoded: Tensor) -> Tensor:
        """The inverse of `encode_image`: images (n, 3, image_size, image_size) in [0, 1]."""
        if self.vae is not None:
            mean, std = self._latent_statistics
            latents = encoded / (self.vae.config.scaling_factor / std) + mean
            _move(self.vae, DECODER, self.device)
            encoded = self.vae.decode(latents.to(self.vae.dtype)).sample.float()
            if self.offload:
                _move(self.vae, DECODER, "cpu")
        return (encoded / 2.0 + 0.5).clamp(0.0, 1.0)

    def predict(self, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        """The denoiser's raw prediction, float32 (n, channels, h, w); see `NoisePredictor`.

        Without cameras, each image is denoised by itself. On a CPU, the batch is split into pieces
        of whole groups that run in parallel, unless images, text or denoiser require gradients. The
        number of pieces depends on n only.
        """
        n, condition = len(noisy), condition.expand(len(noisy))
        size = 1 if condition.cameras is None else self.group_size
        n_pieces = _n_pieces(n // size) if self.device.type == "cpu" else 1
        inputs = (noisy, condition.text.tokens, *self.denoiser.parameters())
        if n_pieces == 1 or (torch.is_grad_enabled() and any(t.requires_grad for t in inputs)):
            return self._denoise(noisy, timesteps, condition)
        parts = [slice(size * start, size * stop) for start, stop in pieces(n // size, n_pieces)]
        jobs = [partial(self._denoise, noisy[i], timesteps[i], condition[i]) for i in parts]
        return torch.cat(run_all(jobs, torch_threads=max(1, n_workers() // n_pieces)))

    def _denoise(self, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        text, times = condition.text, self.schedule.times[timesteps]
        tokens = text.tokens.to(self.dtype)
        pooled = None if text.pooled is None else text.pooled.to(self.dtype)
        if not self._is_unet:
            noisy = noisy.to(self.dtype)
            return self.denoiser(noisy, tokens, pooled, times, return_dict=False)[0].float()
        noisy = noisy.to(self.dtype, memory_format=torch.channels_last)
        extra, views = None, {}
        if pooled is not None:
            extra = {"text_embeds": pooled, "time_ids": self._sizes.expand(len(text), -1)}
        if self.group_size > 1:
            views = view_inputs(noisy, condition.cameras, self.group_size)
        output = self.denoiser(
            noisy, times, tokens, added_cond_kwargs=extra, return_dict=False, **views
        )[0]
        return output[:, : self.channels].float()

    def adapted(self, *, rank: int, seed: int) -> AdaptedPrior:
        """This prior with trainable adapters and a camera embedding, sharing its weights; see
        `adapter.AdaptedPrior`. Its own predictions do not change. Call once per prior."""
        from dreamfusion.priors.adapter import AdaptedPrior

        return AdaptedPrior(self, rank=rank, seed=seed)

    def about(self) -> list[str]:
        """Lines for the log at the start of a run: model, precision, memory."""
        kind = "latents" if self.vae is not None else "pixels"
        lines = [f"{self.name} ({kind}, {self.image_size} x {self.image_size})"]
        if self.vae is not None:
            lines.append(f"          autoencoder in {str(self.vae.dtype).removeprefix('torch.')}")
        if self.expected_memory is not None:
            gib = self.expected_memory / 2**30
            lines.append(f"memory    about {gib:.1f} GiB of the GPU's (an estimate)")
        return lines

    def prepare(self, prompts: Sequence[str]) -> None:
        """Encode these prompts and free the text encoders; see `TextEncoders.prepare`."""
        self.text.prepare(prompts)

    def encode_text(self, prompts: Sequence[str]) -> TextEmbedding:
        """Embeddings of n prompts, each distinct one encoded once; see `TextEncoders.encode`."""
        return self.text.encode(prompts)


def load_prior(
    prior: str | ResolvedPrior | PriorSettings = "auto",
    options: PriorConfig | None = None,
    *,
    device: str = "cpu",
    prompts: Sequence[str] | None = None,
    views: int | None = None,
) -> Prior:
    """Load a prior (auto, embedded, a path, a hub id, or a resolved prior), frozen, on `device`.

    options: precision of the denoiser (auto, float32, bfloat16, float16; on CUDA the text encoders
        use the same, elsewhere float32) and of the autoencoder, compilation, and options that save
        GPU memory. The name and texts in it are ignored.
    prompts: all texts of the run. They are encoded, and the text encoders freed, before the
        denoiser is loaded. None: texts are encoded on demand, or by `DiffusionPrior.prepare`.
    views: images per step. On CUDA, raises if a step is estimated not to fit into free memory.

    Raises PriorError with a message of one line. A prompt that is too long for the model is
    truncated, with a RunWarning.
    """
    options = PriorConfig() if options is None else options
    if isinstance(prior, PriorSettings):
        return prior.build(device=device, prompts=prompts)
    if isinstance(prior, str):
        prior = resolve_prior(prior, device=device, dtype=options.dtype, loras=options.lora)
    quiet()
    precision = choose_dtype(options.dtype, device)
    vae_precision = _vae_dtype(prior, options.vae_dtype, precision, device)
    on_cuda = device.startswith("cuda")
    needed = None
    if views is not None and on_cuda:
        needed = estimate_memory(
            prior,
            options,
            views=views,
            precision=precision.itemsize,
            vae_precision=vae_precision.itemsize,
            prepared=prompts is not None,
        )
        check_memory(needed, free=torch.cuda.mem_get_info(device)[0], name=prior.name)
    text_precision = precision if on_cuda else torch.float32
    text = encoders_of(prior, device=device, dtype=text_precision, offload=options.offload)
    if prompts is not None:
        text.prepare(prompts)

    name = "unet" if "unet" in prior.components else "transformer"
    denoiser = load_part(prior, name, diffusers, precision)
    layout = torch.channels_last if name == "unet" else torch.preserve_format
    denoiser.to(device, memory_format=layout)
    file = prior.path / "scheduler" / "scheduler_config.json"
    config = require_json(file, f"{prior.name}: its scheduler is broken")
    schedule = read_schedule(prior.components["scheduler"], config, prior.name, denoiser)
    vae = None
    if "vae" in prior.components:
        vae = load_part(prior, "vae", diffusers, vae_precision)
        _move(vae, ENCODER, device)
        _move(vae, DECODER, "cpu" if options.offload else device)
        if options.vae_checkpointing:
            vae.enable_gradient_checkpointing()
        if options.vae_slicing:
            vae.enable_slicing()
    loaded = DiffusionPrior(
        name=prior.name,
        pipeline=prior.pipeline,
        card=prior.card,
        denoiser=denoiser,
        schedule=schedule,
        text=text,
        vae=vae,
        offload=options.offload,
        expected_memory=needed,
    )
    prompt = prompts[0] if prompts else ""
    check_parts(loaded, prompt)
    if options.compile:
        denoiser.compile()
    is_half = options.dtype == "auto" and precision == torch.float16
    if not (is_half and _overflows(loaded, prompt)):
        return loaded
    wider = "bfloat16" if torch.cuda.is_bf16_supported(False) else "float32"
    warnings.warn(RunWarning(f"{prior.name} overflows in float16: using {wider}"), stacklevel=2)
    del loaded, denoiser, vae, text
    options = dataclasses.replace(options, dtype=wider)  # type: ignore[arg-type]
    return load_prior(prior, options, device=device, prompts=prompts, views=views)


@torch.no_grad()
def check_parts(prior: DiffusionPrior, prompt: str) -> None:
    """Raise PriorError unless the parts of a prior fit together: encode an image, and predict for
    it and a prompt."""
    try:
        black = torch.zeros((1, 3, prior.image_size, prior.image_size), device=prior.device)
        image = prior.encode_image(black)
        timestep = torch.zeros(1, dtype=torch.int64, device=prior.device)
        found = prior.predict(image, timestep, Condition(prior.encode_text([prompt])))
        if found.shape != image.shape:
            raise ValueError(f"for {tuple(image.shape)} it predicts {tuple(found.shape)}")
    except (RuntimeError, TypeError, ValueError) as error:
        if out_of_memory(error) is not None:
            raise
        raise PriorError(
            f"{prior.name}: its parts do not fit together ({one_line(error, 160)}): take all of "
            "them from one model"
        ) from error


def _overflows(prior: DiffusionPrior, prompt: str) -> bool:
    """Whether a prior's predictions for noise, at 2, 50 and 98 % of its levels, are not finite."""
    text, levels = prior.encode_text([prompt]), len(prior.alphas)
    generator = torch.Generator().manual_seed(0)
    for share in (0.02, 0.5, 0.98):
        noisy = torch.randn((1, *prior.shape), generator=generator).to(prior.device)
        timestep = torch.tensor([int(share * levels)], device=prior.device)
        if not bool(prior.predict(noisy, timestep, Condition(text)).isfinite().all()):
            return True
    return False


def _n_pieces(n: int) -> int:
    """The number of pieces into which n images are split on a CPU: even, at most four images each.

    It does not depend on the number of threads, since results depend on the batch size in the last
    bits (docs/experiments.md). Each piece uses one thread unless there are more threads than
    pieces; then float32 results depend on the number of threads.
    """
    return min(n, 2 * math.ceil(n / 8))


def choose_dtype(dtype: str, device: str) -> torch.dtype:
    """The precision of the denoiser: `dtype`, or for "auto" half precision if the device is fast.

    On CUDA that is float16, whose error is an eighth of bfloat16's (docs/experiments.md), or the
    next one if predictions overflow; see `load_prior`. On a CPU, it is bfloat16 if there are
    instructions for it, else float32.
    """
    if dtype != "auto":
        return getattr(torch, dtype)
    if device.startswith("cuda"):
        return torch.float16
    return torch.bfloat16 if device.startswith("cpu") and has_bfloat16(device) else torch.float32


def _vae_dtype(prior: ResolvedPrior, name: str, dtype: torch.dtype, device: str) -> torch.dtype:
    """The precision of the autoencoder. For "auto" on CUDA that of the denoiser, but float32 for an
    autoencoder with force_upcast (XL's overflows in float16). On other devices float32.

    Diffusers' pipelines keep bfloat16 here, which has the range of float32. But its error is 4 % in
    the encoder's gradient (float16 0.5 %), so it must be requested.
    """
    if name != "auto":
        return getattr(torch, name)
    if "vae" not in prior.components or not device.startswith("cuda"):
        return torch.float32
    # Diffusers fills in true if the entry is missing, which is wrong for older models.
    return torch.float32 if prior.configs["vae"].get("force_upcast", False) else dtype


def _move(vae: Any, parts: tuple[str, ...], device: torch.device | str) -> None:
    for part in parts:
        module = getattr(vae, part)
        if module is not None:
            module.to(device)
