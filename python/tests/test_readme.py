"""The README's Python examples, run as they are written, each in a process of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def test_there_is_one_for_numpy_and_one_for_pytorch():
    assert len(EXAMPLES) == 2
    assert "import numpy" in EXAMPLES[0] and "import torch" not in EXAMPLES[0]
    assert "import torch" in EXAMPLES[1]


@pytest.mark.parametrize("at", range(len(EXAMPLES)))
def test_an_example_runs(at, tmp_path):
    if "import torch" in EXAMPLES[at]:
        pytest.importorskip("torch")
    subprocess.run([sys.executable, "-c", EXAMPLES[at]], check=True, cwd=tmp_path, timeout=300)
