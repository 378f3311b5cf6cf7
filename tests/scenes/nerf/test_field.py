import pytest
import torch

from dreamfusion.scenes.nerf.field import Field
from dreamfusion.scenes.nerf.hashgrid import HashGrid
from dreamfusion.scenes.nerf.settings import FieldConfig


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_field(**settings) -> Field:
    sizes = {"levels": 3, "log2_table_size": 10, "max_resolution": 24, "hidden": 16}
    field = Field(FieldConfig(**sizes, **settings), generator=generator(1))
    field.encoding = HashGrid(field.settings, init_scale=0.5, generator=generator())
    return field


def points(n: int = 500) -> torch.Tensor:
    return torch.rand(n, 3, generator=generator(2)) * 1.8 - 0.9


@pytest.mark.parametrize("activation", ["softplus", "exp"])
@pytest.mark.parametrize("blob", ["linear", "gaussian", "none"])
def test_ranges_and_shapes(activation, blob):
    out = small_field(density_activation=activation, blob=blob)(points())
    assert out.density.shape == (500,) and (out.density >= 0).all()
    assert out.albedo.shape == (500, 3) and ((out.albedo > 0) & (out.albedo < 1)).all()


def test_starts_as_a_blob_in_the_middle():
    field = Field(generator=generator())
    radii = torch.tensor([0.0, 0.3, 0.5, 0.8])
    density = field.density(torch.stack([radii, radii * 0, radii * 0], dim=-1))
    expected = torch.nn.functional.softplus(10 * (1 - radii / 0.5))
    torch.testing.assert_close(density, expected, atol=0.01, rtol=0.01)


def test_density_alone_equals_density_with_color():
    field = small_field()
    torch.testing.assert_close(field.density(points()), field(points()).density)


def test_normals_of_the_blob_point_outwards():
    field = Field(generator=generator())
    p = points()
    p = p[p.norm(dim=-1) > 0.1]
    outwards = torch.nn.functional.normalize(p, dim=-1)
    assert ((field.normals(p) * outwards).sum(-1) > 0.99).all()


def test_normals_agree_with_the_analytic_gradient():
    field = small_field(normal_epsilon=1e-4).double()
    p = points().requires_grad_()
    field.double()
    (gradient,) = torch.autograd.grad(field.density(p.double()).sum(), p)
    analytic = torch.nn.functional.normalize(-gradient.double(), dim=-1)
    with torch.no_grad():
        cosine = (field.normals(p.double()) * analytic).sum(-1)
    # Differences across two cells of the grid include a kink.
    assert (cosine > 0.999).float().mean() > 0.98


def test_normals_are_differentiable_in_the_parameters():
    field = small_field()
    (field.normals(points()) ** 3).sum().backward()
    for parameter in field.parameters():
        assert parameter.grad.isfinite().all()
    assert field.encoding.table.grad.abs().sum() > 0


def test_exp_overflows_to_infinity_with_a_bounded_slope():
    field = small_field(density_activation="exp", blob="none")
    with torch.no_grad():
        field.mlp.weight2.zero_()
        field.mlp.bias2[0] = 20.0
    density = field.density(points(1))
    density.sum().backward()
    assert field.mlp.bias2.grad[0] == pytest.approx(float(torch.exp(torch.tensor(15.0))))
    with torch.no_grad():
        field.mlp.bias2[0] = 100.0
    assert field.density(points(1)).isinf().all()


def test_same_seed_same_field():
    first, second = (Field(generator=generator(7)) for _ in range(2))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "settings", [{"density_activation": "relu"}, {"blob": "cube"}, {"blob_radius": 0.0}]
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match=r"density_activation|blob"):
        Field(FieldConfig(**settings))


def test_inactive_levels_have_no_effect_and_no_gradient():
    field = small_field()
    everything = field.density(points())
    field.activate_levels(0.0)  # the coarsest of three is always active
    coarse = field.density(points())
    with torch.no_grad():
        for level in field.encoding.layout.levels[1:]:
            field.encoding.table[level.offset : level.offset + level.size] += 1.0
    torch.testing.assert_close(field.density(points()), coarse, rtol=0, atol=0)
    field.density(points()).sum().backward()
    first = field.encoding.layout.levels[0]
    assert field.encoding.table.grad[: first.size].any()
    assert not field.encoding.table.grad[first.size :].any()
    assert not torch.equal(coarse, everything)


def test_a_level_fades_in():
    field, opened = small_field(), small_field()
    field.activate_levels(1.5 / 3)
    with torch.no_grad():
        second = opened.encoding.layout.levels[1]
        opened.encoding.table[second.offset : second.offset + second.size] *= 0.5
        opened.encoding.table[second.offset + second.size :] = 0.0
    torch.testing.assert_close(field.density(points()), opened.density(points()))


def test_active_levels_are_part_of_the_state():
    field, other = small_field(), small_field()
    field.activate_levels(0.5)
    other.load_state_dict(field.state_dict())
    torch.testing.assert_close(other.density(points()), field.density(points()), rtol=0, atol=0)


@pytest.mark.parametrize("activation", ["softplus", "exp"])
def test_sharpness_multiplies_the_activations_argument(activation):
    field = small_field(density_activation=activation, blob="gaussian", blob_scale=1.0)
    activate = {"softplus": torch.nn.functional.softplus, "exp": torch.exp}[activation]
    inverse = {"softplus": lambda y: y.expm1().log(), "exp": torch.log}[activation]
    at = points()
    argument, normals = inverse(field.density(at)), field.normals(at)
    field.sharpen(8.0)
    torch.testing.assert_close(field.density(at), activate(8 * argument), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(field(at).density, field.density(at))
    torch.testing.assert_close(field.normals(at), normals)


def test_sharpness_is_part_of_the_state_and_defaults_to_one():
    field, other = small_field(), small_field()
    blunt = field.density(points())
    field.sharpen(4.0)
    state = field.state_dict()
    other.load_state_dict(state)
    torch.testing.assert_close(other.density(points()), field.density(points()), rtol=0, atol=0)
    other.load_state_dict({**state, "_extra_state": torch.tensor(3.0)})  # its levels, no more
    torch.testing.assert_close(other.density(points()), blunt, rtol=0, atol=0)
