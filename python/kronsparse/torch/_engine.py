"""From tensors to the Rust engines: packed operators, which are kept as long as the weights that they were made of.

How a change of weights is noticed. An operator is found again only for the same tensor objects at the same addresses with the same
version counters, which every in-place operation raises: optimizers, ``load_state_dict``, ``copy_`` under ``no_grad``. What
is done through ``.data`` is not counted by PyTorch. On the CPU a sample of the numbers is compared as well, which finds changes
of whole arrays; and while gradients are recorded for a weight nothing is kept at all. What is left: single numbers changed
through ``.data`` between two calls without gradients, and on a GPU anything changed through ``.data`` at the same address. Then
``KSLinear.refresh()`` or ``clear_cache()`` is needed.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._kronsparse import CudaOperator, Operator, apply_at, pack_at, same_at

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

    __slots__ = ("extra", "operator", "state", "tensors")

    def __init__(self, operator: Any, tensors: Sequence[Tensor], extra: int, key: tuple[int, bool]) -> None:
        self.operator = operator
        # Once any of the tensors is gone its address may be another's.
        forget = lambda _: _cache.pop(key, None)  # noqa: E731
        self.tensors = [weakref.ref(tensor, forget) for tensor in tensors]
        self.state = [(tensor.data_ptr(), tensor._version) for tensor in tensors]
        self.extra = extra

    def fits(self, tensors: Sequence[Tensor], extra: int) -> bool:
        if len(tensors) != len(self.tensors) or extra != self.extra:
            return False
        for tensor, known, (address, version) in zip(tensors, self.tensors, self.state):
            if known() is not tensor or tensor._version != version or tensor.data_ptr() != address:
                return False
        return True


#: By the identity of the first weight, and whether the conjugate transpose was packed.
_cache: dict[tuple[int, bool], _Entry] = {}
#: Operators that CUDA graphs may name: kept for ever.
_captured: dict[int, CudaOperator] = {}


def clear_cache() -> None:
    """Forgets all packed weights; they are packed again when they are needed."""
    _cache.clear()


def forget(weight: Tensor) -> None:
    """Forgets what was packed of a chain, by its first weight."""
    for adjoint in (False, True):
        _cache.pop((id(weight), adjoint), None)


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


def _cpu_operator(weights: Sequence[Tensor], bias: Tensor | None, adjoint: bool) -> Operator:
    threads = torch.get_num_threads()
    tensors = weights if bias is None else [*weights, bias]
    key = (id(weights[0]), adjoint)
    entry = _cache.get(key)
    if entry is not None and entry.fits(tensors, threads):
        addresses = [address for address, _ in entry.state]
        bias_address = 0 if bias is None else addresses.pop()
        if same_at(entry.operator, addresses, bias_address):
            return entry.operator
    operator = _pack_cpu(weights, bias, adjoint, threads)
    # Numbers that are not contiguous cannot be sampled, those of inference mode have no version.
    if all(t.is_contiguous() and not t.is_inference() and not t.is_conj() and not t.is_neg() for t in tensors):
        _cache[key] = _Entry(operator, tensors, threads, key)
    return operator


def apply_cpu(x: Tensor, weights: list[Tensor], bias: Tensor | None, adjoint: bool, cache: bool) -> Tensor:
    """``x @ W.T + bias`` (``x @ W.conj()`` if ``adjoint``) by the CPU engine."""
    rows = check(x, weights, bias, adjoint)
    if cache:
        operator = _cpu_operator(weights, bias, adjoint)
    else:
        operator = _pack_cpu(weights, bias, adjoint, torch.get_num_threads())
    x = _plain(x)
    y = x.new_empty((*x.shape[:-1], rows))
    n = x.numel() // x.shape[-1]
    if n:
        apply_at(operator, x.data_ptr(), y.data_ptr(), n)
    return y


def _cuda_operator(weights: Sequence[Tensor], bias: Tensor | None, adjoint: bool, capturing: bool) -> CudaOperator:
    tensors = weights if bias is None else [*weights, bias]
    device = weights[0].device.index
    key = (id(weights[0]), adjoint)
    entry = _cache.get(key)
    if entry is not None and entry.fits(tensors, device):
        return entry.operator
    if capturing:
        raise RuntimeError(
            "kronsparse: weights cannot be packed while a CUDA graph is captured; run the layer once before, and do not change "
            "its weights in between"
        )
    _find_libraries()
    host = [_plain(weight).cpu() for weight in weights]
    host_bias = None if bias is None else _plain(bias).cpu()
    address = 0 if host_bias is None else host_bias.data_ptr()
    addresses = [weight.data_ptr() for weight in host]
    operator = CudaOperator(device, DTYPES[weights[0].dtype], _shapes(weights), addresses, address, adjoint)
    if not any(tensor.is_inference() for tensor in tensors):
        _cache[key] = _Entry(operator, tensors, device, key)
    return operator


def apply_cuda(x: Tensor, weights: list[Tensor], bias: Tensor | None, adjoint: bool, cache: bool) -> Tensor:
    """As ``apply_cpu``, queued on PyTorch's current stream of the tensors' GPU. Weights are packed on the host: whenever their
    version has changed they are copied there and back, whatever ``cache`` says."""
    rows = check(x, weights, bias, adjoint)
    index = x.device.index
    if index != torch.cuda.current_device():
        # The engine makes the GPU of its operator current, as PyTorch must know.
        with torch.cuda.device(index):
            return apply_cuda(x, weights, bias, adjoint, cache)
    y = x.new_empty((*x.shape[:-1], rows))
    n = x.numel() // x.shape[-1]
    if n:
        capturing = torch.cuda.is_current_stream_capturing()
        operator = _cuda_operator(weights, bias, adjoint, capturing)
        x = _plain(x)
        operator.apply_at(x.data_ptr(), y.data_ptr(), n, _current_stream(index), capturing)
        if capturing:
            _captured[id(operator)] = operator
    return y


def _current_stream(index: int) -> int:
    return torch.cuda.current_stream(index).cuda_stream


if hasattr(torch._C, "_cuda_getCurrentRawStream"):
    _current_stream = torch._C._cuda_getCurrentRawStream  # noqa: F811


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
    with torch.cuda.device(weights[0].device):
        return _cuda_operator(weights, bias, False, False).explain(n)


def check(x: Tensor, weights: Sequence[Tensor], bias: Tensor | None, adjoint: bool) -> int:
    """The size of an output vector, if everything fits; ValueError or TypeError with what was expected and found if not."""
    dtype, device = x.dtype, x.device
    for weight in weights:
        if weight.dtype != dtype or weight.device != device or weight.dim() != 4:
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
        if bias.dtype != dtype or bias.device != device:
            raise TypeError(f"bias: expected {dtype} on {device} like x, found {bias.dtype} on {bias.device}")
        if tuple(bias.shape) != (rows,):
            raise ValueError(f"bias: expected shape ({rows},), the out_features, found {tuple(bias.shape)}")
    return rows


def _refuse(x: Tensor, weights: Sequence[Tensor]) -> None:
    for at, weight in enumerate(weights):
        if weight.dim() != 4:
            raise ValueError(f"weights[{at}]: expected a shape (a, b, c, d), found {tuple(weight.shape)}")
        if weight.dtype != x.dtype:
            raise TypeError(f"x: expected {weight.dtype} like weights[{at}], found {x.dtype}")
        if weight.device != x.device:
            raise ValueError(f"x: expected a tensor on {weight.device} like weights[{at}], found one on {x.device}")
