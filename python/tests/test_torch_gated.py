"""``KSGatedMLP`` against its three layers called one after the other, and against the definition."""

import copy
import io

import pytest

torch = pytest.importorskip("torch")

import kronsparse as ks
from kronsparse.torch import KSGatedMLP, KSLinear, functional, join_gated
from kronsparse.torch._gated import gated, gated_frozen
from kronsparse.torch._packing import ACTIVATIONS
from torch import nn
from torch.autograd import gradcheck
from torch_tools import FLOATS, dense

#: Chains of gate and up, and of down: with lanes, of one factor, of three, not square.
CHAINS = {
    "monarch": ([(1, 8, 4, 12), (4, 12, 16, 1)], [(1, 8, 8, 8), (8, 8, 12, 1)]),
    "one": ([(4, 6, 5, 1)], [(1, 20, 24, 1)]),
    "three": ([(1, 2, 2, 4), (2, 2, 2, 2), (4, 2, 6, 1)], [(1, 24, 8, 1)]),
}
#: Names that PyTorch's own functions have, to compare with.
FUNCTIONS = {
    "none": lambda x: x,
    "relu": torch.relu,
    "gelu": nn.functional.gelu,
    "gelu-tanh": lambda x: nn.functional.gelu(x, approximate="tanh"),
    "silu": nn.functional.silu,
}


def mlp_of(name="monarch", activation="silu", bias=False, **options):
    """A fresh one; gate and up have biases, or one of them, as ``bias`` says."""
    first, last = (ks.check_chain(chain) for chain in CHAINS[name])
    width, hidden = first[-1].cols, first[0].rows
    biases = (bias, bias) if isinstance(bias, bool) else bias
    gate, up = (KSLinear(width, hidden, first, bias=each, **options) for each in biases)
    return KSGatedMLP(gate, up, KSLinear(hidden, width, last, bias=bias is True, **options), activation)


def expected(mlp, x):
    """From the definition, in float64."""

    def linear(layer, x):
        return nn.functional.linear(x, dense(list(layer.factors)), None if layer.bias is None else layer.bias.double())

    x = x.double()
    return linear(mlp.down, FUNCTIONS[mlp.activation](linear(mlp.gate, x)) * linear(mlp.up, x))


def close(found, wanted, dtype):
    """The error of three products and of roundings between them."""
    tolerance = {torch.float64: 1e-13, torch.float32: 3e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    assert found.dtype == dtype and found.shape == wanted.shape
    assert (found.double() - wanted).norm() <= tolerance * wanted.norm()


@pytest.fixture
def joined(monkeypatch):
    """A list that grows with each packing of two layers as one."""
    from kronsparse.torch import _packing

    count, real = [], _packing.pack_gated_at
    monkeypatch.setattr(_packing, "pack_gated_at", lambda *arguments: (count.append(1), real(*arguments))[1])
    return count


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", CHAINS)
def test_it_is_the_three_layers(name, dtype, joined):
    for bias in (False, True, (True, False), (False, True)):
        mlp = mlp_of(name, bias=bias, dtype=dtype)
        for shape in [(), (1,), (3,), (40,), (2, 3, 4), (0,), (3, 0, 2)]:
            x = torch.randn(*shape, mlp.gate.in_features, dtype=dtype)
            with torch.no_grad():
                y = mlp(x)
            assert y.shape == x.shape and y.is_contiguous() and not y.requires_grad
            close(y, expected(mlp, x), dtype)
            close(mlp(x), expected(mlp, x), dtype)
    # Once per module: with gradients the layers are called one after the other.
    assert len(joined) == 4


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_activations(activation, joined):
    mlp = mlp_of(activation=activation, dtype=torch.float64).requires_grad_(False)
    x = torch.randn(7, 64, dtype=torch.float64)
    close(mlp(x), expected(mlp, x), torch.float64)
    assert len(joined) == 1 and set(ACTIVATIONS) == set(FUNCTIONS)


def test_inputs_of_any_strides_and_vectors_where_nothing_can_be_joined(joined):
    mlp = mlp_of(dtype=torch.float64).requires_grad_(False)
    x = torch.randn(6, 5, 128, dtype=torch.float64)
    for view in (x[..., ::2], x[::2, 1:, :64], x[0, 0, :64].expand(4, 64), torch.randn(64, 3).double().T):
        close(mlp(view), expected(mlp, view), torch.float64)
    assert len(joined) == 1
    # Lanes in the last factor, and chains that differ.
    lanes = (
        KSLinear(64, 96, [(2, 3, 2, 16)], dtype=torch.float64),
        KSLinear(64, 96, [(2, 3, 2, 16)], dtype=torch.float64),
    )
    other = mlp.gate, KSLinear(64, 96, "monarch:4,8", dtype=torch.float64)
    for gate, up in (lanes, other):
        apart = KSGatedMLP(gate, up, mlp.down).requires_grad_(False)
        assert not apart.is_joined
        close(apart(x[..., :64]), expected(apart, x[..., :64]), torch.float64)
    wide = KSGatedMLP(*(copy.deepcopy(layer).to(torch.complex128) for layer in (mlp.gate, mlp.up, mlp.down)), "none")
    z = torch.randn(3, 64, dtype=torch.complex128)
    with torch.no_grad():
        assert not wide.is_joined and torch.allclose(wide(z), wide.down(wide.gate(z) * wide.up(z)))
    assert len(joined) == 1


def test_gradients():
    mlp = mlp_of("three", bias=True, dtype=torch.float64)
    x = torch.randn(3, 24, dtype=torch.float64, requires_grad=True)
    parameters = list(mlp.parameters())
    found = torch.autograd.grad(mlp(x).square().sum(), [x, *parameters])
    wanted = torch.autograd.grad(expected(mlp, x).square().sum(), [x, *parameters])
    assert all(torch.allclose(mine, theirs, rtol=1e-10, atol=1e-10) for mine, theirs in zip(found, wanted))
    for operation in (gated, gated_frozen):
        gate, up = ([f.detach().requires_grad_() for f in layer.factors] for layer in (mlp.gate, mlp.up))
        bias = mlp.gate.bias.detach().requires_grad_()
        call = lambda x, b, *w: operation(x, w[:3], w[3:], b, None, "gelu")  # noqa: B023, E731
        assert gradcheck(call, (x, bias, *gate, *up))


def test_training_learns_and_what_it_changes_is_seen(joined):
    mlp = mlp_of(dtype=torch.float64, bias=True)
    optimizer = torch.optim.Adam(mlp.parameters(), lr=1e-2)
    x, target = torch.randn(30, 64, dtype=torch.float64), torch.randn(30, 64, dtype=torch.float64)
    losses = []
    for _ in range(5):
        with torch.no_grad():
            close(mlp(x), expected(mlp, x), torch.float64)
        loss = nn.functional.mse_loss(mlp(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] and len(joined) == 5


CHANGES = {
    "gate": lambda mlp: mlp.gate.factors[1].mul_(2),
    "up": lambda mlp: mlp.up.factors[0].add_(1),
    "bias of gate": lambda mlp: mlp.gate.bias.add_(1),
    "bias of up": lambda mlp: mlp.up.bias.data.add_(1),
    "whole weights through data": lambda mlp: mlp.up.factors[1].data.mul_(3),
    "another parameter": lambda mlp: mlp.up.factors.__setitem__(0, nn.Parameter(mlp.up.factors[0].clone() * 2)),
    "loading": lambda mlp: mlp.load_state_dict(mlp_of(bias=True, dtype=torch.float64).state_dict()),
    "no bias": lambda mlp: setattr(mlp.up, "bias", None),
    "refreshing": lambda mlp: (mlp.up.factors[0].data[0, 0, 0].mul_(2), mlp.up.refresh()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_noticed(name):
    mlp = mlp_of(bias=True, dtype=torch.float64)
    x = torch.randn(5, 64, dtype=torch.float64)
    with torch.no_grad():
        before = mlp(x)
        CHANGES[name](mlp)
        after = mlp(x)
    close(after, expected(mlp, x), torch.float64)
    assert not torch.allclose(before, after)


def test_weights_are_packed_once_and_forgotten_with_the_module(joined):
    from kronsparse.torch import _engine

    _engine.clear_cache()
    mlp, x = mlp_of(), torch.randn(3, 64)
    with torch.no_grad():
        for _ in range(3):
            mlp(x)
    assert len(joined) == 1 and len(_engine._cache) == 2
    del mlp
    assert not _engine._cache


def test_hooks_see_the_layers():
    mlp, seen = mlp_of(dtype=torch.float64).requires_grad_(False), []
    x = torch.randn(3, 64, dtype=torch.float64)
    before = mlp(x)
    handle = mlp.up.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    assert torch.allclose(mlp(x), before) and seen == [(3, 96)]
    handle.remove()
    assert torch.allclose(mlp(x), before) and seen == [(3, 96)]


def watched(monkeypatch, mlp, seen):
    """Ways in which somebody comes to see the calls of gate or up; each gives what undoes it."""
    from torch.nn.modules import module

    def own(name, forward):
        layer = getattr(mlp, name)
        layer.forward = forward
        return lambda: layer.__dict__.pop("forward")

    def of_the_class():
        real = KSLinear.forward
        monkeypatch.setattr(KSLinear, "forward", lambda self, x: (seen.append(self), real(self, x))[1])
        return lambda: monkeypatch.setattr(KSLinear, "forward", real)

    add = lambda layer, *_: seen.append(layer)  # noqa: E731
    yield lambda: own("gate", lambda x: (seen.append(mlp.gate), KSLinear.forward(mlp.gate, x))[1])
    yield lambda: own("up", lambda x: (seen.append(mlp.up), KSLinear.forward(mlp.up, x))[1])
    yield of_the_class
    yield lambda: mlp.gate.register_forward_hook(add).remove
    yield lambda: mlp.up.register_forward_pre_hook(add).remove
    yield lambda: module.register_module_forward_hook(add).remove
    yield lambda: module.register_module_forward_pre_hook(add).remove
    yield lambda: mlp.up.register_full_backward_hook(add).remove
    yield lambda: module.register_module_full_backward_hook(add).remove


def test_the_joined_way_skips_nobody_who_has_to_see_the_layers(monkeypatch, joined):
    mlp, seen = mlp_of(dtype=torch.float64).requires_grad_(False), []
    x = torch.randn(3, 64, dtype=torch.float64)
    before = mlp(x)
    assert len(joined) == 1
    functional_gated = functional.ks_gated
    calls = []
    monkeypatch.setattr("kronsparse.torch.gated.ks_gated", lambda *a: (calls.append(1), functional_gated(*a))[1])
    for at, watch in enumerate(watched(monkeypatch, mlp, seen)):
        seen.clear()
        undo = watch()
        assert mlp._is_watched() and torch.allclose(mlp(x), before), at
        # Hooks of gradients have none to see here; the layers are called all the same.
        assert at >= 7 or any(layer in (mlp.gate, mlp.up) for layer in seen), at
        assert not calls
        undo()
        assert not mlp._is_watched() and torch.allclose(mlp(x), before) and calls.pop(), at


def test_state_dict_copies_and_files():
    mlp, other = mlp_of(bias=True), mlp_of(bias=True)
    state = mlp.state_dict()
    assert set(state) == {
        f"{layer}.{name}" for layer in ("gate", "up", "down") for name in ("factors.0", "factors.1", "bias")
    }
    x = torch.randn(7, 64)
    with torch.no_grad():
        other(x)
        other.load_state_dict(state)
        assert torch.equal(other(x), mlp(x))
        buffer = io.BytesIO()
        torch.save(mlp, buffer)
        buffer.seek(0)
        assert torch.equal(torch.load(buffer, weights_only=False)(x), mlp(x))
        twin = copy.deepcopy(mlp)
        twin.up.factors[0].mul_(2)
        assert not torch.equal(twin(x), mlp(x))
    assert "activation='silu'" in repr(mlp)
    meta = mlp_of(device="meta")
    with torch.no_grad():
        assert meta(torch.empty(2, 3, 64, device="meta")).shape == (2, 3, 64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_casts(dtype):
    mlp, x = mlp_of(bias=True), torch.randn(5, 64)
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        y = mlp(x)
    close(y, expected(copy.deepcopy(mlp).to(dtype), x.to(dtype)), dtype)


def test_transforms():
    mlp = mlp_of("three", dtype=torch.float64).requires_grad_(False)
    x = torch.randn(4, 3, 24, dtype=torch.float64)
    assert torch.allclose(torch.func.vmap(mlp)(x), expected(mlp, x))
    found = torch.func.jacrev(mlp)(x[0, 0])
    assert torch.allclose(found, torch.func.jacrev(lambda x: expected(mlp, x))(x[0, 0]))
    assert torch.allclose(torch.func.jacfwd(mlp)(x[0, 0]), found)


def test_the_operation_keeps_pytorch_s_rules():
    mlp = mlp_of("three", dtype=torch.float64, bias=True)
    x = torch.randn(3, 24, dtype=torch.float64, requires_grad=True)
    gate, up = list(mlp.gate.factors), list(mlp.up.factors)
    for arguments in ((x, gate, up, mlp.gate.bias, None, "silu"), (x[:0], gate, up, None, None, "relu")):
        results = torch.library.opcheck(gated, arguments)
        assert set(results.values()) == {"SUCCESS"}
    rounded = gated(x.bfloat16(), gate, up, mlp.gate.bias, None, "silu", True)
    cast = [[w.bfloat16() for w in side] for side in (gate, up)]
    assert torch.equal(rounded, gated(x.bfloat16(), *cast, mlp.gate.bias.bfloat16(), None, "silu"))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_one_graph(backend, tmp_path, monkeypatch, joined):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    torch._dynamo.reset()
    mlp = mlp_of(bias=True, dtype=torch.float64)
    compiled = torch.compile(mlp, fullgraph=True, backend=backend)
    x = torch.randn(5, 64, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        for _ in range(3):
            close(compiled(x), expected(mlp, x), torch.float64)
        mlp.up.factors[1].mul_(2)
        close(compiled(x), expected(mlp, x), torch.float64)
    assert len(joined) == 2
    y = compiled(x)
    close(y, expected(mlp, x), torch.float64)
    found = torch.autograd.grad(y.sum(), [x, *mlp.parameters()])
    wanted = torch.autograd.grad(expected(mlp, x).sum(), [x, *mlp.parameters()])
    assert all(torch.allclose(mine, theirs) for mine, theirs in zip(found, wanted))


def test_exported_programs():
    mlp = mlp_of().requires_grad_(False)
    batch = torch.export.Dim("batch", min=2, max=100)
    program = torch.export.export(mlp, (torch.randn(4, 64),), dynamic_shapes=({0: batch},))
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert [t for t in targets if t.startswith("kronsparse")] == [
        "kronsparse.gated.default",
        "kronsparse.apply.default",
    ]
    x = torch.randn(9, 64)
    assert torch.allclose(program.module()(x), mlp(x), atol=1e-6)


def test_what_a_gpu_s_graphs_may_hold():
    from torch._subclasses.fake_tensor import FakeTensorMode

    for frozen in (False, True):
        torch._dynamo.reset()
        nodes = []

        def backend(graph, _):
            nodes.extend(node for node in graph.graph.nodes if node.op == "call_function")  # noqa: B023
            return graph.forward

        with FakeTensorMode(), torch.no_grad():
            mlp = mlp_of(device="cuda:0").requires_grad_(not frozen)
            y = torch.compile(mlp, fullgraph=True, backend=backend)(torch.empty(3, 64, device="cuda:0"))
        assert y.shape == (3, 64) and y.device.type == "cuda"
        (node,) = [node for node in nodes if "gated" in str(node.target)]
        assert node.target is (gated_frozen if frozen else gated)
        assert (torch.Tag.cudagraph_unsafe in node.target.tags) == (not frozen)


def test_layers_that_are_there():
    linear = [nn.Linear(64, 96), nn.Linear(64, 96), nn.Linear(96, 64)]
    made = KSGatedMLP.from_layers(*linear, "gelu", chain="monarch:8,4", down_chain="monarch:8,8")
    assert made.is_joined and 0 < made.up.relative_error < 1 and made.activation == "gelu"
    assert torch.equal(made.gate.bias, linear[0].bias)
    again = KSGatedMLP.from_layers(made.gate, made.up, linear[2].eval(), down_chain="monarch:8,8")
    assert again.gate is made.gate and not again.down.training
    with pytest.raises(ValueError, match="chain: expected the chain of up, an nn.Linear, found None"):
        KSGatedMLP.from_layers(made.gate, linear[1], made.down)
    with pytest.raises(ValueError, match="down_chain: expected the chain of down, an nn.Linear, found None"):
        KSGatedMLP.from_layers(made.gate, made.up, linear[2])


def test_wrong_arguments_name_what_was_expected_and_found():
    mlp = mlp_of()
    with pytest.raises(TypeError, match="up: expected a KSLinear, found Linear"):
        KSGatedMLP(mlp.gate, nn.Linear(64, 96), mlp.down)
    with pytest.raises(ValueError, match=r"up: expected \(in_features, out_features\) = \(64, 96\) as of gate, found"):
        KSGatedMLP(mlp.gate, mlp.down, mlp.down)
    with pytest.raises(ValueError, match="down: expected in_features = 96, the out_features of gate, found 64"):
        KSGatedMLP(mlp.gate, mlp.up, mlp.gate)
    with pytest.raises(ValueError, match="activation: expected one of none, relu, gelu, gelu-tanh, silu, found 'tanh'"):
        KSGatedMLP(mlp.gate, mlp.up, mlp.down, "tanh")
    with torch.no_grad():
        for wrong in (torch.randn(3, 63), torch.tensor(1.0)):
            with pytest.raises(ValueError, match=r"x: expected a shape \(…, 64\), the in_features, found"):
                mlp(wrong)
        with pytest.raises(TypeError, match=r"x: expected torch.float32 like weights\[0\], found torch.float64"):
            mlp(torch.randn(3, 64, dtype=torch.float64))
        with pytest.raises(ValueError, match=r"x: expected a tensor on cpu like weights\[0\], found one on meta"):
            mlp(torch.randn(3, 64, device="meta"))
        with pytest.raises(TypeError, match="x: expected a tensor, found list"):
            mlp([1.0])
        gate, up = list(mlp.gate.factors), list(mlp.up.factors)
        with pytest.raises(ValueError, match="bias: expected shape"):
            functional.ks_gated(torch.randn(3, 64), gate, up, None, torch.zeros(64))
        with pytest.raises(ValueError, match="activation: expected one of"):
            functional.ks_gated(torch.randn(3, 64), gate, up, activation="tanh")
        x = torch.randn(3, 64)
        lanes = [torch.randn(2, 3, 2, 16)]
        assert functional.ks_gated(x, lanes, up).shape == (3, 96)
        sizes = r"up: expected \(in_features, out_features\) = \(64, 96\) as of gate, found \(64, 1\)"
        for first in (gate, lanes):
            # One number for all outputs: PyTorch would spread it.
            with pytest.raises(ValueError, match=sizes):
                functional.ks_gated(x, first, [torch.randn(1, 1, 64, 1)])
        with pytest.raises(ValueError, match=r"found \(96, 64\)"):
            functional.ks_gated(x, gate, list(mlp.down.factors))
        with pytest.raises(ValueError, match="gate: expected at least one factor, found none"):
            functional.ks_gated(x, [], up)
        with pytest.raises(ValueError, match="up: expected at least one factor, found none"):
            functional.ks_gated(x, gate, [])
        with pytest.raises(ValueError, match=r"up\[0\]: expected a shape \(a, b, c, d\), found \(96, 64\)"):
            functional.ks_gated(x, gate, [torch.randn(96, 64)])
        with pytest.raises(ValueError, match=r"up\[1\]: expected a factor with 32 rows, as many as up\[0\]"):
            functional.ks_gated(x, gate, [torch.randn(4, 24, 8, 1), torch.randn(1, 24, 64, 1)])
        with pytest.raises(ValueError, match="up: expected factors of shapes"):
            gated(torch.randn(3, 64), gate, up[::-1], None, None, "silu")


class Block(nn.Module):
    """As in Llama, with a gated MLP among other parts."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(64)
        self.mlp = nn.Module()
        self.mlp.gate_proj, self.mlp.up_proj = (KSLinear(64, 96, "monarch:8,4", bias=False) for _ in range(2))
        self.mlp.down_proj = KSLinear(96, 64, "monarch:8,8", bias=False)
        self.mlp.forward = lambda x: None

    def forward(self, x):
        return x + self.mlp(self.norm(x))


def test_the_gated_parts_of_a_model_are_joined():
    model = nn.Sequential(Block(), nn.Linear(64, 64), Block()).requires_grad_(False).eval()
    layers = [block.mlp for block in (model[0], model[2])]
    assert join_gated(model) == ["0.mlp", "2.mlp"]
    x = torch.randn(3, 64)
    for at, old in zip((0, 2), layers):
        made = model[at].mlp
        assert type(made) is KSGatedMLP and made.gate is old.gate_proj and made.down is old.down_proj
        assert not made.training and torch.allclose(
            model[at](x), x + expected(made, model[at].norm(x)).float(), atol=1e-5
        )
    twice = nn.Module()
    twice.first, twice.list = Block(), nn.ModuleList([Block()])
    twice.list[0].mlp = twice.first.mlp
    twice.second = twice.list
    assert join_gated(twice) == ["first.mlp", "list.0.mlp", "second.0.mlp"]
    assert twice.first.mlp is twice.second[0].mlp and type(twice.first.mlp) is KSGatedMLP
    assert join_gated(model) == [] and join_gated(nn.Sequential(nn.Linear(2, 2))) == []
