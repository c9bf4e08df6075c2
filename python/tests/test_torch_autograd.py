"""Gradients against finite differences and PyTorch's own; second order, ``torch.func``, autocast."""

import pytest

torch = pytest.importorskip("torch")

from chains import CHAINS
from kronsparse.torch import functional, set_cuda_training
from kronsparse.torch._learning import _turned, learn
from kronsparse.torch._ops import apply
from kronsparse.torch._products import by_products
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode
from torch_tools import FLOATS, close, dense, layer_of

SMALL = {
    "lanes": [(2, 2, 3, 2)],
    "monarch": [(1, 4, 2, 3), (2, 3, 2, 1)],
    "not chainable": [(1, 2, 2, 3), (3, 2, 2, 1)],
    "three": [(1, 2, 2, 2), (2, 2, 1, 1), (1, 2, 3, 1)],
    "blocks with lanes": [(1, 2, 2, 4), (2, 2, 2, 2), (4, 2, 1, 1)],
}


def inputs(patterns, dtype=torch.float64, batch=(3,)):
    weights = [torch.randn(p, dtype=dtype, requires_grad=True) for p in patterns]
    (a, b, _, d), (e, _, g, h) = patterns[0], patterns[-1]
    x = torch.randn(*batch, e * g * h, dtype=dtype, requires_grad=True)
    return x, weights, torch.randn(a * b * d, dtype=dtype, requires_grad=True)


def call(x, bias, *weights):
    return functional.ks_linear(x, weights, bias)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("patterns", SMALL.values(), ids=SMALL.keys())
def test_gradients_are_those_of_finite_differences(patterns, dtype):
    x, weights, bias = inputs(patterns, dtype)
    assert gradcheck(call, (x, bias, *weights))
    assert gradgradcheck(call, (x, bias, *weights))
    # The adjoint has gradients of its own.
    y = torch.randn(3, bias.shape[0], dtype=dtype, requires_grad=True)
    assert gradcheck(lambda y, *w: apply(y, list(w), None, True, False), (y, *weights))


@pytest.mark.parametrize("wanted", ["x", "first", "middle", "last", "bias", "x and last", "x and first"])
def test_only_what_is_asked_for_is_computed(wanted, packings):
    x, weights, bias = inputs(SMALL["three"])
    names = {"x": x, "first": weights[0], "middle": weights[1], "last": weights[2], "bias": bias}
    for name, tensor in names.items():
        tensor.requires_grad_(name in wanted.split(" and "))
    asked = [tensor for tensor in names.values() if tensor.requires_grad]
    found = torch.autograd.grad(call(x, bias, *weights).square().sum(), asked)
    reference = nn.functional.linear(x, dense(weights), bias)
    for mine, theirs in zip(found, torch.autograd.grad(reference.square().sum(), asked)):
        assert torch.allclose(mine, theirs, rtol=1e-10, atol=1e-10)


from torch_tools import packings  # noqa: F401


@pytest.mark.parametrize("batch", [(), (0,), (1,), (2, 0, 3), (2, 3)])
def test_batches_of_any_shape(batch):
    x, weights, bias = inputs(SMALL["monarch"], batch=batch)
    y = call(x, bias, *weights)
    y.sum().backward()
    assert x.grad.shape == x.shape and weights[0].grad.shape == weights[0].shape
    reference = nn.functional.linear(x.detach(), dense(weights), bias)
    expected = torch.autograd.grad(reference.sum(), [*weights, bias])
    for tensor, gradient in zip([*weights, bias], expected):
        assert torch.allclose(tensor.grad, gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_training_step_is_that_of_linear(dtype):
    layer = layer_of(dtype=dtype)
    x = torch.randn(20, 64, dtype=dtype, requires_grad=True)
    target = torch.randn(20, 96, dtype=dtype)
    wide = [p.detach().double().requires_grad_() for p in [*layer.factors, layer.bias]]
    wide_x = x.detach().double().requires_grad_()
    loss = ((layer(x) - target) ** 2).sum()
    loss.backward()
    reference = nn.functional.linear(wide_x, dense(wide[:-1]), wide[-1])
    ((reference - target.double()) ** 2).sum().backward()
    # A gradient is a product of products: three roundings of what a forward has.
    eps = torch.finfo(dtype).eps
    for mine, theirs in zip([x, *layer.factors, layer.bias], [wide_x, *wide]):
        error = (mine.grad.double() - theirs.grad).norm() / theirs.grad.norm()
        assert error < 8 * max(eps, 1e-12), (tuple(mine.shape), error)
    before = [p.detach().clone() for p in layer.parameters()]
    torch.optim.SGD(layer.parameters(), lr=0.25).step()
    for parameter, old in zip(layer.parameters(), before):
        assert not torch.equal(parameter, old)
    close(layer(x.detach()), nn.functional.linear(x.double(), dense(list(layer.factors)), layer.bias.double()), layer)


def test_training_learns():
    torch.manual_seed(torch.seed() % 2**31)
    teacher, student = layer_of(dtype=torch.float64), layer_of(dtype=torch.float64)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.03)
    x = torch.randn(256, 64, dtype=torch.float64)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = (student(x) - teacher(x).detach()).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_torch_func_transforms():
    x, weights, bias = inputs(SMALL["monarch"], batch=(5,))
    x, bias, weights = x.detach(), bias.detach(), tuple(w.detach() for w in weights)
    f = lambda x, bias, *w: call(x, bias, *w).pow(3).sum()  # noqa: E731
    g = lambda x, bias, *w: nn.functional.linear(x, dense(list(w)), bias).pow(3).sum()  # noqa: E731
    everything = tuple(range(4))
    for mine, theirs in zip(
        torch.func.grad(f, argnums=everything)(x, bias, *weights),
        torch.func.grad(g, argnums=everything)(x, bias, *weights),
    ):
        assert torch.allclose(mine, theirs, rtol=1e-9, atol=1e-9)
    tangents = tuple(torch.randn_like(t) for t in (x, bias, *weights))
    for mine, theirs in zip(
        torch.func.jvp(f, (x, bias, *weights), tangents), torch.func.jvp(g, (x, bias, *weights), tangents)
    ):
        assert torch.allclose(mine, theirs, rtol=1e-9, atol=1e-9)
    for jacobian in (torch.func.jacrev, torch.func.jacfwd, torch.func.hessian):
        mine = jacobian(lambda w: f(x, bias, w, weights[1]))(weights[0])
        theirs = jacobian(lambda w: g(x, bias, w, weights[1]))(weights[0])
        assert torch.allclose(mine, theirs, rtol=1e-9, atol=1e-9), jacobian
    # Forward mode on dual tensors, and both directions.
    assert gradcheck(
        call, tuple(t.requires_grad_() for t in (x[:2].clone(), bias.clone(), *weights)), check_forward_ad=True
    )


def test_vmap():
    x, weights, bias = inputs(SMALL["monarch"], batch=(4, 3))
    with torch.no_grad():
        plain = call(x, bias, *weights)
        assert torch.allclose(torch.vmap(call, in_dims=(0, None, None, None))(x, bias, *weights), plain)
        assert torch.allclose(torch.vmap(call, in_dims=(1, None, None, None), out_dims=1)(x, bias, *weights), plain)
        stacked = [torch.stack([w, 2 * w]) for w in weights]
        both = torch.vmap(call, in_dims=(None, 0, 0, 0))(x, torch.stack([bias, -bias]), *stacked)
        assert torch.allclose(both[0], plain)
        assert torch.allclose(both[1], call(x, -bias, *(2 * w for w in weights)))
    # Gradients of each sample, as differential privacy takes them.
    one = lambda w, x: call(x, bias.detach(), w, weights[1].detach()).square().sum()  # noqa: E731
    found = torch.vmap(torch.func.grad(one), in_dims=(None, 0))(weights[0].detach(), x.detach())
    for k in range(4):
        assert torch.allclose(found[k], torch.func.grad(one)(weights[0].detach(), x[k].detach()))


def test_functional_call_takes_other_parameters():
    layer = layer_of(dtype=torch.float64)
    x = torch.randn(3, 64, dtype=torch.float64)
    others = {name: torch.randn_like(p) for name, p in layer.named_parameters()}
    found = torch.func.functional_call(layer, others, (x,))
    weights = [others["factors.0"], others["factors.1"]]
    assert torch.allclose(found, nn.functional.linear(x, dense(weights), others["bias"]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_casts_as_linear_does(dtype):
    layer = layer_of()
    x = torch.randn(5, 64, requires_grad=True)
    with torch.autocast("cpu", dtype=dtype):
        y = layer(x)
        assert y.dtype == dtype == nn.functional.linear(x, torch.randn(96, 64)).dtype
        y.float().sum().backward()
        assert layer(torch.randn(5, 64, dtype=dtype)).dtype == dtype
    assert x.grad.dtype == torch.float32 and layer.factors[0].grad.dtype == torch.float32
    rounded = [p.detach().to(dtype) for p in layer.factors]
    expected = nn.functional.linear(x.detach().to(dtype).double(), dense(rounded), layer.bias.to(dtype).double())
    close(y, expected, layer)
    with torch.autocast("cpu", dtype=dtype):
        double = layer_of(dtype=torch.float64)
        assert double(x.double()).dtype == torch.float64


def test_the_way_of_training_on_a_gpu_is_one_of_two():
    with pytest.raises(ValueError, match="'torch' or 'engine', found 'rust'"):
        set_cuda_training("rust")


def test_the_products_that_train_on_a_gpu_are_those_of_the_engine():
    # What runs there is the same here.
    for patterns in SMALL.values():
        x, weights, bias = inputs(patterns, batch=(2, 3))
        assert torch.allclose(by_products(x, weights, bias), call(x, bias, *weights), rtol=1e-12, atol=1e-12)
        y = torch.randn(2, 3, bias.shape[0], dtype=bias.dtype)
        adjoint = by_products(y, weights, None, True)
        assert torch.allclose(adjoint, apply(y, weights, None, True, False), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("patterns", SMALL.values(), ids=SMALL.keys())
def test_the_products_that_learn_on_a_gpu_have_all_gradients(patterns, dtype):
    x, weights, bias = inputs(patterns, dtype, batch=(2, 3))
    call = lambda x, bias, *w: learn(x, w, bias)  # noqa: E731
    assert torch.allclose(call(x, bias, *weights), by_products(x, weights, bias), rtol=1e-12, atol=1e-12)
    assert gradcheck(call, (x, bias, *weights)) and gradgradcheck(call, (x, bias, *weights))
    # Without a graph of gradients they are computed in another way.
    everything = [x, bias, *weights]
    for wanted in (everything, [x], [bias], [weights[0]], [weights[-1]], [bias, weights[0]], [x, weights[-1]]):
        for tensor in everything:
            tensor.requires_grad_(any(tensor is other for other in wanted))
        upstream = torch.randn(2, 3, bias.shape[0], dtype=dtype)
        found = torch.autograd.grad(learn(x, weights, bias), wanted, upstream)
        expected = torch.autograd.grad(by_products(x, weights, bias), wanted, upstream)
        for mine, theirs in zip(found, expected):
            assert mine.shape == theirs.shape and torch.allclose(mine, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("batch", [(), (0,), (4, 0, 2), (1,), (3, 2)])
@pytest.mark.parametrize("patterns", SMALL.values(), ids=SMALL.keys())
def test_the_products_that_learn_take_any_batch(patterns, batch):
    x, weights, _ = inputs(patterns, batch=batch)
    upstream = torch.randn_like(by_products(x, weights))
    # Inputs and gradients of any strides.
    many = torch.randn(*batch, 2 * x.shape[-1], dtype=x.dtype)[..., ::2].requires_grad_()
    found = torch.autograd.grad(learn(many, weights, None), [many, *weights], upstream)
    expected = torch.autograd.grad(by_products(many, weights), [many, *weights], upstream)
    for mine, theirs in zip(found, expected):
        assert mine.shape == theirs.shape and torch.allclose(mine, theirs, rtol=1e-11, atol=1e-11)
    ones = torch.autograd.grad(learn(x, weights, None).sum(), weights)
    for mine, theirs in zip(ones, torch.autograd.grad(by_products(x, weights).sum(), weights)):
        assert torch.allclose(mine, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64, torch.bfloat16])
def test_vectors_are_turned_exactly(dtype):
    # Sizes that products turn, in blocks of 64, 48, 32 and 16, and one that is copied.
    for features in (192, 96, 32, 80, 15):
        for n in (1, 5, 16, 0):
            x = torch.randn(n, features).to(dtype)
            turned = _turned(x, to_rows=False)
            assert turned.shape == (features, n) and torch.equal(turned, x.t())
            assert torch.equal(_turned(turned, to_rows=True), x)


def test_learning_by_a_monarch_layer_copies_no_vectors():
    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            found = function(*arguments, **(options or {}))
            if function.overloadpacket in (torch.ops.aten.clone, torch.ops.aten.copy_, torch.ops.aten._to_copy):
                sizes.append(found.numel())
            return found

    for chain in ([(1, 8, 4, 16), (4, 16, 16, 1)], [(16, 4, 8, 1), (1, 8, 4, 16)]):
        x, weights, bias = inputs(chain, batch=(301,))
        sizes = []
        with Copies():
            y = learn(x, weights, bias)
            upstream = torch.randn_like(y)
            y.backward(upstream)
        assert sizes and set(sizes) <= {weight.numel() for weight in weights}
        everything = [x, bias, *weights]
        expected = torch.autograd.grad(by_products(x, weights, bias), everything, upstream)
        assert all(torch.allclose(mine.grad, theirs) for mine, theirs in zip(everything, expected))


def test_many_gradients_at_once():
    x, weights, bias = inputs(SMALL["monarch"])
    for function in (call, lambda x, bias, *w: learn(x, w, bias)):
        y = function(x, bias, *weights)
        reference = nn.functional.linear(x, dense(weights), bias)
        many = torch.randn(5, *y.shape, dtype=y.dtype)
        found = torch.autograd.grad(y, (x, bias, *weights), many, is_grads_batched=True, retain_graph=True)
        expected = torch.autograd.grad(reference, (x, bias, *weights), many, is_grads_batched=True)
        for mine, theirs in zip(found, expected):
            assert torch.allclose(mine, theirs, rtol=1e-10, atol=1e-10)
        again = torch.autograd.grad(y, (x, *weights), many[0])
        for mine, theirs in zip(again, (expected[0][0], *(e[0] for e in expected[2:]))):
            assert torch.allclose(mine, theirs, rtol=1e-10, atol=1e-10)


def test_checkpointing_and_hooks():
    layer = layer_of(dtype=torch.float64)
    seen = []
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    x = torch.randn(3, 64, dtype=torch.float64, requires_grad=True)
    torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False).sum().backward()
    expected = torch.autograd.grad(nn.functional.linear(x, dense(list(layer.factors)), layer.bias).sum(), x)[0]
    assert torch.allclose(x.grad, expected) and seen[0] == (3, 96)
    assert CHAINS["monarch"] == [tuple(p) for p in layer.patterns]


def test_inputs_are_kept_only_for_gradients_of_weights():
    layer, x = layer_of(dtype=torch.float64), torch.randn(3, 64, dtype=torch.float64, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.shape), t)[1], lambda t: t):
        layer(x)
        assert x.shape in kept
        kept.clear()
        layer.requires_grad_(False)
        layer(x).sum().backward()
    assert x.shape not in kept and kept
    assert torch.allclose(x.grad, dense(list(layer.factors)).sum(0).expand(3, 64))
