"""Hash grids for tests of all encodings."""

import torch

from dreamfusion.scenes.nerf.hashgrid import HashGridLayout, encode, encode_reference
from dreamfusion.scenes.nerf.hashgrid.layout import make_layout
from dreamfusion.scenes.nerf.settings import HashGridConfig

# Three levels are dense, two are hashed.
LAYOUT = make_layout(
    HashGridConfig(levels=5, features=4, log2_table_size=12, base_resolution=4, max_resolution=40)
)


def layout_of(n_levels: int, n_features: int, log2: int, base: int, finest: int) -> HashGridLayout:
    return make_layout(HashGridConfig(n_levels, n_features, log2, base, finest))


LAYOUTS = {
    "mixed": LAYOUT,
    "one-dense-level": layout_of(1, 2, 12, 6, 6),
    "one-hashed-level": layout_of(1, 1, 8, 30, 30),
    "one-cell": layout_of(1, 4, 8, 1, 1),
    "big-tables": layout_of(2, 2, 19, 64, 2048),
    "eight-features": layout_of(3, 8, 10, 5, 19),
    "finest-level": layout_of(1, 1, 20, 8192, 8192),
}


def random_problem(
    n: int = 3000, layout: HashGridLayout = LAYOUT, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(n, 3, generator=generator) * 2.2 - 1.1  # some are outside the box
    points[:4] = torch.tensor([[-1.0, -1, -1], [1, 1, 1], [0, 0, 0], [1, -1, 0]])
    table = torch.randn(layout.n_rows, layout.n_features, generator=generator)
    grad = torch.randn(n, layout.n_outputs, generator=generator)
    return points, table, grad


def assert_agrees_with_float64(backend, device, points, table, grad, layout):
    """Compare values and gradients of a backend with the reference in float64."""
    exact_table = table.double().requires_grad_()
    exact = encode_reference(points.double(), exact_table, layout)
    exact.backward(grad.double())

    leaf = table.to(device, copy=True).requires_grad_()
    out = encode(points.to(device), leaf, layout, backend=backend)
    out.backward(grad.to(device))
    assert out.dtype == torch.float32 and leaf.grad.dtype == torch.float32
    # Positions are scaled in float32: the error of a coordinate is up to 1e-7 cells per axis.
    coordinate = 1e-6 * max(1, layout.levels[-1].resolution)
    torch.testing.assert_close(out.double().cpu(), exact, atol=coordinate, rtol=1e-5)
    torch.testing.assert_close(
        leaf.grad.double().cpu(), exact_table.grad, atol=10 * coordinate, rtol=1e-5
    )
