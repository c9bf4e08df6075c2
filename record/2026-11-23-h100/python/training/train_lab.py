"""Where a training step of the 4096 Monarch layer spends its time, and whether other ways are faster. train_lab.py OUT"""
import sys, time
import torch
from torch import nn
import kronsparse.torch as kt
from kronsparse.torch import KSLinear, set_cuda_training
from kronsparse.torch._learning import learn
from kronsparse.torch._products import by_products

START = time.perf_counter()
DEVICE = sys.argv[2] if len(sys.argv) > 2 else "cuda"
GPU = DEVICE == "cuda"
N, DT = (8192, torch.bfloat16) if GPU else (96, torch.float64)
out = open(sys.argv[1], "w")


def say(*what):
    print(*what, flush=True)
    print(*what, file=out, flush=True)


def us(call, inner=10, repeats=9):
    for _ in range(3):
        call()
    if not GPU:
        return 0.0
    found = []
    for _ in range(repeats):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        a.record()
        for _ in range(inner):
            call()
        b.record()
        b.synchronize()
        found.append(1e3 * a.elapsed_time(b) / inner)
    return sorted(found)[len(found) // 2]


def part(name, call):
    try:
        say(f"{time.perf_counter() - START:5.1f} s  {us(call):9.1f} us  {name}")
    except Exception as why:
        say("FAILED", name, repr(why)[:300])


# learning2.py: hidden vectors feature by feature, which saves a copy in each direction.
from learning2 import learn as other

SPLIT = 1


def wgrad(left, right):
    """(m, n, b)^T (m, n, c), long sums cut into SPLIT."""
    if SPLIT == 1:
        return torch.bmm(left.mT, right)
    m, n, b = left.shape
    l, r = left.unflatten(1, (SPLIT, -1)), right.unflatten(1, (SPLIT, -1))
    return torch.matmul(l.mT, r).sum(1)


torch.manual_seed(1)
make = lambda: KSLinear(4096, 4096, "(1,64,64,64)(64,64,64,1)", device=DEVICE, dtype=DT)
layer, dense = make(), nn.Linear(4096, 4096, device=DEVICE, dtype=DT)
x = torch.randn(N, 4096, device=DEVICE, dtype=DT, requires_grad=True)
g = torch.randn(N, 4096, device=DEVICE, dtype=DT)
weights, bias = list(layer.factors), layer.bias

# The same numbers?
grads = []
for way in (learn, other):
    y = way(x, weights, bias)
    grads.append([y.detach().float(), *(v.float() for v in torch.autograd.grad(y, [x, bias, *weights], g))])
worst = max(((p - q).norm() / q.norm()).item() for p, q in zip(*grads))
say(f"other way against this one: {worst:.1e}")
assert worst < (3e-2 if GPU else 1e-5)
del grads, y

xd = x.detach()
say("-- pieces (67 MB read or written: 22 us at 3 TB/s)")
part("copy x", lambda: xd.clone())
part("lanes: permute(1,3,0,2) of (n,1,64,64), as today", lambda: xd.view(N, 1, 64, 64).permute(1, 3, 0, 2).reshape(64, N, 64).contiguous())
part("whole transposition (n,f) -> (f,n)", lambda: xd.t().contiguous())
xt = xd.t().contiguous()
part("whole transposition (f,n) -> (n,f)", lambda: xt.t().contiguous())
part("same with bias by torch.add", lambda: torch.add(xt.t(), bias.detach(), out=torch.empty_like(xd)))
lanes = xd.view(N, 1, 64, 64).permute(1, 3, 0, 2).reshape(64, N, 64).contiguous()
part("back: (d,n,b) -> (n,b,d) with bias, as today", lambda: torch.add(lanes.view(1, 64, N, 64).permute(2, 0, 3, 1), bias.detach().view(1, 64, 64), out=torch.empty_like(xd).view(N, 1, 64, 64)))
part("back without bias", lambda: torch.empty_like(xd).view(N, 1, 64, 64).copy_(lanes.view(1, 64, N, 64).permute(2, 0, 3, 1)))
blocks = torch.randn(64, 64, 64, device=DEVICE, dtype=DT) / 8
rows_view = xd.view(N, 64, 64).transpose(0, 1)
cols_view = xt.view(64, 64, N).permute(1, 2, 0)
part("bmm contiguous lanes", lambda: torch.bmm(lanes, blocks))
part("bmm rows -> rows (strided)", lambda: torch.bmm(rows_view, blocks, out=torch.empty_like(xd).view(N, 64, 64).transpose(0, 1)))
part("bmm rows -> batch-last", lambda: torch.bmm(rows_view, blocks, out=torch.empty_like(xt).view(64, 64, N).transpose(1, 2)))
part("bmm batch-last lanes -> batch-last lanes", lambda: torch.bmm(cols_view, blocks, out=torch.empty_like(xt).view(64, 64, N).permute(1, 2, 0)))
part("bmm batch-last -> rows", lambda: torch.bmm(xt.view(64, 64, N).transpose(1, 2), blocks, out=torch.empty_like(xd).view(N, 64, 64).transpose(0, 1)))
part("wgrad contiguous lanes", lambda: torch.bmm(lanes.mT, lanes))
part("wgrad rows view", lambda: torch.bmm(rows_view.mT, rows_view))
part("wgrad batch-last", lambda: torch.bmm(cols_view.mT, cols_view))
for SPLIT in (2, 4, 8):
    part(f"wgrad contiguous lanes, split {SPLIT}", lambda: wgrad(lanes, lanes))
    part(f"wgrad rows view, split {SPLIT}", lambda: wgrad(rows_view, rows_view))
    part(f"wgrad batch-last, split {SPLIT}", lambda: wgrad(cols_view, cols_view))
SPLIT = 1
part("bias: g.sum(0)", lambda: g.sum(0))
part("bias: ones @ g", lambda: torch.mv(g.t(), torch.ones(N, device=DEVICE, dtype=DT)))
del xt, lanes, cols_view, rows_view


def step_of(forward, parameters, **options):
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, **options)

    def step():
        optimizer.zero_grad()
        x.grad = None
        forward(x).backward(g)
        optimizer.step()

    return step


say("-- steps: forward, backward, AdamW")
p = [*weights, bias]
part("dense", step_of(dense, list(dense.parameters())))
part("dense, fused optimizer", step_of(dense, list(dense.parameters()), fused=True) if GPU else lambda: None)
part("kronsparse as it is", step_of(layer, p))
part("kronsparse as it is, fused optimizer", step_of(layer, p, fused=True) if GPU else lambda: None)
part("other way", step_of(lambda x: other(x, weights, bias), p))
part("other way, fused optimizer", step_of(lambda x: other(x, weights, bias), p, fused=True) if GPU else lambda: None)
odd, odd_g = x.detach()[: N - 3].requires_grad_(), g[: N - 3]
part("kronsparse, forward and backward of 3 vectors fewer", lambda: torch.autograd.grad(layer(odd), [odd, *p], odd_g))
part("other way, forward and backward of 3 vectors fewer", lambda: torch.autograd.grad(other(odd, weights, bias), [odd, *p], odd_g))
part("kronsparse, forward and backward only", lambda: torch.autograd.grad(layer(x), [x, *p], g))
part("other way, forward and backward only", lambda: torch.autograd.grad(other(x, weights, bias), [x, *p], g))
part("dense, forward and backward only", lambda: torch.autograd.grad(dense(x), [x, *dense.parameters()], g))
def graphed(step):
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


if GPU:
    for options in ({"capturable": True}, {"capturable": True, "fused": True}):
        for name, forward, parameters in (("kronsparse", layer, p), ("other way", lambda x: other(x, weights, bias), p), ("dense", dense, list(dense.parameters()))):
            try:
                part(f"in a CUDA graph, {name} {options}", graphed(step_of(forward, parameters, **options)))
            except Exception as why:
                say("FAILED", name, repr(why)[:300])
    for name, forward, parameters in (("kronsparse", layer, p), ("other way", lambda x: other(x, weights, bias), p), ("dense", dense, list(dense.parameters()))):
        # What the host takes alone: queued, not waited for.
        step = step_of(forward, parameters)
        for _ in range(5):
            step()
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(8):
            step()
        say(f"host of a step, {name}: {1e6 * (time.perf_counter() - begin) / 8:.0f} us")
        torch.cuda.synchronize()
        from torch.profiler import ProfilerActivity, profile
        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
            for _ in range(5):
                step()
            torch.cuda.synchronize()
        table = [(e.self_device_time_total / 5, e.count / 5, e.key) for e in seen.key_averages() if e.self_device_time_total > 0 and e.device_type.name == "CUDA"]
        say(f"kernels of a step, {name}: {sum(t for t, *_ in table):.0f} us")
        for t, count, key in sorted(table, reverse=True)[:22]:
            say(f"   {t:8.1f} us  {count:4.1f} x  {key[:150]}")
    compiled = torch.compile(lambda x: by_products(x, weights, bias))
    part("by_products under torch.compile", step_of(compiled, p))
    part("dense under torch.compile", step_of(torch.compile(dense), list(dense.parameters())))
say(f"{time.perf_counter() - START:.0f} s")
