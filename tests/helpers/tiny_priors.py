"""Tiny random pipelines in diffusers' layout, of the classes of real priors."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from dreamfusion.priors.mvdream.configuration import unet_config
from dreamfusion.priors.mvdream.unet import MultiViewUNet
from tests.helpers.original_checkpoint import original_unet_name

WORDS = ["a", "red", "blue", "green", "corgi", "mug", "chair", "flat", "clay", "from", "above"]
WORDS += ["front", "back", "left", "right", "side", "overhead", "view", "below"]
WIDTH = 16
POOLED = 8
SD_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def save_pixel_prior(folder: Path, *, size: int = 16, prediction: str = "v_prediction") -> Path:
    """An IFPipeline like the embedded prior: pixels, CLIP, six output channels, a card."""
    torch.manual_seed(0)
    _save_clip(folder)
    _unet(3, 6, size).save_pretrained(folder / "unet")
    DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type=prediction).save_pretrained(
        folder / "scheduler"
    )
    _save_index(folder, "IFPipeline")
    (folder / "dreamfusion.json").write_text(json.dumps(card()))
    return folder


def save_deepfloyd_prior(folder: Path) -> Path:
    """An IFPipeline like DeepFloyd's: T5, projected text, learned variances."""
    torch.manual_seed(2)
    _save_t5(folder, "", 24)
    more = {"encoder_hid_dim": 24, "encoder_hid_dim_type": "text_proj"}
    more |= {"addition_embed_type": "text", "addition_embed_type_num_heads": 2}
    _unet(3, 6, 16, **more).save_pretrained(folder / "unet")
    DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", variance_type="learned_range", thresholding=True
    ).save_pretrained(folder / "scheduler")
    _save_index(folder, "IFPipeline")
    return folder


def save_latent_prior(folder: Path, *, v_prediction: bool = False) -> Path:
    """A StableDiffusionPipeline: version 1 with its PNDM scheduler; or, like version 2 for 768
    pixels, with v-prediction, and also with betas rescaled to zero terminal SNR."""
    torch.manual_seed(1)
    _save_clip(folder)
    _unet(4, 4, 8).save_pretrained(folder / "unet")
    # The original config has no force_upcast; diffusers would write true.
    _vae(scaling_factor=0.18215, force_upcast=False).save_pretrained(folder / "vae")
    if v_prediction:
        DDIMScheduler(
            **SD_BETAS, prediction_type="v_prediction", rescale_betas_zero_snr=True
        ).save_pretrained(folder / "scheduler")
    else:
        PNDMScheduler(**SD_BETAS).save_pretrained(folder / "scheduler")
    _save_index(folder, "StableDiffusionPipeline")
    return folder


def save_mvdream_prior(folder: Path) -> Path:
    """An MVDreamPipeline: a U-Net of its own class, with the original names of its weights."""
    torch.manual_seed(5)
    _save_clip(folder)
    config = {
        "_class_name": "MultiViewUNetModel", "image_size": 8, "in_channels": 4, "out_channels": 4,
        "model_channels": 32, "channel_mult": [1, 2], "attention_resolutions": [2],
        "num_res_blocks": 1, "num_head_channels": 16, "context_dim": WIDTH, "camera_dim": 16,
    }  # fmt: skip
    weights = {
        original_unet_name(key): torch.randn(value.shape) / 8
        for key, value in MultiViewUNet(**unet_config("tiny", config)).state_dict().items()
    }
    (folder / "unet").mkdir()
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "unet" / "diffusion_pytorch_model.safetensors")
    _vae(scaling_factor=0.18215, force_upcast=False).save_pretrained(folder / "vae")
    DDIMScheduler(**SD_BETAS).save_pretrained(folder / "scheduler")
    _save_index(folder, "MVDreamPipeline", unet=["mv_unet", "MultiViewUNetModel"])
    return folder


def save_xl_prior(folder: Path) -> Path:
    """A StableDiffusionXLPipeline: two CLIPs, pooled text, sizes, a force_upcast autoencoder."""
    torch.manual_seed(3)
    _save_clip(folder)
    _save_clip(folder, "_2", projected=True)
    _unet(
        4, 4, 8, cross_attention_dim=2 * WIDTH, addition_embed_type="text_time",
        addition_time_embed_dim=4, projection_class_embeddings_input_dim=6 * 4 + POOLED,
    ).save_pretrained(folder / "unet")  # fmt: skip
    _vae(scaling_factor=0.13025, force_upcast=True).save_pretrained(folder / "vae")
    EulerDiscreteScheduler(**SD_BETAS, timestep_spacing="leading").save_pretrained(
        folder / "scheduler"
    )
    _save_index(folder, "StableDiffusionXLPipeline", force_zeros_for_empty_prompt=True)
    return folder


def save_sd3_prior(folder: Path, *, t5: bool) -> Path:
    """A StableDiffusion3Pipeline: a transformer, a rectified flow, and optionally T5."""
    torch.manual_seed(4)
    width = 40
    _save_clip(folder, projected=True)
    _save_clip(folder, "_2", projected=True)
    if t5:
        _save_t5(folder, "_3", width)
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=width,
        caption_projection_dim=16,
        pooled_projection_dim=2 * POOLED,
        pos_embed_max_size=8,
    )
    # Some weights are initialised to zero, so that the text would have no effect.
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    transformer.save_pretrained(folder / "transformer")
    _vae(
        scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False,
        use_post_quant_conv=False, force_upcast=True,
    ).save_pretrained(folder / "vae")  # fmt: skip
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    missing = () if t5 else ("text_encoder_3", "tokenizer_3")
    _save_index(folder, "StableDiffusion3Pipeline", **{key: [None, None] for key in missing})
    return folder


# One prior of each supported kind, by a name for test ids.
PRIORS = {
    "sd": save_latent_prior,
    "sd-v": lambda folder: save_latent_prior(folder, v_prediction=True),
    "sdxl": save_xl_prior,
    "if-t5": save_deepfloyd_prior,
    "if-clip": save_pixel_prior,
    "if-clip-sample": lambda folder: save_pixel_prior(folder, prediction="sample"),
    "sd3": lambda folder: save_sd3_prior(folder, t5=False),
    "sd3-t5": lambda folder: save_sd3_prior(folder, t5=True),
}


def card() -> dict[str, object]:
    """The `dreamfusion.json` of a prior with the word list WORDS."""
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
        "background": [0.25, 0.75],
        "nouns": ["corgi", "mug", "chair"],
        "colors": ["red", "blue", "green"],
        "camera": {"distance": [2.5, 3.0], "fov_y_deg": [38, 42], "elevation_deg": [-10, 50]},
    }


def _unet(channels: int, out_channels: int, size: int, **more: object) -> UNet2DConditionModel:
    options = {"cross_attention_dim": WIDTH, **more}
    return UNet2DConditionModel(
        sample_size=size,
        in_channels=channels,
        out_channels=out_channels,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=2,
        norm_num_groups=4,
        **options,
    )


def _vae(**options: object) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        **options,
    )


def _save_clip(folder: Path, suffix: str = "", *, projected: bool = False) -> None:
    tokens = [f"{word}</w>" for word in [*WORDS, ","]]
    letters = [chr(code) for code in range(97, 123)]
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), *tokens]
    vocabulary = list(dict.fromkeys([*vocabulary, "<|startoftext|>", "<|endoftext|>"]))
    tokenizer_folder = folder / f"tokenizer{suffix}"
    tokenizer_folder.mkdir(parents=True)
    (tokenizer_folder / "vocab.json").write_text(
        json.dumps({token: i for i, token in enumerate(vocabulary)})
    )
    (tokenizer_folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer.from_pretrained(
        tokenizer_folder, model_max_length=77, local_files_only=True
    ).save_pretrained(tokenizer_folder)
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=POOLED,
        max_position_embeddings=77,
        bos_token_id=vocabulary.index("<|startoftext|>"),
        eos_token_id=vocabulary.index("<|endoftext|>"),
        pad_token_id=vocabulary.index("<|endoftext|>"),
    )
    model = (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)
    # Saved in half precision, like many models on the hub.
    model.half().save_pretrained(folder / f"text_encoder{suffix}")


def _save_t5(folder: Path, suffix: str, width: int) -> None:
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *(f"\u2581{word}" for word in WORDS), ","]
    T5Tokenizer(
        vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)], model_max_length=77
    ).save_pretrained(folder / f"tokenizer{suffix}")
    T5EncoderModel(
        T5Config(
            vocab_size=len(pieces) + 100,
            d_model=width,
            d_kv=8,
            d_ff=32,
            num_layers=2,
            num_heads=2,
            feed_forward_proj="gated-gelu",
        )
    ).save_pretrained(folder / f"text_encoder{suffix}")


def _save_index(folder: Path, pipeline: str, **more: object) -> None:
    """Write a model_index.json for the components in the folder."""
    index: dict[str, object] = {"_class_name": pipeline, "_diffusers_version": "0.42.1"}
    for component in sorted(path.name for path in folder.iterdir() if path.is_dir()):
        config = folder / component / "config.json"
        if component == "scheduler":
            config = folder / component / "scheduler_config.json"
        if component.startswith("tokenizer"):
            config = folder / component / "tokenizer_config.json"
        content = json.loads(config.read_text())
        cls = content.get("_class_name") or content.get("tokenizer_class")
        cls = cls or content["architectures"][0]
        library = "transformers" if component.startswith(("text", "token")) else "diffusers"
        index[component] = [library, cls]
    if pipeline in ("IFPipeline", "StableDiffusionPipeline"):
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
        index["requires_safety_checker"] = False
    if pipeline == "IFPipeline":
        index["watermarker"] = [None, None]
    (folder / "model_index.json").write_text(json.dumps(index | more))
