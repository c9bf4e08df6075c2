"""Changed weights are noticed, and unchanged ones are packed once."""

import gc

import pytest

torch = pytest.importorskip("torch")

from kronsparse.torch import _engine, clear_cache
from torch import nn
from torch_tools import dense, layer_of, packings  # noqa: F401


def agrees(layer, x):
    expected = nn.functional.linear(x, dense(list(layer.factors)), layer.bias)
    return torch.allclose(layer(x), expected, rtol=1e-10, atol=1e-10)


@pytest.fixture
def layer():
    return layer_of(dtype=torch.float64)


@pytest.fixture
def x():
    return torch.randn(3, 64, dtype=torch.float64)


def test_without_gradients_weights_are_packed_once(layer, x, packings):  # noqa: F811
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            for _ in range(5):
                layer(x)
    assert len(packings) == 1
    layer.requires_grad_(False)
    for _ in range(3):
        layer(x.requires_grad_())
    assert len(packings) == 1
    # The adjoint is packed for the gradient of x, once.
    for _ in range(3):
        layer(x).sum().backward()
    assert len(packings) == 2


def change_by(name, layer):
    first = layer.factors[0]
    if name == "in place":
        first.mul_(2)
    elif name == "one number in place":
        first[0, 1, 2, 3] += 1
    elif name == "the last factor":
        layer.factors[1].add_(1)
    elif name == "bias":
        layer.bias.zero_()
    elif name == "data in place":
        first.data.mul_(2)
    elif name == "bias data in place":
        layer.bias.data.add_(1)
    elif name == "other data":
        first.data = torch.randn_like(first)
    elif name == "another parameter":
        layer.factors[0] = nn.Parameter(torch.randn_like(first))
    elif name == "no bias":
        layer.bias = None
    elif name == "optimizer":
        first.grad = torch.ones_like(first)
        torch.optim.SGD([first], lr=0.5).step()
    elif name == "fused optimizer":
        first.grad = torch.ones_like(first)
        torch.optim.AdamW([first], lr=0.5, foreach=True).step()
    elif name == "single kernel of an optimizer":
        first.grad = torch.ones_like(first)
        torch.optim.AdamW([first], lr=0.5, fused=True).step()
    elif name == "state_dict":
        layer.load_state_dict(layer_of(dtype=torch.float64).state_dict())
    elif name == "assigned state_dict":
        layer.load_state_dict(layer_of(dtype=torch.float64).state_dict(), assign=True)
    elif name == "numpy":
        first.detach().numpy()[:] *= 3
    elif name == "initialised":
        layer.reset_parameters()


CHANGES = [
    "in place",
    "one number in place",
    "the last factor",
    "bias",
    "data in place",
    "bias data in place",
    "other data",
    "another parameter",
    "no bias",
    "optimizer",
    "fused optimizer",
    "single kernel of an optimizer",
    "state_dict",
    "assigned state_dict",
    "numpy",
    "initialised",
]


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_noticed(name, layer, x):
    with torch.no_grad():
        assert agrees(layer, x)
        before = layer(x)
        change_by(name, layer)
        after = layer(x)
        assert agrees(layer, x) and not torch.allclose(before, after)


@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"fused": True}])
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad"])
def test_every_optimizer_s_step_is_counted(name, options, layer, x, monkeypatch):
    # Without the comparison of a sample, which a GPU does not have.
    with torch.no_grad():
        layer(x)
    tensors = [*layer.factors, layer.bias]
    before = [tensor._version for tensor in tensors]
    for tensor in tensors:
        tensor.grad = torch.ones_like(tensor)
    other = nn.Parameter(torch.ones(3))
    other.grad = torch.ones(3)
    unseen = other._version
    getattr(torch.optim, name)([*tensors, other], lr=0.1, **options).step()
    assert all(tensor._version > version for tensor, version in zip(tensors, before))
    # Nobody else's parameters are touched.
    assert not options.get("fused") or other._version == unseen


def test_while_gradients_are_recorded_even_one_number_through_data_is_noticed(layer, x):
    assert agrees(layer, x)
    layer.factors[0].data[0, 1, 2, 3] += 1
    assert agrees(layer, x)


def test_refresh_is_for_what_cannot_be_noticed(x):
    # Larger than the sample.
    layer = layer_of(dtype=torch.float64)
    with torch.no_grad():
        layer(x)
        layer.factors[0].data[0, 1, 2, 3] += 1
        stale = not agrees(layer, x)
        layer.refresh()
        assert agrees(layer, x)
        layer.factors[1].data[0, 1, 2, 0] += 1
        clear_cache()
        assert agrees(layer, x)
    assert stale, "the sample now holds this number: the documented limit is gone, or the test is wrong"


def test_training_interleaved_with_evaluation(layer, x):
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        layer(x).square().sum().backward()
        optimizer.step()
        with torch.no_grad():
            assert agrees(layer, x)


def test_weights_under_inference_mode(x):
    with torch.inference_mode():
        layer = layer_of(dtype=torch.float64)
        assert agrees(layer, x)
        layer.factors[0].mul_(2)
        assert agrees(layer, x)


def test_shared_weights_with_and_without_bias(layer, x, packings):  # noqa: F811
    other = layer_of(dtype=torch.float64, bias=False)
    other.factors = layer.factors
    with torch.no_grad():
        for _ in range(3):
            assert agrees(layer, x) and agrees(other, x)


def test_what_was_packed_goes_with_the_weights(x):
    clear_cache()
    layers = [layer_of(dtype=torch.float64) for _ in range(3)]
    with torch.no_grad():
        for layer in layers:
            layer(x)
        assert len(_engine._cache) == 3
        del layer, layers
        gc.collect()
        assert not _engine._cache
        # Addresses and identities come back: nothing may be found under them.
        for _ in range(30):
            assert agrees(layer_of(dtype=torch.float64), x)


def test_the_number_of_threads_is_torch_s(layer, x, packings):  # noqa: F811
    before = torch.get_num_threads()
    try:
        with torch.no_grad():
            for threads in (1, 2):
                torch.set_num_threads(threads)
                assert agrees(layer, x)
        assert [arguments[-1] for arguments in packings] == [1, 2]
    finally:
        torch.set_num_threads(before)
