"""Reads the configuration of MVDream's U-Net, a class of its own with the names of the original
Stable Diffusion. Imports no torch."""

from collections.abc import Mapping
from typing import Any

from dreamfusion.priors.hub import MVDREAM
from dreamfusion.priors.layout import PriorError

MULTI_VIEW_UNET = "MultiViewUNetModel"  # its class


def unet_config(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the `unet.MultiViewUNet` that equals a MultiViewUNetModel.

    name: of the prior. config: the config.json of its U-Net. Raises PriorError for ImageDream, and
    for a configuration of another kind.
    """
    if config.get("ip_dim", 0) > 0:
        raise PriorError(f"{name} is an ImageDream, which needs an image; use {MVDREAM}")
    try:
        channels = [config["model_channels"] * factor for factor in config["channel_mult"]]
        attends = [2**i in config["attention_resolutions"] for i in range(len(channels))]
        width = config.get("num_head_channels", -1)
        down = [f"{'CrossAttn' if joint else ''}DownBlock2D" for joint in attends]
        up = [f"{'CrossAttn' if joint else ''}UpBlock2D" for joint in reversed(attends)]
        return {
            "sample_size": config["image_size"],
            "in_channels": config["in_channels"],
            "out_channels": config["out_channels"],
            "block_out_channels": channels,
            "layers_per_block": config["num_res_blocks"],
            "down_block_types": down,
            "up_block_types": up,
            # Diffusers' name for the number of heads.
            "attention_head_dim": [
                c // width if width > 0 else config["num_heads"] for c in channels
            ],
            "cross_attention_dim": config["context_dim"],
            "transformer_layers_per_block": config.get("transformer_depth", 1),
            "use_linear_projection": True,
            "class_embed_type": "projection",
            "projection_class_embeddings_input_dim": config["camera_dim"],
        }
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise PriorError(
            f"{name}: the config.json of its unet is not MVDream's: {type(error).__name__}: {error}"
        ) from None
