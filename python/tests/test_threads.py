"""Many threads, other Python threads meanwhile, Ctrl-C, and processes that are forked."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import kronsparse as ks
import numpy as np
import pytest
from chains import CHAINS, dense, numbers


def test_one_chain_is_used_by_many_threads(rng):
    chain = ks.Chain([numbers(rng, p, np.dtype(np.float64)) for p in CHAINS["monarch"]])
    matrix = dense(list(chain.weights))
    inputs = [rng.standard_normal((n, 64)) for n in (1, 2, 5, 40, 300, 7, 64, 1000)] * 4
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(chain.apply, inputs))
    for x, y in zip(inputs, results):
        assert np.allclose(y, x @ matrix.T, rtol=1e-11, atol=1e-11)


def test_other_threads_run_during_a_multiplication(rng):
    chain = ks.Chain.random(ks.monarch(2048, 2048, 32, 64), np.float64, rng=rng)
    x = rng.standard_normal((2000, 2048))
    chain.apply(x[:1])
    ticks, stop = [], threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.0005)

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.perf_counter()
    chain.apply(x)
    end = time.perf_counter()
    stop.set()
    thread.join()
    assert sum(start < t < end for t in ticks) >= 2, f"{end - start} s without another thread"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
def test_ctrl_c_ends_a_factorization():
    program = """
        import sys, numpy as np, kronsparse as ks
        matrix = np.random.default_rng().standard_normal((1024, 1024))
        print("ready", flush=True)
        try:
            for _ in range(1000):
                ks.factorize(matrix, [(1, 1024, 512, 1), (1, 512, 1024, 1)])
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            # What the threads have begun must not keep the process.
            import os
            os._exit(7)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    sent = time.perf_counter()
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[0] == "interrupted\n"
    assert process.returncode == 7
    assert time.perf_counter() - sent < 5


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
@pytest.mark.parametrize("where", ["numpy", "torch"])
def test_ctrl_c_is_heard_between_multiplications(where):
    if where == "torch":
        pytest.importorskip("torch")
    program = """
        import sys, time, numpy as np, kronsparse as ks
        multiply, x = ks.Chain.random(ks.monarch(2048, 2048, 32, 64)).apply, np.ones((4000, 2048), np.float32)
        if sys.argv[1] == "torch":
            import torch
            from kronsparse.torch import KSLinear
            multiply, x = KSLinear(2048, 2048, "monarch:32,64").requires_grad_(False), torch.from_numpy(x)
        multiply(x)
        print("ready", flush=True)
        try:
            while True:
                multiply(x)
        except KeyboardInterrupt:
            # What was packed is used on.
            print("interrupted", multiply(x).shape == (4000, 2048), flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), where]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[0] == "interrupted True\n" and process.returncode == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_multiplies():
    # In a process of its own: forking pytest with its threads would be another test.
    program = """
        import os, numpy as np, kronsparse as ks
        chain = ks.Chain.random(ks.monarch(1024, 1024, 32, 32))
        x = np.ones((3000, 1024), np.float32)
        expected = chain.apply(x)          # the pool of threads is there now
        for _ in range(2):
            child = os.fork()
            if child == 0:
                same = np.array_equal(chain.apply(x), expected)
                error = ks.factorize(chain.to_dense(), chain.patterns).relative_error
                os._exit(0 if same and error < 1e-5 else 1)
            assert os.waitpid(child, 0)[1] == 0
        assert np.array_equal(chain.apply(x), expected)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=120)
