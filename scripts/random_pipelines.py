#!/usr/bin/env python
"""Pipelines of the size of Stable Diffusion 1.5, XL and DeepFloyd IF-I-L, with random weights in
half precision, to measure time and memory.

    python -m scripts.random_pipelines sd|sdxl|if FOLDER [--tiny]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    IFPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from dreamfusion.priors import resolve_prior

Kind = Literal["sd", "sdxl", "if"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_NONE = {"feature_extractor": None}
_SAFE = {"safety_checker": None, "requires_safety_checker": False, **_NONE}


def save_random_pipeline(folder: Path, kind: Kind, *, full: bool) -> None:
    """Save the pipeline `kind` in `folder`. full: with the original sizes (860, 2570 and 940
    million weights in the U-Net), except for text encoders (T5 has one layer); otherwise tiny."""
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):  # where chance is cheap
        {"sd": _stable_diffusion, "sdxl": _xl, "if": _deepfloyd}[kind](folder, full)


def _stable_diffusion(folder: Path, full: bool) -> None:
    width = 768 if full else 32
    unet = UNet2DConditionModel(
        sample_size=64 if full else 16,  # 8 would end in one pixel, which cannot be normalised
        block_out_channels=(320, 640, 1280, 1280) if full else (32, 32, 32, 32),
        cross_attention_dim=width,
        attention_head_dim=8,  # heads, in spite of its name
    )
    StableDiffusionPipeline(
        # The original config has no force_upcast; diffusers would write true.
        vae=_autoencoder(full, 512, force_upcast=False),
        text_encoder=_clip(CLIPTextModel, width, 12 if full else 1),
        tokenizer=_tokenizer(),
        unet=unet.half(),
        scheduler=stable_diffusion_schedule(),
        **_SAFE,
    ).save_pretrained(folder)


def _xl(folder: Path, full: bool) -> None:
    first, second = (768, 1280) if full else (32, 32)
    unet = UNet2DConditionModel(
        sample_size=128 if full else 16,
        block_out_channels=(320, 640, 1280) if full else (32, 32, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=[1, 2, 10] if full else 1,
        attention_head_dim=[5, 10, 20] if full else 2,
        cross_attention_dim=first + second,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=second + 6 * 256,
    )
    StableDiffusionXLPipeline(
        vae=_autoencoder(full, 1024, force_upcast=True),
        text_encoder=_clip(CLIPTextModel, first, 12 if full else 2),
        text_encoder_2=_clip(CLIPTextModelWithProjection, second, 32 if full else 2),
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(),
        unet=unet.half(),
        scheduler=stable_diffusion_schedule(),
    ).save_pretrained(folder)


def _deepfloyd(folder: Path, full: bool) -> None:
    width, channels = (4096, 320) if full else (32, 32)
    unet = UNet2DConditionModel(
        sample_size=64 if full else 16,
        in_channels=3,
        out_channels=6,
        block_out_channels=tuple(channels * (i + 1 if full else 1) for i in range(4)),
        down_block_types=("ResnetDownsampleBlock2D", *("SimpleCrossAttnDownBlock2D",) * 3),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=(*("SimpleCrossAttnUpBlock2D",) * 3, "ResnetUpsampleBlock2D"),
        layers_per_block=3 if full else 1,
        attention_head_dim=64 if full else 16,
        cross_attention_dim=4 * channels,
        cross_attention_norm="group_norm",
        encoder_hid_dim=width,
        addition_embed_type="text",
        addition_embed_type_num_heads=64 if full else 2,
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
    )
    words = ["a", "corgi", "mug", "front", "side", "back", "overhead", "view"]
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *(f"\u2581{word}" for word in words), ","]
    encoder = T5EncoderModel(
        T5Config(
            vocab_size=32128 if full else 128,
            d_model=width,
            d_ff=10240 if full else 64,
            d_kv=64 if full else 8,
            num_heads=64 if full else 2,
            num_layers=1,
            feed_forward_proj="gated-gelu",
        )
    )
    IFPipeline(
        tokenizer=T5Tokenizer(
            vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)], model_max_length=77
        ),
        text_encoder=encoder.half(),
        unet=unet.half(),
        scheduler=DDPMScheduler(
            beta_schedule="squaredcos_cap_v2", variance_type="learned_range", thresholding=True
        ),
        watermarker=None,
        **_SAFE,
    ).save_pretrained(folder)


def _autoencoder(full: bool, size: int, *, force_upcast: bool) -> AutoencoderKL:
    return AutoencoderKL(
        sample_size=size if full else 128,
        block_out_channels=(128, 256, 512, 512) if full else (32, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        force_upcast=force_upcast,
    ).half()


def _clip(cls: Any, width: int, layers: int) -> Any:
    tokenizer = _tokenizer()
    return cls(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=width,
            intermediate_size=4 * width,
            projection_dim=width,
            num_hidden_layers=layers,
            num_attention_heads=max(2, width // 64),
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    ).half()


def _tokenizer() -> CLIPTokenizer:
    """A small vocabulary, since CLIP's is not included. The embedding has the original size."""
    return CLIPTokenizer.from_pretrained(resolve_prior("embedded").path / "tokenizer")


def stable_diffusion_schedule() -> DDPMScheduler:
    """The noise levels of Stable Diffusion 1.5 and XL."""
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true", help="the same classes, to try on a CPU")
    args = parser.parse_args()
    save_random_pipeline(args.folder, args.kind, full=not args.tiny)


if __name__ == "__main__":
    main()
