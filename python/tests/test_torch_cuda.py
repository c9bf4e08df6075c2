"""CUDA tensors: the same numbers as on the CPU, on PyTorch's stream and device, in graphs, compiled, trained.

Runs on a machine with an NVIDIA GPU; elsewhere each test says why it does not. KRONSPARSE_REQUIRE_GPU=1 makes that an
error.
"""

import copy
import gc
import warnings

import pytest

torch = pytest.importorskip("torch")

import kronsparse as ks
from chains import CHAINS
from kronsparse._kronsparse import CudaLearner
from kronsparse.torch import KSLinear, _engine, _training, clear_cache, convert, explain, functional, heal
from torch import nn
from torch_tools import FLOATS, dense, layer_of

pytestmark = pytest.mark.cuda

#: Relative Frobenius errors against float64 on the rounded inputs, per factor: those of the library's GPU tests.
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 3e-6, torch.float64: 1e-14}


def error(found, expected):
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return ((found - expected).norm() / expected.norm().clamp_min(1e-300)).item()


def agrees(layer, x):
    weights = [w.detach().double().cpu() for w in layer.factors]
    bias = None if layer.bias is None else layer.bias.detach().double().cpu()
    expected = nn.functional.linear(x.detach().double().cpu(), dense(weights), bias)
    with torch.no_grad():
        found = layer(x)
    assert found.is_cuda and found.dtype == x.dtype and found.shape == expected.shape
    if expected.numel():
        assert error(found, expected) < len(weights) * TOLERANCE[x.dtype]
    return True


def test_the_driver_is_found():
    assert len(ks.cuda_devices()) >= 1


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", CHAINS)
def test_forward_is_that_of_linear(name, dtype):
    layer = layer_of(name, device="cuda", dtype=dtype, bias=name != "three")
    for shape in [(), (1,), (3,), (40,), (2, 3, 4), (0,), (300,)]:
        assert agrees(layer, torch.randn(*shape, layer.in_features, device="cuda", dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_layers_of_transformers(dtype):
    for rows, cols, chain in [
        (1536, 384, "(1,768,192,2)(6,64,64,1)"),
        (384, 1536, "(1,128,128,3)(6,64,256,1)"),
        (4096, 4096, "(1,64,64,64)(64,64,64,1)"),
    ]:
        layer = KSLinear(cols, rows, chain, device="cuda", dtype=dtype)
        for n in (1, 196, 1024):
            assert agrees(layer, torch.randn(n, cols, device="cuda", dtype=dtype))
    assert "H100" in explain(layer, 1024) or "sm_" in explain(layer, 1024)


def test_inputs_of_any_strides_and_alignment():
    layer = layer_of(device="cuda", dtype=torch.float16)
    x = torch.randn(6, 5, 128, device="cuda", dtype=torch.float16)
    for view in (x[..., ::2], x[::2, 1:, :64], x[:, :, :64].transpose(0, 1), x[0, 0, :64].expand(4, 64)):
        assert agrees(layer, view)
    # An address that is a multiple of 2 bytes only.
    assert agrees(layer, torch.randn(1 + 7 * 64, device="cuda", dtype=torch.float16)[1:].view(7, 64))


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_short_way_computes_the_same(dtype):
    layer = layer_of(device="cuda", dtype=dtype).requires_grad_(False)
    run = lambda x: layer._call.run(x, layer.factors._parameters, layer._parameters)  # noqa: E731
    for shape in [(), (1,), (40,), (2, 3, 4)]:
        x = torch.randn(*shape, 64, device="cuda", dtype=dtype)
        y = layer(x)
        # Once more, and then with a guard that knows the shape.
        for _ in range(3):
            assert torch.equal(run(x), y) and run(x).device == y.device and agrees(layer, x)
    assert run(x.cpu()) is None and run(x.transpose(0, 1)) is None and run(x[:0]) is None
    layer.factors[0].mul_(2)
    assert run(x) is None and agrees(layer, x) and run(x) is not None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        during = run(x)
        y = layer(x)
    graph.replay()
    assert during is None and torch.equal(y, run(x))


def test_complex_numbers_are_refused():
    # While weights are trained PyTorch multiplies, and takes them.
    message = "dtype on a GPU: expected float16, bfloat16, float32 or float64, found complex64"
    with torch.no_grad(), pytest.raises(TypeError, match=message):
        layer_of(device="cuda", dtype=torch.complex64)(torch.randn(3, 64, device="cuda", dtype=torch.complex64))


def test_tensors_on_two_devices_are_refused():
    with pytest.raises(ValueError, match=r"x: expected a tensor on cuda:0 like weights\[0\], found one on cpu"):
        layer_of(device="cuda")(torch.randn(3, 64))
    with pytest.raises(ValueError, match=r"x: expected a tensor on cpu like weights\[0\], found one on cuda:0"):
        layer_of()(torch.randn(3, 64, device="cuda"))


def test_changed_weights_are_noticed():
    layer = layer_of(device="cuda")
    x = torch.randn(9, 64, device="cuda")
    assert agrees(layer, x)
    with torch.no_grad():
        layer.factors[0].mul_(2)
        assert agrees(layer, x)
        layer.bias.add_(1)
        assert agrees(layer, x)
        layer.load_state_dict(layer_of().state_dict())
        assert agrees(layer, x)
    layer.factors[0].grad = torch.ones_like(layer.factors[0])
    torch.optim.AdamW([layer.factors[0]], lr=0.5, fused=True).step()
    with torch.no_grad():
        assert agrees(layer, x)
        # PyTorch does not count this one.
        layer.factors[1].data.mul_(3)
        layer.refresh()
        assert agrees(layer, x)
    assert agrees(layer.cpu().cuda(), x) and agrees(copy.deepcopy(layer), x)


@pytest.fixture(params=["torch", "engine"])
def way(request):
    """Both ways of training on a GPU."""
    functional.set_cuda_training(request.param)
    yield request.param
    functional.set_cuda_training("torch")


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_training_step_is_that_of_linear(dtype, way):
    layer = layer_of(device="cuda", dtype=dtype)
    x = torch.randn(50, 64, device="cuda", dtype=dtype, requires_grad=True)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(3):
        parameters = [*layer.factors, layer.bias]
        wide = [p.detach().double().cpu().requires_grad_() for p in parameters]
        wide_x = x.detach().double().cpu().requires_grad_()
        # The mean, not the sum: steps that float16 can hold.
        layer(x).square().mean().backward()
        nn.functional.linear(wide_x, dense(wide[:-1]), wide[-1]).square().mean().backward()
        for mine, theirs in zip([x, *parameters], [wide_x, *wide]):
            assert error(mine.grad, theirs.grad) < 10 * TOLERANCE[dtype]
        optimizer.step()
        optimizer.zero_grad()
        x.grad = None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", CHAINS)
def test_gradients_by_kernels(name, dtype, way):
    layer = layer_of(name, device="cuda", dtype=dtype)
    for shape in [(1,), (3,), (2, 3, 4), (0,), (300,), (2001,)]:
        # A view that begins between two multiples of 16 bytes, too.
        memory = torch.randn(torch.Size(shape).numel() * layer.in_features + 1, device="cuda", dtype=dtype)
        for offset in (0, 1):
            x = memory[offset : len(memory) - 1 + offset].view(*shape, layer.in_features).requires_grad_()
            given = [x, *layer.factors, layer.bias]
            upstream = torch.randn(*shape, layer.out_features, device="cuda", dtype=dtype)
            found = torch.autograd.grad(layer(x), given, upstream)
            wide = [t.detach().double().cpu().requires_grad_() for t in given]
            y = nn.functional.linear(wide[0], dense(wide[1:-1]), wide[-1])
            for mine, theirs in zip(found, torch.autograd.grad(y, wide, upstream.double().cpu())):
                assert mine.dtype == dtype and error(mine, theirs) < 4 * len(given) * TOLERANCE[dtype]


def test_a_captured_training_step_sees_new_weights(way):
    layer = KSLinear(1024, 1024, "monarch:32,32", device="cuda", dtype=torch.bfloat16)
    x = torch.randn(500, 1024, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    upstream = torch.randn(500, 1024, device="cuda", dtype=torch.bfloat16)
    given = [x, *layer.factors, layer.bias]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.autograd.grad(layer(x), given, upstream)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = layer(x)
        found = torch.autograd.grad(y, given, upstream)
    # What the graph names is kept, and nobody else works there.
    clear_cache()
    layer.refresh()
    gc.collect()
    learners = [held for held, _ in _engine.captured.values() if isinstance(held, CudaLearner)]
    assert bool(learners) == (way == "engine") and not _training._learners
    for _ in range(3):
        with torch.no_grad():
            for tensor in given:
                tensor.copy_(torch.randn_like(tensor))
        graph.replay()
        again = layer(x)
        for mine, theirs in zip([y, *found], [again, *torch.autograd.grad(again, given, upstream)]):
            # The engine's sums have one order; those of PyTorch's libraries may depend on their working memory.
            assert torch.equal(mine, theirs) if way == "engine" else error(mine, theirs) < TOLERANCE[x.dtype]
    del graph, learners
    clear_cache(graphs=True)
    assert not _engine.captured


def test_gradients_of_the_input_alone_are_the_engine_s():
    layer = layer_of(device="cuda").requires_grad_(False)
    x = torch.randn(50, 64, device="cuda", requires_grad=True)
    layer(x).square().sum().backward()
    wide = x.detach().double().cpu().requires_grad_()
    weights = [w.double().cpu() for w in layer.factors]
    nn.functional.linear(wide, dense(weights), layer.bias.double().cpu()).square().sum().backward()
    assert error(x.grad, wide.grad) < 10 * TOLERANCE[torch.float32]


def test_gradcheck():
    # Not for both ways: gradcheck changes numbers through `.data`, which the engine on a GPU does not notice.
    # The engine's gradients are those of `test_a_training_step_is_that_of_linear`, in float64 too.
    x = torch.randn(3, 4, device="cuda", dtype=torch.float64, requires_grad=True)
    weights = [
        torch.randn(p, device="cuda", dtype=torch.float64, requires_grad=True) for p in [(1, 4, 2, 3), (2, 3, 2, 1)]
    ]
    call = lambda x, *w: functional.ks_linear(x, w)  # noqa: E731
    assert torch.autograd.gradcheck(call, (x, *weights)) and torch.autograd.gradgradcheck(call, (x, *weights))


def test_autocast(way):
    layer = layer_of(device="cuda")
    x = torch.randn(9, 64, device="cuda")
    with torch.autocast("cuda", dtype=torch.float16):
        y = layer(x)
        with torch.no_grad():
            assert error(layer(x), y) < 4 * TOLERANCE[torch.float16]
            layer.factors[0].mul_(2)
            assert error(layer(x) - layer.bias.half(), 2 * (y - layer.bias.half())) < 1e-2
    assert y.dtype == torch.float16
    y.float().sum().backward()
    assert layer.factors[0].grad.dtype == torch.float32


def test_other_streams_see_the_same_numbers():
    layer = KSLinear(1024, 1024, "monarch:32,32", device="cuda")
    inputs = [torch.randn(2000, 1024, device="cuda") for _ in range(8)]
    with torch.no_grad():
        expected = [layer(x) for x in inputs]
        torch.cuda.synchronize()
        streams = [torch.cuda.Stream() for _ in range(3)]
        for _ in range(5):
            found = []
            for k, x in enumerate(inputs):
                with torch.cuda.stream(streams[k % 3]):
                    found.append(layer(x))
            torch.cuda.synchronize()
            for mine, theirs in zip(found, expected):
                assert torch.equal(mine, theirs)


def test_cuda_graphs():
    layer = KSLinear(1024, 4096, "monarch:64,32", device="cuda", dtype=torch.float16).requires_grad_(False)
    x = torch.randn(64, 1024, device="cuda", dtype=torch.float16)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            layer(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = layer(x)
    for _ in range(3):
        x.copy_(torch.randn_like(x))
        graph.replay()
        assert torch.equal(y, layer(x))
    # The packed weights of the capture stay alive with the process.
    before = y.clone()
    layer.factors[0].mul_(0)
    layer(x)
    clear_cache()
    gc.collect()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(y, before)
    assert _engine.captured
    del graph
    clear_cache(graphs=True)
    assert not _engine.captured and agrees(layer, x)


def test_a_capture_without_a_first_run_is_refused():
    # In a process of its own: a capture that fails leaves PyTorch's allocator in doubt.
    import subprocess
    import sys

    program = """
        import torch
        from kronsparse.torch import KSLinear
        layer = KSLinear(64, 64, "monarch:8,8", device="cuda").requires_grad_(False)
        x = torch.randn(3, 64, device="cuda")
        try:
            with torch.cuda.graph(torch.cuda.CUDAGraph()):
                layer(x)
        except Exception as error:
            while error is not None:
                print(error)
                error = error.__context__
    """
    import textwrap

    out = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=300)
    assert "run the layer once before" in out.stdout, out.stdout + out.stderr


def model_of_two():
    return nn.Sequential(nn.LayerNorm(64), layer_of(), nn.GELU(), KSLinear(96, 64, "monarch:8,8")).cuda()


def output_of_two(model, x):
    """The same by dense matrices, in float64."""
    norm, first, _, second = model
    y = nn.functional.layer_norm(x.double(), (64,), norm.weight.double(), norm.bias.double())
    for layer in (first, second):
        y = nn.functional.linear(y, layer.to_dense().double(), layer.bias.double())
        y = nn.functional.gelu(y) if layer is first else y
    return y


def test_compiled_models(way):
    model = model_of_two()
    compiled = torch.compile(model, fullgraph=True)
    x = torch.randn(5, 64, device="cuda", requires_grad=True)
    y = compiled(x)
    assert torch.allclose(y, model(x), atol=1e-4)
    y.square().sum().backward()
    found = model[1].factors[0].grad.clone()
    model.zero_grad()
    model(x).square().sum().backward()
    assert torch.allclose(found, model[1].factors[0].grad, rtol=1e-3, atol=1e-4)
    reduced = torch.compile(model, mode="reduce-overhead")
    with torch.no_grad():
        model(x)  # packs and compiles before anything is captured
        for _ in range(4):
            assert torch.allclose(reduced(x), model(x), atol=1e-4)


def test_graphs_of_torch_compile_see_weights_that_change_in_place():
    model, x = model_of_two(), torch.randn(5, 64, device="cuda")
    reduced = torch.compile(model, mode="reduce-overhead")
    with torch.no_grad():
        for _ in range(3):
            for _ in range(3):
                assert error(reduced(x), output_of_two(model, x)) < 5 * TOLERANCE[torch.float32]
            model[1].factors[0].mul_(1.5)
            model[3].bias.add_(1)


@pytest.mark.parametrize("frozen", [False, True])
def test_graphs_of_torch_compile_are_not_replayed_for_another_model_s_weights(frozen):
    # Models alike share a compiled function, whose graphs are found by the addresses of weights: here the same ones.
    x, memory = torch.randn(5, 64, device="cuda"), None
    for _ in range(3):
        model = model_of_two().requires_grad_(not frozen)
        if memory is not None and not frozen:
            for parameter, old in zip(model.parameters(), memory):
                old.copy_(parameter.detach())
                parameter.data = old
        memory = [parameter.data for parameter in model.parameters()] if not frozen else None
        reduced = torch.compile(model, mode="reduce-overhead")
        with torch.no_grad():
            model(x)
            for _ in range(4):
                assert error(reduced(x), output_of_two(model, x)) < 5 * TOLERANCE[torch.float32]
        del model, reduced
        gc.collect()


def test_graphs_of_frozen_weights_are_recorded_again_after_loading_and_refreshing():
    model, x = model_of_two().requires_grad_(False), torch.randn(5, 64, device="cuda")
    reduced = torch.compile(model, mode="reduce-overhead")
    model(x)
    for change in ("nothing", "load", "refresh"):
        if change == "load":
            model.load_state_dict(model_of_two().state_dict())
        elif change == "refresh":
            model[1].factors[1].mul_(2)
            model[1].refresh()
        for _ in range(4):
            assert error(reduced(x), output_of_two(model, x)) < 5 * TOLERANCE[torch.float32]


def test_graphs_of_torch_compile_without_a_first_run_are_right():
    # The second model's graph is recorded without a warm-up: by PyTorch's products.
    x = torch.randn(7, 64, device="cuda")
    for first in (True, False):
        model = model_of_two().requires_grad_(False)
        reduced = torch.compile(model, mode="reduce-overhead")
        with warnings.catch_warnings(record=not first):
            for _ in range(4):
                assert error(reduced(x), output_of_two(model, x)) < 5 * TOLERANCE[torch.float32]


@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
@pytest.mark.parametrize("frozen", [False, True])
def test_compiled_autocast_rounds_weights_once(mode, frozen, monkeypatch):
    layer, x = layer_of(device="cuda").requires_grad_(not frozen), torch.randn(9, 64, device="cuda")
    compiled = torch.compile(layer, mode=mode, fullgraph=True)
    with torch.no_grad(), torch.autocast("cuda", dtype=torch.float16):
        layer(x)
        monkeypatch.setattr(_engine, "_pack_cuda", lambda *_: pytest.fail("weights are packed again"))
        for _ in range(4):
            y = compiled(x)
            assert y.dtype == torch.float16 and error(y, layer(x)) < 4 * TOLERANCE[torch.float16]


def test_a_model_is_converted_and_healed_without_packing(monkeypatch):
    teacher = nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 64)).cuda()
    student = copy.deepcopy(teacher)
    convert(student, {"0": "monarch:8,4", "2": "monarch:8,8"})
    data, held_out = ([torch.randn(32, 64, device="cuda") for _ in range(count)] for count in (8, 2))
    packed = []
    monkeypatch.setattr(_engine, "_pack_cuda", lambda *_: packed.append(1))
    healing = heal(student, teacher, data, held_out=held_out, layer_steps=40, steps=40, evaluate_every=10, rate=3e-3)
    assert not packed
    for phase in healing.phases:
        assert phase.best < phase.history[0][1]
    monkeypatch.undo()
    assert all(parameter.is_cuda for parameter in student.parameters())
    with torch.no_grad():
        found = [((student(x) - teacher(x)).norm() / teacher(x).norm()).item() ** 2 for x in held_out]
    # The engine's numbers are those that were learnt with.
    assert sum(found) / 2 == pytest.approx(healing.phases[1].best, rel=1e-2)


@pytest.mark.skipif(not torch.cuda.is_available() or torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_second_gpu():
    layer = layer_of(device="cuda:1")
    assert agrees(layer, torch.randn(9, 64, device="cuda:1"))
    assert torch.cuda.current_device() == 0
