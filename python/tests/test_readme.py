"""The README's Python examples, run as they are written, each in a process of its own."""

import subprocess
import sys

import pytest
from pages import ROOT, blocks

EXAMPLES = blocks(ROOT / "README.md", "python")


def test_there_is_one_for_numpy_and_one_for_pytorch():
    assert len(EXAMPLES) == 2
    assert "import numpy" in EXAMPLES[0] and "import torch" not in EXAMPLES[0]
    assert "import torch" in EXAMPLES[1]


@pytest.mark.parametrize("at", range(len(EXAMPLES)))
def test_an_example_runs(at, tmp_path):
    if "import torch" in EXAMPLES[at]:
        pytest.importorskip("torch")
    subprocess.run([sys.executable, "-c", EXAMPLES[at]], check=True, cwd=tmp_path, timeout=300)
