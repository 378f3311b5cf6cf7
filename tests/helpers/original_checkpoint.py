"""Stable Diffusion in one file, with the names of weights in the original code."""

from __future__ import annotations

import re
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
_UNET = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0": "input_blocks.3.0",
    "down_blocks.1.attentions.0": "input_blocks.3.1",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.attentions.0": "output_blocks.0.1",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.attentions.1": "output_blocks.1.1",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.2.conv",
    "up_blocks.1.resnets.0": "output_blocks.2.0",
    "up_blocks.1.resnets.1": "output_blocks.3.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "class_embedding.linear_1": "camera_embed.0",
    "class_embedding.linear_2": "camera_embed.2",
}
_VAE_ATTENTION = {
    "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out",
}  # fmt: skip


def save_original_checkpoint(folder: Path, file: Path) -> Path:
    """Write the tiny latent prior in `folder`, whose networks have two levels, as one file."""
    weights = "diffusion_pytorch_model.safetensors"
    tensors: dict[str, Tensor] = {}
    for key, value in load_file(folder / "unet" / weights).items():
        tensors[f"model.diffusion_model.{original_unet_name(key)}"] = value
    for key, value in load_file(folder / "vae" / weights).items():
        tensors[f"first_stage_model.{_vae_name(key)}"] = value
    for key, value in load_file(folder / "text_encoder" / "model.safetensors").items():
        name = key.removeprefix("text_model.")
        tensors[f"cond_stage_model.transformer.text_model.{name}"] = value
    save_file(tensors, file)
    return file


def original_unet_name(key: str) -> str:
    """The original name of a weight of a U-Net with two levels, for MVDream's too."""
    start = max((name for name in _UNET if key.startswith(f"{name}.")), key=len)
    rest = key[len(start) + 1 :]
    if ".resnets." in f".{start}.":
        part, _, kind = rest.rpartition(".")
        rest = f"{_RESNET[part]}.{kind}"
    return f"{_UNET[start]}.{rest}"


def _vae_name(key: str) -> str:
    key = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(
        r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{1 - int(m[1])}.block.{m[2]}", key
    )
    key = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{1 - int(m[1])}.upsample", key)
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    if match := re.fullmatch(r"(.*)mid_block\.attentions\.0\.(.*)\.(weight|bias)", key):
        key = f"{match[1]}mid.attn_1.{_VAE_ATTENTION[match[2]]}.{match[3]}"
    return key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
