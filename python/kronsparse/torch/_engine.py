"""From tensors to the Rust engines: packed operators, which are kept as long as the weights that they were made of.

How a change of weights is noticed. An operator is found again only for the same tensor objects at the same addresses
with the same version counters, which every in-place operation raises: optimizers, ``load_state_dict``, ``copy_`` under
``no_grad``. Fused optimizers do not raise them; a hook does it for them. What is done through ``.data``, by collective
communication, by the replay of a CUDA graph or by a fused optimizer within ``torch.compile`` is not counted. On the CPU
a sample of the numbers is compared as well, which finds changes of whole arrays; and while gradients are recorded for a
weight nothing is kept at all. What is left: single numbers changed through ``.data`` between two calls without
gradients, and on a GPU all that is not counted, at the same address. Then ``KSLinear.refresh()`` or ``clear_cache()``
is needed.

A CUDA graph holds weights as they were packed when it was captured.
"""

from __future__ import annotations

import os
import sys
import warnings
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from .._kronsparse import Call, CudaOperator, Operator, apply_at, pack_at, retire_calls, same_at
from ._products import by_products

#: The element types of the engines. A GPU has the real ones.
DTYPES = {
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.float32: "f32",
    torch.float64: "f64",
    torch.complex64: "c64",
    torch.complex128: "c128",
}


class _Entry:
    """An operator, and what must be unchanged for it to be used."""

    __slots__ = (
        "addresses",
        "bias_address",
        "call",
        "cols",
        "device",
        "dtype",
        "extra",
        "operator",
        "rows",
        "tensors",
        "versions",
    )

    def __init__(
        self,
        operator: Any,
        weights: Sequence[Tensor],
        bias: Tensor | None,
        adjoint: bool,
        extra: int,
        sizes: tuple[int, int],
    ) -> None:
        key = _key(weights, adjoint)
        # Once any of the tensors is gone its address may be another's.
        forget = lambda _: _bury(_cache.pop(key, None))  # noqa: E731
        tensors = weights if bias is None else [*weights, bias]
        self.operator = operator
        self.tensors = [weakref.ref(tensor, forget) for tensor in tensors]
        self.versions = [tensor._version for tensor in tensors]
        self.addresses = [weight.data_ptr() for weight in weights]
        self.bias_address = 0 if bias is None else bias.data_ptr()
        self.rows, self.cols = sizes
        self.dtype, self.device, self.extra = weights[0].dtype, weights[0].device, extra
        # Weakly: it holds the weights, whose end is the end of this.
        self.call: weakref.ref[Call] | None = None

    def fits(self, x: Tensor, weights: Sequence[Tensor], bias: Tensor | None, extra: int) -> bool:
        """Whether these tensors were packed, are unchanged as far as PyTorch counts, and ``x`` goes with them."""
        if (
            extra != self.extra
            or x.dtype != self.dtype
            or x.device != self.device
            or x.dim() == 0
            or x.shape[-1] != self.cols
        ):
            return False
        return self.is_of(weights, bias)

    def is_of(self, weights: Sequence[Tensor], bias: Tensor | None) -> bool:
        """Whether these tensors were packed, and are unchanged as far as PyTorch counts."""
        count = len(weights)
        if len(self.tensors) != (count if bias is None else count + 1):
            return False
        for weight, known, version, address in zip(weights, self.tensors, self.versions, self.addresses):
            if known() is not weight or weight._version != version or weight.data_ptr() != address:
                return False
        return bias is None or (
            self.tensors[count]() is bias
            and bias._version == self.versions[count]
            and bias.data_ptr() == self.bias_address
        )


#: By the identity of the first weight, the number of factors, and whether the conjugate transpose was packed.
_cache: dict[tuple[int, int, bool], _Entry] = {}
#: Weights in another dtype, by identity and that dtype: the weight, its version, its address, the rounded numbers.
_casts: dict[tuple[int, torch.dtype], tuple[weakref.ref[Tensor], int, int, Tensor]] = {}
#: Operators that CUDA graphs may name, and the memory of the weights that they were made of: kept for ever. A graph of
#: ``torch.compile`` is replayed whenever weights lie where they lay when it was recorded, whosever they are; as long as
#: this memory is not given back, nobody else's can.
_captured: dict[int, tuple[CudaOperator, list[torch.UntypedStorage]]] = {}


#: What was forgotten while a CUDA graph was captured: no memory can be given back then.
_dead: list[_Entry] = []


def _bury(entry: _Entry | None) -> None:
    if entry is not None and entry.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        _dead.append(entry)


def clear_cache(graphs: bool = False) -> None:
    """Forgets all packed weights; they are packed again when they are needed. What CUDA graphs hold is kept, since
    nobody says when the last of them is gone: with ``graphs`` you say that there is none any more."""
    _cache.clear()
    _casts.clear()
    if graphs:
        _captured.clear()
    retire_calls()


def forget(weight: Tensor) -> None:
    """Forgets what was packed of chains that begin with a weight, and what it was cast to."""
    retire_calls()
    for entry in list(_cache.values()):
        entry.call = None
    for key in [key for key in _cache if key[0] == id(weight)]:
        _cache.pop(key, None)
    for cast in [cast for cast in _casts if cast[0] == id(weight)]:
        found = _casts.pop(cast, None)
        if found is not None:
            forget(found[3])


def _after_step(optimizer: torch.optim.Optimizer, _: Any, __: Any) -> None:
    """Counts the step of an optimizer as a change of what is packed: kernels of fused ones change numbers unseen."""
    if torch.compiler.is_compiling():
        # Compiled programs count what they change, but for fused optimizers; a hook would break their graphs.
        return
    packed = {id(known()) for entry in list(_cache.values()) for known in entry.tensors} | {key[0] for key in _casts}
    changed = [p for group in optimizer.param_groups for p in group["params"] if id(p) in packed]
    if changed:
        torch.autograd.graph.increment_version(changed)


register_optimizer_step_post_hook(_after_step)


def _key(weights: Sequence[Tensor], adjoint: bool) -> tuple[int, int, bool]:
    return id(weights[0]), len(weights), adjoint


def call_of(weights: Sequence[Tensor], bias: Tensor | None) -> Call | None:
    """The short way of a layer with these parameters, if they are packed."""
    entry = _cache.get(_key(weights, False))
    if entry is None or not entry.is_of(weights, bias):
        return None
    call = None if entry.call is None else entry.call()
    if call is None:
        tensors, addresses = list(weights), list(entry.addresses)
        if bias is not None:
            tensors.append(bias)
            addresses.append(entry.bias_address)
        parameters = list(zip(tensors, entry.versions, addresses))
        try:
            call = Call(entry.operator, len(weights), parameters, (entry.rows, entry.cols), entry.extra)
        except AttributeError:
            # It asks PyTorch by names that are not public: where one of them is gone, the long way is left.
            return None
        entry.call = weakref.ref(call)
    return call


def cast_kept(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight in another dtype for calls without gradients, cast once: what is packed of it can be found again."""
    if weight.dtype == dtype or weight.is_inference() or type(weight) not in (Tensor, torch.nn.Parameter):
        return weight.to(dtype)
    key = (id(weight), dtype)
    found = _casts.get(key)
    if found is None or found[0]() is not weight or found[1:3] != (weight._version, weight.data_ptr()):
        gone = weakref.ref(weight, lambda _: _casts.pop(key, None))
        # Not a tensor of inference mode, whose changes could not be seen.
        with torch.inference_mode(False):
            found = gone, weight._version, weight.data_ptr(), weight.detach().to(dtype)
        if weight.is_cuda and torch.cuda.is_current_stream_capturing():
            # It has no numbers before the graph is replayed.
            return found[3]
        _casts[key] = found
    return found[3]


def _shapes(weights: Sequence[Tensor]) -> list[tuple[int, int, int, int]]:
    return [tuple(weight.shape) for weight in weights]  # type: ignore[misc]


def _plain(tensor: Tensor) -> Tensor:
    """A tensor whose numbers lie in C order as they are."""
    return tensor.detach().resolve_conj().resolve_neg().contiguous()


def _pack_cpu(weights: Sequence[Tensor], bias: Tensor | None, adjoint: bool, threads: int) -> Operator:
    # The list keeps copies alive until they are packed.
    plain = [_plain(weight) for weight in weights]
    plain_bias = None if bias is None else _plain(bias)
    address = 0 if plain_bias is None else plain_bias.data_ptr()
    addresses = [weight.data_ptr() for weight in plain]
    return pack_at(DTYPES[weights[0].dtype], _shapes(weights), addresses, address, adjoint, threads)


def _keeps(tensors: Sequence[Tensor]) -> bool:
    """Whether changes of these can be noticed: tensors of inference mode have no version, and those that are not as
    they lie in memory cannot be sampled."""
    return not any(t.is_inference() or t.is_conj() or t.is_neg() or not t.is_contiguous() for t in tensors)


def apply_cpu(
    x: Tensor, weights: list[Tensor], bias: Tensor | None, adjoint: bool, cache: bool, cast: bool = False
) -> Tensor:
    """``x @ W.T + bias`` (``x @ W.conj()`` if ``adjoint``) by the CPU engine."""
    if cast:
        weights, bias = _cast(x, weights, bias)
    threads = torch.get_num_threads()
    entry = _cache.get(_key(weights, adjoint)) if cache else None
    if (
        entry is not None
        and entry.fits(x, weights, bias, threads)
        and same_at(entry.operator, entry.addresses, entry.bias_address)
    ):
        operator, rows, cols = entry.operator, entry.rows, entry.cols
    else:
        rows, cols = check(x, weights, bias, adjoint)
        operator = _pack_cpu(weights, bias, adjoint, threads)
        if cache and _keeps(weights if bias is None else [*weights, bias]):
            _cache[_key(weights, adjoint)] = _Entry(operator, weights, bias, adjoint, threads, (rows, cols))
    shape = x.shape
    if x.is_conj() or x.is_neg() or not x.is_contiguous():
        x = _plain(x)
    y = x.new_empty((*shape[:-1], rows))
    n = x.numel() // cols
    if n:
        apply_at(operator, x.data_ptr(), y.data_ptr(), n)
    return y


def apply_cuda(
    x: Tensor,
    weights: list[Tensor],
    bias: Tensor | None,
    adjoint: bool,
    cache: bool,
    cast: bool = False,
    falls_back: bool = False,
) -> Tensor:
    """As ``apply_cpu``, queued on PyTorch's current stream of the tensors' GPU. Weights are packed on the host:
    whenever their version has changed they are copied there and back, whatever ``cache`` says. That cannot be done
    while a CUDA graph is captured: RuntimeError, or PyTorch's own products if ``falls_back``."""
    index = x.device.index
    if x.device.type != "cuda":
        # Weights or bias are on a GPU: this says which.
        check(x, weights, bias, adjoint)
        raise ValueError(f"x: expected a tensor on a GPU like the others, found one on {x.device}")
    if index != torch.cuda.current_device():
        # The engine makes the GPU of its operator current, as PyTorch must know.
        with torch.cuda.device(index):
            return apply_cuda(x, weights, bias, adjoint, cache, cast, falls_back)
    given = weights if bias is None else [*weights, bias]
    if cast:
        weights, bias = _cast(x, weights, bias)
    capturing = torch.cuda.is_current_stream_capturing()
    entry = _cache.get(_key(weights, adjoint))
    if entry is not None and entry.fits(x, weights, bias, index):
        operator, rows, cols = entry.operator, entry.rows, entry.cols
    else:
        rows, cols = check(x, weights, bias, adjoint)
        if capturing and falls_back:
            operator = None
        else:
            operator = _pack_cuda(weights, bias, adjoint, capturing) if x.numel() else None
        if operator is not None and _keeps(weights if bias is None else [*weights, bias]):
            _cache[_key(weights, adjoint)] = _Entry(operator, weights, bias, adjoint, index, (rows, cols))
    n = x.numel() // cols
    if capturing and falls_back and n and (operator is None or not operator.is_prepared(n)):
        warnings.warn(
            f"kronsparse: a CUDA graph gets PyTorch's products for a layer {cols} → {rows} and {n} vectors, which are "
            "slower: run the model once without a graph before",
            stacklevel=2,
        )
        return by_products(x, weights, bias, adjoint)
    y = x.new_empty((*x.shape[:-1], rows))
    if n:
        if x.is_neg() or not x.is_contiguous():
            x = _plain(x)
        operator.apply_at(x.data_ptr(), y.data_ptr(), n, _current_stream(index), capturing)
        if capturing:
            _captured[id(operator)] = operator, [tensor.untyped_storage() for tensor in given]
    return y


def apply_cuda_frozen(
    x: Tensor, weights: list[Tensor], bias: Tensor | None, adjoint: bool, cache: bool, cast: bool = False
) -> Tensor:
    """``apply_cuda`` for what ``torch.compile`` captures by itself, at times without having run it before."""
    return apply_cuda(x, weights, bias, adjoint, cache, cast, True)


def _cast(x: Tensor, weights: Sequence[Tensor], bias: Tensor | None) -> tuple[list[Tensor], Tensor | None]:
    """Weights and bias in the dtype of ``x``, rounded once."""
    return [cast_kept(weight, x.dtype) for weight in weights], None if bias is None else cast_kept(bias, x.dtype)


def renew(weights: Sequence[Tensor], bias: Tensor | None) -> bool:
    """To be called when weights were changed in place: if graphs may hold them as they were, they are moved to other
    memory, which makes ``torch.compile`` record its graphs again, and made ready for the same numbers of vectors.
    Says whether that was done."""
    given = weights if bias is None else [*weights, bias]
    held = {storage._cdata for _, storages in _captured.values() for storage in storages}
    if not any(tensor.untyped_storage()._cdata in held for tensor in given):
        return False
    entry = _cache.get(_key(weights, False))
    forget(weights[0])
    with torch.no_grad():
        for tensor in given:
            tensor.data = tensor.data.clone()
    if entry is not None and entry.device.type == "cuda":
        index = entry.extra
        with torch.cuda.device(index):
            operator = _pack_cuda(weights, bias, False, False)
            for n in entry.operator.prepared():
                operator.prepare(n)
        _cache[_key(weights, False)] = _Entry(operator, weights, bias, False, index, (entry.rows, entry.cols))
    return True


def _pack_cuda(weights: Sequence[Tensor], bias: Tensor | None, adjoint: bool, capturing: bool) -> CudaOperator:
    if capturing:
        raise RuntimeError(
            "kronsparse: weights cannot be packed while a CUDA graph is captured; run the layer once before, and do "
            "not change its weights in between"
        )
    _dead.clear()
    _find_libraries()
    # Lists that keep the copies alive until they are packed.
    host = [_plain(weight).cpu() for weight in weights]
    host_bias = None if bias is None else _plain(bias).cpu()
    address = 0 if host_bias is None else host_bias.data_ptr()
    addresses = [weight.data_ptr() for weight in host]
    dtype, index = DTYPES[weights[0].dtype], weights[0].device.index
    return CudaOperator(index, dtype, _shapes(weights), addresses, address, adjoint)


def _current_stream(index: int) -> int:
    return torch.cuda.current_stream(index).cuda_stream


if hasattr(torch._C, "_cuda_getCurrentRawStream"):
    _current_stream = torch._C._cuda_getCurrentRawStream


def _find_libraries() -> None:
    """Tells the engine where this interpreter's packages have the CUDA libraries, unless the user has said it."""
    if "KRONSPARSE_CUDA_PATH" not in os.environ:
        found = [path for path in sys.path if os.path.isdir(os.path.join(path, "nvidia"))]
        if found:
            os.environ["KRONSPARSE_CUDA_PATH"] = os.pathsep.join(found)


def explain(layer: torch.nn.Module, n: int) -> str:
    """How a ``KSLinear`` multiplies ``n`` vectors on its GPU, in words."""
    weights, bias = list(layer.factors), layer.bias
    if weights[0].device.type != "cuda":
        return f"{n} vectors on the CPU: all factors in one pass, panel by panel of the batch"
    x = weights[0].new_zeros((n, layer.in_features))
    with torch.no_grad(), torch.cuda.device(weights[0].device):
        apply_cuda(x, weights, bias, False, True)
        entry = _cache.get(_key(weights, False))
        operator = _pack_cuda(weights, bias, False, False) if entry is None else entry.operator
        return operator.explain(n)


def check(
    x: Tensor, weights: Sequence[Tensor], bias: Tensor | None, adjoint: bool, cast: bool = False
) -> tuple[int, int]:
    """The sizes of an output and an input vector, if everything fits; else ValueError or TypeError with what was
    expected and found. ``cast`` allows weights and bias of another dtype."""
    dtype, device = x.dtype, x.device
    for weight in weights:
        if (weight.dtype != dtype and not cast) or weight.device != device or weight.dim() != 4:
            _refuse(x, weights)
    if dtype not in DTYPES:
        raise TypeError(f"x: expected one of {', '.join(str(d) for d in DTYPES)}, found {dtype}")
    if adjoint:
        a, cols, _, d = weights[0].shape
        last, _, rows, lanes = weights[-1].shape
    else:
        last, rows, _, lanes = weights[0].shape
        a, _, cols, d = weights[-1].shape
    cols, rows = a * cols * d, last * rows * lanes
    if x.dim() == 0 or x.shape[-1] != cols:
        raise ValueError(f"x: expected a shape (…, {cols}), the in_features, found {tuple(x.shape)}")
    if bias is not None:
        if (bias.dtype != dtype and not cast) or bias.device != device:
            raise TypeError(f"bias: expected {dtype} on {device} like x, found {bias.dtype} on {bias.device}")
        if tuple(bias.shape) != (rows,):
            raise ValueError(f"bias: expected shape ({rows},), the out_features, found {tuple(bias.shape)}")
    return rows, cols


def _refuse(x: Tensor, weights: Sequence[Tensor]) -> None:
    for at, weight in enumerate(weights):
        if weight.dim() != 4:
            raise ValueError(f"weights[{at}]: expected a shape (a, b, c, d), found {tuple(weight.shape)}")
        if weight.dtype != x.dtype:
            raise TypeError(f"x: expected {weight.dtype} like weights[{at}], found {x.dtype}")
        if weight.device != x.device:
            raise ValueError(f"x: expected a tensor on {weight.device} like weights[{at}], found one on {x.device}")
