"""Changed weights are noticed, and unchanged ones are packed once."""

import gc

import pytest

torch = pytest.importorskip("torch")

from kronsparse.torch import _engine, _packing, clear_cache
from kronsparse.torch._packing import Linear
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


def test_refreshing_forgets_all_that_depends_on_the_weights(layer, x):
    clear_cache()
    layer.requires_grad_(False)
    layer(x)
    first, last = layer.factors
    # What a backward pass on a GPU packs: one factor, its adjoint; what autocast casts, and what is packed of that.
    _engine.multiply_cpu(x, Linear(1, False), [last], True)
    _engine.multiply_cpu(torch.randn(3, 96, dtype=torch.float64), Linear(1, True), [first], True)
    rounded = _engine.cast_kept(last, torch.float32)
    _engine.multiply_cpu(x.float(), Linear(1, False), [rounded], True)
    assert len(_engine._cache) == 4 and len(_engine._casts) == 1 and layer._call is not None
    told = []
    _engine.forgotten.append(told.append)
    try:
        layer.refresh()
    finally:
        _engine.forgotten.pop()
    assert not _engine._cache and not _engine._casts
    assert layer._call.run(x, layer.factors._parameters, layer._parameters) is None
    for parameter in layer.parameters():
        assert any(tensor is parameter for tensor in told)
    assert agrees(layer, x)


def meanwhile(monkeypatch, work):
    """What another thread does after the weights were read, and before what was made of them is kept: once."""
    real, left = _packing.pack_at, [work]

    def pack(*arguments):
        packed = real(*arguments)
        if left:
            left.pop()()
        return packed

    monkeypatch.setattr(_packing, "pack_at", pack)


@pytest.mark.parametrize("how", ["clear_cache", "refresh"])
def test_what_was_forgotten_while_it_was_packed_is_not_kept(layer, x, how, monkeypatch):
    clear_cache()
    layer.requires_grad_(False)
    meanwhile(monkeypatch, clear_cache if how == "clear_cache" else layer.refresh)
    assert agrees(layer, x)
    assert not _engine._cache and layer._call is None
    assert agrees(layer, x) and len(_engine._cache) == 1


def test_weights_that_change_while_they_are_packed_are_packed_again(layer, x, monkeypatch):
    clear_cache()
    layer.requires_grad_(False)
    # One number, which the sample of numbers does not see.
    meanwhile(monkeypatch, lambda: layer.factors[0][0, 1, 2, 3].add_(1))
    layer(x)
    assert agrees(layer, x)


def test_a_short_way_of_what_was_forgotten_meanwhile_is_not_taken(layer, x, monkeypatch):
    layer.requires_grad_(False)
    real = _engine.Call
    monkeypatch.setattr(_engine, "Call", lambda *given: (clear_cache(), real(*given))[1])
    assert agrees(layer, x) and layer._call is None
    monkeypatch.undo()
    assert agrees(layer, x) and layer._call is not None


@pytest.mark.parametrize("which", ["x", "factors.0", "bias"])
def test_tensors_without_storage_are_refused(layer, x, which):
    layer.requires_grad_(False)
    layer(x)
    tensor = x if which == "x" else dict(layer.named_parameters())[which]
    tensor.data.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="expected numbers in memory, found a tensor"):
        layer(x)
    with pytest.raises(ValueError, match="expected numbers in memory, found a tensor"):
        # Nothing is known of these.
        _engine.multiply_cpu(x, Linear(2, False), [*layer.factors, layer.bias], False)
