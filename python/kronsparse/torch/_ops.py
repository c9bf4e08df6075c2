"""The custom operation ``torch.ops.kronsparse.apply``: kernels, shapes for compilers, gradients.

Defined by ``torch.library.Library`` rather than the decorator ``custom_op``, whose wrapper costs several microseconds a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._engine import apply_cpu, apply_cuda, check

_library = torch.library.Library("kronsparse", "DEF")
_library.define(
    "apply(Tensor x, Tensor[] weights, Tensor? bias, bool adjoint, bool cache) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.impl("apply", apply_cpu, "CPU")
_library.impl("apply", apply_cuda, "CUDA")

#: ``apply(x, weights, bias, adjoint, cache)``: ``x @ W.T + bias``, or ``x @ W.conj() + bias`` with the conjugate transpose of the
#: chain; weights left to right. ``cache`` allows packed weights to be kept for later calls.
apply = torch.ops.kronsparse.apply.default


def _fake(x: Tensor, weights: Sequence[Tensor], bias: Tensor | None, adjoint: bool, cache: bool) -> Tensor:
    return x.new_empty((*x.shape[:-1], check(x, weights, bias, adjoint)))


torch.library.register_fake("kronsparse::apply", _fake, lib=_library)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weights, bias, ctx.adjoint, ctx.cache = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, *weights)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    x, *weights = ctx.saved_tensors
    wants_x, wants_weights, wants_bias = ctx.needs_input_grad[:3]
    if not isinstance(wants_weights, (list, tuple)):
        wants_weights = [wants_weights] * len(weights)
    bias = None
    if ctx.has_bias and wants_bias:
        bias = gradient.reshape(-1, gradient.shape[-1]).sum(0)
    if not any(wants_weights):
        back = apply(gradient, weights, None, not ctx.adjoint, ctx.cache) if wants_x else None
        return back, [None] * len(weights), bias, None, None
    # In the order of application. What passes between factors is computed again rather than kept.
    order = list(range(len(weights)))
    if not ctx.adjoint:
        order.reverse()
    first = min(place for place, at in enumerate(order) if wants_weights[at])
    inputs = [x]
    for at in order[:-1]:
        inputs.append(apply(inputs[-1], [weights[at]], None, ctx.adjoint, ctx.cache))
    found: list[Tensor | None] = [None] * len(weights)
    for place in range(len(order) - 1, -1, -1):
        at = order[place]
        if wants_weights[at]:
            outer, inner = (inputs[place], gradient) if ctx.adjoint else (gradient, inputs[place])
            found[at] = weight_gradient(outer, inner, weights[at].shape)
        if place == first:
            # No other weight asks for it: the rest of the way in one pass.
            rest = [weights[at] for at in sorted(order[: place + 1])]
            gradient = apply(gradient, rest, None, not ctx.adjoint, ctx.cache) if wants_x else gradient
            break
        gradient = apply(gradient, [weights[at]], None, not ctx.adjoint, ctx.cache)
    return gradient if wants_x else None, found, bias, None, None


def weight_gradient(outer: Tensor, inner: Tensor, shape: Sequence[int]) -> Tensor:
    """``Σ_n outer[n, i, o, j] · conj(inner[n, i, l, j])`` as ``(a, b, c, d)``, by PyTorch's batched product: there is no kernel for it yet."""
    a, b, c, d = shape
    left = outer.reshape(-1, a, b, d).permute(1, 3, 2, 0).reshape(a * d, b, -1)
    right = inner.reshape(-1, a, c, d).permute(1, 3, 0, 2).reshape(a * d, -1, c)
    if right.is_complex():
        right = right.conj()
    return torch.bmm(left, right).reshape(a, d, b, c).permute(0, 2, 3, 1).contiguous()


torch.library.register_autograd("kronsparse::apply", _backward, setup_context=_setup, lib=_library)

