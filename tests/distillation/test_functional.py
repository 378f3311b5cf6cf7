import math

import pytest
import torch
from diffusers import DDPMScheduler

from dreamfusion.diffusion.condition import Condition, Conditions, TextEmbedding
from dreamfusion.diffusion.predictions import add_noise, guided
from dreamfusion.distillation.base import draw_timesteps, weight
from dreamfusion.distillation.functional import sds


def cosine_schedule(n=1000):
    scheduler = DDPMScheduler(n, beta_schedule="squaredcos_cap_v2")
    return scheduler.alphas_cumprod.sqrt(), (1 - scheduler.alphas_cumprod).sqrt()


class GaussianPrior:
    """The exact noise prediction for images from N(mode, spread^2 I), with any text."""

    prediction = "epsilon"

    def __init__(self, mode, spread):
        self.alphas, self.sigmas = cosine_schedule()
        self.mode, self.spread = mode, spread

    def encode_image(self, images):
        return images * 2 - 1

    def predict(self, noisy, timesteps, condition):
        alpha = self.alphas[timesteps][:, None, None, None]
        sigma = self.sigmas[timesteps][:, None, None, None]
        variance = (alpha * self.spread) ** 2 + sigma**2
        return sigma * (noisy - alpha * self.mode) / variance


class NetworkPrior(GaussianPrior):
    """A real network whose backward pass would be detected."""

    def __init__(self, prediction):
        super().__init__(0.0, 1.0)
        self.prediction = prediction
        torch.manual_seed(0)
        self.network = torch.nn.Conv2d(3, 3, 3, padding=1)
        self.batches = []

    def predict(self, noisy, timesteps, condition):
        assert not torch.is_grad_enabled()
        self.batches.append(noisy.shape[0])
        return self.network(noisy) * condition.text.tokens.mean(dim=(1, 2))[:, None, None, None]


TEXT = TextEmbedding(torch.full((1, 4, 8), 2.0))
NOTHING = TextEmbedding(torch.full((1, 4, 8), 0.5))


def run(prior, images, seed=0, **options):
    options = {"guidance": 7.5, "t_range": (0.02, 0.98), **options}
    generator = torch.Generator().manual_seed(seed)
    return sds(prior, images, TEXT, NOTHING, generator=generator, **options)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "flow"])
@pytest.mark.parametrize("weighting", ["sigma2", "uniform", "inverse_sqrt_snr"])
def test_gradient_at_the_image_is_w_times_noise_error(prediction, weighting):
    prior = NetworkPrior(prediction)
    images = torch.rand(3, 3, 8, 8, requires_grad=True)
    result = run(prior, images, weighting=weighting)
    result.loss.backward()

    alpha = prior.alphas[result.timesteps][:, None, None, None]
    sigma = prior.sigmas[result.timesteps][:, None, None, None]
    noisy = alpha * (images.detach() * 2 - 1) + sigma * result.noise
    with torch.no_grad():
        uncond, text = prior.network(noisy) * 0.5, prior.network(noisy) * 2.0
        raw = uncond + 7.5 * (text - uncond)
    expected_noise = {
        "epsilon": raw,
        "v_prediction": alpha * raw + sigma * noisy,
        "sample": (noisy - alpha * raw) / sigma,
        "flow": noisy + alpha * raw,
    }[prediction]
    w = {"sigma2": sigma**2, "uniform": 1.0, "inverse_sqrt_snr": (sigma / alpha).clamp(max=10)}[
        weighting
    ]
    torch.testing.assert_close(
        result.gradient, w * (expected_noise - result.noise), rtol=1e-5, atol=1e-5
    )
    # Bitwise equal: the gradient passes only through d(2x - 1)/dx to the image.
    assert torch.equal(images.grad, 2.0 * result.gradient)


def test_nothing_is_stored_for_a_backward_pass_through_the_network():
    prior = NetworkPrior("epsilon")
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        result = run(prior, images)
    # Only the image's product (its gradient) is kept, and no activations or weights.
    assert {tensor.data_ptr() for tensor in saved} <= {result.gradient.data_ptr()}
    result.loss.backward()
    assert all(parameter.grad is None for parameter in prior.network.parameters())
    assert not result.gradient.requires_grad and not result.predicted_noise.requires_grad


def test_guidance_uses_one_batched_call():
    prior = NetworkPrior("epsilon")
    x, noise, timesteps = *torch.randn(2, 2, 3, 4, 4), torch.tensor([10, 500])
    z = add_noise(prior, x, noise, timesteps)
    conditions = Conditions(Condition(TEXT.expand(2)), Condition(NOTHING.expand(2)))
    with torch.no_grad():
        base = prior.network(z.value)
        for scale in (0.0, 1.0, 7.5):
            found = guided(prior, z, conditions, scale).raw
            torch.testing.assert_close(found, base * (0.5 + scale * (2.0 - 0.5)))
    assert prior.batches == [2, 2, 4]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "flow"])
def test_the_predicted_clean_image_is_clamped_on_request(prediction):
    prior, images = NetworkPrior(prediction), torch.rand(3, 3, 8, 8)
    if prediction == "flow":  # is defined on the straight line from image to noise
        prior.alphas = 1 - prior.sigmas

    def guess(result):
        alpha, sigma = (
            x[result.timesteps][:, None, None, None] for x in (prior.alphas, prior.sigmas)
        )
        noisy = alpha * (images * 2 - 1) + sigma * result.noise
        return (noisy - sigma * result.predicted_noise) / alpha

    # With this weighting, the gradient is the difference between image and prediction.
    options = {"weighting": "inverse_sqrt_snr", "t_range": (0.02, 0.6)}
    free = run(prior, images, **options)
    for limit in (0.3, 1.0):
        cut = run(prior, images, clip_sample=limit, **options)
        assert guess(free).abs().max() > limit
        expected = guess(free).clamp(-limit, limit)
        torch.testing.assert_close(guess(cut), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(cut.gradient, images * 2 - 1 - expected, rtol=1e-4, atol=1e-4)
    wide = run(prior, images, clip_sample=1e6, **options)
    torch.testing.assert_close(wide.gradient, free.gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fault", [math.inf, -math.inf, math.nan])
def test_clamping_does_not_hide_values_that_are_not_finite(fault):
    prior = NetworkPrior("v_prediction")
    prior.predict = lambda noisy, timesteps, condition: torch.full_like(noisy, fault)
    result = run(prior, torch.rand(1, 3, 8, 8), clip_sample=1.0)
    assert not result.gradient.isfinite().any()


def test_sds_finds_the_mode_of_a_gaussian():
    mode = torch.linspace(-0.8, 0.8, 48).reshape(1, 3, 4, 4)
    prior = GaussianPrior(mode, spread=0.1)
    images = torch.full((1, 3, 4, 4), 0.5, requires_grad=True)
    optimizer = torch.optim.Adam([images], lr=0.05)
    generator = torch.Generator().manual_seed(0)
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 400)
        optimizer.zero_grad()
        batch = images.expand(8, -1, -1, -1)
        sds(
            prior, batch, TEXT, NOTHING, guidance=7.5, t_range=(0.02, 0.98), generator=generator
        ).loss.backward()
        optimizer.step()
    assert ((images * 2 - 1) - mode).abs().max() < 0.05


def test_timesteps_cover_their_range():
    generator = torch.Generator().manual_seed(0)
    prior, few = GaussianPrior(0.0, 1.0), GaussianPrior(0.0, 1.0)
    few.alphas = few.alphas[:10]
    drawn = draw_timesteps(prior, 20000, (0.02, 0.1), generator)
    assert drawn.min() == 20 and drawn.max() == 100 and drawn.unique().numel() == 81
    assert draw_timesteps(few, 100, (0.0, 1.0), generator).max() == 9
    assert (draw_timesteps(prior, 100, (0.5, 0.5), generator) == 500).all()


def test_views_of_a_group_share_a_timestep():
    prior = GaussianPrior(0.0, 1.0)
    alone = draw_timesteps(prior, 8, (0.0, 1.0), torch.Generator().manual_seed(0))
    prior.group_size = 4
    found = draw_timesteps(prior, 8, (0.0, 1.0), torch.Generator().manual_seed(0))
    assert torch.equal(found, alone[[0, 0, 0, 0, 4, 4, 4, 4]])


def test_results_depend_only_on_the_generator():
    prior, images = NetworkPrior("epsilon"), torch.rand(2, 3, 8, 8)
    assert torch.equal(run(prior, images, seed=3).gradient, run(prior, images, seed=3).gradient)
    assert not torch.equal(run(prior, images, seed=3).noise, run(prior, images, seed=4).noise)


def test_weights():
    alpha, sigma = torch.tensor(0.6), torch.tensor(0.8)
    assert weight(alpha, sigma, "sigma2").item() == pytest.approx(0.64)
    assert weight(alpha, sigma, "uniform").item() == 1.0
    assert weight(alpha, sigma, "inverse_sqrt_snr").item() == pytest.approx(4 / 3)
    assert weight(torch.tensor(0.0), torch.tensor(1.0), "inverse_sqrt_snr").item() == 10.0
    assert math.isfinite(weight(torch.tensor(1e-9), sigma, "inverse_sqrt_snr").item())


def test_the_predicted_noise_is_under_guidance():
    prior, images = NetworkPrior("epsilon"), torch.rand(2, 3, 8, 8)
    generator = torch.Generator().manual_seed(0)
    options = {"guidance": 2.0, "t_range": (0.5, 0.5), "generator": generator}
    result = sds(prior, images, TEXT, NOTHING, **options)
    z = add_noise(prior, images * 2 - 1, result.noise, result.timesteps)
    with torch.no_grad():
        expected = prior.network(z.value) * (0.5 + 2.0 * (2.0 - 0.5))
    torch.testing.assert_close(result.predicted_noise, expected)


@pytest.mark.parametrize("shape", [(4,), (2, 8), (3, 8, 8), (2, 3, 4, 4)])
def test_encoded_inputs_can_have_any_rank(shape):
    """Signals, latents, videos."""
    prior = GaussianPrior(0.0, 1.0)
    prior.predict = lambda noisy, timesteps, condition: 0.5 * noisy
    x = torch.rand(3, *shape, requires_grad=True)
    result = run(prior, x, encode=lambda values: 3.0 * values)
    result.loss.backward()
    z = add_noise(prior, 3.0 * x.detach(), result.noise, result.timesteps)
    expected = z.sigma**2 * (0.5 * z.value - result.noise)
    torch.testing.assert_close(result.gradient, expected)
    assert torch.equal(x.grad, 3.0 * result.gradient)


def test_negative_texts_are_predicted_in_the_same_call():
    prior = NetworkPrior("epsilon")
    other = TextEmbedding(torch.full((1, 4, 8), 1.0))
    run(prior, torch.rand(2, 3, 8, 8), opposed=[(other, torch.ones(2))])
    assert prior.batches == [6]
