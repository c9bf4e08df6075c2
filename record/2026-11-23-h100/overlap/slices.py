# Does a factor-by-factor chain gain from slices of the batch whose hidden vectors stay in the second-level cache?
import sys, torch
from kronsparse.torch import KSLinear
torch.manual_seed(0)
def graph_time(f, reps=12):
    s = torch.cuda.Stream()
    with torch.cuda.stream(s):
        for _ in range(2): keep = f()
    torch.cuda.synchronize()
    g = torch.cuda.CUDAGraph()
    with torch.cuda.graph(g): keep = f()
    flush = torch.empty(256 << 20, dtype=torch.uint8, device='cuda')
    ts = []
    for _ in range(reps):
        flush.zero_()
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record(); g.replay(); b.record(); torch.cuda.synchronize()
        ts.append(a.elapsed_time(b) * 1e3)
    del g
    return sorted(ts)[len(ts)//2]
for size, chain, dtype, n in [(4096, "(1,64,64,64)(64,64,64,1)", torch.float32, 25088), (1024, "(1,32,32,32)(32,32,32,1)", torch.float32, 25088), (4096, "(1,64,64,64)(64,64,64,1)", torch.float32, 8192)]:
    layer = KSLinear(size, size, chain, bias=False, device='cuda', dtype=dtype).requires_grad_(False)
    x = torch.randn(n, size, device='cuda', dtype=dtype)
    with torch.no_grad():
        for s in [n, 8192, 4096, 2048, 1536, 1024, 512]:
            if s > n: continue
            for y in [layer(x[i:i+s]) for i in range(0, n, s)]: pass
            t = graph_time(lambda: [layer(x[i:i+s]) for i in range(0, n, s)])
            print(size, chain, dtype, 'n', n, 'slice', s, 'us', round(t, 1), flush=True)
