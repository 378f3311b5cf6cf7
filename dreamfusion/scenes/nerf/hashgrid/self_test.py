"""The self-test of accelerated encodings, with a dense and a hashed level."""

from collections.abc import Callable

import torch
from torch import Tensor

from dreamfusion.scenes.nerf.hashgrid.layout import HashGridLayout, make_layout
from dreamfusion.scenes.nerf.hashgrid.reference import encode_reference
from dreamfusion.utils.backends import check_close


def check_encoding(encode: Callable[[Tensor, Tensor, HashGridLayout], Tensor], device: str) -> None:
    """Raise RuntimeError if values or gradients at a few points differ from the reference's."""
    layout = make_layout(
        n_levels=2, n_features=4, log2_table_size=8, base_resolution=4, max_resolution=40
    )
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(64, 3, generator=generator) * 2.0 - 1.0
    table = torch.randn(layout.n_rows, 4, generator=generator)
    grad = torch.randn(64, layout.n_outputs, generator=generator)
    expected = table.clone().requires_grad_()
    value = encode_reference(points, expected, layout)
    value.backward(grad)
    leaf = table.to(device).requires_grad_()
    out = encode(points.to(device), leaf, layout)
    out.backward(grad.to(device))
    if leaf.grad is None or expected.grad is None:
        raise RuntimeError("it gives no gradient")
    check_close("encoding", out.detach().cpu(), value.detach())
    check_close("encoding's gradient", leaf.grad.cpu(), expected.grad)
