"""Training on a GPU by the engine's kernels: which arrays they are given, seen through a learner for host memory that
reads and writes at the same addresses. The kernels themselves are tested on a GPU (``test_torch_cuda.py``)."""

import contextlib
import copy
import ctypes
import gc

import pytest

torch = pytest.importorskip("torch")

from kronsparse.torch import KSLinear, _engine, _learning, _training, clear_cache, functional, set_cuda_training
from kronsparse.torch._ops import weight_gradient
from kronsparse.torch._products import by_products
from test_torch_autograd import SMALL, inputs
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

#: What the host's learner asks for, so that it can see whether it gets it.
PARTS = 7


class HostLearner:
    """``CudaLearner``'s methods by PyTorch, in float64, on addresses of host memory."""

    #: Whether a graph is being captured, as PyTorch would say.
    is_captured = False

    def __init__(self, shapes, bias):
        self.shapes, self.bias, self.calls, self.prepared = shapes, bias, [], set()

    def ready(self, n, capturing):
        assert capturing == HostLearner.is_captured
        if capturing and n not in self.prepared:
            raise ValueError("run it once with this number of vectors before")
        self.prepared.add(n)

    @staticmethod
    def at(address, *shape):
        assert address
        count = torch.Size(shape).numel()
        return torch.frombuffer((ctypes.c_double * count).from_address(address), dtype=torch.float64).view(shape)

    def weights_at(self, addresses):
        return [self.at(address, *shape) for address, shape in zip(addresses, self.shapes, strict=True)]

    def parts_len(self, n, aligned, capturing):
        self.ready(n, capturing)
        self.calls.append(("parts", n, aligned))
        return PARTS

    def forward_at(self, weights, bias, x, outputs, n, stream, capturing):
        self.calls.append(("forward", n))
        self.ready(n, capturing)
        assert (bias != 0) == self.bias and stream == 11
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
        self.ready(n, capturing)
        assert (parts != 0) == any(asked[:-1]) and stream == 11
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
    monkeypatch.setattr(_training, "_make", lambda _, *what: (made.append(HostLearner(*what)), made[-1])[1])
    monkeypatch.setattr(_training, "find_libraries", lambda: None)
    monkeypatch.setattr(_training, "_current_stream", lambda index: 11)
    monkeypatch.setattr(torch.cuda, "device", lambda index: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: HostLearner.is_captured)
    clear_cache(graphs=True)
    yield made
    clear_cache(graphs=True)


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
        if learners:
            learners[0].calls.clear()
        found = torch.autograd.grad(_training.train(x, weights, bias), wanted, upstream)
        expected = torch.autograd.grad(by_products(x, weights, bias), wanted, upstream)
        for mine, theirs in zip(found, expected, strict=True):
            assert mine.shape == theirs.shape and torch.allclose(mine, theirs, rtol=1e-11, atol=1e-11)
        # Only what is asked for has an address.
        asked = [any(tensor is other for other in wanted) for tensor in (*weights, bias, x)]
        assert learners[0].calls[-1] == ("backward", 6, asked) and len(learners) == 1


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


def negated(tensor):
    """The same numbers, as a view that takes the negative of what lies in memory."""
    found = torch._neg_view(tensor.detach().neg())
    assert found.is_neg() and found.is_contiguous() and torch.equal(found, tensor)
    return found


#: Both ways of training on a GPU, which work on a CPU with the stand-in.
WAYS = {"engine": _training.train, "torch": _learning.learn}


@pytest.mark.parametrize("way", WAYS)
def test_numbers_that_lie_in_memory_negated(way, learners):
    for patterns in (SMALL["lanes"], SMALL["three"]):
        x, weights, bias = inputs(patterns)
        upstream = torch.randn_like(by_products(x, weights, bias))
        everything = [x, bias, *weights]
        wanted = torch.autograd.grad(by_products(x, weights, bias), everything, upstream)
        turned = [negated(tensor).requires_grad_() for tensor in everything]
        y = WAYS[way](turned[0], turned[2:], turned[1])
        assert torch.allclose(y, by_products(x, weights, bias), rtol=1e-12, atol=1e-12)
        for mine, theirs in zip(torch.autograd.grad(y, turned, negated(upstream)), wanted, strict=True):
            assert torch.allclose(mine, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("way", WAYS)
def test_gradients_of_gradients_of_what_is_wanted_alone(way, learners):
    x, weights, bias = inputs(SMALL["three"])
    for at, tensor in enumerate((x, bias, weights[1])):
        mine, theirs = (
            torch.autograd.grad(call(x, weights, bias).pow(3).sum(), [tensor], create_graph=True)[0]
            for call in (WAYS[way], by_products)
        )
        assert torch.allclose(mine, theirs, rtol=1e-10, atol=1e-10), at
        again = [torch.autograd.grad(each.square().sum(), [x, *weights]) for each in (mine, theirs)]
        for one, other in zip(*again, strict=True):
            assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)


def test_tensors_without_storage_are_refused_before_anything_is_queued(learners):
    for at in range(4):
        x, weights, bias = inputs(SMALL["monarch"])
        given = [x, bias, *weights]
        given[at].detach().untyped_storage().resize_(0)
        assert given[at].numel() and given[at].data_ptr() == 0
        with pytest.raises(ValueError, match="expected numbers in memory, found a tensor of shape .* without storage"):
            _training.train(x, weights, bias)
    assert not any(learner.calls for learner in learners)


def trained(layer, call, data, steps=25):
    """The losses of a training, whose target is another layer's outputs."""
    optimizer, losses = torch.optim.Adam(layer.parameters(), lr=0.03), []
    for _ in range(steps):
        for x, target in data:
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(call(layer, x), target)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def by_engine(layer, x):
    return _training.train(x, list(layer.factors), layer.bias, layer.factors[0])


def test_a_layer_learns_as_it_does_by_pytorch_s_products(learners):
    teacher, layer = (KSLinear(24, 32, "monarch:4,8", dtype=torch.float64) for _ in range(2))
    with torch.no_grad():
        data = [(x, teacher(x)) for x in torch.randn(4, 9, 24, dtype=torch.float64)]
    other, third, before = (copy.deepcopy(layer) for _ in range(3))
    losses = trained(layer, by_engine, data)
    expected = trained(other, lambda layer, x: by_products(x, list(layer.factors), layer.bias), data)
    assert losses == pytest.approx(expected, rel=1e-6) and losses[-1] < losses[0] / 2
    by_torch = trained(third, lambda layer, x: _learning.learn(x, list(layer.factors), layer.bias), data)
    assert by_torch == pytest.approx(expected, rel=1e-6)
    for mine, theirs, old in zip(layer.parameters(), other.parameters(), before.parameters(), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-6, atol=1e-9) and not torch.allclose(mine, old, atol=1e-3)
    # One learner, for one number of vectors, and one call of each kind in a step.
    assert len(learners) == 1 and learners[0].prepared == {9}
    kinds = [call[0] for call in learners[0].calls]
    assert kinds.count("forward") == kinds.count("backward") == len(losses)


def test_each_layer_has_a_learner_of_its_own_and_fresh_weights_share_one(learners):
    first, second = (KSLinear(24, 32, "monarch:4,8", dtype=torch.float64) for _ in range(2))
    x = torch.randn(3, 24, dtype=torch.float64)
    for _ in range(3):
        for layer in (first, second):
            by_engine(layer, x).sum().backward()
    assert len(learners) == len(_training._learners) == 2
    for _ in range(3):
        # As autocast does it: other tensors in every step, of the same layer.
        rounded = [weight * 1.0 for weight in first.factors]
        _training.train(x, rounded, first.bias, first.factors[0]).sum().backward()
    assert len(learners) == 2
    for _ in range(3):
        rounded = [weight * 1.0 for weight in first.factors]
        _training.train(x, rounded, first.bias, rounded[0]).sum().backward()
    assert len(learners) == 3
    # What was rounded holds what it was rounded from.
    del first, layer, rounded
    gc.collect()
    assert len(_training._learners) == 2
    second.refresh()
    assert len(_training._learners) == 1
    by_engine(second, x).sum().backward()
    assert len(learners) == 4


@pytest.fixture
def capturing(monkeypatch):
    """Makes PyTorch say that a graph is being captured, or that there is none."""

    def change(is_captured):
        monkeypatch.setattr(HostLearner, "is_captured", is_captured)

    return change


def test_a_captured_step_needs_a_first_run_and_what_it_names_is_kept(learners, capturing):
    layer, x = KSLinear(24, 32, "monarch:4,8", dtype=torch.float64), torch.randn(3, 24, dtype=torch.float64)
    capturing(True)
    with pytest.raises(ValueError, match="run it once with this number of vectors before"):
        by_engine(layer, x)
    capturing(False)
    clear_cache(graphs=True)
    by_engine(layer, x).sum().backward()
    assert not _engine.captured
    capturing(True)
    by_engine(layer, x).sum().backward()
    with pytest.raises(ValueError, match="run it once with this number of vectors before"):
        by_engine(layer, x[:2])
    # The backward of a forward that was not captured names it too.
    capturing(False)
    other = KSLinear(24, 32, "monarch:4,8", dtype=torch.float64)
    y = by_engine(other, x)
    capturing(True)
    y.sum().backward()
    capturing(False)
    kept = [learners[-2], learners[-1]]
    assert [held for held, _ in _engine.captured.values()] == kept
    layer.refresh()
    del layer, other, y
    clear_cache()
    gc.collect()
    assert [held for held, _ in _engine.captured.values()] == kept and not _training._learners
    clear_cache(graphs=True)
    assert not _engine.captured


def test_nothing_is_given_back_while_a_graph_is_captured(learners, capturing, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(_engine, "_dead", [])
    layer, x = KSLinear(24, 32, "monarch:4,8", dtype=torch.float64), torch.randn(3, 24, dtype=torch.float64)
    by_engine(layer, x).sum().backward()
    made = learners.pop()
    capturing(True)
    del layer
    gc.collect()
    assert not _training._learners and any(made in each for each in _engine._dead if isinstance(each, tuple))
    _engine.give_back()
    assert _engine._dead
    capturing(False)
    layer = KSLinear(24, 32, "monarch:4,8", dtype=torch.float64)
    by_engine(layer, x).sum().backward()
    assert not _engine._dead
    clear_cache()
    assert not _training._learners and not _engine._dead


class Tagged(torch.Tensor):
    """A subclass, which may want to see operations."""


def test_only_plain_tensors_are_given_to_kernels_by_address(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    x, weights, bias = torch.randn(3, 4), [nn.Parameter(torch.randn(1, 2, 4, 1))], torch.randn(2)
    assert _training.can_train(x, weights, bias) and _training.can_train(x, weights, None)
    assert not _training.can_train(x.double(), weights, bias)
    assert not _training.can_train(x.as_subclass(Tagged), weights, bias)
    assert not _training.can_train(x, [weights[0].detach().as_subclass(Tagged)], bias)
    assert not _training.can_train(x, weights, bias.as_subclass(Tagged))
    assert not _training.can_train(torch._to_functional_tensor(x), weights, bias)
    seen = []
    torch.func.vmap(lambda x: seen.append(_training.can_train(x, weights, bias)) or x)(x.expand(2, 3, 4))
    torch._vmap_internals._vmap(lambda x: seen.append(_training.can_train(x, weights, bias)) or x)(x.expand(2, 3, 4))
    assert seen == [False, False]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert not _training.can_train(x, weights, bias)


def test_fake_tensors_on_a_gpu_have_shapes_and_no_kernels(monkeypatch):
    from torch._subclasses.fake_tensor import FakeTensorMode

    monkeypatch.setattr(functional, "train", lambda *_: pytest.fail("a fake tensor has no address"))
    with FakeTensorMode():
        weights = [torch.empty(p, device="cuda", requires_grad=True) for p in SMALL["monarch"]]
        a, _, c, d = SMALL["monarch"][-1]
        x = torch.empty(5, a * c * d, device="cuda")
    rows = SMALL["monarch"][0][0] * SMALL["monarch"][0][1] * SMALL["monarch"][0][3]
    for way in ("torch", "engine"):
        set_cuda_training(way)
        try:
            y = functional.ks_linear(x, weights)
        finally:
            set_cuda_training("torch")
        assert y.shape == (5, rows) and y.device.type == "cuda" and y.requires_grad
