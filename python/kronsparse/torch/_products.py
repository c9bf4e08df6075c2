"""A chain by PyTorch's own operations, which every transform knows and which a CUDA graph reads weights with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad


def is_transformed() -> bool:
    """Whether ``torch.func`` or forward-mode differentiation is at work: custom operations' gradients know neither."""
    return forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None


def has_many(gradient: Tensor) -> bool:
    """Whether a gradient stands for several, which only PyTorch's own operations take."""
    return is_transformed() or torch._C._functorch.is_legacy_batchedtensor(gradient)


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is its numbers in memory: neither of a subclass (``FakeTensor`` is one) nor the wrapper that a
    transform puts around another one."""
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        return False
    functorch = torch._C._functorch
    wrapped = functorch.is_functorch_wrapped_tensor(tensor) or functorch.is_legacy_batchedtensor(tensor)
    return not (wrapped or torch._is_functional_tensor(tensor))


def by_products(x: Tensor, weights: Sequence[Tensor], bias: Tensor | None = None, adjoint: bool = False) -> Tensor:
    """``x @ W.T + bias``, or ``x @ W.conj() + bias`` if ``adjoint``: one batched product per factor. Shapes as for
    ``ks_linear``, which has checked them."""
    lead = x.shape[:-1]
    for weight in weights if adjoint else reversed(weights):
        a, b, c, d = weight.shape
        # One product per block: (a·d, n, c) · (a·d, c, b), or with the blocks' conjugates (a·d, n, b) · (a·d, b, c).
        rows, cols = (c, b) if adjoint else (b, c)
        blocks = weight.permute(0, 3, 1, 2) if adjoint else weight.permute(0, 3, 2, 1)
        blocks = (blocks.conj() if adjoint and blocks.is_complex() else blocks).reshape(a * d, cols, rows)
        lanes = x.reshape(-1, a, cols, d).permute(1, 3, 0, 2).reshape(a * d, -1, cols)
        x = torch.bmm(lanes, blocks).reshape(a, d, -1, rows).permute(2, 0, 3, 1).reshape(-1, a * rows * d)
    x = x.reshape(*lead, x.shape[-1])
    return x if bias is None else x + bias
