"""A trainable copy of a denoiser that shares its weights: low-rank adapters and the camera.

VSD uses it to model the scene's own images (Wang et al. 2023, "ProlificDreamer", section 4).
"""

import importlib.util
from typing import Any

import torch
from torch import Tensor, nn

from dreamfusion.diffusion.condition import Condition
from dreamfusion.diffusion.predictions import PredictionKind
from dreamfusion.priors.layout import PriorError
from dreamfusion.priors.model import DiffusionPrior

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_NAME = "dreamfusion"


class AdaptedPrior(nn.Module):
    """A diffusion prior with adapters (LoRA) on the attention of its U-Net, and a camera embedding.
    The original prior is not affected.

    Before training, it predicts the same as the prior. Its parameters are float32; all other
    weights are shared. Raises PriorError if peft is not installed or the denoiser cannot be
    adapted.
    """

    def __init__(self, prior: DiffusionPrior, *, rank: int, seed: int) -> None:
        super().__init__()
        unet = prior.denoiser
        if importlib.util.find_spec("peft") is None:
            raise PriorError("adapters need peft: pip install 'dreamfusion[lora]'")
        if not hasattr(unet, "time_embedding") or _NAME in getattr(unet, "peft_config", {}):
            raise PriorError(f"{prior.name} cannot be adapted: use a fresh prior with a U-Net")
        from peft import LoraConfig

        # A list, so that this module does not register the prior's weights.
        self._prior = [prior]
        self.alphas, self.sigmas = prior.alphas, prior.sigmas
        self.prediction: PredictionKind = prior.prediction
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(ATTENTION))
            try:
                unet.add_adapter(config, adapter_name=_NAME)
            except ValueError:
                raise PriorError(f"{prior.name} has no attention to adapt") from None
            width = unet.time_embedding.linear_2.out_features
            last = nn.Linear(width, width)
            self.camera = nn.Sequential(nn.Linear(16, width), nn.SiLU(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.camera.to(prior.device)
        adapters = {k: p for k, p in unet.named_parameters() if f".{_NAME}." in k}
        for parameter in adapters.values():
            parameter.data = parameter.data.float()
        self.adapters = nn.ParameterDict(
            {name.replace(".", "/"): parameter for name, parameter in sorted(adapters.items())}
        )
        self._shift: Tensor | None = None
        unet.time_embedding.register_forward_hook(self._add_shift)
        self._disable()

    def encode_image(self, images: Tensor) -> Tensor:
        """See `Prior.encode_image`."""
        return self._prior[0].encode_image(images)

    def predict(self, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        """Predict with adapters, and with cameras if the condition has them."""
        cameras = condition.cameras
        shift = None
        if cameras is not None:
            matrices = cameras.T_world_camera.flatten(1)
            shift = self.camera(matrices.to(noisy.device, torch.float32))
        prior = self._prior[0]
        prior.denoiser.enable_adapters()
        self._shift = shift
        try:
            return prior._denoise(noisy, timesteps, condition.expand(len(noisy)))
        finally:
            self._shift = None
            self._disable()

    def _disable(self) -> None:
        self._prior[0].denoiser.disable_adapters()
        self.adapters.requires_grad_(True)  # disabling has turned it off

    def _add_shift(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output if self._shift is None else output + self._shift.to(output.dtype)
