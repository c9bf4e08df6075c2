"""The conditions of a run: environment, threads, description of the machine, the measured peak of a matrix product."""

from __future__ import annotations

import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

# Variables that choose another OpenBLAS kernel than its own detection would.
REMOVED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
LIBRARIES = ("numpy", "scipy", "torch", "lazylinop")


def environment(threads: int, pages: str) -> dict[str, str]:
    """The variables that must be set before any numerical library is loaded."""
    count = str(threads)
    huge = "1" if pages == "huge" else "0"
    return {
        "OMP_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "RAYON_NUM_THREADS": count,
        "NUMPY_MADVISE_HUGEPAGE": huge,
        "THP_MEM_ALLOC_ENABLE": huge,
    }


def settle(threads: int, pages: str, cpus: str | None) -> None:
    """Restarts this process if its environment is not right for it, and pins it (and its children) to cores."""
    if cpus is not None:
        os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    wanted = environment(threads, pages)
    if all(os.environ.get(k) == v for k, v in wanted.items()) and not any(k in os.environ for k in REMOVED):
        return
    kept = {k: v for k, v in os.environ.items() if k not in REMOVED}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], kept | wanted)


def limit_torch(threads: int) -> None:
    """Tells PyTorch as well; raises if a library still uses another number of threads."""
    import torch
    from threadpoolctl import threadpool_info

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    for pool in threadpool_info():
        if pool["num_threads"] != threads:
            raise RuntimeError(f"{pool['prefix']} uses {pool['num_threads']} threads, expected {threads}")


def describe(threads: int, pages: str) -> dict[str, Any]:
    """The machine and the versions, for the file that accompanies the figures."""
    from threadpoolctl import threadpool_info

    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpu": cpu_name(),
        "cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.platform(),
        "python": platform.python_version(),
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
        "thread_pools": [
            {k: pool.get(k) for k in ("prefix", "version", "architecture", "num_threads")} for pool in threadpool_info()
        ],
        "threads": threads,
        "pages": pages,
        "load_average": os.getloadavg(),
    }


def cpu_name() -> str:
    """Model, family and stepping where the system tells them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return platform.processor()
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    found = {key.strip(): value.strip() for key, value in fields.items()}
    return f"{found.get('model name', '?')} family {found.get('cpu family', '?')} model {found.get('model', '?')}"


class Peak:
    """The best rate of a square matrix product seen so far, FLOP/s: NumPy for f32 and f64, PyTorch for f16 and bf16."""

    def __init__(self) -> None:
        self.best: dict[str, float] = {}

    def measure(self, dtype: str, sizes: tuple[int, ...] = (1024, 2048, 4096), seconds: float = 1.0) -> float:
        """Multiplies each size for that long (at least three times) and keeps the fastest; returns the best so far.

        A size that would take over three seconds a product is left out: some libraries have no fast product for f16.
        """
        import numpy as np
        import torch

        for size in sizes:
            if 2.0 * size**3 > 3.0 * self.best.get(dtype, float("inf")):
                continue
            if dtype in ("f32", "f64"):
                shape, kind = (2, size, size), np.float32 if dtype == "f32" else np.float64
                left, right = np.random.default_rng().random(shape, dtype=kind)
                out: Any = np.empty_like(left)
                multiply: Any = np.matmul
            else:
                left, right = torch.randn(2, size, size).to(torch.float16 if dtype == "f16" else torch.bfloat16)
                out, multiply = torch.empty_like(left), torch.matmul
            times: list[float] = []
            start = time.perf_counter()
            while not times or (len(times) < 3 and times[-1] < 1.0) or time.perf_counter() - start < seconds:
                before = time.perf_counter()
                multiply(left, right, out=out)
                times.append(time.perf_counter() - before)
            self.best[dtype] = max(self.best.get(dtype, 0.0), 2.0 * size**3 / min(times))
        return self.best[dtype]


class Neighbours:
    """How many cores other processes kept busy since this was made: a warning that a figure was contended."""

    def __init__(self, child: int | None) -> None:
        self.mine = [psutil.Process()] + ([psutil.Process(child)] if child is not None else [])
        self.start = self._now()

    def _now(self) -> tuple[float, float, float]:
        system = psutil.cpu_times()
        # User time holds that of guests; steal is what the host took from us.
        busy = (
            system.user
            + system.nice
            + system.system
            + sum(getattr(system, k, 0.0) for k in ("irq", "softirq", "steal"))
        )
        own = sum(p.cpu_times().user + p.cpu_times().system for p in self.mine)
        return time.perf_counter(), busy, own

    def busy(self) -> float:
        """Cores kept busy by others, on average."""
        (t0, busy0, own0), (t1, busy1, own1) = self.start, self._now()
        return max(0.0, (busy1 - busy0) - (own1 - own0)) / max(t1 - t0, 1e-9)
