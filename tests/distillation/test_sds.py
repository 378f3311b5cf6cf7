"""The estimator `sds` compared with the function, and its errors."""

import pytest
import torch

from dreamfusion.diffusion.condition import Condition, Conditions, TextEmbedding
from dreamfusion.distillation.base import Batch
from dreamfusion.distillation.functional import sds
from dreamfusion.distillation.sds.settings import SDSSettings
from dreamfusion.utils.errors import UserError
from dreamfusion.utils.state import Progress


class Prior:
    """A network for pixels, whose prediction depends on the text."""

    prediction = "v_prediction"

    def __init__(self):
        self.sigmas = torch.linspace(0.01, 0.99, 100)
        self.alphas = (1 - self.sigmas**2).sqrt()
        torch.manual_seed(0)
        self.network = torch.nn.Conv2d(3, 3, 3, padding=1)

    def encode_image(self, images):
        return images * 2 - 1

    def predict(self, noisy, timesteps, condition):
        assert not torch.is_grad_enabled()
        return self.network(noisy) * condition.text.tokens.mean(dim=(1, 2))[:, None, None, None]


TEXT, NOTHING, OTHER = (TextEmbedding(torch.full((1, 4, 8), v)) for v in (2.0, 0.5, 1.0))


def batch(images, **more):
    n = len(images)
    text, nothing, other = (Condition(one.expand(n)) for one in (TEXT, NOTHING, OTHER))
    return Batch(images, Conditions(text, nothing, [(other, torch.full((n,), 0.5))]), **more)


def generators():
    return [torch.Generator().manual_seed(seed) for seed in range(3)]


@pytest.mark.parametrize("clip_sample", [None, 0.5])
@pytest.mark.parametrize("weighting", ["sigma2", "inverse_sqrt_snr"])
def test_the_estimator_equals_the_mean_of_the_function(weighting, clip_sample):
    prior, images = Prior(), torch.rand(3, 3, 8, 8, requires_grad=True)
    settings = SDSSettings(weighting=weighting, clip_sample=clip_sample)
    estimator = settings.build(prior, seed=0)
    found = estimator(batch(images), progress=Progress(50, 100), generator=generators())
    assert found.losses.keys() == {"sds"}
    (grad,) = torch.autograd.grad(found.losses["sds"], images)

    t_range = (settings.t_min.at(50, 100), settings.t_max.at(50, 100))
    expected = sds(
        prior, images, TEXT, NOTHING, guidance=settings.guidance.at(50, 100), t_range=t_range,
        weighting=weighting, clip_sample=clip_sample, opposed=[(OTHER, torch.full((3,), 0.5))],
        generator=generators(),
    )  # fmt: skip
    (whole,) = torch.autograd.grad(expected.loss, images)
    torch.testing.assert_close(grad * images.numel(), whole)
    assert torch.equal(found.timesteps, expected.timesteps)
    square = expected.gradient.square().mean()
    assert found.losses["sds"].item() == pytest.approx(0.5 * square.item(), rel=1e-5)
    assert float(found.metrics["sds_gradient"]) == pytest.approx(square.sqrt().item(), rel=1e-5)
    assert found.metrics["guidance"] == settings.guidance.at(50, 100)


def test_surface_noise_without_depth_is_refused():
    estimator = SDSSettings(surface_noise=(0.5, 1.0)).build(Prior(), seed=0)
    images = torch.rand(3, 3, 8, 8)
    estimator(batch(images), progress=Progress(49, 100), generator=generators())
    with pytest.raises(UserError, match=r"needs images of a scene with depth: set estimator\.surf"):
        estimator(batch(images), progress=Progress(50, 100), generator=generators())


def test_a_prior_that_predicts_no_noise_is_an_error_of_one_line():
    class Judge:
        name = "a judge"

    with pytest.raises(UserError) as error:
        SDSSettings().build(Judge(), seed=0)
    assert str(error.value) == "the estimator 'sds' needs a diffusion prior, not a judge"
