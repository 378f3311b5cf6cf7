import pytest
import torch

from dreamfusion.scenes.nerf.mlp import TwoLayerPerceptron, two_layers


def test_outputs_and_gradients_agree_with_plain_layers_in_float64():
    generator = torch.Generator().manual_seed(0)
    shapes = [(20000, 7), (11, 7), (11,), (3, 11), (3,)]  # more than two blocks
    tensors = [torch.randn(*shape, generator=generator) for shape in shapes]
    grad = torch.randn(20000, 3, generator=generator)

    exact = [tensor.double().requires_grad_() for tensor in tensors]
    x, w1, b1, w2, b2 = exact
    expected = torch.relu(x @ w1.t() + b1) @ w2.t() + b2
    expected.backward(grad.double())

    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    out = two_layers(*leaves)
    out.backward(grad)
    torch.testing.assert_close(out.double(), expected, atol=1e-4, rtol=1e-5)
    for leaf, reference in zip(leaves, exact, strict=True):
        torch.testing.assert_close(leaf.grad.double(), reference.grad, atol=2e-2, rtol=1e-3)


@pytest.mark.parametrize("n_threads", [2, 3])
def test_bits_do_not_depend_on_the_number_of_threads(n_threads, one_thread):
    generator = torch.Generator().manual_seed(4)
    shapes = [(30000, 7), (11, 7), (11,), (3, 11), (3,)]
    tensors = [torch.randn(*shape, generator=generator) for shape in shapes]
    grad = torch.randn(30000, 3, generator=generator)

    def results():
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        out = two_layers(*leaves)
        out.backward(grad)
        return [out.detach(), *(leaf.grad for leaf in leaves)]

    expected = results()
    torch.set_num_threads(n_threads)
    for found, value in zip(results(), expected, strict=True):
        assert torch.equal(found, value)


def test_gradcheck():
    generator = torch.Generator().manual_seed(1)
    shapes = [(5, 3), (4, 3), (4,), (2, 4), (2,)]
    tensors = [
        torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in shapes
    ]
    assert torch.autograd.gradcheck(two_layers, tensors)


def test_first_outputs_equal_those_of_all_outputs():
    net = TwoLayerPerceptron(
        n_inputs=3, n_hidden=8, n_outputs=4, generator=torch.Generator().manual_seed(2)
    )
    x = torch.randn(10, 3, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(net(x, n_outputs=1), net(x)[:, :1])
    net(x, n_outputs=1).sum().backward()
    assert net.weight2.grad[1:].abs().sum() == 0


def test_no_points_and_nan():
    net = TwoLayerPerceptron(n_inputs=3, n_hidden=8, n_outputs=4)
    out = net(torch.zeros(0, 3))
    assert out.shape == (0, 4)
    out.sum().backward()
    assert net(torch.full((1, 3), torch.nan)).isnan().all()
