"""A two-layer perceptron for millions of points, computed in blocks that fit into a core's cache.

If each layer is computed for all points at once, a CPU spends most of the time on moving the hidden
layer to memory and back. Here only inputs and outputs are stored in memory; the backward pass
recomputes the hidden layer.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamfusion.utils.threads import run_all

T = TypeVar("T")

_BLOCK = 8192


def _forward(w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, x: Tensor, out: Tensor) -> None:
    hidden = torch.addmm(b1, x, w1.t()).relu_()
    torch.addmm(b2, hidden, w2.t(), out=out)


def _backward(
    w1: Tensor, b1: Tensor, w2: Tensor, x: Tensor, grad: Tensor, grad_x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    hidden = torch.addmm(b1, x, w1.t()).relu_()
    grad_hidden = torch.ops.aten.threshold_backward(torch.mm(grad, w2), hidden, 0)
    torch.mm(grad_hidden, w1, out=grad_x)
    return grad_hidden.t() @ x, grad_hidden.sum(0), grad.t() @ hidden


class _TwoLayers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        ctx.save_for_backward(x, w1, b1, w2)
        out = x.new_empty(x.shape[0], w2.shape[0])
        _each(partial(_forward, w1, b1, w2, b2), x, out)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        x, w1, b1, w2 = ctx.saved_tensors
        grad_out = grad_out.contiguous()
        grad_x = torch.empty_like(x)
        block = partial(_backward, w1, b1, w2)
        gradients = zip(*_each(block, x, grad_out, grad_x), strict=True)
        grad_w1, grad_b1, grad_w2 = (torch.stack(parts).sum(0) for parts in gradients)
        return grad_x, grad_w1, grad_b1, grad_w2, grad_out.sum(0)


def _each(block: Callable[..., T], *tensors: Tensor) -> list[T]:
    """Call `block` with the same rows of all tensors: in blocks on a CPU, else with all at once."""
    if tensors[0].device.type != "cpu":
        return [block(*tensors)]
    parts = zip(*(tensor.split(_BLOCK) for tensor in tensors), strict=True)
    return run_all([partial(block, *part) for part in parts])


def two_layers(
    x: Float[Tensor, "n i"],
    w1: Float[Tensor, "hidden i"],
    b1: Float[Tensor, " hidden"],
    w2: Float[Tensor, "o hidden"],
    b2: Float[Tensor, " o"],
) -> Float[Tensor, "n o"]:
    """relu(x w1^T + b1) w2^T + b2."""
    if x.shape[0] == 0:
        return torch.relu(x @ w1.t() + b1) @ w2.t() + b2
    return _TwoLayers.apply(x.contiguous(), w1, b1, w2, b2)


class TwoLayerPerceptron(nn.Module):
    """One hidden layer of `n_hidden` ReLU units; biases are initialised to zero."""

    def __init__(
        self,
        *,
        n_inputs: int,
        n_hidden: int,
        n_outputs: int,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()

        def uniform(rows: int, columns: int) -> nn.Parameter:
            bound = math.sqrt(6.0 / columns)
            start = torch.rand(rows, columns, generator=generator)
            return nn.Parameter((2.0 * start - 1.0) * bound)

        self.weight1 = uniform(n_hidden, n_inputs)
        self.bias1 = nn.Parameter(torch.zeros(n_hidden))
        self.weight2 = uniform(n_outputs, n_hidden)
        self.bias2 = nn.Parameter(torch.zeros(n_outputs))

    def forward(
        self, x: Float[Tensor, "n i"], *, n_outputs: int | None = None
    ) -> Float[Tensor, "n o"]:
        """All outputs, or the first `n_outputs` only."""
        w2, b2 = self.weight2[:n_outputs], self.bias2[:n_outputs]
        return two_layers(x, self.weight1, self.bias1, w2, b2)
