"""A training step of 4096 Monarch, n = 8192, bf16, by both ways and dense: in a graph, eager, with the fused optimizer; kernels of a step."""
import sys, torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from kronsparse.torch import KSLinear, set_cuda_training
from kronsparse.torch import _training
out = open(sys.argv[1], "w")
def say(*w):
    print(*w, file=out, flush=True); print(*w, flush=True)
D, DT, N = "cuda", torch.bfloat16, 8192
def us(call, inner=10, repeats=9):
    for _ in range(3): call()
    found = []
    for _ in range(repeats):
        a, b = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(); a.record()
        for _ in range(inner): call()
        b.record(); b.synchronize(); found.append(1e3 * a.elapsed_time(b) / inner)
    return sorted(found)[len(found) // 2]
x0 = torch.randn(N, 4096, device=D, dtype=DT); g = torch.randn(N, 4096, device=D, dtype=DT)
def steps(layer, fused, graph):
    opt = torch.optim.AdamW(layer.parameters(), lr=1e-4, fused=fused, capturable=graph)
    x = x0.clone().requires_grad_()
    def step():
        opt.zero_grad(); x.grad = None
        layer(x).backward(g); opt.step()
    if not graph: return step
    side = torch.cuda.Stream(); side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3): step()
    torch.cuda.current_stream().wait_stream(side)
    gr = torch.cuda.CUDAGraph()
    with torch.cuda.graph(gr): step()
    return gr.replay
for name in ("dense", "torch", "engine"):
    if name != "dense": set_cuda_training(name)
    for fused in (False, True):
        for graph in (False, True):
            layer = nn.Linear(4096, 4096, device=D, dtype=DT) if name == "dense" else KSLinear(4096, 4096, "(1,64,64,64)(64,64,64,1)", device=D, dtype=DT)
            try: say(f"{us(steps(layer, fused, graph)):9.1f} us  {name} fused {fused} graph {graph}")
            except Exception as e: say("FAILED", name, fused, graph, repr(e)[:300])
set_cuda_training("engine")
layer = KSLinear(4096, 4096, "(1,64,64,64)(64,64,64,1)", device=D, dtype=DT)
step = steps(layer, True, False)
for _ in range(3): step()
with profile(activities=[ProfilerActivity.CUDA]) as p:
    for _ in range(5): step()
    torch.cuda.synchronize()
for e in sorted(p.key_averages(), key=lambda e: -e.self_device_time_total): say(f"{e.self_device_time_total / 5:9.1f} us a step, {e.count / 5:4.1f} calls  {e.key[:110]}")
ev = [e for e in p.events() if "kronsparse" in e.name][:16]
for e in sorted(ev, key=lambda e: e.time_range.start): say(f"{e.device_time_total:8.1f} us  {e.name[:60]}")
say(_training._learner_of(x0, list(layer.factors), True).explain(N))
for dims in ("(1,768,192,2)(6,64,64,1)", "(1,256,64,4)(4,64,256,1)"):
    try:
        cols = {"(1,768,192,2)(6,64,64,1)": 384}.get(dims, 1024); rows = {"(1,768,192,2)(6,64,64,1)": 1536}.get(dims, 1024)
        layer = KSLinear(cols, rows, dims, device=D, dtype=DT); say(_training._learner_of(torch.zeros(1, cols, device=D, dtype=DT), list(layer.factors), True).explain(N))
    except Exception as e: say("FAILED", dims, repr(e)[:200])
