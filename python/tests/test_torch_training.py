"""Training on a GPU by the engine's kernels: which arrays they are given, seen through a learner for host memory that
reads and writes at the same addresses. The kernels themselves are tested on a GPU (``test_torch_cuda.py``)."""

import contextlib
import ctypes

import pytest

torch = pytest.importorskip("torch")

from kronsparse.torch import _training
from kronsparse.torch._ops import weight_gradient
from kronsparse.torch._products import by_products
from test_torch_autograd import SMALL, inputs
from torch.autograd import gradcheck, gradgradcheck

#: What the host's learner asks for, so that it can see whether it gets it.
PARTS = 7


class HostLearner:
    """``CudaLearner``'s methods by PyTorch, in float64, on addresses of host memory."""

    def __init__(self, shapes, bias):
        self.shapes, self.bias, self.calls = shapes, bias, []

    @staticmethod
    def at(address, *shape):
        count = torch.Size(shape).numel()
        return torch.frombuffer((ctypes.c_double * count).from_address(address), dtype=torch.float64).view(shape)

    def weights_at(self, addresses):
        return [self.at(address, *shape) for address, shape in zip(addresses, self.shapes, strict=True)]

    def parts_len(self, n, aligned):
        self.calls.append(("parts", n, aligned))
        return PARTS

    def forward_at(self, weights, bias, x, outputs, n, stream, capturing):
        self.calls.append(("forward", n))
        assert (bias != 0) == self.bias and not capturing and stream == 11
        weights = self.weights_at(weights)
        a, _, c, d = self.shapes[-1]
        h = self.at(x, n, a * c * d)
        for k in range(len(weights) - 1, -1, -1):
            last = None if k or not bias else self.at(bias, self.shapes[0][0] * self.shapes[0][1] * self.shapes[0][3])
            y = by_products(h, [weights[k]], last)
            h = self.at(outputs[k], *y.shape)
            h.copy_(y)

    def backward_at(
        self,
        weights,
        inputs,
        gradient,
        weight_gradients,
        bias_gradient,
        x_gradient,
        hidden,
        parts,
        n,
        stream,
        capturing,
    ):
        asked = [address != 0 for address in (*weight_gradients, bias_gradient, x_gradient)]
        self.calls.append(("backward", n, asked))
        assert (parts != 0) == any(asked[:-1]) and not capturing and stream == 11
        weights, (a, b, _, d) = self.weights_at(weights), self.shapes[0]
        v = self.at(gradient, n, a * b * d)
        if bias_gradient:
            self.at(bias_gradient, a * b * d).copy_(v.sum(0))
        if not x_gradient and not any(weight_gradients):
            return
        for k, (weight, shape) in enumerate(zip(weights, self.shapes)):
            a, _, c, d = shape
            if weight_gradients[k]:
                found = weight_gradient(v, self.at(inputs[k], n, a * c * d), shape)
                self.at(weight_gradients[k], *shape).copy_(found)
            if not x_gradient and not any(weight_gradients[k + 1 :]):
                break
            to = x_gradient if k + 1 == len(weights) else hidden[k % 2]
            back = self.at(to, n, a * c * d)
            back.copy_(by_products(v, [weight], None, True))
            v = back


@pytest.fixture
def learners(monkeypatch):
    """The learners that were made."""
    made = []

    def learner_of(x, weights, bias):
        shapes = [tuple(weight.shape) for weight in weights]
        if not made or (made[-1].shapes, made[-1].bias) != (shapes, bias):
            made.append(HostLearner(shapes, bias))
        return made[-1]

    monkeypatch.setattr(_training, "_learner_of", learner_of)
    monkeypatch.setattr(_training, "_current_stream", lambda index: 11)
    monkeypatch.setattr(torch.cuda, "device", lambda index: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return made


@pytest.mark.parametrize("patterns", SMALL.values(), ids=SMALL.keys())
def test_all_gradients_are_right(patterns, learners):
    x, weights, bias = inputs(patterns, batch=(2, 3))
    call = lambda x, bias, *w: _training.train(x, w, bias)  # noqa: E731
    assert torch.allclose(call(x, bias, *weights), by_products(x, weights, bias), rtol=1e-12, atol=1e-12)
    assert gradcheck(call, (x, bias, *weights)) and gradgradcheck(call, (x, bias, *weights))
    everything = [x, bias, *weights]
    wishes = (everything, [x, weights[0]], [weights[0]], [weights[-1]], [bias, weights[0]], [x, *weights], [bias])
    for wanted in wishes:
        for tensor in everything:
            tensor.requires_grad_(any(tensor is other for other in wanted))
        upstream = torch.randn(2, 3, bias.shape[0], dtype=x.dtype)
        learners.clear()
        found = torch.autograd.grad(_training.train(x, weights, bias), wanted, upstream)
        expected = torch.autograd.grad(by_products(x, weights, bias), wanted, upstream)
        for mine, theirs in zip(found, expected, strict=True):
            assert mine.shape == theirs.shape and torch.allclose(mine, theirs, rtol=1e-11, atol=1e-11)
        # Only what is asked for has an address.
        asked = [any(tensor is other for other in wanted) for tensor in (*weights, bias, x)]
        assert learners[0].calls[-1] == ("backward", 6, asked)


def test_strides_batches_and_biases(learners):
    for patterns in (SMALL["lanes"], SMALL["three"]):
        for batch in [(), (0,), (4, 0, 2), (1,), (3, 2)]:
            x, weights, bias = inputs(patterns, batch=batch)
            many = torch.randn(*batch, 2 * x.shape[-1], dtype=x.dtype)[..., ::2].requires_grad_()
            turned = [w.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for w in weights]
            wide = torch.randn(2 * bias.shape[0], dtype=x.dtype)[::2].requires_grad_()
            for b in (None, wide):
                upstream = torch.randn_like(by_products(x, weights))
                tensors = [many, *turned] + ([] if b is None else [b])
                y = _training.train(many, turned, b)
                expected = by_products(many, turned, b)
                assert y.shape == expected.shape and torch.allclose(y, expected, rtol=1e-11, atol=1e-11)
                mine = torch.autograd.grad(y, tensors, upstream)
                for one, other in zip(mine, torch.autograd.grad(expected, tensors, upstream), strict=True):
                    assert one.shape == other.shape and torch.allclose(one, other, rtol=1e-11, atol=1e-11)


def test_many_gradients_at_once(learners):
    x, weights, bias = inputs(SMALL["monarch"])
    y = _training.train(x, weights, bias)
    many = torch.randn(5, *y.shape, dtype=y.dtype)
    found = torch.autograd.grad(y, (x, bias, *weights), many, is_grads_batched=True)
    expected = torch.autograd.grad(by_products(x, weights, bias), (x, bias, *weights), many, is_grads_batched=True)
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-10, atol=1e-10)


def test_inputs_are_kept_only_for_gradients_of_weights(learners):
    x, weights, bias = inputs(SMALL["three"])
    weights[0].requires_grad_(False)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.shape), t)[1], lambda t: t):
        _training.train(x, weights, bias)
    # X itself, X for the last factor, and what goes into the second; not what goes into the first.
    between = [torch.Size((3, a * b * d)) for a, b, _, d in SMALL["three"][1:]]
    assert kept.count(x.shape) == 2 and between[1] in kept and len(kept) == 1 + 3 + 2
