"""A frozen text-to-image diffusion model, in pixels or latents, loaded through diffusers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from dreamfusion.diffusion import Prediction
from dreamfusion.priors.card import PriorCard
from dreamfusion.priors.folder import PriorError, PriorFolder, one_line
from dreamfusion.prompts import PromptError


class DiffusionPrior:
    """What SDS needs of a model: see `diffusion.NoisePredictor`; and text embeddings.

    A pixel model denoises the picture itself, a latent one what its autoencoder makes of it; that
    is the only difference between the two. Nothing in it requires gradients.

    image_size: height and width of the pictures it judges, in pixels.
    channels: of what it denoises. A U-Net that returns more (DeepFloyd's also predicts variances)
        has the rest cut off.

    The components are diffusers' and transformers' (`load` says which); their attributes come from
    configurations at run time, which is why the types say nothing.
    """

    def __init__(
        self,
        *,
        name: str,
        card: PriorCard,
        unet: Any,
        text_encoder: Any,
        tokenizer: Any,
        scheduler_config: dict[str, Any],
        vae: Any | None,
    ) -> None:
        self.name = name
        self.card = card
        self.unet = unet
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.vae = vae
        self.scheduler_config = scheduler_config
        self.device: torch.device = unet.device
        self.dtype: torch.dtype = unet.dtype
        self.channels: int = unet.config.in_channels
        shrink = 1 if vae is None else 2 ** (len(vae.config.block_out_channels) - 1)
        self.image_size: int = unet.config.sample_size * shrink
        scheduler = DDPMScheduler.from_config(scheduler_config)
        self.prediction: Prediction = scheduler.config.prediction_type
        cumulative = scheduler.alphas_cumprod.double()
        self.alphas = cumulative.sqrt().float().to(self.device)
        self.sigmas = (1.0 - cumulative).sqrt().float().to(self.device)
        self._embeddings: dict[str, Tensor] = {}

    def encode_image(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) pictures in [0, 1] of any size as what the U-Net denoises: resized to
        `image_size` and mapped to [-1, 1]; for a latent model the mean of their latents then.
        Differentiable, float32."""
        size = (self.image_size, self.image_size)
        if tuple(images.shape[-2:]) != size:
            shrinks = images.shape[-1] > self.image_size
            images = F.interpolate(images, size, mode="bilinear", antialias=shrinks)
        images = images * 2.0 - 1.0
        if self.vae is None:
            return images
        latents = self.vae.encode(images.to(self.vae.dtype)).latent_dist.mode()
        return latents.float() * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode_image(self, encoded: Tensor) -> Tensor:
        """The pictures (n, 3, image_size, image_size) in [0, 1] that `encode_image` came from."""
        if self.vae is not None:
            latents = encoded / self.vae.config.scaling_factor
            encoded = self.vae.decode(latents.to(self.vae.dtype)).sample.float()
        return (encoded / 2.0 + 0.5).clamp(0.0, 1.0)

    @torch.no_grad()
    def predict(self, noisy: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        """The U-Net's raw prediction, float32 (n, channels, h, w); see `NoisePredictor`."""
        noisy = noisy.to(self.dtype, memory_format=torch.channels_last)
        output = self.unet(noisy, timesteps, text.to(self.dtype), return_dict=False)[0]
        return output[:, : self.channels].float()

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings (n, tokens, width) of n prompts; each distinct prompt is encoded once.

        Each is encoded by itself, so that its embedding does not depend, in the last bit, on which
        others came with it. Raises PromptError for a prompt with more words than the model reads.
        """
        for prompt in prompts:
            if prompt not in self._embeddings:
                self._embeddings[prompt] = self._encode(prompt)
        return torch.cat([self._embeddings[prompt] for prompt in prompts])

    @torch.no_grad()
    def _encode(self, prompt: str) -> Tensor:
        limit = min(
            self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings
        )
        needed = len(self.tokenizer(prompt).input_ids)
        if needed > limit:
            raise PromptError(
                f"the prompt is too long: {needed} tokens with its view words, {limit} can be read"
            )
        tokens = self.tokenizer(prompt, padding="max_length", max_length=limit, return_tensors="pt")
        return self.text_encoder(tokens.input_ids.to(self.device)).last_hidden_state


def load(folder: PriorFolder, card: PriorCard, *, device: str, dtype: str) -> DiffusionPrior:
    """Load every component from the folder; see `priors.load_prior`."""
    _quiet()
    loaders = {
        "unet": UNet2DConditionModel,
        "text_encoder": CLIPTextModel,
        "tokenizer": CLIPTokenizer,
        "vae": AutoencoderKL,
    }
    parts: dict[str, Any] = {"vae": None}
    for component, cls in loaders.items():
        if component == "vae" and folder.space == "pixel":
            continue
        named = folder.components[component].removesuffix("Fast")
        if named != cls.__name__:
            raise PriorError(
                f"{folder.name}: its {component} is a {named}, only {cls.__name__} is supported"
            )
        parts[component] = _load_part(folder, component, cls)
    try:
        config = DDPMScheduler.load_config(folder.path / "scheduler", local_files_only=True)
        DDPMScheduler.from_config(config)
    except Exception as error:
        raise PriorError(f"{folder.name}: cannot read its scheduler: {one_line(error)}") from error

    for component in ("unet", "text_encoder", "vae"):
        if parts[component] is not None:
            # Folders may hold half precision, which some of the loaders keep.
            parts[component].requires_grad_(False).eval().to(device, torch.float32)
    parts["unet"].to(unet_dtype(dtype, device), memory_format=torch.channels_last)
    return DiffusionPrior(name=folder.name, card=card, scheduler_config=dict(config), **parts)


def unet_dtype(dtype: str, device: str) -> torch.dtype:
    """The precision for the U-Net: as asked, or for `auto` half where the device is fast at it.

    On a CPU that is bfloat16 with instructions for it; without them it would be emulated.
    """
    if dtype != "auto":
        return {
            "float32": torch.float32,
            "bfloat16": torch.bfloat16,
            "float16": torch.float16,
        }[dtype]
    if device.startswith("cuda"):
        return torch.float16
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    if device.startswith("cpu") and probe is not None and probe():
        return torch.bfloat16
    return torch.float32


def _load_part(folder: PriorFolder, component: str, cls: Any) -> Any:
    """One component. The libraries raise many kinds of errors for broken files; all of
    them mean the same to a user."""
    path = folder.path / component
    options: dict[str, Any] = {} if component == "tokenizer" else {"use_safetensors": True}
    try:
        return cls.from_pretrained(path, local_files_only=True, **options)
    except Exception as error:
        raise PriorError(
            f"{folder.name}: its {component} in {path} cannot be loaded: {one_line(error)}"
        ) from error


def _quiet() -> None:
    """No warnings about unused settings of foreign schedulers, no progress bars: only the command
    line writes to the terminal."""
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
