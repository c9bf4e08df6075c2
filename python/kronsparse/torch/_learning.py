"""A chain whose weights learn on a GPU, by PyTorch's batched products, which also do what would otherwise be copies.

A factor ``(a, b, c, d)`` is ``a·d`` products of ``b × c`` blocks. A product reads and writes vectors where they lie if
one stride leads from block to block and one dimension of a block is contiguous. Vectors come and go one after the other
(*by rows*), which suits ``d = 1``; between two factors they are kept *by features*, side by side, which suits ``a = 1``
as well. From one order to the other they go by products with the identity: on an H100, a product that turns 8192
vectors of 4096 bfloat16 numbers takes 60 µs, a transposing copy 260, and a copy lane by lane 730. The numbers stay what
they are, but that infinity makes NaN of its neighbours. 32-bit numbers, which a product may round to TF32, are copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._ops import gradients_by_products
from ._products import has_many


def _by_rows(data: Tensor, blocks: int, size: int) -> Tensor:
    """Vectors ``(n, blocks·size)`` as ``(blocks, n, size)``."""
    n, features = data.shape
    return data.as_strided((blocks, n, size), (size, features, 1))


def _by_features(data: Tensor, a: int, size: int, d: int) -> Tensor:
    """Vectors ``(a·size·d, n)``, of which ``a`` or ``d`` is 1, as ``(a·d, n, size)``."""
    n, step = data.shape[1], data.stride(0)
    return data.as_strided((a * d, n, size), (size * step if d == 1 else step, 1, d * step))


def _features(x: Tensor, features: int, n: int) -> Tensor:
    """Memory for vectors by features, each beginning at a multiple of 16 bytes, as tensor cores want it."""
    return x.new_empty((features, -(-n // 8) * 8))[:, :n]


_identities: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}


def _identity(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    found = _identities.get((size, dtype, device))
    if found is None:
        # Not a tensor of inference mode, which autograd could not use later on.
        with torch.inference_mode(False):
            found = torch.eye(size, dtype=dtype, device=device)
        if device.type == "cuda":
            if torch.cuda.is_current_stream_capturing():
                # It has no numbers before the graph is replayed.
                return found
            # Other streams may be the next to use it.
            torch.cuda.current_stream(device).synchronize()
        _identities[size, dtype, device] = found
    return found


def _turned(data: Tensor, to_rows: bool) -> Tensor:
    """Vectors by rows, from vectors by features, or the other way."""
    features, n = data.shape if to_rows else data.shape[::-1]
    size = next((size for size in (64, 32, 48, 16) if features % size == 0), None)
    if size is None or data.dtype in (torch.float32, torch.complex64):
        return data.t().contiguous()
    blocks = features // size
    turn = _identity(size, data.dtype, data.device).expand(blocks, size, size)
    if to_rows:
        out = data.new_empty((n, features))
        torch.bmm(_by_features(data, blocks, size, 1), turn, out=_by_rows(out, blocks, size))
    else:
        out = _features(data, features, n)
        torch.bmm(_by_rows(data, blocks, size), turn, out=_by_features(out, blocks, size, 1))
    return out


def _lanes(data: Tensor, rows: bool, a: int, size: int, d: int) -> Tensor:
    """Vectors of features ``(a, size, d)`` as ``(a·d, n, size)``, where they lie if they can be used there."""
    if rows and d == 1:
        return _by_rows(data, a, size)
    if rows:
        data = _turned(data, to_rows=False)
    if a == 1 or d == 1:
        return _by_features(data, a, size, d)
    n = data.shape[1]
    return data.view(a, size, d, n).transpose(1, 2).reshape(a * d, size, n).transpose(1, 2)


def _product(lanes: Tensor, blocks: Tensor, a: int, size: int, d: int, rows: bool) -> Tensor:
    """``lanes (a·d, n, k) · blocks (a·d, k, size)`` as vectors of features ``(a, size, d)``."""
    n = lanes.shape[1]
    if rows and d == 1:
        out = lanes.new_empty((n, a * size))
        torch.bmm(lanes, blocks, out=_by_rows(out, a, size))
        return out
    out = _features(lanes, a * size * d, n)
    if a == 1 or d == 1:
        torch.bmm(lanes, blocks, out=_by_features(out, a, size, d))
    else:
        out.view(a, size, d, n).copy_(torch.bmm(lanes, blocks).view(a, d, n, size).permute(0, 3, 1, 2))
    return _turned(out, to_rows=True) if rows else out


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
            lanes = _lanes(h, at == len(weights) - 1, a, c, d)
            kept.append(lanes if ctx.needs_input_grad[2 + at] else None)
            h = _product(lanes, _blocks(weights[at]).mT, a, b, d, at == 0)
        if bias is not None:
            h.add_(bias)
        ctx.save_for_backward(x, *weights, *kept)
        return h.view(*x.shape[:-1], h.shape[-1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        count = (len(ctx.saved_tensors) - 1) // 2
        x, *rest = ctx.saved_tensors
        weights, kept = rest[:count], rest[count:][::-1]
        wants_x, wants_bias, *wants = ctx.needs_input_grad
        if torch.is_grad_enabled() or has_many(gradient):
            return gradients_by_products(gradient, x, weights, ctx.needs_input_grad)
        bias = gradient.reshape(-1, gradient.shape[-1]).sum(0) if wants_bias else None
        found: list[Tensor | None] = [None] * count
        last = count if wants_x else max((at for at in range(count) if wants[at]), default=-1)
        g = gradient.reshape(-1, gradient.shape[-1]).contiguous()
        for at, weight in enumerate(weights[: last + 1]):
            a, b, c, d = weight.shape
            lanes = _lanes(g, at == 0, a, b, d)
            if wants[at]:
                found[at] = torch.bmm(lanes.mT, kept[at].conj()).view(a, d, b, c).permute(0, 2, 3, 1).contiguous()
            if at == last:
                break
            g = _product(lanes, _blocks(weight).conj(), a, c, d, at == count - 1)
        return g.view(x.shape) if wants_x else None, bias, *found


def learn(x: Tensor, weights: Sequence[Tensor], bias: Tensor | None) -> Tensor:
    """``ks_linear`` for tensors that fit, at least one of the weights with gradients."""
    return _Learn.apply(x, bias, *weights)
