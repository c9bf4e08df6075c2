"""Where the engine finds the CUDA libraries of this interpreter's packages."""

from __future__ import annotations

import os
import sys


def find_libraries() -> None:
    """Tells the engine where this interpreter's packages have the CUDA libraries, unless the user has said it."""
    if "KRONSPARSE_CUDA_PATH" not in os.environ:
        found = [path for path in sys.path if isinstance(path, str) and os.path.isdir(os.path.join(path, "nvidia"))]
        if found:
            os.environ["KRONSPARSE_CUDA_PATH"] = os.pathsep.join(found)
