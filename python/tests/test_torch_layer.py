"""``KSLinear`` as a module: the manners of ``nn.Linear``, on CPU tensors of every dtype and kind."""

import copy
import io
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import kronsparse as ks
from chains import CHAINS
from kronsparse.torch import KSLinear, functional
from torch import nn
from torch.utils._pytree import tree_map
from torch_tools import FLOATS, close, dense, layer_of


def expected(layer, x):
    wide = torch.complex128 if x.is_complex() else torch.float64
    bias = None if layer.bias is None else layer.bias.to(wide)
    return nn.functional.linear(x.to(wide), dense(list(layer.factors)), bias)


@pytest.mark.parametrize("dtype", [*FLOATS, torch.complex64, torch.complex128])
@pytest.mark.parametrize("name", CHAINS)
def test_forward_is_that_of_linear(name, dtype):
    layer = layer_of(name, dtype=dtype, bias=name != "three")
    for shape in [(), (1,), (3,), (40,), (2, 3, 4), (0,), (3, 0, 2)]:
        x = torch.randn(*shape, layer.in_features, dtype=dtype)
        with torch.no_grad():
            y = layer(x)
        assert y.dtype == dtype and y.is_contiguous() and y.shape == (*shape, layer.out_features)
        close(y, expected(layer, x), layer)
        close(layer(x), expected(layer, x), layer)


def test_inputs_of_any_strides():
    layer = layer_of(dtype=torch.float64)
    x = torch.randn(6, 5, 128, dtype=torch.float64)
    for view in (
        x[..., ::2],
        x[::2, 1:, :64],
        x[:, :, :64].transpose(0, 1),
        x[0, 0, :64].expand(4, 64),
        torch.randn(64, 7, dtype=torch.float64).T,
        torch.randn(1, dtype=torch.float64).expand(3, 64),
        x[..., :64].contiguous(memory_format=torch.contiguous_format).flip(0),
    ):
        close(layer(view), expected(layer, view), layer)
    # Storage that does not begin at the tensor's first number.
    offset = torch.randn(1 + 3 * 64, dtype=torch.float64)[1:].view(3, 64)
    close(layer(offset), expected(layer, offset), layer)
    complex_layer = layer_of(dtype=torch.complex128)
    z = torch.randn(3, 64, dtype=torch.complex128)
    close(complex_layer(z.conj()), expected(complex_layer, z.conj()), complex_layer)
    close(complex_layer(torch.view_as_real(z)[..., 1] * (1 + 0j)), expected(complex_layer, z.imag + 0j), complex_layer)


def test_weights_of_any_strides():
    weights = [torch.randn(tuple(p), dtype=torch.float64) for p in CHAINS["monarch"]]
    views = [w.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0) for w in weights]
    x = torch.randn(5, 64, dtype=torch.float64)
    assert not views[0].is_contiguous()
    for given in (views, [w.neg().neg() for w in weights]):
        found = functional.ks_linear(x, given)
        assert torch.allclose(found, x @ dense(weights).T, rtol=1e-12, atol=1e-12)
    z = [torch.randn(1, 2, 3, 1, dtype=torch.complex128)]
    x = torch.randn(4, 3, dtype=torch.complex128)
    assert torch.allclose(functional.ks_linear(x, [z[0].conj()]), x @ dense(z).conj().T)


def test_wrong_arguments_name_what_was_expected_and_found():
    layer = layer_of()
    for wrong in (torch.randn(3, 63), torch.tensor(1.0)):
        with pytest.raises(ValueError, match=r"x: expected a shape \(…, 64\), the in_features, found"):
            layer(wrong)
    with pytest.raises(TypeError, match=r"x: expected torch.float32 like weights\[0\], found torch.float64"):
        layer(torch.randn(3, 64, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"x: expected a tensor on cpu like weights\[0\], found one on meta"):
        layer(torch.randn(3, 64, device="meta"))
    with pytest.raises(TypeError, match="x: expected a tensor, found ndarray"):
        layer(np.zeros((3, 64), np.float32))
    with pytest.raises(TypeError, match="found torch.int64"):
        layer(torch.ones(3, 64, dtype=torch.int64))
    weights = list(layer.factors)
    with pytest.raises(ValueError, match=r"bias: expected shape \(96,\), the out_features, found \(64,\)"):
        functional.ks_linear(torch.randn(3, 64), weights, torch.zeros(64))
    with pytest.raises(TypeError, match="bias: expected torch.float32 on cpu like x, found torch.float64"):
        functional.ks_linear(torch.randn(3, 64), weights, torch.zeros(96).double())
    with pytest.raises(ValueError, match="at least one factor"):
        functional.ks_linear(torch.randn(3, 64), [])
    with pytest.raises(ValueError, match=r"weights\[0\]: expected a shape \(a, b, c, d\), found \(64, 64\)"):
        functional.ks_linear(torch.randn(3, 64), [torch.randn(64, 64)])
    with pytest.raises(ValueError, match="do not multiply"):
        functional.ks_linear(torch.randn(3, 64), [weights[0], weights[0], weights[1]])
    for text in ("(1,8,4,12)(4,12,16,1)", CHAINS["monarch"]):
        with pytest.raises(ValueError, match=r"\(?96, ?65"):
            KSLinear(65, 96, text)
    with pytest.raises(ValueError, match="either chain or patterns, found neither"):
        KSLinear(64, 96)
    with pytest.raises(ValueError, match="either chain or patterns, found both"):
        KSLinear(64, 96, "monarch:8,4", patterns="monarch:8,4")


def test_tensors_without_storage_or_alignment_are_refused():
    layer = layer_of()
    weight = layer.factors[0]
    size = weight.untyped_storage().nbytes()
    weight.untyped_storage().resize_(0)
    x = torch.randn(3, 64)
    for context in (torch.no_grad, torch.enable_grad):
        with context(), pytest.raises((ValueError, RuntimeError), match="storage|allocated"):
            layer(x)
    weight.untyped_storage().resize_(size)
    with torch.no_grad():
        layer.reset_parameters()
    close(layer(x), expected(layer, x), layer)
    size = layer.bias.untyped_storage().nbytes()
    layer.bias.untyped_storage().resize_(0)
    with torch.no_grad(), pytest.raises((ValueError, RuntimeError), match="storage|allocated"):
        layer(x)
    layer.bias.untyped_storage().resize_(size)
    with torch.no_grad():
        layer.reset_parameters()
    odd = torch.frombuffer(bytearray(1 + 4 * 64), dtype=torch.float32, count=64, offset=1)
    assert odd.data_ptr() % 4 == 1
    with torch.no_grad(), pytest.raises(ValueError, match="multiple of 4 bytes"):
        layer(odd)


def test_ways_to_name_a_chain():
    given = ks.Chain.random(CHAINS["monarch"], np.float64)
    layers = [KSLinear(64, 96, c) for c in ("monarch:8,4", CHAINS["monarch"], given.patterns, "(1,8,4,12)(4,12,16,1)")]
    layers.append(KSLinear(64, 96, patterns="monarch:8,4"))
    for layer in layers:
        assert layer.patterns == given.patterns and layer.factors[0].dtype == torch.float32
    layer = KSLinear(64, 96, given)
    assert layer.factors[0].dtype == torch.float64 and layer.chain() == given
    assert KSLinear(64, 96, given, dtype=torch.float16).factors[1].dtype == torch.float16
    assert layer.parameters_of_chain == 1152
    assert np.allclose(layer.to_dense().numpy(), given.to_dense())
    assert "in_features=64, out_features=96, chain='(1,8,4,12)(4,12,16,1)', bias=True" in repr(layer)
    half = layer_of(dtype=torch.bfloat16)
    assert half.chain().dtype.name == "bfloat16"
    assert torch.equal(KSLinear(64, 96, half.chain()).factors[0], half.factors[0])


def test_fresh_parameters_have_the_variance_of_linear():
    torch.manual_seed(torch.seed() % 2**31)
    for size, chain in [(1024, "monarch:32,32"), (1024, "square-dyadic"), (1024, [(1, 1024, 1024, 1)])]:
        layer, linear = KSLinear(size, size, chain), nn.Linear(size, size)
        x = torch.randn(300, size)
        with torch.no_grad():
            found, usual = layer(x).var().item(), linear(x).var().item()
        assert found == pytest.approx(usual, rel=0.25), chain
        assert layer.bias.abs().max() <= 1 / math.sqrt(size) and layer.bias.std() > 0.4 / math.sqrt(size)
    before = layer.factors[0].clone()
    layer.reset_parameters()
    assert not torch.equal(before, layer.factors[0])
    # Complex numbers as well: the variance of the output is a third of the input's.
    layer = KSLinear(1024, 1024, "monarch:32,32", bias=False, dtype=torch.complex64)
    assert layer(torch.randn(300, 1024, dtype=torch.complex64)).var().item() == pytest.approx(1 / 3, rel=0.25)


def test_state_dict_and_files_keep_everything(tmp_path):
    layer, other = layer_of("three"), layer_of("three")
    state = layer.state_dict()
    assert {name: tuple(t.shape) for name, t in state.items()} == {
        "factors.0": (1, 2, 2, 4),
        "factors.1": (2, 2, 2, 2),
        "factors.2": (4, 2, 6, 1),
        "bias": (8,),
    }
    x = torch.randn(7, 24)
    with torch.no_grad():
        other(x)  # packs the weights that are about to change
        other.load_state_dict(state)
        assert torch.equal(other(x), layer(x))
        buffer = io.BytesIO()
        torch.save(layer, buffer)
        buffer.seek(0)
        whole = torch.load(buffer, weights_only=False)
        assert torch.equal(whole(x), layer(x)) and whole.patterns == layer.patterns
        twin = copy.deepcopy(layer)
        assert torch.equal(twin(x), layer(x))
        twin.factors[0].mul_(2)
        assert not torch.equal(twin(x), layer(x))
    with pytest.raises(RuntimeError, match="size mismatch"):
        layer_of("three").load_state_dict({**state, "factors.1": torch.zeros(2, 2, 2, 1)})
    # The names are those of chain files.
    ks.save(tmp_path / "layer.safetensors", layer.chain(), layer.bias.detach().numpy())
    chain, bias = ks.load_layer(tmp_path / "layer.safetensors")
    assert chain == layer.chain() and np.array_equal(bias, layer.bias.detach().numpy())


def test_moves_between_dtypes_and_devices():
    layer = layer_of()
    x = torch.randn(3, 64, dtype=torch.float64)
    with torch.no_grad():
        single = layer(x.float())
        double = layer.double()(x)
        assert double.dtype == torch.float64 and torch.allclose(double, single.double(), atol=1e-5)
        assert layer.half()(x.half()).dtype == torch.float16
    meta = layer_of(device="meta")
    assert meta(torch.empty(2, 3, 64, device="meta")).shape == (2, 3, 96)
    assert meta.factors[0].is_meta
    real = meta.to_empty(device="cpu")
    real.reset_parameters()
    assert torch.isfinite(real(torch.randn(2, 64))).all()


def test_layouts_of_images_are_not_taken():
    # What models with convolutions ask for is for tensors of four dimensions, which factors are by chance.
    layer = layer_of().to(memory_format=torch.channels_last)
    assert all(factor.is_contiguous() for factor in layer.factors)
    x = torch.randn(3, 64)
    close(layer(x), expected(layer, x), layer)


@pytest.mark.parametrize("way", ["to", "load"])
def test_parameters_that_are_swapped(way):
    layer, x = layer_of(), torch.randn(3, 64)
    parameter = layer.factors[0]
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with torch.no_grad():
            layer(x)
            layer(x)
            if way == "to":
                layer.double()
            else:
                layer.load_state_dict(layer_of().state_dict())
            assert layer.factors[0] is parameter
            x = x.to(parameter.dtype)
            close(layer(x), expected(layer, x), layer)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def test_pruned_and_parametrized_factors():
    from torch.nn.utils import prune
    from torch.nn.utils.parametrizations import weight_norm

    x = torch.randn(3, 64)
    for change in (
        lambda layer: prune.random_unstructured(layer.factors, "0", 0.5),
        lambda layer: prune.random_unstructured(layer, "bias", 0.5),
        lambda layer: weight_norm(layer.factors, "1"),
    ):
        # Square blocks: in the wrong order they would multiply as well.
        layer = KSLinear(64, 64, "monarch:8,8")
        before = layer(x)
        change(layer)
        close(layer(x), expected(layer, x), layer)
        assert (layer.factors[0] == 0).float().mean() in (0.0, 0.5) and before.shape == (3, 64)


def test_from_linear_factorizes():
    chain = ks.Chain.random(ks.monarch(96, 64, 8, 4), np.float32)
    linear = nn.Linear(64, 96).eval()
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(chain.to_dense()))
    layer = KSLinear.from_linear(linear, "monarch:8,4")
    assert layer.relative_error < 1e-6 and not layer.training
    x = torch.randn(5, 64)
    assert torch.allclose(layer(x), linear(x), atol=1e-5)
    # A random matrix: the error is what is left.
    linear = nn.Linear(64, 96, bias=False, dtype=torch.bfloat16)
    layer = KSLinear.from_linear(linear, "monarch:8,4")
    assert layer.bias is None and layer.factors[0].dtype == torch.bfloat16
    dense_weight = linear.weight.double()
    error = ((layer.to_dense().double() - dense_weight).norm() / dense_weight.norm()).item()
    assert layer.relative_error == pytest.approx(error, rel=0.02) and 0.5 < error < 1
    given = KSLinear.from_linear(nn.Linear(64, 96), chain)
    assert given.chain() == chain and given.relative_error > 0.5
    with pytest.raises(ValueError, match=r"\(?96, ?64\)?"):
        KSLinear.from_linear(linear, "(1,8,4,12)(4,12,15,1)")


def test_the_reference_implementation_s_order():
    patterns = CHAINS["three"]
    weights = [torch.randn(p) for p in patterns]
    bias = torch.randn(8)
    layer = KSLinear.from_application_order(patterns[::-1], weights[::-1], bias)
    x = torch.randn(5, 24)
    by_hand = x
    for (a, b, c, d), w in zip(patterns[::-1], weights[::-1]):
        by_hand = torch.einsum("nacd,abcd->nabd", by_hand.view(-1, a, c, d), w).reshape(-1, a * b * d)
    assert torch.allclose(layer(x), by_hand + bias, atol=1e-5)
    assert [tuple(f.shape) for f in layer.factors] == patterns
    with pytest.raises(ValueError, match=r"weights\[0\]: expected shape \(4, 2, 6, 1\), found \(1, 2, 2, 4\)"):
        KSLinear.from_application_order(patterns[::-1], weights)
    with pytest.raises(ValueError, match="one tensor for each of 3 patterns, found 2"):
        KSLinear.from_application_order(patterns[::-1], weights[:2])


class Seen(torch.Tensor):
    """A tensor around another one, which lists the operations that it is given to."""

    calls: list[str] = []
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        cls.calls.append(func.name())
        return func(*tree_map(lambda t: t.inner if isinstance(t, Seen) else t, args), **(kwargs or {}))


def test_a_subclass_of_tensors_sees_the_operation_among_the_weights_too():
    layer = layer_of(dtype=torch.float64).requires_grad_(False)
    x, weights = torch.randn(3, 64, dtype=torch.float64), list(layer.factors)
    expected = layer(x)
    for given in ((Seen(x), weights), (x, [weights[0], Seen(weights[1])])):
        Seen.calls.clear()
        found = functional.ks_linear(*given, layer.bias)
        assert Seen.calls == ["kronsparse::apply"] and torch.equal(found, expected)


def test_factors_that_do_not_go_together_are_refused_wherever_it_is_computed():
    x = torch.randn(3, 64)
    wrong = [torch.randn(1, 8, 4, 12), torch.randn(4, 6, 16, 1)]
    message = r"weights\[1\]: expected a factor with 48 rows, as many as weights\[0\] has columns, found .* with 24"
    empty = [torch.randn(1, 8, 4, 12), torch.randn(4, 12, 0, 1)]
    ways = (lambda x, w: functional.ks_linear(x, w), torch.func.vmap(functional.ks_linear, in_dims=(0, None)))
    for way in ways:
        with pytest.raises(ValueError, match=message):
            way(x, wrong)
        with pytest.raises(ValueError, match=r"weights\[1\]: expected at least one number along each axis"):
            way(x[:, :0], empty)
