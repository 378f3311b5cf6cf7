"""Estimates the GPU memory of a prior in a run, and checks that it is available.

Weights are counted exactly, from the headers of their files. Activations are estimated in feature
maps; one map is the output of a network's first layer for one image. The number of simultaneous
maps was counted on meta tensors, without gradients: Stable Diffusion 1.5 26, XL 16, 3 (in tokens)
14. Their autoencoder keeps 23 maps for the backward pass, or with checkpointing 2, and recomputes
14. Attention is assumed to be fused. The overhead of CUDA's libraries and of fragmentation was not
measured: MARGIN is an assumption.
"""

from dreamfusion.config.schema import PriorConfig
from dreamfusion.priors.layout import PriorError, sample_size
from dreamfusion.priors.resolve import ResolvedPrior

UNET_MAPS = 32
TRANSFORMER_MAPS = 16
VAE_MAPS = 24
VAE_MAPS_CHECKPOINTED = 2
VAE_MAPS_RECOMPUTED = 14
MARGIN = 0.5 * 2**30


def estimate_memory(
    prior: ResolvedPrior,
    options: PriorConfig,
    *,
    views: int,
    precision: int,
    vae_precision: int,
    prepared: bool = False,
) -> int:
    """Peak GPU memory of the prior in bytes, for `views` images per step with guidance.

    precision: bytes per number in the denoiser and the text encoders; vae_precision: in the
    autoencoder. prepared: whether all texts are encoded before the denoiser is loaded. options:
    settings of offloading and of the autoencoder.
    """
    name = "unet" if "unet" in prior.components else "transformer"
    counts = prior.weights
    encoders = [counts[part] * precision for part in counts if part.startswith("text_encoder")]
    models = counts[name] * precision + counts.get("vae", 0) * vae_precision
    resident = 0 if prepared or options.offload else sum(encoders)

    config = prior.configs[name]
    size = sample_size(prior.name, prior.pipeline, config)
    if name == "unet":
        per_image = UNET_MAPS * config["block_out_channels"][0] * size**2
    else:
        width = config["num_attention_heads"] * config["attention_head_dim"]
        per_image = TRANSFORMER_MAPS * width * (size // config["patch_size"]) ** 2
    # Predictions with and without text, and for Perp-Neg the front and two sides, while the
    # autoencoder's activations are kept.
    predictions = 5 if options.perp_neg > 0 else 2
    activations = predictions * views * per_image * precision
    if "vae" in prior.components:
        channels = prior.configs["vae"]["block_out_channels"]
        map_ = channels[0] * (size * 2 ** (len(channels) - 1)) ** 2 * vae_precision
        if options.vae_checkpointing:
            recomputed = VAE_MAPS_RECOMPUTED * map_ * (1 if options.vae_slicing else views)
            activations = VAE_MAPS_CHECKPOINTED * map_ * views + max(activations, recomputed)
        else:
            activations += VAE_MAPS * map_ * views
    step = models + resident + activations
    encoding = sum(encoders) + (0 if prepared else models)
    return int(max(step, encoding) + MARGIN)


def check_memory(needed: int, *, free: int, name: str) -> None:
    """Raise PriorError if the prior `name` needs more than the free bytes."""
    if needed > free:
        raise PriorError(
            f"{name} needs about {needed / 2**30:.1f} GiB of GPU memory (an estimate), and "
            f"{free / 2**30:.1f} GiB are free; use the low-vram preset, a smaller --prior or fewer "
            "views (camera.views; of `sample`, --count)"
        )
