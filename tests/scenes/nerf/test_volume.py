import math

import pytest
import torch

from dreamfusion.scenes.nerf.ray_marching import Samples
from dreamfusion.scenes.nerf.volume import accumulate, render_weights
from tests.helpers.backends import every_compositing, skip_if_absent


def pack(counts: list[int], step: float = 0.1) -> Samples:
    offsets = torch.tensor([0, *counts]).cumsum(0)
    ray_index = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    rank = torch.arange(int(offsets[-1])) - offsets[ray_index]
    t = 1.0 + (rank + 0.5) * step
    positions = torch.stack([t, t * 0, t * 0], dim=-1)
    return Samples(positions=positions, t=t, ray_index=ray_index, offsets=offsets, step=step)


COUNTS = [3, 0, 7, 1, 0, 20]


def random_density(scale: float = 10.0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return scale * torch.rand(sum(COUNTS), generator=generator, dtype=dtype)


def on(device: str, samples: Samples) -> Samples:
    return Samples(
        positions=samples.positions.to(device),
        t=samples.t.to(device),
        ray_index=samples.ray_index.to(device),
        offsets=samples.offsets.to(device),
        step=samples.step,
    )


@every_compositing
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 1e3, 1e30])
def test_weights_and_final_transmittance_sum_to_one(backend, device, scale):
    skip_if_absent(backend, device)
    samples = on(device, pack(COUNTS))
    result = render_weights(random_density(scale).to(device), samples, backend=backend)
    total = accumulate(result.weights, torch.ones(len(samples), 1, device=device), samples)[:, 0]
    sums = (total + result.final_transmittance).cpu()
    torch.testing.assert_close(sums, torch.ones(len(COUNTS)))
    assert (result.final_transmittance[[1, 4]] == 1).all()


@every_compositing
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("counts", [COUNTS, [1], [0, 0, 5], [40] * 30], ids=str)
@pytest.mark.parametrize("scale", [0.0, 1e-3, 10.0, 1e4])
def test_backends_agree_with_float64_reference_values_and_gradients(
    backend, device, seed, counts, scale
):
    skip_if_absent(backend, device)
    samples = pack(counts)
    generator = torch.Generator().manual_seed(seed)
    density = scale * torch.rand(len(samples), generator=generator)
    upstream = torch.rand(len(samples), generator=generator)

    def outcome(density, samples, backend):
        density = density.clone().requires_grad_()
        out = render_weights(density, samples, backend=backend)
        up = upstream.to(density)
        loss = (out.weights * up).sum() + out.final_transmittance.square().sum()
        loss.backward()
        parts = (out.weights, out.final_transmittance, density.grad)
        return [part.detach().cpu().double() for part in parts]

    exact = outcome(density.double(), samples, "reference")
    found = outcome(density.to(device), on(device, samples), backend)
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-4)


@every_compositing
def test_no_samples_on_any_backend(backend, device):
    skip_if_absent(backend, device)
    density = torch.zeros(0, device=device, requires_grad=True)
    result = render_weights(density, on(device, pack([0, 0])), backend=backend)
    assert result.final_transmittance.tolist() == [1, 1]
    result.final_transmittance.sum().backward()


def test_nerfaccs_weights_equal_the_reference():
    nerfacc = pytest.importorskip("nerfacc")
    samples = pack([20] * 6)
    density = random_density(30.0).repeat(4)[:120]
    ours = render_weights(density, samples)
    middles, half = samples.t.view(6, 20), samples.step / 2
    weights, _, _ = nerfacc.render_weight_from_density(
        middles - half, middles + half, density.view(6, 20)
    )
    torch.testing.assert_close(ours.weights.view(6, 20), weights, atol=1e-5, rtol=1e-3)


def test_constant_density_has_the_closed_form():
    sigma, samples = 3.0, pack([5])
    result = render_weights(torch.full((5,), sigma), samples)
    i = torch.arange(5)
    torch.testing.assert_close(
        result.weights, torch.exp(-sigma * 0.1 * i) * (1 - math.exp(-sigma * 0.1))
    )
    torch.testing.assert_close(result.final_transmittance, torch.tensor([math.exp(-1.5)]))


def test_docstring_numbers():
    result = render_weights(torch.tensor([10.0, 10.0]), pack([2]))
    assert result.weights.tolist() == pytest.approx([0.632, 0.233], abs=1e-3)
    assert result.final_transmittance.item() == pytest.approx(0.135, abs=1e-3)


def test_nearer_samples_hide_farther_ones():
    result = render_weights(torch.tensor([1e4, 1e4, 0.0, 1e4]), pack([2, 2]))
    assert result.weights.tolist() == pytest.approx([1, 0, 0, 1], abs=1e-6)


def test_rays_are_independent():
    samples = pack(COUNTS)
    density = random_density()
    both = render_weights(density, samples).weights
    start = 0
    for count in COUNTS:
        alone = render_weights(density[start : start + count], pack([count])).weights
        assert torch.equal(both[start : start + count], alone)
        start += count


@every_compositing
@pytest.mark.parametrize("value", [0.0, 1e-30, 1e10, 1e38, math.inf])
def test_finite_with_finite_gradients_at_extreme_densities(backend, device, value):
    skip_if_absent(backend, device)
    density = random_density()
    density[[0, 4, 9, 15]] = value
    density = density.to(device).requires_grad_()
    result = render_weights(density, on(device, pack(COUNTS)), backend=backend)
    (result.weights.square().sum() + result.final_transmittance.sum()).backward()
    for tensor in (result.weights, result.final_transmittance, density.grad):
        assert tensor.isfinite().all()


def test_gradient_agrees_with_finite_differences():
    samples = pack([3, 0, 4])
    density = random_density(dtype=torch.float64)[:7].requires_grad_()

    def function(d):
        result = render_weights(d, samples)
        return result.weights, result.final_transmittance

    assert torch.autograd.gradcheck(function, (density,))


@every_compositing
def test_float32_is_accurate_behind_many_dense_rays(backend, device):
    skip_if_absent(backend, device)
    samples = pack([100] * 50)
    density = torch.full((5000,), 1e6)
    density[-100:] = 0.01
    result = render_weights(density.to(device), on(device, samples), backend=backend)
    exact = render_weights(density.double(), samples)
    found = result.weights.cpu().double()
    torch.testing.assert_close(found, exact.weights, rtol=1e-4, atol=1e-12)


def test_numba_refuses_double_densities_and_auto_uses_torch():
    density, samples = random_density(dtype=torch.float64), pack(COUNTS)
    assert render_weights(density, samples).weights.dtype == torch.float64
    with pytest.raises(ValueError, match="numba supports compositing in float32 only"):
        render_weights(density, samples, backend="numba")


@every_compositing
def test_nan_is_not_hidden(backend, device):
    skip_if_absent(backend, device)
    density = random_density()
    density[4] = math.nan
    result = render_weights(density.to(device), on(device, pack(COUNTS)), backend=backend)
    assert result.weights[4:10].isnan().all()
    assert result.final_transmittance[2].isnan()
    assert result.weights[10:].isfinite().all()


def test_no_samples():
    density = torch.zeros(0, requires_grad=True)
    result = render_weights(density, pack([0, 0]))
    assert result.final_transmittance.tolist() == [1, 1]
    result.final_transmittance.sum().backward()


def test_accumulate_sums_per_ray():
    samples = pack([2, 0, 1])
    out = accumulate(torch.tensor([1.0, 2, 3]), torch.tensor([[1.0], [10], [100]]), samples)
    assert out.tolist() == [[21], [0], [300]]
