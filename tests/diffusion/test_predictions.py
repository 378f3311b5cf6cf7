import pytest
import torch
from diffusers import DDPMScheduler

from dreamfusion.diffusion.condition import Condition, Conditions, TextEmbedding
from dreamfusion.diffusion.predictions import (
    Noisy,
    Prediction,
    add_noise,
    guided,
    predictions,
)
from dreamfusion.graphics.cameras import turntable_cameras


class Schedule:
    """The attributes of a prior that `add_noise` uses."""

    def __init__(self, alphas, sigmas):
        self.alphas, self.sigmas = torch.as_tensor(alphas), torch.as_tensor(sigmas)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_noising_and_conversions_agree_with_diffusers(prediction, betas):
    scheduler = DDPMScheduler(
        1000, beta_schedule=betas, prediction_type=prediction, clip_sample=False
    )
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(1, 3, 4, 4, generator=generator) for _ in range(2))
    cumulative = scheduler.alphas_cumprod
    prior = Schedule(cumulative.sqrt(), (1 - cumulative).sqrt())
    for t in (0, 17, 500, 950):
        steps = torch.tensor([t])
        z = add_noise(prior, x, noise, steps)
        torch.testing.assert_close(z.value, scheduler.add_noise(x, noise, steps))
        truth = {
            "epsilon": noise,
            "v_prediction": scheduler.get_velocity(x, noise, steps),
            "sample": x,
        }[prediction]
        original = scheduler.step(truth, t, z.value, generator=generator).pred_original_sample
        found = Prediction(truth, z, prediction)
        torch.testing.assert_close(found.clean, original, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.noise, noise, rtol=1e-3, atol=1e-3)


def test_flow_conversions_invert_each_other():
    x, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    z = add_noise(Schedule([0.7], [0.3]), x, noise, torch.zeros(2, dtype=torch.int64))
    found = Prediction(noise - x, z, "flow")
    torch.testing.assert_close(found.noise, noise)
    torch.testing.assert_close(found.clean, x)


@pytest.mark.parametrize("pooled", [True, False])
def test_text_embeddings_are_repeated_concatenated_and_interpolated(pooled):
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
    with pytest.raises(ValueError, match="2 texts cannot stand for 3 images"):
        two.expand(3)


class Table(Schedule):
    """Predicts the value of each text's only token, for any image. shape: of images."""

    prediction = "epsilon"

    def __init__(self, shape=(1, 1, 2)):
        super().__init__([0.8], [0.6])
        self.shape, self.calls = shape, []

    def predict(self, noisy, timesteps, condition):
        self.calls.append(len(noisy))
        assert len(condition) == len(noisy) == len(timesteps)
        return condition.text.tokens.reshape(-1, *self.shape)


def said(*rows):
    return TextEmbedding(torch.tensor(rows, dtype=torch.float32)[:, None])


def noisy(n, shape=(1, 1, 2)):
    zeros = torch.zeros(n, *shape)
    return Noisy(zeros, zeros, torch.zeros(n, dtype=torch.int64), zeros + 0.8, zeros + 0.6)


def found(text, unconditional, scale, opposed, *, n, shape=(1, 1, 2)):
    """The guided prediction (n, 2) for texts of one or n rows."""
    rows = [(Condition(other.expand(n)), weight) for other, weight in opposed]
    both = (Condition(one.expand(n)) for one in (text, unconditional))
    return guided(Table(shape), noisy(n, shape), Conditions(*both, rows), scale).raw.flatten(1)


def test_perp_neg_subtracts_only_the_perpendicular_part():
    nothing, text = said([1.0, 1.0]), said([3.0, 1.0])  # the text's direction is (2, 0)
    other = said([5.0, 4.0], [5.0, 4.0])  # direction (4, 3): (0, 3) of it is perpendicular
    opposed = [(other, torch.tensor([0.5, 0.0]))]
    expected = torch.tensor([[1 + 10 * 2.0, 1 - 10 * 0.5 * 3.0], [1 + 10 * 2.0, 1.0]])
    for shape in ((1, 1, 2), (2,), (1, 2), (1, 1, 1, 2)):  # images, signals, videos
        result = found(text, nothing, 10.0, opposed, n=2, shape=shape)
        torch.testing.assert_close(result, expected)


def test_opposing_the_text_itself_changes_nothing():
    nothing, text = said([1.0, 1.0]), said([3.0, -1.0])
    for own in (text, nothing):  # and opposing nothing, whose direction is zero
        opposed = [(own, torch.ones(1)), (own, torch.ones(1))]
        result = found(text, nothing, 1.0, opposed, n=1)
        torch.testing.assert_close(result, torch.tensor([[3.0, -1.0]]))
    result = found(nothing, nothing, 7.0, [(nothing, torch.ones(1))], n=1)
    assert result.isfinite().all()


def test_all_conditions_are_predicted_in_one_call():
    prior = Table()
    texts = said([1.0, 2.0]), said([3.0, 4.0]), said([5.0, 6.0])
    results = predictions(prior, noisy(2), *(Condition(text.expand(2)) for text in texts))
    assert prior.calls == [6]
    for one, text in zip(results, texts, strict=True):
        assert torch.equal(one.raw.flatten(1), text.tokens[:, 0].expand(2, 2))


def test_rows_of_conditions_keep_their_cameras():
    cameras = turntable_cameras(4)
    condition = Condition(said(*[[float(i), 0.0] for i in range(4)]), cameras)
    joined = Condition.cat([condition[2:], condition[:1]])
    assert joined.text.tokens[:, 0, 0].tolist() == [2, 3, 0]
    assert torch.equal(joined.cameras.azimuth_deg, cameras.azimuth_deg[[2, 3, 0]])
    assert Condition.cat([Condition(condition.text)] * 2).cameras is None


def test_rescaling_gives_x0_the_deviation_of_the_text_prediction():
    """For the two images of a group; Lin et al. 2024, eq. 15-16, for one."""
    shape = (1, 4, 4)
    texts = [
        TextEmbedding(torch.randn(4, 1, 16, generator=torch.Generator().manual_seed(seed)))
        for seed in (0, 1)
    ]
    prior, z = Table(shape), noisy(4, shape)
    prior.group_size = 2
    conditions = Conditions(*map(Condition, texts))

    def deviation(prediction):
        return prediction.clean.reshape(2, -1).std(dim=1)

    (text,) = predictions(prior, z, conditions.text)
    free, full, half = (guided(prior, z, conditions, 7.5, rescale=r) for r in (0.0, 1.0, 0.5))
    torch.testing.assert_close(deviation(full), deviation(text))
    torch.testing.assert_close(deviation(half), (deviation(free) + deviation(text)) / 2)
    ratio = full.clean / free.clean
    torch.testing.assert_close(ratio[:2], ratio[0, 0, 0, 0].expand(2, *shape))
