"""Pieces of a call's host time, microseconds: medians of 20 rounds of 200 calls."""
import statistics, sys, time
import torch, kronsparse
from torch import nn
from kronsparse.torch import KSLinear
from kronsparse.torch import _engine
torch.set_grad_enabled(False)
def host(call, calls=200, rounds=20):
    found = []
    for _ in range(rounds + 2):
        torch.cuda.synchronize()
        b = time.perf_counter()
        for _ in range(calls): call()
        found.append(1e6 * (time.perf_counter() - b) / calls)
    torch.cuda.synchronize()
    return statistics.median(found[2:]), min(found)
out = []
def show(name, call):
    m, l = host(call)
    print(f"{name},{m:.2f},{l:.2f}", flush=True)
print("what,median_us,least_us")
for n in (1, 16):
    kw = dict(device="cuda", dtype=torch.float16)
    two = KSLinear(4096, 4096, "(1,64,64,64)(64,64,64,1)", **kw)
    one = KSLinear(4096, 4096, "(64,64,64,1)", **kw)
    dense = nn.Linear(4096, 4096, **kw)
    x = torch.randn(n, 4096, **kw)
    for layer in (two, one, dense):
        for _ in range(5): layer(x)
    ident = nn.Identity()
    show(f"n={n} nothing", lambda: None)
    show(f"n={n} nn.Identity", lambda: ident(x))
    show(f"n={n} torch.empty", lambda: torch.empty((n, 4096), **kw))
    from torch._C._dynamo.guards import _empty_strided_cuda
    show(f"n={n} _empty_strided_cuda", lambda: _empty_strided_cuda((n, 4096), (4096, 1), torch.float16))
    show(f"n={n} relu (one launch)", lambda: torch.relu(x))
    show(f"n={n} add_ (one launch, no output)", lambda: x.add_(0))
    show(f"n={n} nn.Linear", lambda: dense(x))
    w, b = dense.weight, dense.bias
    show(f"n={n} F.linear", lambda: nn.functional.linear(x, w, b))
    y = torch.empty(n, 4096, **kw)
    for name, layer in (("two factors", two), ("one factor", one)):
        show(f"n={n} KSLinear {name}", lambda: layer(x))
        show(f"n={n} KSLinear.forward {name}", lambda: layer.forward(x))
        plain, own, call = layer._modules["factors"]._parameters, layer._parameters, layer._call
        show(f"n={n} Call.run {name}", lambda: call.run(x, plain, own))
        entry = _engine._cache[next(k for k in _engine._cache if k[0] == id(layer.factors[0]))]
        op = entry.operator
        s = torch.cuda.current_stream().cuda_stream
        xp, yp = x.data_ptr(), y.data_ptr()
        show(f"n={n} apply_at {name}", lambda: op.apply_at(xp, yp, n, s, False))
        print("#", op.explain(n).replace("\n", " | "), file=sys.stderr)
