"""The encoding in plain torch: the reference that all other backends are compared with."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dreamfusion.scenes.nerf.hashgrid.layout import HashGridLayout, make_layout
from dreamfusion.scenes.nerf.settings import HashGridConfig
from dreamfusion.utils.backends import check_close

# Mueller et al. 2022, eq. 4. Products are below 2^63, so int64 does not overflow. Only the low bits
# are used, which are the same as in the paper's 32-bit arithmetic.
PRIMES = (1, 2654435761, 805459861)


def encode_reference(
    points: Float[Tensor, "n 3"],
    table: Float[Tensor, "{layout.n_rows} {layout.n_features}"],
    layout: HashGridLayout,
) -> Float[Tensor, "n {layout.n_outputs}"]:
    """Trilinear interpolation of the features of each level's vertices, concatenated over levels.

    points: in the box [-1, 1]^3; points outside have the value at the nearest face. Differentiable
    in points and table; a non-finite point has non-finite features.
    """
    unit = (points * 0.5 + 0.5).clamp(0.0, 1.0)
    outputs = []
    for level in layout.levels:
        scaled = unit * level.resolution
        # NaN is in no cell: it is assigned to cell 0, and its weights make the result NaN.
        cell = torch.nan_to_num(scaled.detach()).floor().clamp(0, level.resolution - 1)
        fraction = scaled - cell
        x0, y0, z0 = cell.long().unbind(-1)
        features = torch.zeros((), dtype=table.dtype, device=table.device)
        for corner in range(8):
            dx, dy, dz = corner & 1, (corner >> 1) & 1, corner >> 2
            x, y, z = x0 + dx, y0 + dy, z0 + dz
            if level.dense:
                side = level.resolution + 1
                row = x + side * (y + side * z)
            else:
                row = (x ^ (y * PRIMES[1]) ^ (z * PRIMES[2])) & (level.size - 1)
            weight = torch.ones_like(fraction[:, 0])
            for axis, upper in enumerate((dx, dy, dz)):
                weight = weight * (fraction[:, axis] if upper else 1.0 - fraction[:, axis])
            features = features + weight[:, None] * table[level.offset + row]
        outputs.append(features)
    return torch.cat(outputs, dim=-1)


def check_inputs(backend: str, points: Tensor, table: Tensor, layout: HashGridLayout) -> None:
    """Raise ValueError for inputs that accelerators do not support: points that require a gradient
    (it would silently be missing), other types than float32, several devices, wrong shapes."""
    if points.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"the {backend} hash grid gives no gradient for points; use backend='reference', "
            "or finite differences"
        )
    for name, tensor in (("points", points), ("table", table)):
        if tensor.dtype != torch.float32 or tensor.device != table.device:
            raise ValueError(
                f"the {backend} hash grid takes float32 tensors on one device; {name} is "
                f"{tensor.dtype} on {tensor.device}; use backend='reference'"
            )
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points must be (m, 3), not {tuple(points.shape)}")
    if tuple(table.shape) != (layout.n_rows, layout.n_features):
        raise ValueError(
            f"table must be {(layout.n_rows, layout.n_features)}, not {tuple(table.shape)}"
        )


class KernelEncoding(torch.autograd.Function):
    """The encoding by kernels, differentiable in the table only. launch: writes the values for a
    table; with backward=True, adds the gradients of values to those of the table."""

    @staticmethod
    def forward(
        ctx: Any, points: Tensor, table: Tensor, layout: HashGridLayout, launch: Callable[..., None]
    ) -> Tensor:
        values = table.new_empty(points.shape[0], layout.n_outputs)
        launch(points, table, values, layout, backward=False)
        ctx.save_for_backward(points)
        ctx.layout, ctx.launch = layout, launch
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[None, Tensor, None, None]:
        (points,) = ctx.saved_tensors
        grad_table = grad_out.new_zeros(ctx.layout.n_rows, ctx.layout.n_features)
        ctx.launch(points, grad_table, grad_out.contiguous(), ctx.layout, backward=True)
        return None, grad_table, None, None


def check_encoding(encode: Callable[[Tensor, Tensor, HashGridLayout], Tensor], device: str) -> None:
    """Raise RuntimeError if values or gradients at a few points differ from the reference's."""
    layout = make_layout(HashGridConfig(2, 4, 8, base_resolution=4, max_resolution=40))
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
