"""VSD: adapters on a tiny pipeline, which are trained on images of the scene."""

from dataclasses import replace

import pytest
import torch
from torch.autograd import grad

from dreamfusion.config.schedules import Schedule
from dreamfusion.diffusion.condition import Condition, Conditions
from dreamfusion.diffusion.predictions import add_noise, predictions
from dreamfusion.distillation.base import Batch
from dreamfusion.distillation.differences.settings import CSDSettings
from dreamfusion.distillation.vsd.settings import VSDSettings
from dreamfusion.graphics.cameras import turntable_cameras
from dreamfusion.priors import PriorError, load_prior
from dreamfusion.utils.state import Progress
from tests.helpers.tiny_priors import save_latent_prior, save_pixel_prior, save_sd3_prior

N = 4
CAMERAS = turntable_cameras(N)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_pixel_prior(tmp_path_factory.mktemp("priors") / "pixel")


@pytest.fixture
def prior(folder):
    return load_prior(str(folder))


def batch_of(prior, images, cameras=CAMERAS):
    text, nothing = (
        Condition(prior.encode_text([text]).expand(N), cameras) for text in ("a red mug", "")
    )
    return Batch(images, Conditions(text, nothing), cameras)


def generators():
    return [torch.Generator().manual_seed(seed) for seed in range(N)]


def images():
    drawn = torch.rand(N, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    return drawn.requires_grad_()


def gradient(estimator, prior, cameras=CAMERAS):
    x = images()
    found = estimator(batch_of(prior, x, cameras), progress=Progress(5, 50), generator=generators())
    return grad(found.losses[estimator.settings.name], x)[0]


def test_untrained_vsd_equals_csd(prior):
    """e_phi = e_text, so that e_hat - e_phi = (s - 1) (e_text - e_nothing)."""
    csd = gradient(CSDSettings(guidance=Schedule.constant(6.5)).build(prior, seed=0), prior)
    vsd = gradient(VSDSettings().build(prior, seed=0), prior)
    torch.testing.assert_close(vsd, csd, rtol=1e-4, atol=1e-8)


@torch.no_grad()  # as estimators call it: with gradients, a batch is not split into pieces
def test_the_prior_itself_stays_as_it_is(prior):
    noisy, times = torch.randn(N, *prior.shape), torch.full((N,), 300)
    condition = batch_of(prior, images()).conditions.text
    before = prior.predict(noisy, times, condition)
    estimator = VSDSettings(adapter_lr=0.05).build(prior, seed=0)
    with torch.enable_grad():
        for _ in range(3):
            gradient(estimator, prior)
    assert prior.predict(noisy, times, condition).equal(before)
    assert not estimator.adapted.predict(noisy, times, condition).equal(before)
    own = {name.split("/")[-2] for name in estimator.adapted.adapters}
    assert own == {"dreamfusion"}
    assert all(p.dtype == torch.float32 for p in estimator.parameters)


@pytest.mark.slow
def test_adapters_learn_the_rendered_images(prior):
    estimator = VSDSettings(adapter_lr=0.01, rank=8).build(prior, seed=0)
    x = torch.full((N, 3, 16, 16), 0.9)
    given = batch_of(prior, x)
    noise = torch.randn(N, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    z = add_noise(prior, prior.encode_image(x), noise, torch.tensor([200, 400, 600, 800]))

    def error():
        with torch.no_grad():
            (found,) = predictions(estimator.adapted, z, given.conditions.text)
        return float((found.noise - noise).square().mean())

    before = error()
    for step in range(25):
        own = [torch.Generator().manual_seed(100 * step + i) for i in range(N)]
        estimator(given, progress=Progress(5, 50), generator=own)
    assert error() < 0.95 * before  # adapters of attention only, in a random network


def test_adapters_are_conditioned_on_the_camera(prior):
    estimator = VSDSettings(adapter_lr=0.05, drop_camera=0.0).build(prior, seed=0)
    for _ in range(3):
        gradient(estimator, prior)
    noisy, times = torch.randn(N, *prior.shape), torch.full((N,), 300)
    condition = batch_of(prior, images()).conditions.text
    turned = replace(condition, cameras=turntable_cameras(N, elevation_deg=60.0))
    one, two = (estimator.adapted.predict(noisy, times, c) for c in (condition, turned))
    assert not torch.allclose(one, two, rtol=1e-3)


def test_images_without_cameras_can_be_distilled(prior):
    assert gradient(VSDSettings().build(prior, seed=0), prior, cameras=None).isfinite().all()


def test_the_state_of_vsd_resumes_bit_for_bit(folder):
    def fresh():
        prior = load_prior(str(folder))
        return VSDSettings(adapter_lr=0.01).build(prior, seed=0), prior

    one, prior = fresh()
    begun = {name: value.clone() for name, value in one.state_dict().items()}
    gradient(one, prior)
    kept = {name: value.clone() for name, value in one.state_dict().items()}
    after = gradient(one, prior), gradient(one, prior)
    two, other = fresh()
    two.load_state_dict(kept)
    assert all(torch.equal(gradient(two, other), wanted) for wanted in after)
    # Restore the initial state, as after a rollback to the first step.
    two.load_state_dict(begun)
    gradient(two, other)
    found = two.state_dict()
    assert kept.keys() == found.keys()
    assert all(found[name].equal(value) for name, value in kept.items())


def test_initial_adapters_depend_on_the_seed(folder):
    states = [
        VSDSettings().build(load_prior(str(folder)), seed=seed).state_dict() for seed in (0, 0, 1)
    ]
    name = next(name for name in states[0] if "lora_A" in name)
    assert states[0][name].equal(states[1][name]) and not states[0][name].equal(states[2][name])


def test_a_latent_prior_can_be_adapted(tmp_path):
    prior = load_prior(str(save_latent_prior(tmp_path / "sd")))
    assert gradient(VSDSettings().build(prior, seed=0), prior).isfinite().all()


def test_a_transformer_is_refused(tmp_path):
    prior = load_prior(str(save_sd3_prior(tmp_path / "sd3", t5=False)))
    with pytest.raises(PriorError, match="cannot be adapted: use a fresh prior with a U-Net"):
        VSDSettings().build(prior, seed=0)


def test_a_missing_peft_is_reported(prior, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PriorError, match=r"adapters need peft: pip install 'dreamfusion\[lora\]'"):
        VSDSettings().build(prior, seed=0)


def test_it_states_its_network_evaluations(prior):
    """Two for guidance, two for the adapters, and two for their backward pass."""
    seen = []
    prior.denoiser.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    settings = VSDSettings()
    gradient(settings.build(prior, seed=0), prior)
    assert sum(seen) / N + 2 == settings.evaluations
