"""What the tests share: fresh random numbers, dtypes, references, and the reason why GPU tests do not run."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

# Threads of PyTorch that wait must leave the cores to those of the engine. Read when PyTorch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A shell that runs this in the background has it ignore Ctrl-C, and the processes that tests begin would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SEED = int(os.environ.get("KRONSPARSE_TEST_SEED", np.random.SeedSequence().entropy % 2**32))


def pytest_report_header() -> str:
    """Repeat a failure with KRONSPARSE_TEST_SEED."""
    return f"kronsparse: KRONSPARSE_TEST_SEED={SEED}"


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Numbers that differ from run to run and from test to test."""
    name = [ord(letter) for letter in request.node.name]
    return np.random.default_rng([SEED, *name])


def why_no_gpu() -> str | None:
    """Why the GPU tests cannot run; None where they can."""
    try:
        import torch
    except ImportError:
        return "PyTorch is not installed"
    if not torch.cuda.is_available():
        return "PyTorch sees no NVIDIA GPU on this machine"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked `cuda` with the reason; a GPU machine forbids that with KRONSPARSE_REQUIRE_GPU."""
    marked = [item for item in items if item.get_closest_marker("cuda")]
    why = why_no_gpu() if marked else None
    if why is None:
        return
    if os.environ.get("KRONSPARSE_REQUIRE_GPU"):
        raise pytest.UsageError(f"KRONSPARSE_REQUIRE_GPU is set, but {why}")
    for item in marked:
        item.add_marker(pytest.mark.skip(reason=why))
