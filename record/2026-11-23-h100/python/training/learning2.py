"""A chain whose weights learn on a GPU, by PyTorch's batched products with as few copies as their layouts allow.

A factor ``(a, b, c, d)`` is ``a·d`` products of ``b × c`` blocks. Products read and write vectors where they lie, by
strides, if one of the two dimensions of each block of vectors is contiguous and one stride leads from block to block.
So what comes in and goes out, vector by vector, is used as it is for ``d = 1`` and copied for ``d > 1``; what lies between
two factors is kept feature by feature, the vectors side by side, and copied only for factors with ``a > 1`` and
``d > 1``. ``einsum`` copies more; the sums are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from kronsparse.torch._ops import _backward
from kronsparse.torch._products import by_products, has_many


class _Vectors:
    """``n`` vectors: ``(n, features)`` in C order, or, between two factors, ``(features, n)``."""

    def __init__(self, data: Tensor, between: bool) -> None:
        self.data, self.between = data, between

    def lanes(self, a: int, rows: int, d: int) -> Tensor:
        """``(a·d, n, rows)`` of features ``(a, rows, d)``, a view where one can be."""
        if self.between:
            n = self.data.shape[1]
            split = self.data.view(a, rows, d, n).transpose(1, 2)
            if a == 1 or d == 1:
                return split.view(a * d, rows, n).transpose(1, 2)
            return split.reshape(a * d, rows, n).transpose(1, 2)
        split = self.data.view(-1, a, rows, d)
        if d == 1:
            return split.squeeze(3).transpose(0, 1)
        # Once here, rather than by each product: with a = 1 the reshaping copies nothing.
        return split.permute(1, 3, 0, 2).reshape(a * d, -1, rows).contiguous()


def _product(
    lanes: Tensor, blocks: Tensor, a: int, rows: int, d: int, between: bool, bias: Tensor | None = None
) -> _Vectors:
    """``lanes (a·d, n, k) · blocks (a·d, k, rows)``, plus a bias unless ``between``."""
    n = lanes.shape[1]
    if between:
        # Addresses of features are multiples of 16 bytes, which the tensor cores want.
        out = lanes.new_empty((a * rows * d, -(-n // 8) * 8))[:, :n]
        split = out.view(a, rows, d, n).transpose(1, 2)
        if a == 1 or d == 1:
            torch.bmm(lanes, blocks, out=split.view(a * d, rows, n).transpose(1, 2))
        else:
            split.copy_(torch.bmm(lanes, blocks).view(a, d, n, rows).transpose(2, 3))
        return _Vectors(out, True)
    out = lanes.new_empty((n, a * rows * d))
    split = out.view(n, a, rows, d)
    if d == 1:
        torch.bmm(lanes, blocks, out=split.squeeze(3).transpose(0, 1))
        return _Vectors(out if bias is None else out.add_(bias), False)
    found = torch.bmm(lanes, blocks).view(a, d, n, rows).permute(2, 0, 3, 1)
    if bias is None:
        split.copy_(found)
    else:
        torch.add(found, bias.view(a, rows, d), out=split)
    return _Vectors(out, False)


def _blocks(weight: Tensor) -> Tensor:
    """Weights ``(a, b, c, d)`` as ``(a·d, b, c)``."""
    a, b, c, d = weight.shape
    return weight.permute(0, 3, 1, 2).reshape(a * d, b, c)


class _Learn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, *weights: Tensor) -> Tensor:
        h = _Vectors(x.reshape(-1, x.shape[-1]).contiguous(), False)
        kept = []
        for at in range(len(weights) - 1, -1, -1):
            a, b, c, d = weights[at].shape
            lanes = h.lanes(a, c, d)
            kept.append(lanes if ctx.needs_input_grad[2 + at] else None)
            h = _product(lanes, _blocks(weights[at]).mT, a, b, d, at > 0, bias if at == 0 else None)
        ctx.save_for_backward(x, *weights, *kept)
        return h.data.view(*x.shape[:-1], h.data.shape[-1])

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
        g = _Vectors(gradient.reshape(-1, gradient.shape[-1]).contiguous(), False)
        for at, weight in enumerate(weights[: last + 1]):
            a, b, c, d = weight.shape
            lanes = g.lanes(a, b, d)
            if wants[at]:
                found[at] = torch.bmm(lanes.mT, kept[at].conj()).view(a, d, b, c).permute(0, 2, 3, 1).contiguous()
            if at == last:
                break
            g = _product(lanes, _blocks(weight).conj(), a, c, d, at < count - 1)
        return g.data.view(x.shape) if wants_x else None, bias, *found


def learn(x: Tensor, weights: Sequence[Tensor], bias: Tensor | None) -> Tensor:
    """``ks_linear`` for tensors that fit, at least one of the weights with gradients."""
    return _Learn.apply(x, bias, *weights)
