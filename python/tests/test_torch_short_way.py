"""The short way of a forward: taken where nobody is concerned but the caller, and nowhere else."""

import copy
import gc
import pickle
import subprocess
import sys
import textwrap
import threading
import weakref

import pytest

torch = pytest.importorskip("torch")

from kronsparse import _kronsparse
from kronsparse.torch import clear_cache
from torch import nn
from torch_tools import dense, layer_of


def short(layer, x):
    """What the short way returns."""
    return layer._call.run(x, layer.factors._parameters, layer._parameters)


def ready(name="monarch", **options):
    """A layer that has been called, frozen, and that has a guard for inputs of four vectors."""
    layer = layer_of(name, **options).requires_grad_(False)
    for _ in range(4):
        layer(torch.randn(4, layer.in_features, dtype=layer.factors[0].dtype))
    return layer


def expected(layer, x):
    return nn.functional.linear(x, dense(list(layer.factors)).to(x.dtype), layer.bias)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("name", ["monarch", "three", "one number"])
def test_it_computes_the_same(name, dtype):
    layer = ready(name, dtype=dtype, bias=name != "three")
    for shape in [(), (1,), (7,), (2, 3, 4), (1, 1, 5, 1)]:
        x = torch.randn(*shape, layer.in_features, dtype=dtype)
        y = short(layer, x)
        assert type(y) is torch.Tensor and y.is_contiguous() and not y.requires_grad
        assert y.shape == (*shape, layer.out_features) and y.dtype == dtype
        assert torch.allclose(y, expected(layer, x), rtol=1e-10, atol=1e-12)
    with torch.inference_mode():
        x = torch.randn(3, layer.in_features, dtype=dtype)
        assert short(layer, x).is_inference() and torch.allclose(short(layer, x), expected(layer, x))


class Tagged(torch.Tensor):
    """A subclass, which may want to see operations."""


def odd_inputs():
    x = torch.randn(4, 64)
    return {
        "strides": torch.randn(64, 4).T,
        "another dtype": x.double(),
        "another size": x[:, :63].contiguous(),
        "no vectors": x[:0],
        "no dimensions": torch.tensor(1.0),
        "a subclass": x.as_subclass(Tagged),
        "a parameter": nn.Parameter(x, requires_grad=False),
        "with gradients": x.clone().requires_grad_(),
        "another device": x.to("meta"),
        "sparse": x.to_sparse(),
        "not a tensor": x.numpy(),
    }


@pytest.mark.parametrize("name", odd_inputs())
def test_odd_inputs_go_the_long_way(name):
    layer = ready()
    assert short(layer, torch.randn(4, 64)) is not None
    assert short(layer, odd_inputs()[name]) is None


def test_inputs_of_many_shapes_one_after_the_other():
    layer = ready(dtype=torch.float64)
    for shape in [(4,), (4,), (2, 2), (4,), (2, 2), (2, 2), (2, 2), (1,), (1,), (1,), (4,), (4, 1), (4, 1), (4, 1)]:
        x = torch.randn(*shape, 64, dtype=torch.float64)
        y = short(layer, x)
        assert y.shape == (*shape, 96) and y.is_contiguous() and torch.allclose(y, expected(layer, x))
        # The same sizes, other strides.
        other = torch.randn(64, *shape, dtype=torch.float64).movedim(0, -1)
        if not other.is_contiguous():
            assert short(layer, other) is None


def test_a_guard_is_made_of_the_second_input_of_a_shape():
    program = """
        import torch
        guards, made = torch._C._dynamo.guards, []
        real = guards.TensorGuards
        guards.TensorGuards = lambda *a, **k: (made.append(1), real(*a, **k))[1]
        from kronsparse.torch import KSLinear
        layer = KSLinear(64, 64, "monarch:8,8").requires_grad_(False)
        counts = []
        for n in (3, 3, 3, 3, 3, 5, 6, 7, 7, 7):
            layer(torch.randn(n, 64))
            counts.append(len(made))
        # The first call of all packs the weights.
        assert counts == [0, 0, 1, 1, 1, 1, 1, 1, 2, 2], counts
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=120)


def test_negated_and_conjugated_views_go_the_long_way():
    layer = ready(dtype=torch.complex128)
    z = torch.randn(4, 64, dtype=torch.complex128)
    assert short(layer, z.conj()) is None and torch.allclose(layer(z.conj()), expected(layer, z.conj()))
    layer = ready(dtype=torch.float64)
    negated = torch._neg_view(torch.randn(4, 64, dtype=torch.float64))
    assert negated.is_neg() and negated.is_contiguous()
    assert short(layer, negated) is None and torch.allclose(layer(negated), expected(layer, negated))


def test_whoever_must_see_the_operation_sees_it():
    from torch.autograd import forward_ad
    from torch.utils._python_dispatch import TorchDispatchMode

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    layer, x = ready(), torch.randn(4, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert short(layer, x) is None
    with Mode():
        assert short(layer, x) is None
    with forward_ad.dual_level():
        assert short(layer, x) is None
    found = []
    torch.func.vmap(lambda row: found.append(short(layer, x)) or row)(x)
    torch.jit.trace(lambda x: (found.append(short(layer, x.clone())), x + 1)[1], x, check_trace=False)
    assert found and set(found) == {None}
    assert short(layer, x) is not None
    layer.bias.requires_grad_()
    assert short(layer, x) is None
    with torch.no_grad():
        assert short(layer, x) is not None


def test_changed_parameters_go_the_long_way():
    x = torch.randn(4, 64)

    def swap(layer):
        layer.factors[1] = nn.Parameter(layer.factors[1].clone(), requires_grad=False)

    def move(layer):
        layer.factors[0].data = layer.factors[0].data.clone()

    def without_bias(layer):
        layer.bias = None

    changes = [
        swap,
        move,
        without_bias,
        lambda layer: layer.factors[1].add_(1),
        lambda layer: layer.bias.add_(1),
        lambda layer: layer.bias.data.add_(1),
        lambda layer: clear_cache(),
        lambda layer: layer.refresh(),
        lambda layer: layer.factors.append(nn.Parameter(torch.zeros(1))),
        lambda layer: torch.set_num_threads(torch.get_num_threads() + 1),
    ]
    threads = torch.get_num_threads()
    for change in changes:
        layer = ready()
        assert short(layer, x) is not None
        change(layer)
        assert short(layer, x) is None
        torch.set_num_threads(threads)
    layer = ready()
    assert layer.double()._call is None


def test_it_does_not_outlive_or_keep_what_it_is_of():
    layer, x = ready(), torch.randn(4, 64)
    old = weakref.ref(layer.factors[0])
    layer.factors[0] = nn.Parameter(layer.factors[0].detach().clone(), requires_grad=False)
    layer(x)
    gc.collect()
    assert old() is None and short(layer, x) is not None
    call, first = weakref.ref(layer._call), weakref.ref(layer.factors[0])
    del layer
    gc.collect()
    assert call() is None and first() is None


def test_copies_have_a_way_of_their_own():
    layer, x = ready(), torch.randn(4, 64)
    for twin in (copy.copy(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin._call is None and torch.equal(twin(x), layer(x))
        assert short(twin, x) is not None
    twin = copy.deepcopy(layer)
    twin(x)
    twin.factors[0].mul_(2)
    assert torch.allclose(twin(x) - twin.bias, 2 * (layer(x) - layer.bias), atol=1e-5)


def test_threads_share_a_layer():
    layer = ready(dtype=torch.float64)
    inputs = [torch.randn(50, 64, dtype=torch.float64) for _ in range(4)]
    wrong = []

    def work(x):
        right = expected(layer, x)
        for _ in range(100):
            if not torch.allclose(layer(x), right, rtol=1e-10, atol=1e-10):
                wrong.append(x)

    threads = [threading.Thread(target=work, args=(x,)) for x in inputs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_call_is_made_of_at_least_one_weight():
    operator = _kronsparse.Operator([torch.randn(1, 2, 3, 1).numpy()])
    for factors, parameters in ((0, []), (1, []), (1, [(torch.zeros(1), 0, 0)] * 3)):
        with pytest.raises(ValueError, match=f"expected {factors} weights and at most one bias, found"):
            _kronsparse.Call(operator, factors, parameters, (2, 3), 1)


def test_a_pytorch_without_the_private_names_takes_the_long_way(monkeypatch):
    from kronsparse.torch import _engine

    def missing(*_):
        raise AttributeError("module 'torch._C' has no attribute '_len_torch_dispatch_stack'")

    monkeypatch.setattr(_engine, "Call", missing)
    layer, x = ready(), torch.randn(4, 64)
    assert layer._call is None and torch.allclose(layer(x), expected(layer, x), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "short"),
    [
        # Without guards every question is asked.
        ("del guards.TensorGuards", True),
        ("guards.TensorGuards = None", True),
        ("guards.TensorGuards = lambda *a, **k: object()", True),
        # The rest is the long way.
        ("del guards._empty_strided_cpu", False),
        ("guards._empty_strided_cpu = lambda *a: None", False),
        ("del torch._C._is_any_autocast_enabled", False),
        ("torch._C._is_any_autocast_enabled = None", False),
    ],
)
def test_a_pytorch_that_lacks_what_is_not_public_computes_the_same(change, short):
    program = """
        import sys, torch
        import torch._dynamo
        guards = torch._C._dynamo.guards
        from kronsparse.torch import KSLinear
        exec(sys.argv[1])
        layer = KSLinear(64, 64, "monarch:8,8", dtype=torch.float64).requires_grad_(False)
        x = torch.randn(5, 64, dtype=torch.float64)
        for _ in range(5):
            expected = torch.nn.functional.linear(x, layer.to_dense(), layer.bias)
            assert torch.allclose(layer(x), expected, rtol=1e-10, atol=1e-12)
        taken = layer._call is not None and layer._call.run(x, layer.factors._parameters, layer._parameters) is not None
        assert taken == (sys.argv[2] == "True")
    """
    command = [sys.executable, "-c", textwrap.dedent(program), change, str(short)]
    subprocess.run(command, check=True, timeout=120)
