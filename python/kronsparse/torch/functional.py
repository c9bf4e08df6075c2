"""``ks_linear``: what ``KSLinear`` computes, as a function of its tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._engine import apply_cpu, apply_cuda, cast_kept, check
from ._learning import learn
from ._ops import apply, apply_frozen, needs_gradient
from ._products import by_products, is_transformed

_FLOATS = (torch.float16, torch.bfloat16, torch.float32)
_cuda_training = "torch"


def set_cuda_training(way: str) -> None:
    """How a GPU multiplies while gradients of weights are recorded: by PyTorch's own batched products (``"torch"``, the
    default), or by the engine (``"engine"``), which packs weights on the host and so copies them there and back after
    each optimizer step.

    Without gradients, and with gradients of the input only, the engine multiplies in any case.
    """
    global _cuda_training
    if way not in ("torch", "engine"):
        raise ValueError(f"way: expected 'torch' or 'engine', found {way!r}")
    _cuda_training = way


def ks_linear(x: Tensor, weights: Sequence[Tensor], bias: Tensor | None = None) -> Tensor:
    """``x @ W.T + bias`` for the chain ``W = K_1 … K_L`` whose factors have ``weights`` of shape ``(a, b, c, d)``, left
    to right.

    ``x`` has shape ``(…, in_features)`` and any strides; the result ``(…, out_features)`` is contiguous. All tensors
    have one dtype and one device. Differentiable in all of them, more than once. Under autocast, float16, bfloat16 and
    float32 tensors are cast first, as for ``nn.functional.linear``. Within ``torch.func`` transforms and forward-mode
    differentiation, and on a GPU while gradients of weights are recorded (see ``set_cuda_training``), it is computed by
    PyTorch's own operations.

    ValueError for shapes and devices, TypeError for dtypes that do not fit; each names what was expected and found.
    """
    weights = list(weights)
    if not weights:
        raise ValueError("weights: expected at least one factor, found none")
    if not isinstance(x, Tensor):
        raise TypeError(f"x: expected a tensor, found {type(x).__name__}")
    kind = x.device.type
    learns = any(weight.requires_grad for weight in weights)
    cast = False
    if kind in ("cpu", "cuda") and torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        if x.dtype in _FLOATS:
            x = x.to(dtype)
        given = weights if bias is None else [*weights, bias]
        fixed = kind == "cuda" and not (torch.is_grad_enabled() and any(t.requires_grad for t in given))
        if fixed and torch.compiler.is_compiling():
            # The operation does it, which knows the weights themselves.
            cast = x.dtype == dtype and all(t.dtype in _FLOATS for t in given)
        if not cast:
            # On a GPU packing takes long: what is cast is kept, unless gradients must flow through the cast.
            fixed = fixed and not torch.compiler.is_compiling() and not is_transformed()
            to = cast_kept if fixed else Tensor.to
            weights = [to(weight, dtype) if weight.dtype in _FLOATS else weight for weight in weights]
            bias = to(bias, dtype) if bias is not None and bias.dtype in _FLOATS else bias
    records = torch.is_grad_enabled() and needs_gradient(x, weights, bias)
    if not torch.compiler.is_compiling():
        if is_transformed():
            check(x, weights, bias, False)
            return by_products(x, weights, bias)
        if (
            not records
            and type(x) is Tensor
            and torch._C._len_torch_dispatch_stack() == 0
            and not torch._C._is_tracing()
        ):
            # Nobody is there who would have to see the operation: past the dispatcher, which takes longer than a small
            # product.
            if kind == "cpu":
                return apply_cpu(x, weights, bias, False, True)
            if kind == "cuda":
                return apply_cuda(x, weights, bias, False, True)
    trains = records and learns
    if trains and kind == "cuda" and _cuda_training == "torch":
        check(x, weights, bias, False)
        # Compilers move and merge plain operations.
        watched = torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0 or torch._C._is_tracing()
        return by_products(x, weights, bias) if watched else learn(x, weights, bias)
    if kind == "cuda" and not learns and (bias is None or not bias.requires_grad):
        return apply_frozen(x, weights, bias, False, True, cast)
    # While gradients of weights are recorded nothing is kept: an optimizer is about to change them.
    return apply(x, weights, bias, False, not trains, cast)
