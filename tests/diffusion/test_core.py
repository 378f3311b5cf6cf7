import pytest
import torch
from diffusers import DDPMScheduler

from dreamfusion.diffusion.core import (
    NegativePrompt,
    TextEmbedding,
    add_noise,
    guided_prediction,
    to_noise,
    to_sample,
)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_noising_and_conversions_agree_with_diffusers(prediction, betas):
    scheduler = DDPMScheduler(
        1000, beta_schedule=betas, prediction_type=prediction, clip_sample=False
    )
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(1, 3, 4, 4, generator=generator) for _ in range(2))
    for t in (0, 17, 500, 950):
        alpha = scheduler.alphas_cumprod[t].sqrt()
        sigma = (1 - scheduler.alphas_cumprod[t]).sqrt()
        noisy = add_noise(x, noise, alpha, sigma)
        steps = torch.tensor([t])
        torch.testing.assert_close(noisy, scheduler.add_noise(x, noise, steps))
        truth = {
            "epsilon": noise,
            "v_prediction": scheduler.get_velocity(x, noise, steps),
            "sample": x,
        }[prediction]
        original = scheduler.step(truth, t, noisy, generator=generator).pred_original_sample
        torch.testing.assert_close(
            to_sample(truth, noisy, alpha, sigma, prediction), original, rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(
            to_noise(truth, noisy, alpha, sigma, prediction), noise, rtol=1e-3, atol=1e-3
        )


def test_flow_conversions_invert_each_other():
    x, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    sigma = torch.tensor(0.3)
    noisy = add_noise(x, noise, 1 - sigma, sigma)
    torch.testing.assert_close(to_noise(noise - x, noisy, 1 - sigma, sigma, "flow"), noise)
    torch.testing.assert_close(to_sample(noise - x, noisy, 1 - sigma, sigma, "flow"), x)


@pytest.mark.parametrize("pooled", [True, False])
def test_texts_are_repeated_joined_and_mixed(pooled):
    def text(n):
        return TextEmbedding(torch.randn(n, 4, 8), torch.randn(n, 3) if pooled else None)

    def parts(text):
        assert (text.pooled is not None) == pooled
        return (text.tokens, text.pooled) if pooled else (text.tokens,)

    one, two, other = text(1), text(2), text(2)
    for got, x in zip(parts(one.expand(3)), parts(one), strict=True):
        assert torch.equal(got, torch.cat([x, x, x]))
    for got, x, y in zip(parts(TextEmbedding.cat([one, two])), parts(one), parts(two), strict=True):
        assert torch.equal(got, torch.cat([x, y]))
    for got, x, y in zip(parts(two.lerp(other, 0.25)), parts(two), parts(other), strict=True):
        torch.testing.assert_close(got, 0.75 * x + 0.25 * y)
    mixed = two.lerp(other, torch.tensor([0.0, 2.0]))
    for got, x, y in zip(parts(mixed), parts(two), parts(other), strict=True):
        assert torch.equal(got[0], x[0])
        torch.testing.assert_close(got[1], 2 * y[1] - x[1])
    assert len(mixed) == 2 and len(one) == 1
    with pytest.raises(ValueError, match="2 texts cannot stand for 3 pictures"):
        two.expand(3)


class Table:
    """Predicts for each text what its (only) token says, whatever the picture."""

    def predict(self, noisy, timesteps, text):
        return text.tokens.reshape(-1, 1, 1, 2).expand(len(noisy), 1, 1, 2)


def said(*rows):
    return TextEmbedding(torch.tensor(rows, dtype=torch.float32)[:, None])


def test_perp_neg_takes_away_only_what_is_perpendicular():
    noisy, times = torch.zeros(2, 1, 1, 2), torch.zeros(2, dtype=torch.int64)
    nothing, text = said([1.0, 1.0]), said([3.0, 1.0])  # the text's direction is (2, 0)
    other = said([5.0, 4.0], [5.0, 4.0])  # direction (4, 3): (0, 3) of it is perpendicular
    negatives = [NegativePrompt(other, torch.tensor([0.5, 0.0]))]
    found = guided_prediction(Table(), noisy, times, text, nothing, 10.0, negatives)
    expected = torch.tensor([[1 + 10 * 2.0, 1 - 10 * 0.5 * 3.0], [1 + 10 * 2.0, 1.0]])
    torch.testing.assert_close(found[:, 0, 0], expected)


def test_opposing_the_text_itself_changes_nothing():
    noisy, times = torch.zeros(1, 1, 1, 2), torch.zeros(1, dtype=torch.int64)
    nothing, text = said([1.0, 1.0]), said([3.0, -1.0])
    for own in (text, nothing):  # and opposing nothing, whose direction is zero
        negatives = [NegativePrompt(own, torch.ones(1)), NegativePrompt(own, torch.ones(1))]
        found = guided_prediction(Table(), noisy, times, text, nothing, 1.0, negatives)
        torch.testing.assert_close(found[:, 0, 0], torch.tensor([[3.0, -1.0]]))
    alike = [NegativePrompt(nothing, torch.ones(1))]
    found = guided_prediction(Table(), noisy, times, nothing, nothing, 7.0, alike)
    assert found.isfinite().all()
