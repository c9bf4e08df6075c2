"""A chain whose weights learn on a GPU, by PyTorch's batched products with as few copies as their layouts allow.

A factor ``(a, b, c, d)`` is ``a·d`` products of ``b × c`` blocks. For ``d = 1`` the vectors of all products can be read
and written where they lie, by strides; for ``d > 1`` they are copied, once for the forward and the gradient of the
weights together, and the bias is added as results are copied back. ``einsum`` copies more; the sums are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ._ops import _backward
from ._products import by_products, has_many


def _lanes(x: Tensor, a: int, rows: int, d: int) -> Tensor:
    """Vectors ``(n, a·rows·d)`` in C order as ``(a·d, n, rows)``, a view for ``d = 1``."""
    n = len(x)
    if d == 1:
        return x.view(n, a, rows).transpose(0, 1)
    return x.view(n, a, rows, d).permute(1, 3, 0, 2).reshape(a * d, n, rows).contiguous()


def _product(lanes: Tensor, blocks: Tensor, a: int, rows: int, d: int, bias: Tensor | None = None) -> Tensor:
    """``lanes (a·d, n, k) · blocks (a·d, k, rows)`` as vectors ``(n, a·rows·d)`` in C order, plus a bias."""
    n = lanes.shape[1]
    out = lanes.new_empty((n, a * rows * d))
    if d == 1:
        torch.bmm(lanes, blocks, out=out.view(n, a, rows).transpose(0, 1))
        return out if bias is None else out.add_(bias)
    found = torch.bmm(lanes, blocks).view(a, d, n, rows).permute(2, 0, 3, 1)
    shaped = out.view(n, a, rows, d)
    if bias is None:
        shaped.copy_(found)
    else:
        torch.add(found, bias.view(a, rows, d), out=shaped)
    return out


def _blocks(weight: Tensor) -> Tensor:
    """Weights ``(a, b, c, d)`` as ``(a·d, b, c)``."""
    a, b, c, d = weight.shape
    return weight.permute(0, 3, 1, 2).reshape(a * d, b, c)


class _Learn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, *weights: Tensor) -> Tensor:
        h = x.reshape(-1, x.shape[-1]).contiguous()
        kept = []
        for at in range(len(weights) - 1, -1, -1):
            a, b, c, d = weights[at].shape
            lanes = _lanes(h, a, c, d)
            kept.append(lanes if ctx.needs_input_grad[2 + at] else None)
            h = _product(lanes, _blocks(weights[at]).mT, a, b, d, bias if at == 0 else None)
        ctx.save_for_backward(x, *weights, *kept)
        return h.view(*x.shape[:-1], h.shape[-1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        count = (len(ctx.saved_tensors) - 1) // 2
        x, *rest = ctx.saved_tensors
        weights, kept = rest[:count], rest[count:][::-1]
        wants_x, wants_bias, *wants = ctx.needs_input_grad
        bias = gradient.reshape(-1, gradient.shape[-1]).sum(0) if wants_bias else None
        if torch.is_grad_enabled() or has_many(gradient):
            # Gradients of gradients, or many at once: by operations that have them.
            how = SimpleNamespace(operation=by_products, adjoint=False, rest=())
            back, found = _backward(how, gradient, x, weights, wants_x, wants)
            return back, bias, *found
        found: list[Tensor | None] = [None] * count
        last = count if wants_x else max((at for at in range(count) if wants[at]), default=-1)
        g = gradient.reshape(-1, gradient.shape[-1]).contiguous()
        for at, weight in enumerate(weights[: last + 1]):
            a, b, c, d = weight.shape
            lanes = _lanes(g, a, b, d)
            if wants[at]:
                found[at] = torch.bmm(lanes.mT, kept[at].conj()).view(a, d, b, c).permute(0, 2, 3, 1).contiguous()
            if at == last:
                break
            g = _product(lanes, _blocks(weight).conj(), a, c, d)
        return g.view(x.shape) if wants_x else None, bias, *found


def learn(x: Tensor, weights: Sequence[Tensor], bias: Tensor | None) -> Tensor:
    """``ks_linear`` for tensors that fit, at least one of the weights with gradients."""
    return _Learn.apply(x, bias, *weights)
