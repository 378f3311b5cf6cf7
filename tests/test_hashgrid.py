import pytest
import torch

from dreamfusion.hashgrid import HashGrid, encode, encode_reference
from dreamfusion.hashgrid.layout import make_layout

# Three levels are dense, two are hashed.
LAYOUT = make_layout(
    n_levels=5, n_features=4, log2_table_size=12, base_resolution=4, max_resolution=40
)


def random_problem(n: int = 3000) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(n, 3, generator=generator) * 2.2 - 1.1  # some lie outside the box
    points[:4] = torch.tensor([[-1.0, -1, -1], [1, 1, 1], [0, 0, 0], [1, -1, 0]])
    table = torch.randn(LAYOUT.n_rows, LAYOUT.n_features, generator=generator)
    grad = torch.randn(n, LAYOUT.n_outputs, generator=generator)
    return points, table, grad


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_backends_agree_with_float64_reference_values_and_gradients(backend):
    points, table, grad = random_problem()
    exact_table = table.double().requires_grad_()
    # The points in float32, so that cells are the same.
    exact = encode_reference(points.double(), exact_table, LAYOUT)
    exact.backward(grad.double())

    table.requires_grad_()
    out = encode(points, table, LAYOUT, backend=backend)
    out.backward(grad)
    # Positions are scaled in float32: a coordinate is off by up to 1e-7 times 40 cells.
    torch.testing.assert_close(out.double(), exact, atol=3e-5, rtol=1e-5)
    torch.testing.assert_close(table.grad.double(), exact_table.grad, atol=3e-4, rtol=1e-5)


def test_reference_point_gradient_is_the_derivative():
    generator = torch.Generator().manual_seed(1)
    points = (torch.rand(6, 3, generator=generator) * 1.8 - 0.9).double().requires_grad_()
    table = torch.randn(LAYOUT.n_rows, 4, generator=generator).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: encode_reference(p, table, LAYOUT), (points,))


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_vertices_return_their_own_features_on_dense_levels(backend):
    layout = make_layout(
        n_levels=1, n_features=2, log2_table_size=12, base_resolution=4, max_resolution=4
    )
    table = torch.randn(layout.n_rows, 2, generator=torch.Generator().manual_seed(2))
    ticks = torch.linspace(-1, 1, 5)
    z, y, x = torch.meshgrid(ticks, ticks, ticks, indexing="ij")
    points = torch.stack([x, y, z], -1).reshape(-1, 3)
    torch.testing.assert_close(encode(points, table, layout, backend=backend), table)


def test_backward_gives_the_same_bits_for_any_number_of_threads():
    points, table, grad = random_problem(20000)
    results = []
    before = torch.get_num_threads()
    try:
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            leaf = table.clone().requires_grad_()
            out = encode(points, leaf, LAYOUT, backend="numba")
            out.backward(grad)
            results.append((out.detach(), leaf.grad))
    finally:
        torch.set_num_threads(before)
    for out, leaf_grad in results[1:]:
        assert torch.equal(out, results[0][0])
        assert torch.equal(leaf_grad, results[0][1])


@pytest.mark.parametrize("backend", ["reference", "numba"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_points_never_crash_and_nan_is_not_hidden(backend, bad):
    _, table, _ = random_problem(8)
    points = torch.zeros(3, 3)
    points[1, 2] = bad
    out = encode(points, table, LAYOUT, backend=backend)
    assert out[[0, 2]].isfinite().all()
    assert out[1].isnan().all() == (bad != bad)


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_no_points_are_fine(backend):
    _, table, _ = random_problem(8)
    table.requires_grad_()
    out = encode(torch.zeros(0, 3), table, LAYOUT, backend=backend)
    assert out.shape == (0, LAYOUT.n_outputs)
    out.sum().backward()
    assert table.grad.abs().sum() == 0


def test_numba_refuses_a_point_gradient_and_auto_provides_it():
    points, table, _ = random_problem(8)
    points.requires_grad_()
    with pytest.raises(ValueError, match="no gradient for points"):
        encode(points, table, LAYOUT, backend="numba")
    encode(points, table, LAYOUT).sum().backward()
    assert points.grad.abs().sum() > 0


def test_numba_refuses_other_types():
    points, table, _ = random_problem(8)
    with pytest.raises(ValueError, match="float32"):
        encode(points.double(), table, LAYOUT, backend="numba")
    with pytest.raises(ValueError, match="backend must be"):
        encode(points, table, LAYOUT, backend="cuda")


def test_layout_reaches_the_finest_resolution_and_fits_the_table():
    layout = HashGrid().layout
    assert layout.levels[0].resolution == 8
    assert layout.levels[-1].resolution == 128
    assert [level.dense for level in layout.levels] == [True] * 5 + [False] * 3
    assert layout.n_rows == sum(level.size for level in layout.levels)
    with pytest.raises(ValueError, match="max_resolution"):
        HashGrid(base_resolution=32, max_resolution=16)


def test_same_generator_seed_gives_the_same_table():
    first, second = (HashGrid(generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first.table, second.table)
    assert first.table.abs().max() <= 1e-4
