"""Fast multiplication by Kronecker-sparse matrices and their products (butterfly, Monarch), for NumPy.

A chain ``W = K_1 K_2 … K_L`` is a product of Kronecker-sparse factors, listed left to right as in mathematics. Factor
``k`` has a pattern ``(a, b, c, d)`` and weights ``w[i, o, l, j]`` of that shape, and

    K[i·b·d + o·d + j, i·c·d + l·d + j] = w[i, o, l, j],    zero elsewhere.

``chain @ X`` multiplies the columns of ``X``; ``chain.apply(x)`` multiplies the rows of ``x``, as PyTorch's linear
layers do. ``kronsparse.torch`` (with PyTorch installed) has layers.
"""

from ._advice import advise
from ._chain import Chain
from ._factorize import Factorization, Step, factorize
from ._files import load, load_layer, save
from ._interop import from_ksm, to_ksm, to_lazylinop
from ._kronsparse import (
    Advice,
    Candidate,
    Cost,
    Operator,
    Pattern,
    TuningRecord,
    Verdict,
    Way,
    __version__,
    budget_chains,
    butterfly,
    check_chain,
    cuda_devices,
    enumerate_chains,
    monarch,
    parse_chain,
    ranks,
    square_dyadic,
    tolerance,
)
from ._transforms import Transform, dct2, dft, hadamard
from ._tuning import Tuning, read_tuning, tune, tuning_path, use_tuning

__all__ = [
    "Advice",
    "Candidate",
    "Chain",
    "Cost",
    "Factorization",
    "Operator",
    "Pattern",
    "Step",
    "Transform",
    "Tuning",
    "TuningRecord",
    "Verdict",
    "Way",
    "__version__",
    "advise",
    "budget_chains",
    "butterfly",
    "check_chain",
    "cuda_devices",
    "dct2",
    "dft",
    "enumerate_chains",
    "factorize",
    "from_ksm",
    "hadamard",
    "load",
    "load_layer",
    "monarch",
    "parse_chain",
    "ranks",
    "read_tuning",
    "save",
    "square_dyadic",
    "to_ksm",
    "to_lazylinop",
    "tolerance",
    "tune",
    "tuning_path",
    "use_tuning",
]
