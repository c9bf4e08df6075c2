"""PyTorch's compilers: one graph, the same numbers, changed weights, exported programs."""

import pytest

torch = pytest.importorskip("torch")

from kronsparse.torch import KSLinear
from kronsparse.torch._ops import apply, apply_frozen
from torch import nn
from torch_tools import dense, layer_of, packings  # noqa: F401


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """No graph of an earlier test, no cache outside of the test's folder."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    torch._dynamo.reset()


def model():
    return nn.Sequential(nn.LayerNorm(64), layer_of(), nn.GELU(), KSLinear(96, 64, "monarch:8,8"))


def test_the_operation_keeps_pytorch_s_rules():
    for dtype in (torch.float64, torch.complex128):
        weights = [torch.randn(p, dtype=dtype, requires_grad=True) for p in [(1, 4, 2, 3), (2, 3, 2, 1)]]
        x = torch.randn(3, 4, dtype=dtype, requires_grad=True)
        bias = torch.randn(12, dtype=dtype, requires_grad=True)
        for arguments in ((x, weights, bias, False, False), (x[:0], weights, None, False, True)):
            results = torch.library.opcheck(apply, arguments)
            assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_one_graph_forward_and_backward(backend):
    eager = model()
    compiled = torch.compile(eager, fullgraph=True, backend=backend)
    x = torch.randn(5, 7, 64, requires_grad=True)
    y = compiled(x)
    assert torch.allclose(y, eager(x), atol=1e-5)
    y.square().sum().backward()
    found = [x.grad] + [p.grad for p in eager.parameters()]
    x.grad = None
    eager.zero_grad()
    found = [g.clone() for g in found]
    eager(x).square().sum().backward()
    for mine, theirs in zip(found, [x.grad] + [p.grad for p in eager.parameters()]):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-4)


def test_no_graph_break_and_dynamic_batches():
    eager = model().eval()
    explained = torch._dynamo.explain(eager)(torch.randn(3, 64))
    assert explained.graph_break_count == 0 and explained.graph_count == 1
    torch._dynamo.reset()
    compiled = torch.compile(eager, fullgraph=True, backend="aot_eager", dynamic=True)
    with torch.no_grad():
        for n in (3, 8, 1, 20):
            x = torch.randn(n, 64)
            assert torch.allclose(compiled(x), eager(x), atol=1e-5)


def test_compiled_layers_pack_once_and_notice_changes(packings):  # noqa: F811
    layer = layer_of(dtype=torch.float64)
    compiled = torch.compile(layer, fullgraph=True, backend="inductor")
    x = torch.randn(5, 64, dtype=torch.float64)
    expected = lambda: nn.functional.linear(x, dense(list(layer.factors)), layer.bias)  # noqa: E731
    with torch.no_grad():
        for _ in range(4):
            assert torch.allclose(compiled(x), expected())
        assert len(packings) == 1
        layer.factors[1].mul_(2)
        assert torch.allclose(compiled(x), expected())
        layer.load_state_dict(layer_of(dtype=torch.float64).state_dict())
        assert torch.allclose(compiled(x), expected())


def test_compiled_autocast():
    eager = layer_of()
    compiled = torch.compile(eager, fullgraph=True, backend="aot_eager")
    x = torch.randn(5, 64)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = compiled(x), eager(x)
    assert found.dtype == torch.bfloat16 and torch.equal(found, expected)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_what_a_gpu_s_graphs_may_hold(frozen, gradients, autocast):
    # Tensors that only say that they are on a GPU.
    from torch._subclasses.fake_tensor import FakeTensorMode

    nodes = []

    def backend(graph, _):
        nodes.extend(node for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    with FakeTensorMode(), torch.set_grad_enabled(gradients):
        layer = layer_of(device="cuda:0").requires_grad_(not frozen)
        x = torch.empty(3, 64, device="cuda:0")
        torch.set_autocast_enabled("cuda", autocast)
        torch.set_autocast_dtype("cuda", torch.float16)
        try:
            y = torch.compile(layer, fullgraph=True, backend=backend)(x)
        finally:
            torch.set_autocast_enabled("cuda", False)
    assert y.dtype == (torch.float16 if autocast else torch.float32) and y.shape == (3, 96)
    found = [node for node in nodes if str(node.target).startswith("kronsparse")]
    if gradients and not frozen:
        assert not found  # PyTorch's products, which read weights where they lie
        return
    (node,) = found
    assert node.target is (apply_frozen if frozen else apply)
    assert (torch.Tag.cudagraph_unsafe in node.target.tags) == (not frozen)
    # Weights are given as they are, not in tensors of this graph that would be packed at each call.
    assert node.args[3:] == (False, True, autocast) and all(w.op == "placeholder" for w in node.args[1])


@pytest.mark.parametrize("operation", [apply, apply_frozen])
def test_the_operations_round_weights_to_the_input_s_dtype(operation):
    weights = [torch.randn(p, requires_grad=True) for p in [(1, 4, 2, 3), (2, 3, 2, 1)]]
    bias = torch.randn(12, requires_grad=True)
    x = torch.randn(3, 4, dtype=torch.bfloat16)
    found = operation(x, weights, bias, False, False, True)
    rounded = [weight.bfloat16() for weight in weights]
    expected = operation(x, rounded, bias.bfloat16(), False, False)
    assert torch.equal(found, expected) and found.dtype == torch.bfloat16
    for mine, theirs in zip(*(torch.autograd.grad(y.float().square().sum(), weights) for y in (found, expected))):
        assert torch.equal(mine, theirs) and mine.dtype == torch.float32
    with torch.no_grad():
        assert torch.equal(operation(x, weights, bias, False, True, True), expected)


def test_wrong_shapes_are_refused_while_compiling():
    compiled = torch.compile(layer_of(), fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match=r"expected a shape \(…, 64\), the in_features, found"):
        compiled(torch.randn(5, 63))


def test_exported_programs(tmp_path):
    eager = model().eval()
    batch = torch.export.Dim("batch", min=2, max=100)
    program = torch.export.export(eager, (torch.randn(4, 64),), dynamic_shapes=({0: batch},))
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets.count("kronsparse.apply.default") == 2
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    for n in (4, 9):
        x = torch.randn(n, 64)
        with torch.no_grad():
            assert torch.allclose(loaded(x), eager(x), atol=1e-6)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_traced_models_hold_the_operation():
    eager = model().eval().requires_grad_(False)
    x = torch.randn(4, 64)
    graph = torch.fx.symbolic_trace(eager)
    assert sum(node.name.startswith("ks_linear") for node in graph.graph.nodes) == 2
    assert torch.equal(graph(x), eager(x))
    traced = torch.jit.trace(eager, x)
    other = torch.randn(4, 64)
    assert str(traced.inlined_graph).count("kronsparse::apply") == 2
    assert torch.allclose(traced(other), eager(other), atol=1e-6)


def test_modes_see_the_operation():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Listen(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    seen = []
    with torch.no_grad(), Listen():
        layer_of()(torch.randn(3, 64))
    assert "kronsparse.apply.default" in seen
