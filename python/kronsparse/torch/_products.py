"""A chain by PyTorch's own operations, which every transform knows and which a CUDA graph reads weights with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def by_products(x: Tensor, weights: Sequence[Tensor], bias: Tensor | None = None, adjoint: bool = False) -> Tensor:
    """``x @ W.T + bias``, or ``x @ W.conj() + bias`` if ``adjoint``: one batched product per factor. Shapes as for
    ``ks_linear``, which has checked them."""
    lead = x.shape[:-1]
    for weight in weights if adjoint else reversed(weights):
        a, b, c, d = weight.shape
        if adjoint:
            x = torch.einsum("nioj,iolj->nilj", x.reshape(-1, a, b, d), weight.conj()).reshape(-1, a * c * d)
        else:
            x = torch.einsum("nilj,iolj->nioj", x.reshape(-1, a, c, d), weight).reshape(-1, a * b * d)
    x = x.reshape(*lead, x.shape[-1])
    return x if bias is None else x + bias
