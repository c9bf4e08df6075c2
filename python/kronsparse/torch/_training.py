"""A chain whose weights learn on a GPU, by the engine's kernels: weights are packed where they lie, in every step, and
gradients of weights have a kernel of their own. float16, bfloat16 and float32; compute capability 8.0 and later."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from .._cuda import find_libraries
from .._kronsparse import CudaLearner
from ._engine import _current_stream
from ._ops import _backward
from ._packing import DTYPES
from ._products import by_products, has_many

_Shapes = tuple[tuple[int, int, int, int], ...]


def can_train(x: Tensor) -> bool:
    """Whether the kernels know the dtype and the GPU of these vectors."""
    if x.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return False
    return torch.cuda.get_device_capability(x.device) >= (8, 0)


@lru_cache(maxsize=1024)
def _learner(index: int, dtype: torch.dtype, shapes: _Shapes, bias: bool) -> CudaLearner:
    """Layers that are alike share one: what it packs is used within the same call."""
    find_libraries()
    return CudaLearner(index, DTYPES[dtype], shapes, bias)


def _learner_of(x: Tensor, weights: Sequence[Tensor], bias: bool) -> CudaLearner:
    shapes = tuple(tuple(weight.shape) for weight in weights)
    return _learner(x.device.index, x.dtype, shapes, bias)  # type: ignore[arg-type]


def _addresses(tensors: Sequence[Tensor | None]) -> list[int]:
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]


def _flat(vectors: Tensor) -> Tensor:
    """Vectors ``(…, features)`` as ``(n, features)``, one after the other in memory."""
    return vectors.reshape(-1, vectors.shape[-1]).contiguous()


class _Train(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, *weights: Tensor) -> Tensor:
        index, wants = x.device.index, ctx.needs_input_grad[2:]
        # Kept until the kernels are queued.
        flat, plain = _flat(x), [weight.contiguous() for weight in weights]
        plain_bias = None if bias is None else bias.contiguous()
        n = flat.shape[0]
        outputs = [flat.new_empty((n, a * b * d)) for a, b, _, d in (weight.shape for weight in weights)]
        if n:
            with torch.cuda.device(index):
                _learner_of(x, weights, bias is not None).forward_at(
                    _addresses(plain),
                    *_addresses([plain_bias]),
                    flat.data_ptr(),
                    _addresses(outputs),
                    n,
                    _current_stream(index),
                    torch.cuda.is_current_stream_capturing(),
                )
        # The inputs of the factors, left to right, of which only gradients of weights need any.
        inputs = [kept if wants[at] else None for at, kept in enumerate([*outputs[1:], flat])]
        ctx.has_bias = bias is not None
        ctx.save_for_backward(x, *weights, *inputs)
        return outputs[0].view(*x.shape[:-1], outputs[0].shape[-1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        count = (len(ctx.saved_tensors) - 1) // 2
        x, *rest = ctx.saved_tensors
        weights, inputs = rest[:count], rest[count:]
        wants_x, wants_bias, *wants = ctx.needs_input_grad
        if torch.is_grad_enabled() or has_many(gradient):
            # Gradients of gradients, or many at once: by operations that have them.
            how = SimpleNamespace(operation=by_products, adjoint=False, rest=())
            bias = gradient.reshape(-1, gradient.shape[-1]).sum(0) if wants_bias else None
            back, found = _backward(how, gradient, x, weights, wants_x, wants)
            return back, bias, *found
        index, v = x.device.index, _flat(gradient)
        n = v.shape[0]
        make = torch.empty if n else torch.zeros
        found = [
            make(weight.shape, dtype=x.dtype, device=x.device) if wanted else None
            for weight, wanted in zip(weights, wants)
        ]
        back = x.new_empty((n, x.shape[-1])) if wants_x else None
        bias = make(v.shape[-1:], dtype=x.dtype, device=x.device) if wants_bias else None
        if n:
            with torch.cuda.device(index):
                learner = _learner_of(x, weights, ctx.has_bias)
                widest = max((a * b * d for a, b, _, d in (weight.shape for weight in weights[1:])), default=0)
                hidden = [v.new_empty((n, widest)) for _ in range(min(2, count - 1))]
                vectors = [*_addresses([*inputs, v, back, *hidden])]
                aligned = all(address % 16 == 0 for address in vectors)
                capturing = torch.cuda.is_current_stream_capturing()
                length = learner.parts_len(n, aligned) if wants_bias or any(wants) else 0
                parts = torch.empty(length, dtype=torch.float32, device=x.device)
                plain = [weight.contiguous() for weight in weights]
                learner.backward_at(
                    _addresses(plain),
                    _addresses(inputs),
                    v.data_ptr(),
                    _addresses(found),
                    *_addresses([bias, back]),
                    (_addresses(hidden) + [0, 0])[:2],
                    parts.data_ptr() if length else 0,
                    n,
                    _current_stream(index),
                    capturing,
                )
        return None if back is None else back.view(x.shape), bias, *found


def train(x: Tensor, weights: Sequence[Tensor], bias: Tensor | None) -> Tensor:
    """``ks_linear`` for tensors that fit, that ``can_train``, at least one of the weights with gradients."""
    return _Train.apply(x, bias, *weights)
