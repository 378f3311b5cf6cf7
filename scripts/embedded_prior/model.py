"""The trained models: a text encoder and a U-Net, with their noise schedule and optimisers."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dreamfusion.utils.devices import has_bfloat16
from scripts.embedded_prior.data import SIZE
from scripts.embedded_prior.muon import Muon
from scripts.embedded_prior.words import MAX_TOKENS


def make_models(tokenizer: CLIPTokenizer, seed: int) -> tuple[CLIPTextModel, UNet2DConditionModel]:
    torch.manual_seed(seed)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    # Position embeddings start at zero, so that all padding tokens are the same.
    for name, parameter in text_encoder.named_parameters():
        if name.endswith("position_embedding.weight"):
            nn.init.zeros_(parameter)
    # Few channels at high resolution and many at low resolution: the fastest architecture for its
    # quality on two CPU cores. The prompt is also added to the time embedding, so that it reaches
    # every block (addition_embed_type="text", as in DeepFloyd IF). The embedding must be wide:
    # diffusers' default, four times the first block, is too small for view words.
    unet = UNet2DConditionModel(
        sample_size=SIZE,
        in_channels=3,
        out_channels=6,  # as DeepFloyd IF: noise and variance; the variance is not trained
        block_out_channels=(16, 32, 96, 192, 256),
        down_block_types=("DownBlock2D",) * 3 + ("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D") + ("UpBlock2D",) * 3,
        layers_per_block=1,
        cross_attention_dim=128,
        encoder_hid_dim=128,
        attention_head_dim=4,  # diffusers uses this as the number of heads
        norm_num_groups=8,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        time_embedding_dim=512,
        resnet_time_scale_shift="scale_shift",
    )
    return text_encoder, unet


def make_optimizers(models: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for inner weight matrices and convolutions, AdamW for all other parameters: embeddings,
    biases, scales, the first and the last layer."""
    named = list(models.named_parameters())
    inner = [
        parameter
        for name, parameter in named
        if parameter.ndim > 1
        and not any(
            outer in name for outer in ("embedding.weight", "positional", "conv_in", "conv_out")
        )
    ]
    chosen = set(map(id, inner))
    rest = [p for _, p in named if id(p) not in chosen]
    adam = torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    return [Muon(inner, lr=rate), adam]


def load_weights(folder: Path, text_encoder: CLIPTextModel, unet: UNet2DConditionModel) -> None:
    """Load the weights of a prior that was saved by this script, with the same words."""
    saved = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    unet.load_state_dict(saved.float().state_dict())
    words = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder")
    text_encoder.load_state_dict(words.float().state_dict())


def mixed_precision(device: torch.device) -> torch.autocast:
    """Autocast to bfloat16, on devices with instructions for it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device))


def noise_schedule() -> DDPMScheduler:
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        variance_type="fixed_small",
        clip_sample=True,
    )
