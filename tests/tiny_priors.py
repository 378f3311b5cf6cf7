"""Tiny random pipelines in diffusers' layout, of the very classes that real priors have."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WORDS = ["a", "red", "blue", "green", "corgi", "mug", "chair", "flat", "clay", "from", "above"]
WORDS += ["front", "back", "left", "right", "side", "overhead", "view", "below"]
WIDTH = 16


def save_pixel_prior(folder: Path, *, size: int = 16, prediction: str = "v_prediction") -> Path:
    """An IFPipeline-like prior: pixels, six channels out, with a card of its own."""
    torch.manual_seed(0)
    _save_common(folder)
    _unet(3, 6, size).save_pretrained(folder / "unet")
    DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type=prediction).save_pretrained(
        folder / "scheduler"
    )
    _save_index(folder, "IFPipeline", {"scheduler": ["diffusers", "DDPMScheduler"]})
    (folder / "dreamfusion.json").write_text(json.dumps(card()))
    return folder


def save_latent_prior(folder: Path) -> Path:
    """A StableDiffusionPipeline-like prior: an autoencoder, and a scheduler other than DDPM."""
    torch.manual_seed(1)
    _save_common(folder)
    _unet(4, 4, 8).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    ).save_pretrained(folder / "vae")
    PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    ).save_pretrained(folder / "scheduler")
    _save_index(
        folder,
        "StableDiffusionPipeline",
        {"scheduler": ["diffusers", "PNDMScheduler"], "vae": ["diffusers", "AutoencoderKL"]},
    )
    return folder


def card() -> dict[str, object]:
    """A `dreamfusion.json` of a prior that knows WORDS."""
    words = {word: word for word in WORDS} | {"a": "", "puppy": "corgi"}
    views = ["front", "left", "back", "right"]
    return {
        "format": 1,
        "words": words,
        "views": {
            "azimuth": [
                {"center_deg": 90 * i, "text": f"{name} view"} for i, name in enumerate(views)
            ],
            "elevation": [
                {"min_deg": -90, "max_deg": 0, "text": "from below"},
                {"min_deg": 30, "max_deg": 90, "text": "from above"},
            ],
        },
        "shading": {"albedo": "flat", "lambertian": "", "textureless": "clay"},
        "light": {"ambient": 0.4, "direction_std": 0.6},
        "nouns": ["corgi", "mug", "chair"],
        "colors": ["red", "blue", "green"],
        "camera": {"distance": [2.5, 3.0], "fov_y_deg": [38, 42], "elevation_deg": [-10, 50]},
        "prompt_template": "{prompt}, {azimuth}, {elevation}, {shading}",
    }


def _unet(channels: int, out_channels: int, size: int) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=size,
        in_channels=channels,
        out_channels=out_channels,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
    )


def _save_common(folder: Path) -> None:
    tokens = [f"{word}</w>" for word in [*WORDS, ","]]
    letters = [chr(code) for code in range(97, 123)]
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), *tokens]
    vocabulary = list(dict.fromkeys([*vocabulary, "<|startoftext|>", "<|endoftext|>"]))
    tokenizer_folder = folder / "tokenizer"
    tokenizer_folder.mkdir(parents=True)
    (tokenizer_folder / "vocab.json").write_text(
        json.dumps({token: i for i, token in enumerate(vocabulary)})
    )
    (tokenizer_folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer.from_pretrained(
        tokenizer_folder, model_max_length=77, local_files_only=True
    ).save_pretrained(tokenizer_folder)
    # Saved in half precision, as many models on the hub are.
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=WIDTH,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=77,
            bos_token_id=vocabulary.index("<|startoftext|>"),
            eos_token_id=vocabulary.index("<|endoftext|>"),
            pad_token_id=vocabulary.index("<|endoftext|>"),
        )
    ).half().save_pretrained(folder / "text_encoder")


def _save_index(folder: Path, pipeline: str, more: dict[str, list[str]]) -> None:
    index = {
        "_class_name": pipeline,
        "_diffusers_version": "0.42.1",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "safety_checker": [None, None],
        **more,
    }
    (folder / "model_index.json").write_text(json.dumps(index))
