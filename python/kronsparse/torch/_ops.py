"""The custom operation ``torch.ops.kronsparse.apply``: kernels, shapes for compilers, gradients.

Defined by ``torch.library.Library`` rather than the decorator ``custom_op``, whose wrapper costs several microseconds a
call.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ._engine import apply_cpu, apply_cuda, apply_cuda_frozen
from ._packing import check
from ._products import by_products, has_many

_library = torch.library.Library("kronsparse", "DEF")
_ARGUMENTS = "(Tensor x, Tensor[] weights, Tensor? bias, bool adjoint, bool cache, bool cast=False) -> Tensor"
# A CUDA graph holds weights as they were packed, and whoever replays it does not ask whether they have changed. So the
# graphs that torch.compile records by itself leave the operation out, unless the weights are frozen.
_library.define("apply" + _ARGUMENTS, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.cudagraph_unsafe))
_library.define("apply_frozen" + _ARGUMENTS, tags=(torch.Tag.pt2_compliant_tag,))
for _name in ("apply", "apply_frozen"):
    _library.impl(_name, apply_cpu, "CPU")
_library.impl("apply", apply_cuda, "CUDA")
_library.impl("apply_frozen", apply_cuda_frozen, "CUDA")

#: ``apply(x, weights, bias, adjoint, cache)``: ``x @ W.T + bias``, or ``x @ W.conj() + bias`` with the conjugate
#: transpose of the chain; weights left to right. ``cache`` allows packed weights to be kept for later calls; ``cast``
#: says that weights and bias have another dtype than ``x``, to which they are rounded first (on a GPU: once).
apply = torch.ops.kronsparse.apply.default
#: The same for weights that are not trained and not changed in place: see ``KSLinear.refresh``.
apply_frozen = torch.ops.kronsparse.apply_frozen.default


def _fake(
    x: Tensor, weights: Sequence[Tensor], bias: Tensor | None, adjoint: bool, cache: bool, cast: bool = False
) -> Tensor:
    rows, _ = check(x, weights, bias, adjoint, cast)
    return x.new_empty((*x.shape[:-1], rows))


for _name in ("apply", "apply_frozen"):
    torch.library.register_fake(f"kronsparse::{_name}", _fake, lib=_library)


class _Apply(torch.autograd.Function):
    """The operation with gradients recorded. ``torch.library.register_autograd`` would do the same, but it flattens and
    rebuilds trees of arguments at every call, which takes longer than a small multiplication."""

    @staticmethod
    def forward(ctx: Any, keys: Any, apply: Any, how: Any, x: Tensor, bias: Tensor | None, *weights: Tensor) -> Tensor:
        ctx.adjoint, *ctx.rest = how
        ctx.operation = apply
        # Inputs are large, and only gradients of weights need them.
        ctx.save_for_backward(x if any(ctx.needs_input_grad[5:]) else None, *weights)
        return _below(keys, apply, x, weights, bias, how)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        x, *weights = ctx.saved_tensors
        wants = ctx.needs_input_grad[3:]
        if has_many(gradient):
            return None, None, None, *gradients_by_products(gradient, x, weights, wants, ctx.adjoint)
        return None, None, None, *_gradients(ctx, gradient, x, weights, wants)


def _below(keys: Any, apply: Any, x: Tensor, weights: Sequence[Tensor], bias: Tensor | None, how: Any) -> Tensor:
    with torch._C._AutoDispatchBelowAutograd():
        return apply.redispatch(keys & torch._C._after_autograd_keyset, x, list(weights), bias, *how)


def _autograd(apply: Any) -> Any:
    def run(
        keys: Any,
        x: Tensor,
        weights: list[Tensor],
        bias: Tensor | None,
        adjoint: bool,
        cache: bool,
        cast: bool = False,
    ) -> Tensor:
        if torch.is_grad_enabled() and needs_gradient(x, weights, bias):
            if cast:
                # Gradients flow through the cast.
                weights, cast = [weight.to(x.dtype) for weight in weights], False
                bias = None if bias is None else bias.to(x.dtype)
            return _Apply.apply(keys, apply, (adjoint, cache, cast), x, bias, *weights)
        return _below(keys, apply, x, weights, bias, (adjoint, cache, cast))

    return run


def needs_gradient(x: Tensor, weights: Sequence[Tensor], bias: Tensor | None) -> bool:
    """Whether any of the tensors asks for a gradient."""
    if x.requires_grad or (bias is not None and bias.requires_grad):
        return True
    return any(weight.requires_grad for weight in weights)


for _operation in (apply, apply_frozen):
    _library.impl(_operation, _autograd(_operation), "Autograd", with_keyset=True)


def gradients_by_products(
    gradient: Tensor, x: Tensor, weights: list[Tensor], wants: Sequence[bool], adjoint: bool = False
) -> tuple[Any, ...]:
    """The gradients of ``x``, the bias and each of the weights, as far as they are wanted, by operations that have
    gradients themselves and that take many gradients at once."""
    how = SimpleNamespace(operation=by_products, adjoint=adjoint, rest=())
    return _gradients(how, gradient, x, weights, wants)


def _gradients(how: Any, gradient: Tensor, x: Tensor, weights: list[Tensor], wants: Sequence[bool]) -> tuple[Any, ...]:
    wants_x, wants_bias, *wants_weights = wants
    bias = gradient.reshape(-1, gradient.shape[-1]).sum(0) if wants_bias else None
    if any(wants_weights):
        back, found = _backward(how, gradient, x, weights, wants_x, wants_weights)
        return back, bias, *found
    back = how.operation(gradient, weights, None, not how.adjoint, *how.rest) if wants_x else None
    return back, bias, *[None] * len(weights)


def _backward(
    ctx: Any, gradient: Tensor, x: Tensor, weights: list[Tensor], wants_x: bool, wants_weights: list[bool]
) -> tuple[Tensor | None, list[Tensor | None]]:
    """The gradients of ``x`` and of the weights, of which at least one is wanted."""
    # In the order of application. What passes between factors is computed again rather than kept.
    order = list(range(len(weights)))
    if not ctx.adjoint:
        order.reverse()
    wanted = [place for place, at in enumerate(order) if wants_weights[at]]
    first, last = wanted[0], wanted[-1]
    inputs = [x]
    for at in order[:last]:
        inputs.append(ctx.operation(inputs[-1], [weights[at]], None, ctx.adjoint, *ctx.rest))
    found: list[Tensor | None] = [None] * len(weights)
    for place in range(len(order) - 1, -1, -1):
        at = order[place]
        if wants_weights[at]:
            outer, inner = (inputs[place], gradient) if ctx.adjoint else (gradient, inputs[place])
            found[at] = weight_gradient(outer, inner, weights[at].shape)
        if place == first:
            # No other weight asks for it: the rest of the way in one pass.
            rest = [weights[at] for at in sorted(order[: place + 1])]
            gradient = ctx.operation(gradient, rest, None, not ctx.adjoint, *ctx.rest) if wants_x else gradient
            break
        gradient = ctx.operation(gradient, [weights[at]], None, not ctx.adjoint, *ctx.rest)
    return gradient if wants_x else None, found


def weight_gradient(outer: Tensor, inner: Tensor, shape: Sequence[int]) -> Tensor:
    """``Σ_n outer[n, i, o, j] · conj(inner[n, i, l, j])`` as ``(a, b, c, d)``, by PyTorch's batched product. A GPU's
    kernel for it is in ``_training``."""
    a, b, c, d = shape
    left = outer.reshape(-1, a, b, d).permute(1, 3, 2, 0).reshape(a * d, b, -1)
    right = inner.reshape(-1, a, c, d).permute(1, 3, 0, 2).reshape(a * d, -1, c)
    if right.is_complex():
        right = right.conj()
    return torch.bmm(left, right).reshape(a, d, b, c).permute(0, 2, 3, 1).contiguous()
