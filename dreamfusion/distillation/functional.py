"""Score Distillation Sampling as one function, for any differentiable generator."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dreamfusion.diffusion.condition import Condition, Conditions, TextEmbedding
from dreamfusion.diffusion.predictions import Images, NoisePredictor, Timesteps, add_noise, guided
from dreamfusion.distillation.base import draw_timesteps, weighted_error
from dreamfusion.distillation.settings import Weighting
from dreamfusion.graphics.cameras import Cameras
from dreamfusion.utils.devices import send
from dreamfusion.utils.rng import Generators, randn


@dataclass(frozen=True)
class SDSResult:
    """One evaluation of SDS.

    loss: scalar whose gradient with respect to the encoded images is exactly `gradient`. Its value
        has no meaning.
    gradient: w(t) (e_hat - e), detached. timesteps: on the CPU.
    noise, predicted_noise: e and e_hat.
    """

    loss: Float[Tensor, ""]
    gradient: Images
    timesteps: Timesteps
    noise: Images
    predicted_noise: Images


def sds(
    prior: NoisePredictor,
    images: Float[Tensor, "b ..."],
    text: TextEmbedding,
    unconditional: TextEmbedding,
    *,
    guidance: float,
    t_range: tuple[float, float],
    weighting: Weighting = "sigma2",
    clip_sample: float | None = None,
    opposed: Sequence[tuple[TextEmbedding, Float[Tensor, " b"]]] = (),
    cameras: Cameras | None = None,
    encode: Callable[[Float[Tensor, "b ..."]], Images] | None = None,
    generator: Generators,
) -> SDSResult:
    """SDS for n images, summed over them: divide the loss by n for a mean.

    images: (n, 3, h, w) in [0, 1], encoded by the prior; or of any shape that `encode` turns into
    what the prior denoises, of any rank. For latents: `encode=lambda z: z`.
    text, unconditional: of n texts, or of one text for all images. cameras: for priors that need
    them.
    guidance: s >= 0 of uncond + s (text - uncond); 1 is no guidance, 0 ignores the text.
    t_range: least and greatest noise level in [0, 1]; each image draws its own in between.
    clip_sample: x0 is clamped at -clip_sample and clip_sample (Imagen's static thresholding); None
    leaves it unchanged. At 1, for a model of pixels in [-1, 1], guidance cannot exceed white.
    opposed: texts that the images should not show, with weights; see `guided`.
    generator: on the CPU, or one for each image; the only source of randomness on every device.
    """
    encoded = (encode or prior.encode_image)(images)
    n, device = len(encoded), encoded.device
    drawn = draw_timesteps(prior, n, t_range, generator)
    noise = send(randn(encoded.shape, generator), device)

    conditions = Conditions(
        Condition(text.expand(n), cameras),
        Condition(unconditional.expand(n), cameras),
        [(Condition(other.expand(n), cameras), amount) for other, amount in opposed],
    )
    with torch.no_grad():
        z = add_noise(prior, encoded.detach(), noise, send(drawn, device))
        prediction = guided(prior, z, conditions, guidance).clamped(clip_sample)
        predicted_noise = prediction.noise
        gradient = weighted_error(prediction, encoded.detach(), weighting)
    loss = (encoded * gradient).sum()
    return SDSResult(loss, gradient, drawn, noise, predicted_noise)
