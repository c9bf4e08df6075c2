"""Gated MLPs and tuning on CUDA tensors. As ``test_torch_cuda.py``."""

import pytest

torch = pytest.importorskip("torch")

import kronsparse as ks
from kronsparse.torch import KSGatedMLP, KSLinear, clear_cache, explain, tune
from torch import nn
from torch_tools import FLOATS, dense

pytestmark = pytest.mark.cuda

#: Relative Frobenius errors of three products with roundings between them.
TOLERANCE = {torch.float16: 8e-3, torch.bfloat16: 6e-2, torch.float32: 1e-5, torch.float64: 1e-13}


def mlp_of(dtype, bias=False, sizes=(64, 96), device="cuda"):
    width, hidden = sizes
    first, last = ("monarch:8,4", "monarch:8,8") if width == 64 else ("monarch:64,64", "monarch:64,64")
    options = {"bias": bias, "dtype": dtype, "device": device}
    gate, up = (KSLinear(width, hidden, first, **options) for _ in range(2))
    return KSGatedMLP(gate, up, KSLinear(hidden, width, last, **options)).requires_grad_(False)


def expected(mlp, x):
    def linear(layer, x):
        weights = [w.detach().double().cpu() for w in layer.factors]
        return nn.functional.linear(x, dense(weights), None if layer.bias is None else layer.bias.double().cpu())

    x = x.detach().double().cpu()
    return linear(mlp.down, nn.functional.silu(linear(mlp.gate, x)) * linear(mlp.up, x))


def agrees(found, mlp, x):
    wanted = expected(mlp, x)
    assert found.is_cuda and found.dtype == x.dtype and found.shape == wanted.shape
    error = (found.double().cpu() - wanted).norm() / wanted.norm().clamp_min(1e-300)
    return wanted.numel() == 0 or error < TOLERANCE[x.dtype]


@pytest.mark.parametrize("dtype", FLOATS)
def test_it_is_the_three_layers(dtype):
    for bias in (False, True):
        mlp = mlp_of(dtype, bias)
        for shape in [(), (1,), (3,), (40,), (2, 3, 4), (0,), (300,)]:
            x = torch.randn(*shape, 64, device="cuda", dtype=dtype)
            assert agrees(mlp(x), mlp, x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sizes_of_llama(dtype):
    mlp = mlp_of(dtype, sizes=(4096, 14336))
    for n in (1, 32):
        x = torch.randn(n, 4096, device="cuda", dtype=dtype)
        assert agrees(mlp(x), mlp, x)


def test_changed_weights_are_noticed_and_gradients_are_those_of_the_layers():
    mlp, x = mlp_of(torch.float64, True), torch.randn(5, 64, device="cuda", dtype=torch.float64)
    assert agrees(mlp(x), mlp, x)
    mlp.up.factors[1].mul_(2)
    mlp.gate.bias.add_(1)
    assert agrees(mlp(x), mlp, x)
    mlp.requires_grad_()
    y = mlp(x)
    assert agrees(y.detach(), mlp, x)
    y.sum().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in mlp.parameters())


def test_graphs():
    mlp, x = mlp_of(torch.float16, True), torch.randn(7, 64, device="cuda", dtype=torch.float16)
    mlp(x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = mlp(x)
    for _ in range(3):
        x.normal_()
        graph.replay()
        assert agrees(y, mlp, x)
    del graph
    clear_cache(graphs=True)


@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
def test_compiled(mode):
    torch._dynamo.reset()
    mlp, x = mlp_of(torch.float16, True), torch.randn(7, 64, device="cuda", dtype=torch.float16)
    mlp(x)
    compiled = torch.compile(mlp, fullgraph=True, mode=mode)
    for _ in range(4):
        assert agrees(compiled(x).clone(), mlp, x)
    mlp.load_state_dict(mlp_of(torch.float16, True).state_dict())
    for _ in range(4):
        assert agrees(compiled(x).clone(), mlp, x)


def test_tuning_finds_what_layers_then_take(tmp_path, monkeypatch):
    store = tmp_path / "store.txt"
    model = nn.Sequential(KSLinear(64, 64, "monarch:8,8", device="cuda"), mlp_of(torch.float32)).requires_grad_(False)
    x = torch.randn(33, 64, device="cuda")
    before = model(x)
    found = tune(model, x, store=store, caches="warm")
    assert len(found) == found.new == 3 and [record.join for record in found].count("gate") == 1
    assert all(record.batch == 33 and torch.cuda.get_device_name() in record.machine for record in found)
    assert all(0 < record.chosen.seconds <= record.untuned.seconds for record in found)
    assert "store.txt" in explain(model[0], 33) and "store.txt" not in explain(model[0], 3333)
    assert torch.allclose(model(x), before, rtol=1e-4, atol=1e-5)
    assert tune(model, x, store=store, caches="warm").new == 0
    assert ks.tune(model[0].patterns, 33, dtype="f32", bias=True, device="cuda", store=store, caches="warm").new == 0
