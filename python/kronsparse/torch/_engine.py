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

import threading
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from .. import _arguments, _tuning
from .._cuda import find_libraries
from .._kronsparse import Call, CudaLearner, CudaOperator, apply_at, retire_calls, same_at
from ._packing import Linear, Packed, plain


class _Entry:
    """An operator, and what must be unchanged for it to be used."""

    __slots__ = ("addresses", "call", "cols", "device", "dtype", "extra", "operator", "rows", "tensors", "versions")

    def __init__(
        self,
        operator: Any,
        key: tuple[int, Packed],
        tensors: Sequence[Tensor],
        versions: list[int],
        extra: int,
        sizes: tuple[int, int],
    ) -> None:
        # Once any of the tensors is gone its address may be another's.
        forget = lambda _: lay_aside(_cache.pop(key, None))  # noqa: E731
        self.operator = operator
        self.tensors = [weakref.ref(tensor, forget) for tensor in tensors]
        # As they were before they were packed: another thread may have changed them since.
        self.versions = versions
        self.addresses = [tensor.data_ptr() for tensor in tensors]
        self.rows, self.cols = sizes
        self.dtype, self.device, self.extra = tensors[0].dtype, tensors[0].device, extra
        # Weakly: it holds the weights, whose end is the end of this.
        self.call: weakref.ref[Call] | None = None

    def fits(self, x: Tensor, tensors: Sequence[Tensor], extra: int) -> bool:
        """Whether these tensors were packed, are unchanged as far as PyTorch counts, and ``x`` goes with them."""
        if (
            extra != self.extra
            or x.dtype != self.dtype
            or x.device != self.device
            or x.dim() == 0
            or x.shape[-1] != self.cols
        ):
            return False
        return self.is_of(tensors)

    def is_of(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these tensors were packed, and are unchanged as far as PyTorch counts."""
        if len(self.tensors) != len(tensors):
            return False
        for tensor, known, version, address in zip(tensors, self.tensors, self.versions, self.addresses):
            if known() is not tensor or tensor._version != version or tensor.data_ptr() != address:
                return False
        return True


#: By the identity of the first tensor, and what was packed.
_cache: dict[tuple[int, Packed], _Entry] = {}
#: Weights in another dtype, by identity and that dtype: the weight, its version, its address, the rounded numbers.
_casts: dict[tuple[int, torch.dtype], tuple[weakref.ref[Tensor], int, int, Tensor]] = {}
#: Operators and learners that CUDA graphs may name, and the memory of the weights that operators were made of: kept
#: until ``clear_cache(graphs=True)``. A graph of ``torch.compile`` is replayed whenever weights lie where they lay when
#: it was recorded, whosever they are; as long as this memory is not given back, nobody else's can.
captured: dict[int, tuple[CudaOperator | CudaLearner, list[torch.UntypedStorage]]] = {}


#: What was forgotten while a CUDA graph was captured: no memory can be given back then.
_dead: list[Any] = []
#: Another one whenever packed weights are forgotten: what was packed before that is not kept.
_era = object()
_keeping = threading.RLock()
#: Told what is forgotten: of which tensor (None: everything).
forgotten: list[Callable[[Tensor | None], None]] = []


def lay_aside(gone: Any) -> None:
    """Takes the last reference to something on a GPU; while a CUDA graph is captured it is kept until something is
    made there anew."""
    if gone and torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
        _dead.append(gone)


def give_back() -> None:
    """Lets go of what was laid aside, unless a CUDA graph is being captured still."""
    if _dead and not torch.cuda.is_current_stream_capturing():
        _dead.clear()


def clear_cache(graphs: bool = False) -> None:
    """Forgets all packed weights, and the working memory of layers that are trained by the engine; they are made again
    when they are needed. What CUDA graphs hold is kept, since nobody says when the last of them is gone: with
    ``graphs`` you say that there is none any more, and its memory is given back."""
    global _era
    with _keeping:
        _era = object()
        lay_aside([list(_cache.values()), list(captured.values()) if graphs else None])
        _cache.clear()
        _casts.clear()
        if graphs:
            captured.clear()
    for tell in forgotten:
        tell(None)
    # At last: a call that was made meanwhile is of what was there before.
    retire_calls()


_tuning.changed.append(clear_cache)


def forget(tensor: Tensor) -> None:
    """Forgets what was packed with a weight or a bias, what it was cast to, and what it was trained with."""
    global _era
    with _keeping:
        _era = object()
        for key, entry in list(_cache.items()):
            entry.call = None
            if any(known() is tensor for known in entry.tensors):
                lay_aside(_cache.pop(key, None))
    for cast in [cast for cast in list(_casts) if cast[0] == id(tensor)]:
        found = _casts.pop(cast, None)
        if found is not None:
            forget(found[3])
    for tell in forgotten:
        tell(tensor)
    retire_calls()


def _keep(
    era: object,
    operator: Any,
    key: tuple[int, Packed],
    tensors: Sequence[Tensor],
    versions: list[int] | None,
    extra: int,
    sizes: tuple[int, int],
) -> None:
    """Keeps an operator for later calls, unless something was forgotten since ``era``, or nobody could notice that
    these are not the weights any more (no ``versions``)."""
    if versions is not None:
        entry = _Entry(operator, key, tensors, versions, extra, sizes)
        with _keeping:
            if _era is era:
                _cache[key] = entry


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


def call_of(weights: Sequence[Tensor], bias: Tensor | None) -> Call | None:
    """The short way of a layer with these parameters, if they are packed."""
    tensors, key = _row(weights, bias), (id(weights[0]), Linear(len(weights), False))
    entry = _cache.get(key)
    if entry is None or not entry.is_of(tensors):
        return None
    call = None if entry.call is None else entry.call()
    if call is None:
        parameters = list(zip(tensors, entry.versions, entry.addresses))
        try:
            call = Call(entry.operator, len(weights), parameters, (entry.rows, entry.cols), entry.extra)
        except (AttributeError, ImportError):
            # It asks PyTorch by names that are not public: where one of them is gone, the long way is left.
            return None
        if _cache.get(key) is not entry:
            # Forgotten meanwhile, by another thread, which did not know of this call.
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
        if weight.is_cuda:
            if torch.cuda.is_current_stream_capturing():
                # It has no numbers before the graph is replayed.
                return found[3]
            # Other streams may be the next to use it.
            torch.cuda.current_stream(weight.device).synchronize()
        _casts[key] = found
    return found[3]


def _versions(tensors: Sequence[Tensor]) -> list[int] | None:
    """The versions of tensors; None if changes of these cannot be noticed: those of inference mode have no version, and
    those that are not as they lie in memory cannot be sampled."""
    if any(t.is_inference() or t.is_conj() or t.is_neg() or not t.is_contiguous() for t in tensors):
        return None
    return [tensor._version for tensor in tensors]


def multiply_cpu(x: Tensor, what: Packed, tensors: Sequence[Tensor], cache: bool, cast: bool = False) -> Tensor:
    """Multiplies by the CPU engine. ``cache`` allows packed weights to be kept for later calls; ``cast`` rounds the
    tensors to the dtype of ``x`` first."""
    if cast:
        tensors = [cast_kept(tensor, x.dtype) for tensor in tensors]
    threads = torch.get_num_threads()
    key = id(tensors[0]), what
    entry = _cache.get(key) if cache else None
    if entry is not None and entry.fits(x, tensors, threads) and same_at(entry.operator, entry.addresses):
        operator, rows, cols = entry.operator, entry.rows, entry.cols
    else:
        rows, cols = what.check(x, tensors)
        era, versions = _era, _versions(tensors) if cache else None
        operator = what.pack_cpu(tensors, threads)
        _keep(era, operator, key, tensors, versions, threads, (rows, cols))
    shape = x.shape
    if x.is_conj() or x.is_neg() or not x.is_contiguous():
        x = plain(x)
    y = x.new_empty((*shape[:-1], rows))
    n = x.numel() // cols
    if n:
        apply_at(operator, x.data_ptr(), y.data_ptr(), n)
    return y


def multiply_cuda(
    x: Tensor, what: Packed, tensors: Sequence[Tensor], cast: bool = False, falls_back: bool = False
) -> Tensor:
    """As ``multiply_cpu``, queued on PyTorch's current stream of the tensors' GPU. Weights are packed on the host:
    whenever their version has changed they are copied there and back. That cannot be done while a CUDA graph is
    captured: RuntimeError, or PyTorch's own products if ``falls_back``."""
    index = x.device.index
    if x.device.type != "cuda":
        # Weights or bias are on a GPU: this says which.
        what.check(x, tensors)
        raise ValueError(f"x: expected a tensor on a GPU like the others, found one on {x.device}")
    if index != torch.cuda.current_device():
        # The engine makes the GPU of its operator current, as PyTorch must know.
        with torch.cuda.device(index):
            return multiply_cuda(x, what, tensors, cast, falls_back)
    given = tensors
    if cast:
        tensors = [cast_kept(tensor, x.dtype) for tensor in tensors]
    capturing = torch.cuda.is_current_stream_capturing()
    key = id(tensors[0]), what
    entry = _cache.get(key)
    if entry is not None and entry.fits(x, tensors, index):
        operator, rows, cols = entry.operator, entry.rows, entry.cols
    else:
        rows, cols = what.check(x, tensors)
        operator = None
        if x.numel() and not (capturing and falls_back):
            era, versions = _era, _versions(tensors)
            operator = _pack_cuda(what, tensors, capturing)
            _keep(era, operator, key, tensors, versions, index, (rows, cols))
    n = x.numel() // cols
    if capturing and falls_back and n and (operator is None or not operator.is_prepared(n)):
        warnings.warn(
            f"kronsparse: a CUDA graph gets PyTorch's products for a layer {cols} → {rows} and {n} vectors, which are "
            "slower: run the model once without a graph before",
            stacklevel=2,
        )
        return what.by_products(x, tensors)
    y = x.new_empty((*x.shape[:-1], rows))
    if n:
        if x.is_neg() or not x.is_contiguous():
            x = plain(x)
        operator.apply_at(x.data_ptr(), y.data_ptr(), n, _current_stream(index), capturing)
        if capturing:
            captured[id(operator)] = operator, [tensor.untyped_storage() for tensor in given]
    return y


def _row(weights: Sequence[Tensor], bias: Tensor | None) -> Sequence[Tensor]:
    return weights if bias is None else [*weights, bias]


def apply_cpu(
    x: Tensor, weights: list[Tensor], bias: Tensor | None, adjoint: bool, cache: bool, cast: bool = False
) -> Tensor:
    """``x @ W.T + bias`` (``x @ W.conj()`` if ``adjoint``) by the CPU engine."""
    return multiply_cpu(x, Linear(len(weights), adjoint), _row(weights, bias), cache, cast)


def apply_cuda(
    x: Tensor, weights: list[Tensor], bias: Tensor | None, adjoint: bool, cache: bool, cast: bool = False
) -> Tensor:
    """The same on a GPU, whatever ``cache`` says."""
    return multiply_cuda(x, Linear(len(weights), adjoint), _row(weights, bias), cast)


def apply_cuda_frozen(
    x: Tensor, weights: list[Tensor], bias: Tensor | None, adjoint: bool, cache: bool, cast: bool = False
) -> Tensor:
    """``apply_cuda`` for what ``torch.compile`` captures by itself, at times without having run it before."""
    return multiply_cuda(x, Linear(len(weights), adjoint), _row(weights, bias), cast, True)


def renew(weights: Sequence[Tensor], bias: Tensor | None) -> bool:
    """To be called when weights were changed in place: if graphs may hold them as they were, they are moved to other
    memory, which makes ``torch.compile`` record its graphs again, and made ready for the same numbers of vectors.
    Says whether that was done."""
    given = _row(weights, bias)
    held = {storage._cdata for _, storages in captured.values() for storage in storages}
    if not any(tensor.untyped_storage()._cdata in held for tensor in given):
        return False
    known = [(key, entry) for key, entry in _cache.items() if any(ref() is t for ref in entry.tensors for t in given)]
    for tensor in given:
        forget(tensor)
    with torch.no_grad():
        for tensor in given:
            tensor.data = tensor.data.clone()
    for key, entry in known:
        tensors = [ref() for ref in entry.tensors]
        if entry.device.type != "cuda" or any(tensor is None for tensor in tensors):
            continue
        era, versions = _era, _versions(tensors)
        with torch.cuda.device(entry.extra):
            operator = _pack_cuda(key[1], tensors, False)
            for n in entry.operator.prepared():
                operator.prepare(n)
        _keep(era, operator, key, tensors, versions, entry.extra, (entry.rows, entry.cols))
    return True


def _pack_cuda(what: Packed, tensors: Sequence[Tensor], capturing: bool) -> CudaOperator:
    if capturing:
        raise RuntimeError(
            "kronsparse: weights cannot be packed while a CUDA graph is captured; run the layer once before, and do "
            "not change its weights in between"
        )
    give_back()
    find_libraries()
    return what.pack_cuda(tensors)


def _current_stream(index: int) -> int:
    return torch.cuda.current_stream(index).cuda_stream


if hasattr(torch._C, "_cuda_getCurrentRawStream"):
    _current_stream = torch._C._cuda_getCurrentRawStream


def explain(layer: torch.nn.Module, n: int) -> str:
    """How a ``KSLinear`` multiplies ``n`` vectors, in words, with what was estimated or measured of it. TypeError for
    another module."""
    if not hasattr(layer, "factors"):
        raise TypeError(f"layer: expected a KSLinear, found {type(layer).__name__}")
    n = _arguments.whole("n", n)
    weights, bias = list(layer.factors), layer.bias
    what, tensors = Linear(len(weights), False), _row(weights, bias)
    device = weights[0].device
    if device.type != "cuda":
        return what.pack_cpu(tensors, torch.get_num_threads()).explain(n)
    x = weights[0].new_zeros((n, layer.in_features))
    with torch.no_grad(), torch.cuda.device(device):
        multiply_cuda(x, what, tensors)
        entry = _cache.get((id(weights[0]), what))
        operator = _pack_cuda(what, tensors, False) if entry is None else entry.operator
        return operator.explain(n)
