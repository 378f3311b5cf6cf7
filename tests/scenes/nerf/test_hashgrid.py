import pytest
import torch

from dreamfusion.scenes.nerf.hashgrid import ENCODING, HashGrid, encode, encode_reference
from dreamfusion.scenes.nerf.settings import FieldConfig
from dreamfusion.utils.backends import AcceleratorError
from tests.helpers.backends import every_encoding, skip_if_absent
from tests.helpers.encodings import (
    LAYOUT,
    LAYOUTS,
    assert_agrees_with_float64,
    layout_of,
    random_problem,
)


@every_encoding
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", LAYOUTS)
def test_backends_agree_with_float64_reference_values_and_gradients(backend, device, name, seed):
    skip_if_absent(backend, device)
    points, table, grad = random_problem(300, LAYOUTS[name], seed)
    assert_agrees_with_float64(backend, device, points, table, grad, LAYOUTS[name])


@every_encoding
@pytest.mark.parametrize("seed", [3, 4])
def test_backends_agree_on_faces_edges_and_vertices(backend, device, seed):
    skip_if_absent(backend, device)
    points, table, grad = random_problem(300, LAYOUT, seed)
    faces = torch.tensor([-1.0, -1.0 + 1e-7, -0.5, 0.0, 0.5, 1.0 - 1e-7, 1.0])
    picked = torch.randint(7, (300, 3), generator=torch.Generator().manual_seed(seed))
    points[:200] = faces[picked[:200]]
    points[200:, 1] = faces[picked[200:, 1]]
    assert_agrees_with_float64(backend, device, points, table, grad, LAYOUT)


@every_encoding
def test_gradients_with_other_strides_are_read_correctly(backend, device):
    skip_if_absent(backend, device)
    points, table, grad = random_problem(300)
    strided = grad.t().contiguous().t()
    apart = torch.stack([points, points], dim=1)[:, 0]
    assert not strided.is_contiguous() and not apart.is_contiguous()
    assert_agrees_with_float64(backend, device, apart, table, strided, LAYOUT)


@every_encoding
def test_many_points_in_one_cell_add_up(backend, device):
    skip_if_absent(backend, device)
    layout = LAYOUTS["one-cell"]
    points, table, grad = random_problem(1000, layout)
    assert_agrees_with_float64(backend, device, points, table, grad.abs(), layout)


def test_reference_point_gradient_is_the_derivative():
    generator = torch.Generator().manual_seed(1)
    points = (torch.rand(6, 3, generator=generator) * 1.8 - 0.9).double().requires_grad_()
    table = torch.randn(LAYOUT.n_rows, 4, generator=generator).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: encode_reference(p, table, LAYOUT), (points,))


@every_encoding
def test_vertices_return_their_own_features_on_dense_levels(backend, device):
    skip_if_absent(backend, device)
    layout = layout_of(1, 2, 12, 4, 4)
    table = torch.randn(layout.n_rows, 2, generator=torch.Generator().manual_seed(2))
    ticks = torch.linspace(-1, 1, 5)
    z, y, x = torch.meshgrid(ticks, ticks, ticks, indexing="ij")
    points = torch.stack([x, y, z], -1).reshape(-1, 3)
    out = encode(points.to(device), table.to(device), layout, backend=backend)
    torch.testing.assert_close(out.cpu(), table)


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


@every_encoding
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_points_never_crash_and_nan_is_not_hidden(backend, device, bad):
    skip_if_absent(backend, device)
    _, table, _ = random_problem(8)
    points = torch.zeros(3, 3)
    points[1, 2] = bad
    out = encode(points.to(device), table.to(device), LAYOUT, backend=backend).cpu()
    assert out[[0, 2]].isfinite().all()
    assert out[1].isnan().all() == (bad != bad)


@every_encoding
def test_zero_points_are_supported(backend, device):
    skip_if_absent(backend, device)
    table = random_problem(8)[1].to(device).requires_grad_()
    out = encode(torch.zeros(0, 3, device=device), table, LAYOUT, backend=backend)
    assert out.shape == (0, LAYOUT.n_outputs)
    out.sum().backward()
    assert table.grad.abs().sum() == 0


@pytest.mark.parametrize("backend", ["numba", "triton"])
def test_kernels_refuse_a_point_gradient_and_auto_provides_it(backend):
    skip_if_absent(backend, "cpu")
    points, table, _ = random_problem(8)
    points.requires_grad_()
    with pytest.raises(ValueError, match="no gradient for points"):
        encode(points, table, LAYOUT, backend=backend)
    encode(points, table, LAYOUT).sum().backward()
    assert points.grad.abs().sum() > 0


@pytest.mark.parametrize("backend", ["numba", "triton"])
def test_kernels_refuse_other_types_and_shapes(backend):
    skip_if_absent(backend, "cpu")
    points, table, _ = random_problem(8)
    with pytest.raises(ValueError, match="float32"):
        encode(points.double(), table, LAYOUT, backend=backend)
    with pytest.raises(ValueError, match="float32"):
        encode(points, table.double(), LAYOUT, backend=backend)
    with pytest.raises(ValueError, match=r"points must be \(m, 3\)"):
        ENCODING.kernels[backend]()(points[:, :2], table, LAYOUT)
    with pytest.raises(ValueError, match="table must be"):
        encode(points, table[1:], LAYOUT, backend=backend)


def test_an_unknown_backend_is_refused():
    points, table, _ = random_problem(8)
    with pytest.raises(ValueError, match="backend must be"):
        encode(points, table, LAYOUT, backend="cuda")


def test_tinycudann_supports_only_some_numbers_of_features():
    layout = layout_of(2, 3, 8, 2, 4)
    points, table, _ = random_problem(8, layout)
    with pytest.raises(
        AcceleratorError, match=r"supports scene\.field\.features of 1, 2, 4 or 8, not 3; "
    ):
        encode(points, table, layout, backend="tinycudann")


def test_layout_reaches_the_finest_resolution_and_fits_the_table():
    layout = HashGrid().layout
    assert layout.levels[0].resolution == 8
    assert layout.levels[-1].resolution == 128
    assert [level.dense for level in layout.levels] == [True] * 5 + [False] * 3
    assert layout.n_rows == sum(level.size for level in layout.levels)
    with pytest.raises(ValueError, match="max_resolution"):
        HashGrid(FieldConfig(base_resolution=32, max_resolution=16))


def test_same_generator_seed_gives_the_same_table():
    first, second = (HashGrid(generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first.table, second.table)
    assert first.table.abs().max() <= 1e-4
