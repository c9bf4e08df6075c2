"""Kronecker-sparse linear layers for PyTorch: ``KSLinear`` in the place of ``nn.Linear``.

CPU tensors are multiplied by the Rust engine where they lie; CUDA tensors on PyTorch's current stream and device, by
kernels that are compiled at the first use of a batch size (while weights are trained on a GPU, by PyTorch's own
products or by kernels: ``set_cuda_training``). Nothing links to libtorch. Needs PyTorch 2.11 or later.
"""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("kronsparse.torch needs PyTorch: pip install 'kronsparse[torch]'") from error

from . import functional
from ._engine import clear_cache, explain
from .conversion import Row, Table, convert
from .functional import set_cuda_training
from .gated import KSGatedMLP, join_gated
from .guidance import advise, tune
from .healing import Healing, Phase, heal, relative_square
from .layer import KSLinear

__all__ = [
    "Healing",
    "KSGatedMLP",
    "KSLinear",
    "Phase",
    "Row",
    "Table",
    "advise",
    "clear_cache",
    "convert",
    "explain",
    "functional",
    "heal",
    "join_gated",
    "relative_square",
    "set_cuda_training",
    "tune",
]
