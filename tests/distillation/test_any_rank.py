"""SDS for data other than images: signals, latents, parameters of a custom encoder."""

import pytest
import torch

import dreamfusion as df


class Normal:
    """Numbers of any shape, each normal around the text's first number, with standard deviation
    1/2. The prediction has a closed form."""

    prediction = "epsilon"
    sigmas = torch.linspace(0.01, 0.99, 100)
    alphas = (1 - sigmas**2).sqrt()

    def encode_image(self, images):
        raise AssertionError("the caller encodes")

    def predict(self, noisy, timesteps, condition):
        shape = (-1, *[1] * (noisy.dim() - 1))
        a, s = (values[timesteps].reshape(shape) for values in (self.alphas, self.sigmas))
        mean = condition.text.tokens[:, 0, 0].reshape(shape)
        clean = mean + a * 0.25 / (a**2 * 0.25 + s**2) * (noisy - a * mean)
        return (noisy - a * clean) / s


def text(value):
    return df.TextEmbedding(torch.full((1, 1, 1), value))


@pytest.mark.parametrize("shape", [(3, 64), (2, 4, 8, 8), (2, 4, 3, 8, 8), (5,)])
def test_the_gradient_equals_the_formula_at_any_rank(shape):
    prior, x = Normal(), torch.randn(shape, generator=torch.Generator().manual_seed(1))
    x.requires_grad_()
    generator = torch.Generator().manual_seed(0)
    result = df.sds(
        prior, x, text(0.7), text(0.0), guidance=3.0, t_range=(0.2, 0.8), generator=generator,
        encode=lambda values: values,
    )  # fmt: skip
    result.loss.backward()
    assert x.grad.shape == shape and torch.equal(x.grad, result.gradient)

    condition = [df.Condition(text(value).expand(len(x))) for value in (0.7, 0.0)]
    z = df.add_noise(prior, x.detach(), result.noise, result.timesteps)
    one, none = (prior.predict(z.value, result.timesteps, c) for c in condition)
    expected = z.sigma**2 * (none + 3.0 * (one - none) - result.noise)
    torch.testing.assert_close(result.gradient, expected)


def test_a_signal_converges_through_a_custom_encoder():
    """Sine waves of unknown amplitudes, with a prior for the spectrum."""
    basis = torch.stack([torch.sin(k * torch.linspace(0, 6.28, 64)) for k in range(1, 5)])
    heights = torch.zeros(8, 4, requires_grad=True)
    optimizer = torch.optim.Adam([heights], lr=0.05)
    generator = torch.Generator().manual_seed(0)
    inverse = torch.linalg.pinv(basis)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 300)
        signals = heights @ basis
        result = df.sds(
            Normal(), signals, text(0.7), text(0.0), guidance=1.0, t_range=(0.2, 0.8),
            generator=generator, encode=lambda wave: wave @ inverse,
        )  # fmt: skip
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
    assert signals.shape == (8, 64)
    torch.testing.assert_close(heights, torch.full((8, 4), 0.7), rtol=0, atol=0.15)


def test_rescaling_gives_groups_the_deviation_of_the_text_prediction():
    prior = Normal()
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    z = df.add_noise(prior, x, torch.randn_like(x), torch.full((4,), 50))
    one, none = (df.Condition(text(value).expand(4)) for value in (0.7, 0.0))
    conditions = df.Conditions(one, none)
    prior.group_size = 2

    def spread(prediction):
        return prediction.clean.unflatten(0, (2, 2)).flatten(1).std(dim=1)

    wanted = spread(df.predictions(prior, z, one)[0])
    plain = df.guided(prior, z, conditions, 20.0)
    whole = df.guided(prior, z, conditions, 20.0, rescale=1.0)
    half = df.guided(prior, z, conditions, 20.0, rescale=0.5)
    torch.testing.assert_close(spread(whole), wanted)
    torch.testing.assert_close(spread(half), (spread(plain) + wanted) / 2)
