"""How much GPU memory a prior takes in a run: an estimate, and whether there is as much.

Weights are counted exactly, from the headers of their files. Activations are a rule of thumb in
feature maps, one map being what a network's first layer gives for one picture. The maps alive at
once were counted, with the tensors' sizes alone, in Stable Diffusion 1.5 (26), XL (16) and 3 (14,
in its tokens) without gradients, and in the autoencoder that they share: 23 kept for the backward
pass, or with checkpointing 2 kept and 14 recomputed. Attention was taken as fused. What CUDA's
libraries and fragmentation add was not measured: MARGIN is a guess.
"""

from __future__ import annotations

from dreamfusion.config.schema import PriorConfig
from dreamfusion.priors.files import PriorError
from dreamfusion.priors.fit import sample_size
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
    """Bytes of GPU memory that the prior needs at most, for `views` pictures a step with guidance.

    precision: bytes of a number in the denoiser and the text encoders; vae_precision: in the
    autoencoder. prepared: all texts are encoded before the denoiser is loaded. options: of
    offloading and of the autoencoder.
    """
    name = "unet" if "unet" in prior.components else "transformer"
    encoders = [
        count * precision
        for component, count in prior.weights.items()
        if component.startswith("text_encoder")
    ]
    models = prior.weights[name] * precision
    models += prior.weights.get("vae", 0) * vae_precision
    kept = 0 if prepared or options.offload else sum(encoders)

    config = prior.configs[name]
    size = sample_size(prior.name, prior.pipeline, config)
    if name == "unet":
        picture = UNET_MAPS * config["block_out_channels"][0] * size**2
    else:
        width = config["num_attention_heads"] * config["attention_head_dim"]
        picture = TRANSFORMER_MAPS * width * (size // config["patch_size"]) ** 2
    # With text and without it, and Perp-Neg's front and two sides; the autoencoder's activations
    # are kept meanwhile.
    predictions = 5 if options.perp_neg > 0 else 2
    activations = predictions * views * picture * precision
    if "vae" in prior.components:
        channels = prior.configs["vae"]["block_out_channels"]
        map_ = channels[0] * (size * 2 ** (len(channels) - 1)) ** 2 * vae_precision
        if options.vae_checkpointing:
            recomputed = VAE_MAPS_RECOMPUTED * map_ * (1 if options.vae_slicing else views)
            activations = VAE_MAPS_CHECKPOINTED * map_ * views + max(activations, recomputed)
        else:
            activations += VAE_MAPS * map_ * views
    step = models + kept + activations
    encoding = max(encoders) + (0 if prepared else models)
    return int(max(step, encoding) + MARGIN)


def check_memory(needed: int, *, free: int, name: str) -> None:
    """Raise PriorError if the prior `name` needs more bytes than there are free."""
    if needed > free:
        raise PriorError(
            f"{name} needs about {needed / 2**30:.1f} GiB of GPU memory (an estimate), and "
            f"{free / 2**30:.1f} GiB are free; use the low-vram preset, a smaller --prior or fewer "
            "views (camera.views; of `sample`, --count)"
        )
