"""Compares every estimator with its formula and with others, for priors in closed form."""

from dataclasses import replace

import pytest
import torch
from torch.autograd import grad

from dreamfusion.config.schedules import Schedule
from dreamfusion.config.sections import ESTIMATORS, find_section, section_names
from dreamfusion.diffusion.ddim import invert
from dreamfusion.diffusion.predictions import guided, predictions
from dreamfusion.distillation.base import dreamtime_level
from dreamfusion.utils.errors import UserError
from dreamfusion.utils.state import Progress
from tests.helpers.mixtures import KINDS, NAMES, Mixture, T, batch, text

OWN = (
    "asd", "bridge", "cfd", "csd", "dds", "diffusion_loss", "hifa", "ism", "nfsd", "rfds", "sdi",
    "sds", "sjc", "sync", "vsd",
)  # fmt: skip
NEEDS_NO_NETWORK = [name for name in OWN if name not in ("vsd", "cfd")]
N = 4
C = Schedule.constant
NOW = Progress(30, 100)


def settings(name, **changes):
    return replace(find_section(ESTIMATORS, name)(), **changes)


def images(n=N, seed=9):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(n, 1, 2, 2, generator=generator, dtype=torch.float64)
    return drawn.requires_grad_()


def generators(n=N):
    return [torch.Generator().manual_seed(seed) for seed in range(n)]


def gradient(name, kind="epsilon", *, x=None, now=NOW, source=None, **changes):
    """The gradient of the sum over all elements, and the result."""
    x = images() if x is None else x
    estimator = settings(name, **changes).build(Mixture(kind), seed=0)
    given = batch(x, source=source)
    found = estimator(given, progress=now, generator=generators(len(x)))
    (result,) = grad(found.losses[name], x)
    return result * x.numel(), found


class Formula:
    """The random numbers of an estimator, and their posterior means, computed separately."""

    def __init__(self, kind, timesteps, x):
        self.prior, self.x, self.t = Mixture(kind), x.detach(), timesteps

    def levels(self, t):
        return (v[t].reshape(-1, 1, 1, 1) for v in (self.prior.alphas, self.prior.sigmas))

    def drawn_noise(self, generators):
        """The noise that `utils.rng.randn` samples after the timesteps."""
        for one in generators:
            torch.randint(0, 2, (1,), generator=one)
        return torch.cat([torch.randn(1, 1, 2, 2, generator=one) for one in generators])

    def noise(self, z, t, condition):
        """e_hat(z) = (z - alpha D(z)) / sigma."""
        alpha, sigma = self.levels(t)
        means = condition.text.tokens.unflatten(-1, (1, 2, 2))
        return (z - alpha * self.prior.clean(z, alpha, sigma, means)) / sigma

    def guided(self, z, t, s, to=None, away=None):
        to, away = to or text(0, N), away or text(1, N)
        none = self.noise(z, t, away)
        return none + s * (self.noise(z, t, to) - none)


def expected(name, kind, found, x, s, w, source=None):
    """The papers' formulas for predictions in closed form."""
    f = Formula(kind, found.timesteps, x)
    t, noise = found.timesteps, f.drawn_noise(generators())
    alpha, sigma = f.levels(t)
    z = alpha * f.x + sigma * noise
    weight = {"sigma2": sigma**2, "uniform": 1.0, "inverse_sqrt_snr": sigma / alpha,
              "velocity": 1 / alpha}[w]  # fmt: skip
    text_, none = f.noise(z, t, text(0, N)), f.noise(z, t, text(1, N))
    named = {name: text(seed, N) for seed, name in enumerate(NAMES, 2)}
    if name in ("sds", "sjc", "rfds", "hifa"):
        return weight * (f.guided(z, t, s) - noise)
    if name == "csd":
        return weight * s * (text_ - 0.75 * none - 0.25 * f.noise(z, t, named["negative"]))
    if name == "nfsd":
        negative = f.noise(z, t, named["negative"])
        low = (t < 0.2 * T).reshape(-1, 1, 1, 1)
        return weight * (s * (text_ - none) + none - torch.where(low, 0.0, 1.0) * negative)
    if name == "bridge":
        return weight * s * (f.noise(z, t, named["wanted"]) - f.noise(z, t, named["flawed"]))
    if name == "dds":
        z_source = alpha * source + sigma * noise
        before = f.guided(z_source, t, s, to=named["source"])
        return weight * (f.guided(z, t, s) - before)
    if name == "asd":
        # One more number is sampled for each image.
        own = generators()
        f.drawn_noise(own)
        share = torch.cat([torch.rand(1, generator=one) for one in own])
        later = t + (0.1 * share * (t - 0.02 * T)).long()
        alpha, sigma = f.levels(later)
        return weight * (
            f.guided(z, t, s) - f.noise(alpha * f.x + sigma * noise, later, text(0, N))
        )
    raise AssertionError(name)


PLAIN = ("asd", "bridge", "csd", "dds", "hifa", "nfsd", "rfds", "sds", "sjc")


@pytest.mark.parametrize("weighting", ["sigma2", "uniform", "inverse_sqrt_snr", "velocity"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PLAIN)
def test_gradients_equal_the_formulas(name, kind, weighting):
    more = {"t_min": C(0.1), "t_max": C(0.9)} if name in ("hifa", "rfds", "sjc") else {}
    if name == "csd":
        more["negative_share"] = C(0.25)
    if name == "asd":
        more["t_min"] = C(0.02)
    if name == "bridge":
        more["switch"] = 0.2
    x, source = images(), images(seed=3).detach()
    result, found = gradient(
        name, kind, x=x, source=lambda: source, guidance=C(5.0), weighting=weighting, **more
    )
    wanted = expected(name, kind, found, x, 5.0, weighting, source)
    torch.testing.assert_close(result, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_diffusion_loss_includes_the_networks_jacobian(kind):
    x = images()
    result, found = gradient("diffusion_loss", kind, x=x, guidance=C(3.0))
    f = Formula(kind, found.timesteps, x)
    alpha, sigma = f.levels(found.timesteps)
    noise = f.drawn_noise(generators())
    again = x.detach().requires_grad_()
    error = f.guided(alpha * again + sigma * noise, found.timesteps, 3.0) - noise
    (wanted,) = grad(0.5 * (sigma**2 * error.square()).sum(), again)
    torch.testing.assert_close(result, wanted, rtol=1e-5, atol=1e-6)
    sds, _ = gradient("sds", kind, x=x, guidance=C(3.0))
    assert not torch.allclose(result, sds, rtol=0.1)


def test_sync_fits_to_one_prediction_for_several_steps():
    x, y = images(), images(seed=2)
    estimator = settings("sync", fit_steps=3, guidance=C(5.0)).build(Mixture(), seed=0)

    def at(step, x):
        found = estimator(batch(x), progress=Progress(step, 30), generator=generators())
        return grad(found.losses["sync"], x)[0] * x.numel(), found.timesteps

    first, timesteps = at(3, x)
    same, _ = gradient(
        "sds", x=x, now=Progress(3, 30), guidance=C(5.0), weighting="inverse_sqrt_snr",
        t_min=settings("sync").t_min, t_max=settings("sync").t_max,
    )  # fmt: skip
    # At the first level sigma / alpha is within its bound.
    torch.testing.assert_close(first, same)
    then, later = at(4, y)
    torch.testing.assert_close(then - first, (y - x).detach())
    assert later.equal(timesteps)
    kept = {name: value.clone() for name, value in estimator.state_dict().items()}
    again, lower = at(6, y)
    assert (lower < timesteps).all() and not torch.allclose(again, then)
    estimator.load_state_dict(kept)
    torch.testing.assert_close(at(5, y)[0], then)
    estimator.load_state_dict({})
    assert estimator.state_dict() == {}
    assert settings("sync").hold == 10 and settings("sds").hold == 1


def test_hifa_pulls_images_to_the_decoded_prediction():
    x = images()
    result, found = gradient("hifa", x=x, guidance=C(5.0), weighting="inverse_sqrt_snr")
    (image,) = grad(found.losses["hifa_image"], x)
    # At this weighting the gradient of latents is x - x_hat too.
    torch.testing.assert_close(image * x.numel(), 0.01 * 2 * result)
    assert len(set(found.timesteps.tolist())) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_inversion_follows_the_known_trajectory_of_a_gaussian(kind):
    """(z - alpha m) / sqrt(alpha^2 d^2 + sigma^2) is constant along DDIM's flow."""
    prior, x, one = Mixture(kind), images().detach(), text(0, N, k=1)
    path = [torch.full((N,), t) for t in range(1, T - 10)]
    found = invert(prior, x, path, lambda z: predictions(prior, z, one)[0])
    z, _ = found[-1]
    mean = one.text.tokens[:, 0].reshape(N, 1, 2, 2)
    start_alpha, start_sigma = (1.0, 0.0)
    if kind == "sample":
        start_alpha, start_sigma = prior.alphas[0], prior.sigmas[0]
    start = (start_alpha * x - start_alpha * mean) / (
        (start_alpha * prior.deviation) ** 2 + start_sigma**2
    ) ** 0.5
    end = (z.value - z.alpha * mean) / ((z.alpha * prior.deviation) ** 2 + z.sigma**2).sqrt()
    torch.testing.assert_close(end, start, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_ism_is_the_difference_of_two_predictions_on_one_trajectory(kind):
    x = images()
    result, found = gradient(
        "ism", kind, x=x, guidance=C(4.0), interval=C(0.1), inversion_steps=2, t_min=C(0.3)
    )
    f, t = Formula(kind, found.timesteps, x), found.timesteps
    s = t - round(0.1 * T)
    z, before = f.x, (torch.ones(N, 1, 1, 1).double(), torch.zeros(N, 1, 1, 1).double())
    if kind == "sample":
        before = tuple(f.levels(torch.zeros(N, dtype=torch.int64)))
        z = before[0] * z
    at = torch.zeros(N, dtype=torch.int64)
    for target in (s // 2, s, t):
        means = text(1, N).text.tokens.unflatten(-1, (1, 2, 2))
        # The model is evaluated on a clean image at its first timestep.
        alpha, sigma = f.levels(at)
        noise = (z - alpha * f.prior.clean(z, alpha, sigma, means)) / sigma
        raw_noise = noise
        if before[1].sum() == 0:
            clean = z  # sigma is 0, whatever the prediction
            if kind == "v_prediction":
                raw_noise = alpha * noise - sigma * f.prior.clean(z, alpha, sigma, means)
            if kind == "flow":
                raw_noise = z + (noise - f.prior.clean(z, alpha, sigma, means))
        else:
            clean = (z - sigma * noise) / alpha
        before = tuple(f.levels(target))
        z, at = before[0] * clean + before[1] * raw_noise, target
    alpha, sigma = f.levels(t)
    wanted = sigma / alpha * (f.guided(z, t, 4.0) - raw_noise)
    torch.testing.assert_close(result, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
def test_ism_from_the_image_is_sdi_with_one_unconditional_step(kind):
    levels = {"t_min": C(0.3), "t_max": C(0.8), "guidance": C(4.0)}
    ism, one = gradient("ism", kind, interval=C(1.0), **levels)
    sdi, two = gradient(
        "sdi", kind, inversion_steps=1, inversion_guidance=0.0, inversion_noise=0.0, **levels
    )
    assert one.timesteps.equal(two.timesteps)
    torch.testing.assert_close(ism, sdi)


def test_sdi_moves_to_the_denoised_inversion():
    x = images()
    result, found = gradient("sdi", x=x, inversion_noise=0.0, now=Progress(50, 101))
    level = round(0.615 * T)
    assert found.timesteps.tolist() == [level] * N
    prior, given = Mixture(), batch(x)

    path = [torch.full((N,), level * (i + 1) // 6) for i in range(6)]
    ask = given.conditions
    z, _ = invert(prior, x.detach(), path, lambda z: guided(prior, z, ask, -6.5))[-1]
    torch.testing.assert_close(result, x.detach() - guided(prior, z, ask, 8.5).clean)
    noisy, _ = gradient("sdi", x=x, inversion_noise=0.3, now=Progress(50, 101))
    assert 0.001 < (noisy - result).std() < 0.5


def test_methods_that_are_algebraically_equal_agree():
    levels = {"t_min": C(0.1), "t_max": C(0.9)}
    with_guidance, _ = gradient("sds", guidance=C(6.0), **levels)
    without, _ = gradient("sds", guidance=C(0.0), **levels)
    csd, _ = gradient("csd", guidance=C(6.0), **levels)
    torch.testing.assert_close(csd, with_guidance - without)
    # sjc and rfds are sds with other weightings.
    one, _ = gradient("sjc", guidance=C(6.0), **levels)
    two, _ = gradient("sds", guidance=C(6.0), weighting="uniform", **levels)
    torch.testing.assert_close(one, two)
    # bridge before its switch is sds.
    bridge, _ = gradient("bridge", guidance=C(6.0), **levels)
    torch.testing.assert_close(bridge, with_guidance)
    # dds of an unchanged scene with the same text is zero.
    x = images()
    given = batch(x, source=lambda: x.detach())
    named = {**given.conditions.named, "source": given.conditions.text}
    given = replace(given, conditions=replace(given.conditions, named=named))
    estimator = settings("dds").build(Mixture(), seed=0)
    found = estimator(given, progress=NOW, generator=generators())
    (result,) = grad(found.losses["dds"], x)
    assert result.abs().max() < 1e-15


def test_nfsd_without_its_domain_term_is_csd():
    x = images()
    given = batch(x)
    named = {**given.conditions.named, "negative": given.conditions.unconditional}
    given = replace(given, conditions=replace(given.conditions, named=named))
    results = []
    for name, more in (("nfsd", {"clean_below": 0.0}), ("csd", {})):
        estimator = settings(name, guidance=C(3.0), **more).build(Mixture(), seed=0)
        found = estimator(given, progress=NOW, generator=generators())
        results += grad(found.losses[name], x)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["sds", "csd", "rfds"])
def test_the_expectation_over_noise_is_that_of_a_gaussian(name, kind):
    """For one normal distribution, predictions are linear: their mean over the noise is that
    without noise."""
    n, level = 40_000, 0.5
    x = images(1).detach().expand(n, -1, -1, -1).clone().requires_grad_()
    s = settings(name, guidance=C(2.0), t_min=C(level), t_max=C(level), weighting="uniform")
    prior = Mixture(kind)
    found = s.build(prior, seed=0)(
        batch(x, k=1), progress=NOW, generator=torch.Generator().manual_seed(0)
    )
    (each,) = grad(found.losses[name], x)
    each = each * x.numel()
    t = found.timesteps[:1]
    f = Formula(kind, t, x[:1])
    alpha, _ = f.levels(t)
    z = alpha * f.x
    one, none = text(0, 1, k=1), text(1, 1, k=1)
    wanted = f.guided(z, t, 2.0, one, none)
    if name == "csd":
        wanted = 2.0 * (f.noise(z, t, one) - f.noise(z, t, none))
    error = each.mean(0) - wanted[0]
    assert (error.abs() < 5 * each.std(0) / n**0.5 + 1e-12).all()


def test_the_errors_of_velocities_stay_finite_where_alpha_vanishes():
    """The loss of RFDS cannot be expressed by noise there: e_hat - e = alpha (v_hat - v)."""
    prior = Mixture("flow")
    prior.alphas[-1], prior.sigmas[-1] = 0.0, 1.0
    x = images()
    estimator = settings("rfds", t_min=C(1.0), t_max=C(1.0), guidance=C(2.0)).build(prior, seed=0)
    found = estimator(batch(x), progress=NOW, generator=generators())
    (result,) = grad(found.losses["rfds"], x)
    means = [one.text.tokens.unflatten(-1, (1, 2, 2)).mean(1) for one in (text(0, N), text(1, N))]
    clean = means[1] + 2.0 * (means[0] - means[1])
    torch.testing.assert_close(result * x.numel(), x.detach() - clean)


@pytest.mark.parametrize("name", NEEDS_NO_NETWORK)
def test_rows_do_not_depend_on_other_rows(name):
    """So that two processes take the same step as one."""
    x, source = images(), images(seed=3).detach()
    more = {"clip_sample": 2.0, "rescale": 0.5, "t_min": C(0.2), "t_max": C(0.9)}
    if name == "sdi":
        more["inversion_noise"] = 0.3
    whole, _ = gradient(name, x=x, source=lambda: source, **more)
    halves = []
    for part in (slice(0, 2), slice(2, 4)):
        half = x.detach()[part].requires_grad_()
        estimator = settings(name, **more).build(Mixture(), seed=0)
        found = estimator(
            batch(half, source=lambda part=part: source[part]),
            progress=NOW,
            generator=generators()[part],
        )
        halves.append(grad(found.losses[name], half)[0] * half.numel())
    torch.testing.assert_close(torch.cat(halves), whole)


def test_all_declared_estimators_are_tested():
    declared = {name for name in section_names(ESTIMATORS) if "-" not in name}
    assert declared == {*OWN, "clip"}  # which has no noise, and separate tests


@pytest.mark.parametrize("name", OWN)
def test_a_prior_without_noise_is_an_error_of_one_line(name):
    class Judge:
        name = "some-judge"

    with pytest.raises(UserError, match="needs a diffusion prior, not some-judge"):
        settings(name).build(Judge(), seed=0)


@pytest.mark.parametrize(
    ("name", "lacks", "message"),
    [
        ("vsd", "adapted", "'vsd' needs a prior that adapters can be trained for, which mixture"),
        ("hifa", "decode_image", "'hifa' needs a prior that decodes images, which mixture does"),
    ],
)
def test_missing_abilities_of_a_prior_are_errors_of_one_line(name, lacks, message, monkeypatch):
    monkeypatch.delattr(Mixture, lacks, raising=False)
    with pytest.raises(UserError, match=message):
        settings(name).build(Mixture(), seed=0)


def test_an_edit_of_nothing_is_refused():
    with pytest.raises(UserError, match="'dds' edits an existing scene: set start=RUN"):
        gradient("dds")


def test_pixels_are_clipped():
    x = images()
    plain, _ = gradient("sds", x=x, guidance=C(9.0))
    clipped, _ = gradient("sds", x=x, guidance=C(9.0), clip_pixels=0.5)
    norm = plain.norm(dim=1, keepdim=True)
    assert (norm > 0.5).any() and (norm < 0.5).any()
    torch.testing.assert_close(clipped, plain * (0.5 / norm.clamp(min=0.5)))


def test_fixed_noise_is_the_same_for_all_views_and_steps():
    estimator = settings("sds", noise="fixed").build(Mixture(), seed=5)
    one = estimator.noise((3, 1, 2, 2), generators(3), batch(images(3)), NOW)
    two = estimator.noise((2, 1, 2, 2), generators(2), batch(images(2)), Progress(80, 100))
    assert one[0].equal(one[2]) and one[0].equal(two[1]) and one.std() > 0.1


def test_dreamtime_spends_most_steps_at_medium_noise_levels():
    """On Stable Diffusion's noise levels, as in figure 4 of the paper."""
    prior = Mixture()
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    prior.alphas = (1 - betas).cumprod(0).sqrt()
    prior.sigmas = (1 - prior.alphas**2).sqrt()
    levels = torch.tensor([dreamtime_level(prior, Progress(i, 1000)) for i in range(1000)])
    assert levels[0] > 0.99 and levels[-1] < 0.4
    assert (levels.diff() <= 0).all()
    inside = ((levels >= 0.5) & (levels <= 0.8)).float().mean()
    assert 0.3 < inside < 0.6


def test_the_state_of_slowly_changing_noise_is_saved():
    estimator = settings("cfd", noise_refresh=0.3).build(Mixture(), seed=1)
    source = estimator.anchored
    assert estimator.state_dict() == {}
    for step in range(3):
        source._numbers(1, torch.device("cpu"), step)
    kept = {name: value.clone() for name, value in estimator.state_dict().items()}
    after = source._numbers(1, torch.device("cpu"), 3).clone()
    assert after.var() == pytest.approx(1.0, abs=0.02)
    correlation = (after * kept["surface_noise"]).mean()
    assert correlation == pytest.approx(0.7**0.5, abs=0.02)
    other = settings("cfd", noise_refresh=0.3).build(Mixture(), seed=1)
    other.load_state_dict(kept)
    assert other.anchored._numbers(1, torch.device("cpu"), 3).equal(after)
    other.load_state_dict({name: value.clone() for name, value in kept.items()})
    assert other.anchored._numbers(1, torch.device("meta"), 3).device.type == "meta"
    other.load_state_dict({})
    assert other.state_dict() == {}
