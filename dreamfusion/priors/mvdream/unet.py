"""MVDream's U-Net: that of Stable Diffusion 2.1, with self-attention over all views of a group, and
with an embedding of each view's camera."""

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.embeddings import TimestepEmbedding
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from dreamfusion.graphics.cameras import Cameras
from dreamfusion.utils.devices import send

# Blender's axes, in which MVDream has its cameras: +Z is up and the front faces -Y.
_TO_BLENDER = torch.tensor(
    [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
)


class _JointAttention(AttnProcessor2_0):
    """Self-attention over the tokens of `frames` consecutive images; cross-attention as usual."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        *args: Any,
        frames: int = 1,
        **kwargs: Any,
    ) -> Tensor:
        shape = hidden_states.shape
        if encoder_hidden_states is None:
            hidden_states = hidden_states.reshape(shape[0] // frames, -1, shape[2])
        found = super().__call__(attn, hidden_states, encoder_hidden_states, *args, **kwargs)
        return found.reshape(shape)


class _CameraEmbedding(TimestepEmbedding):
    """Two linear layers; an image without a camera, a row of zeros, has no embedding."""

    def forward(self, cameras: Tensor) -> Tensor:
        embedded: Tensor = super().forward(cameras)
        return embedded * cameras.any(dim=1, keepdim=True)


class MultiViewUNet(UNet2DConditionModel):
    """Stable Diffusion's U-Net for images in groups of views. `view_inputs` makes its additional
    inputs. config: see `configuration.unet_config`."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        width = self.time_embedding.linear_2.out_features
        self.class_embedding = _CameraEmbedding(
            config["projection_class_embeddings_input_dim"], width
        )
        self.set_attn_processor(_JointAttention())


def load_unet(files: list[Path], config: dict[str, Any]) -> tuple[MultiViewUNet, dict[str, Any]]:
    """The U-Net from files with the weights of a MultiViewUNetModel, and a mapping with the names
    of missing weights as `missing_keys`. config: see `configuration.unet_config`."""
    original = {}
    for file in files:
        for name, weight in load_file(file).items():
            # Diffusers converts the embedding of a class, which is of the same form.
            renamed = name.replace("camera_embed.", "label_emb.0.")
            original[f"model.diffusion_model.{renamed}"] = weight
    with torch.device("meta"):
        unet = MultiViewUNet(**config)
    found = unet.load_state_dict(
        convert_ldm_unet_checkpoint(original, config), strict=False, assign=True
    )
    return unet, {"missing_keys": found.missing_keys}


def view_inputs(images: Tensor, cameras: Cameras | None, group_size: int) -> dict[str, Any]:
    """The other inputs of a `MultiViewUNet` for n images, in their dtype and on their device:
    cameras, and the number of views in a group.

    cameras: n, rows of a group are consecutive; None: plain images, each denoised by itself.
    """
    if cameras is None:
        return {"class_labels": images.new_zeros(len(images), 16)}
    matrices = send(camera_matrices(cameras).to(images.dtype), images.device)
    return {"class_labels": matrices, "cross_attention_kwargs": {"frames": group_size}}


def camera_matrices(cameras: Cameras) -> Float[Tensor, "views 16"]:
    """Camera-to-world transforms in Blender's axes, at distance 1, row by row: MVDream's input."""
    matrices = cameras.T_world_camera.clone()
    matrices[:, :3, 3] = torch.nn.functional.normalize(cameras.positions, dim=-1)
    return (_TO_BLENDER.to(matrices) @ matrices).flatten(1)
