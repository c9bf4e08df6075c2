"""``ks_linear`` and ``ks_gated``: what ``KSLinear`` and ``KSGatedMLP`` compute, as functions of their tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from ._engine import apply_cpu, apply_cuda, cast_kept, multiply_cpu, multiply_cuda
from ._gated import gated, gated_frozen, of_pair
from ._learning import learn
from ._ops import apply, apply_frozen, needs_gradient
from ._packing import ACTIVATIONS, check, check_activation, check_pair
from ._products import by_products, is_transformed
from ._training import can_train, train

_FLOATS = (torch.float16, torch.bfloat16, torch.float32)
_cuda_training = "torch"


def set_cuda_training(way: str) -> None:
    """How a GPU multiplies while gradients of weights are recorded: by PyTorch's own batched products (``"torch"``, the
    default), or by the engine (``"engine"``): in float16, bfloat16 and float32 with weights that are packed on the GPU
    in every step and a kernel for their gradients, otherwise (other dtypes, GPUs before compute capability 8.0,
    compiled models), with weights that are copied to the host and back after each optimizer step. Kernels are given
    plain tensors only: where x or a weight is of a subclass, such as ``FakeTensor``, the subclass decides what becomes
    of the operation; within transforms PyTorch's products are taken in any case.

    By the engine every layer has packed copies of its weights and tables of their places on the GPU: 12 bytes per
    weight in 16-bit types, 16 in float32, more where several numbers of vectors ask for several orders. A step can be
    captured into a CUDA graph once it was run, forward and backward, with the same number of vectors; each replay reads
    the weights anew. The copies live as long as the layer; those that a graph may name until
    ``clear_cache(graphs=True)``.

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
    cast, owner = False, weights[0]
    if kind in ("cpu", "cuda") and torch.is_autocast_enabled(kind):
        x, cast, tensors = _autocast(x, weights if bias is None else [*weights, bias])
        weights, bias = tensors[: len(weights)], None if bias is None else tensors[-1]
    records = torch.is_grad_enabled() and needs_gradient(x, weights, bias)
    if not torch.compiler.is_compiling():
        if is_transformed():
            check(x, weights, bias, False)
            return by_products(x, weights, bias)
        if not records and _is_unseen(x, weights if bias is None else [*weights, bias]):
            # Nobody is there who would have to see the operation: past the dispatcher, which takes longer than a small
            # product.
            if kind == "cpu":
                return apply_cpu(x, weights, bias, False, True)
            if kind == "cuda":
                return apply_cuda(x, weights, bias, False, True)
    trains = records and learns
    if trains and kind == "cuda":
        # Compilers move and merge plain operations.
        watched = torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0 or torch._C._is_tracing()
        by_engine = _cuda_training == "engine" and not watched and can_train(x, weights, bias)
        if by_engine or _cuda_training == "torch":
            check(x, weights, bias, False)
            if by_engine:
                return train(x, weights, bias, owner)
            return by_products(x, weights, bias) if watched else learn(x, weights, bias)
    if kind == "cuda" and not learns and (bias is None or not bias.requires_grad):
        return apply_frozen(x, weights, bias, False, True, cast)
    # While gradients of weights are recorded nothing is kept: an optimizer is about to change them.
    return apply(x, weights, bias, False, not trains, cast)


def ks_gated(
    x: Tensor,
    gate: Sequence[Tensor],
    up: Sequence[Tensor],
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    activation: str = "silu",
) -> Tensor:
    """``activation(x @ G.T + gate_bias) * (x @ U.T + up_bias)`` for the chains ``G`` and ``U``, whose factors have the
    weights ``gate`` and ``up`` of shape ``(a, b, c, d)``, left to right.

    ``x`` has shape ``(…, in_features)``; the result ``(…, out_features)``. ``activation`` is ``none``, ``relu``,
    ``gelu``, ``gelu-tanh`` or ``silu``. Where both chains have the same shapes, their last factor has ``d = 1``, the
    numbers are real and no gradients are recorded, both are one multiplication that reads ``x`` once; otherwise it is
    two ``ks_linear``. In 16-bit types the two may differ by a rounding. Differentiable, autocast and errors as for
    ``ks_linear``; ValueError also for chains of other sizes than each other.
    """
    check_activation(activation)
    gate, up = list(gate), list(up)
    what, tensors = of_pair(gate, up, gate_bias, up_bias, activation)
    joins = interleave(gate, up)
    if not joins:
        # Chains of the same shapes are of the same sizes.
        check_pair(gate, up)
    alone = not isinstance(x, Tensor) or x.is_complex() or not joins
    if not torch.compiler.is_compiling():
        alone = alone or is_transformed()
    if alone or (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *tensors))):
        return ACTIVATIONS[activation](ks_linear(x, gate, gate_bias)) * ks_linear(x, up, up_bias)
    kind, cast = x.device.type, False
    if kind in ("cpu", "cuda") and torch.is_autocast_enabled(kind):
        x, cast, tensors = _autocast(x, tensors)
    if not torch.compiler.is_compiling() and _is_unseen(x, tensors):
        if kind == "cpu":
            return multiply_cpu(x, what, tensors, True)
        if kind == "cuda":
            return multiply_cuda(x, what, tensors)
    frozen = kind == "cuda" and not any(tensor.requires_grad for tensor in tensors)
    return (gated_frozen if frozen else gated)(x, *what.parts(tensors), activation, cast)


def interleave(gate: Sequence[Tensor], up: Sequence[Tensor]) -> bool:
    """Whether two chains can be multiplied by as one: see ``ks_gated``."""
    shapes = [[tuple(weight.shape) for weight in side] for side in (gate, up)]
    return shapes[0] == shapes[1] and bool(shapes[0]) and shapes[0][-1][3:] == (1,)


def _is_unseen(x: Tensor, tensors: list[Tensor]) -> bool:
    """Whether no mode, no tracer and no subclass of tensors would have to see the operation."""
    if type(x) is not Tensor or torch._C._len_torch_dispatch_stack() != 0 or torch._C._is_tracing():
        return False
    return all(type(tensor) in (Parameter, Tensor) for tensor in tensors)


def _autocast(x: Tensor, tensors: list[Tensor]) -> tuple[Tensor, bool, list[Tensor]]:
    """What autocast makes of ``x`` and the parameters; or of ``x`` alone, and True: the operation casts them."""
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind)
    if x.dtype in _FLOATS:
        x = x.to(dtype)
    fixed = kind == "cuda" and not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
    if fixed and torch.compiler.is_compiling() and x.dtype == dtype and all(t.dtype in _FLOATS for t in tensors):
        # The operation does it, which knows the weights themselves.
        return x, True, tensors
    # On a GPU packing takes long: what is cast is kept, unless gradients must flow through the cast.
    fixed = fixed and not torch.compiler.is_compiling() and not is_transformed()
    to = cast_kept if fixed else Tensor.to
    return x, False, [to(tensor, dtype) if tensor.dtype in _FLOATS else tensor for tensor in tensors]
