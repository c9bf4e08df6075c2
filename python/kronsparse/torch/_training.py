"""A chain whose weights learn on a GPU, by the engine's kernels: weights are packed where they lie, in every step, and
gradients of weights have a kernel of their own. float16, bfloat16 and float32; compute capability 8.0 and later."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._cuda import find_libraries
from .._kronsparse import CudaLearner
from . import _engine
from ._engine import _current_stream
from ._ops import gradients_by_products
from ._packing import DTYPES, addresses_of, plain
from ._products import has_many, is_plain

#: The identity of the layer's first weight (0: of no layer), GPU, dtype, shapes of the factors, whether it has a bias.
_Key = tuple[int, int, torch.dtype, tuple[tuple[int, ...], ...], bool]

#: Each layer has its own, since a CUDA graph that holds a step of it names what it packs. Weights that are made anew in
#: every step, as parametrizations do, share one per shape. With the weight, whose end is the end of this.
_learners: dict[_Key, tuple[weakref.ref[Tensor] | None, CudaLearner]] = {}
_making = threading.Lock()


def can_train(x: Tensor, weights: Sequence[Tensor], bias: Tensor | None) -> bool:
    """Whether the kernels know the dtype and the GPU of these vectors, and all tensors are their numbers in memory."""
    if x.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return False
    if not all(is_plain(tensor) for tensor in (x, *weights, *(() if bias is None else (bias,)))):
        return False
    return torch.cuda.get_device_capability(x.device) >= (8, 0)


def _learner_of(x: Tensor, weights: Sequence[Tensor], bias: bool, owner: Tensor | None) -> CudaLearner:
    if type(owner) is not torch.nn.Parameter:
        owner = None
    shapes = tuple(tuple(weight.shape) for weight in weights)
    key = 0 if owner is None else id(owner), x.device.index, x.dtype, shapes, bias
    found = _learners.get(key)
    if found is not None and (owner is None or (found[0] is not None and found[0]() is owner)):
        return found[1]
    find_libraries()
    _engine.give_back()
    with torch.cuda.device(x.device):
        made = _make(x, shapes, bias)
    with _making:
        again = _learners.get(key)
        if again is not None and again is not found:
            # Another thread was faster.
            return again[1]
        gone = None if owner is None else weakref.ref(owner, lambda _: _engine.lay_aside(_learners.pop(key, None)))
        _learners[key] = gone, made
    return made


def _make(x: Tensor, shapes: tuple[tuple[int, ...], ...], bias: bool) -> CudaLearner:
    return CudaLearner(x.device.index, DTYPES[x.dtype], shapes, bias)  # type: ignore[arg-type]


def _is_captured(learner: CudaLearner) -> bool:
    """Whether a CUDA graph is being captured, in which the learner's memory is named from now on."""
    capturing = torch.cuda.is_current_stream_capturing()
    if capturing:
        _engine.captured[id(learner)] = learner, []
    return capturing


def _forget(owner: Tensor | None) -> None:
    for key, (known, _) in list(_learners.items()):
        if owner is None or (known is not None and known() is owner):
            _engine.lay_aside(_learners.pop(key, None))


_engine.forgotten.append(_forget)


def _flat(vectors: Tensor) -> Tensor:
    """Vectors ``(…, features)`` as ``(n, features)``, one after the other in memory."""
    return plain(vectors).view(-1, vectors.shape[-1])


class _Train(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, learner: CudaLearner | None, x: Tensor, bias: Tensor | None, *weights: Tensor) -> Tensor:
        index, wants = x.device.index, ctx.needs_input_grad[3:]
        # Kept until the kernels are queued.
        flat, held = _flat(x), [plain(weight) for weight in weights]
        held_bias = None if bias is None else plain(bias)
        n = flat.shape[0]
        outputs = [flat.new_empty((n, a * b * d)) for a, b, _, d in (weight.shape for weight in weights)]
        if learner is not None:
            with torch.cuda.device(index):
                learner.forward_at(
                    addresses_of(held),
                    *addresses_of([held_bias]),
                    *addresses_of([flat]),
                    addresses_of(outputs),
                    n,
                    _current_stream(index),
                    _is_captured(learner),
                )
        # The inputs of the factors, left to right, of which only gradients of weights need any.
        inputs = [kept if wants[at] else None for at, kept in enumerate([*outputs[1:], flat])]
        ctx.learner = learner
        ctx.save_for_backward(x, *weights, *inputs)
        return outputs[0].view(*x.shape[:-1], outputs[0].shape[-1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        count = (len(ctx.saved_tensors) - 1) // 2
        x, *rest = ctx.saved_tensors
        weights, inputs = rest[:count], rest[count:]
        wants_x, wants_bias, *wants = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled() or has_many(gradient):
            return None, *gradients_by_products(gradient, x, weights, ctx.needs_input_grad[1:])
        index, v, learner = x.device.index, _flat(gradient), ctx.learner
        n = v.shape[0]
        make = torch.empty if n else torch.zeros
        found = [
            make(weight.shape, dtype=x.dtype, device=x.device) if wanted else None
            for weight, wanted in zip(weights, wants)
        ]
        back = x.new_empty((n, x.shape[-1])) if wants_x else None
        bias = make(v.shape[-1:], dtype=x.dtype, device=x.device) if wants_bias else None
        if learner is not None:
            with torch.cuda.device(index):
                widest = max((a * b * d for a, b, _, d in (weight.shape for weight in weights[1:])), default=0)
                hidden = [v.new_empty((n, widest)) for _ in range(min(2, count - 1))]
                inputs, held = [None if h is None else plain(h) for h in inputs], [plain(weight) for weight in weights]
                aligned = all(address % 16 == 0 for address in addresses_of([*inputs, v, back, *hidden]))
                capturing = _is_captured(learner)
                length = learner.parts_len(n, aligned, capturing) if wants_bias or any(wants) else 0
                parts = torch.empty(length, dtype=torch.float32, device=x.device)
                learner.backward_at(
                    addresses_of(held),
                    addresses_of(inputs),
                    *addresses_of([v]),
                    addresses_of(found),
                    *addresses_of([bias, back]),
                    (addresses_of(hidden) + [0, 0])[:2],
                    parts.data_ptr() if length else 0,
                    n,
                    _current_stream(index),
                    capturing,
                )
        return None, None if back is None else back.view(x.shape), bias, *found


def train(x: Tensor, weights: Sequence[Tensor], bias: Tensor | None, owner: Tensor | None = None) -> Tensor:
    """``ks_linear`` for tensors that fit, that ``can_train``, at least one of the weights with gradients. ``owner`` is
    the layer's first weight as the layer has it, before autocast."""
    learner = _learner_of(x, weights, bias is not None, owner) if x.numel() else None
    return _Train.apply(learner, x, bias, *weights)
