"""What is packed for an engine, and how: one chain, or two that are multiplied as one.

Each is described by what its tensors are, in a row; the tensors themselves come with each call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Union

import torch
from torch import Tensor

from .._kronsparse import CudaOperator, Operator, Pattern, pack_at, pack_gated_at
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

#: The activations of a gate, by their names in the engine.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": torch.nn.functional.relu,
    "gelu": torch.nn.functional.gelu,
    "gelu-tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "silu": torch.nn.functional.silu,
}


class Linear(NamedTuple):
    """``x @ W.T + bias``, or ``x @ W.conj()`` if ``adjoint``: so many weights, then the bias if there is one."""

    factors: int
    adjoint: bool

    def parts(self, tensors: Sequence[Tensor]) -> tuple[Sequence[Tensor], Tensor | None]:
        """The weights, and the bias if there is one."""
        return tensors[: self.factors], tensors[self.factors] if len(tensors) > self.factors else None

    def check(self, x: Tensor, tensors: Sequence[Tensor], cast: bool = False) -> tuple[int, int]:
        """See ``check``."""
        return check(x, *self.parts(tensors), self.adjoint, cast)

    def by_products(self, x: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        """The same by PyTorch's own operations."""
        return by_products(x, *self.parts(tensors), self.adjoint)

    def pack_cpu(self, tensors: Sequence[Tensor], threads: int) -> Operator:
        """The operator for the CPU."""
        # The list keeps copies alive until they are packed.
        held = [plain(tensor) for tensor in tensors]
        shapes, addresses = _shapes(tensors[: self.factors]), addresses_of(held)
        return pack_at(DTYPES[tensors[0].dtype], shapes, addresses, self.adjoint, threads)

    def pack_cuda(self, tensors: Sequence[Tensor]) -> CudaOperator:
        """The operator for the GPU of the tensors, which are copied to the host for it."""
        held = _on_host(tensors)
        first, addresses = tensors[0], addresses_of(held)
        bias = addresses.pop() if len(tensors) > self.factors else 0
        shapes = _shapes(tensors[: self.factors])
        return CudaOperator(first.device.index, DTYPES[first.dtype], shapes, addresses, bias, self.adjoint)


class Gated(NamedTuple):
    """``activation(x @ G.T + g) * (x @ U.T + u)``: so many weights of G, as many of U, then the biases that there are,
    each with its name."""

    factors: int
    gate_bias: bool
    up_bias: bool
    activation: str

    def parts(
        self, tensors: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor], Tensor | None, Tensor | None]:
        """The weights of both, and their biases if there are any."""
        count, biases = self.factors, iter(tensors[2 * self.factors :])
        gate_bias = next(biases) if self.gate_bias else None
        return tensors[:count], tensors[count : 2 * count], gate_bias, next(biases) if self.up_bias else None

    def check(self, x: Tensor, tensors: Sequence[Tensor], cast: bool = False) -> tuple[int, int]:
        """See ``check``, of both."""
        gate, up, gate_bias, up_bias = self.parts(tensors)
        if not gate:
            raise ValueError("gate: expected at least one factor, found none")
        if _shapes(gate) != _shapes(up):
            raise ValueError(f"up: expected factors of shapes {_shapes(gate)} like those of gate, found {_shapes(up)}")
        check_activation(self.activation)
        if x.is_complex():
            raise TypeError(f"x: expected real numbers for a gate, found {x.dtype}")
        check(x, up, up_bias, False, cast)
        return check(x, gate, gate_bias, False, cast)

    def by_products(self, x: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        """The same by PyTorch's own operations."""
        gate, up, gate_bias, up_bias = self.parts(tensors)
        return ACTIVATIONS[self.activation](by_products(x, gate, gate_bias)) * by_products(x, up, up_bias)

    def pack_cpu(self, tensors: Sequence[Tensor], threads: int) -> Operator:
        """As of ``Linear``."""
        held = [plain(tensor) for tensor in tensors]
        return pack_gated_at(DTYPES[tensors[0].dtype], self._pair(held), self.activation, threads)

    def pack_cuda(self, tensors: Sequence[Tensor]) -> CudaOperator:
        """As of ``Linear``."""
        held, first = _on_host(tensors), tensors[0]
        return CudaOperator.gated(first.device.index, DTYPES[first.dtype], self._pair(held), self.activation)

    def _pair(
        self, tensors: Sequence[Tensor]
    ) -> tuple[list[tuple[int, int, int, int]], list[int], list[int], int, int]:
        gate, up, *biases = self.parts(tensors)
        return _shapes(gate), addresses_of(gate), addresses_of(up), *addresses_of(biases)  # type: ignore[return-value]


#: What is packed.
Packed = Union[Linear, Gated]  # noqa: UP007 (evaluated by Python 3.10)


def interleaved(patterns: Sequence[Pattern]) -> tuple[Pattern, ...]:
    """The patterns of two chains of these patterns that are multiplied by as one."""
    *others, (a, b, c, _) = patterns
    return (*(Pattern(a, b, c, 2 * d) for a, b, c, d in others), Pattern(a, 2 * b, c, 1))


def _shapes(weights: Sequence[Tensor]) -> list[tuple[int, int, int, int]]:
    return [tuple(weight.shape) for weight in weights]  # type: ignore[misc]


def plain(tensor: Tensor) -> Tensor:
    """A tensor whose numbers lie in C order as they are."""
    return tensor.detach().resolve_conj().resolve_neg().contiguous()


def addresses_of(tensors: Sequence[Tensor | None]) -> list[int]:
    """Where the numbers of ``plain`` tensors lie, 0 for those that there are not; ValueError for one that has numbers
    and no memory, since its storage was given up."""
    found = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
    for at, tensor in enumerate(tensors):
        if tensor is not None and found[at] == 0 and tensor.numel():
            raise ValueError(
                f"weights, bias and vectors: expected numbers in memory, found a tensor of shape {tuple(tensor.shape)} "
                "without storage"
            )
    return found


def _on_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    held = [plain(tensor) for tensor in tensors]
    # Copying from nowhere would be an error of the GPU.
    addresses_of(held)
    return [tensor.cpu() for tensor in held]


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
    _check_sizes("weights", weights)
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


def check_activation(name: str) -> None:
    """Refuses a name that is not of an activation: ValueError."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}, found {name!r}")


def check_pair(gate: Sequence[Tensor], up: Sequence[Tensor]) -> None:
    """Refuses two chains whose outputs cannot be multiplied number by number, or that have other inputs: ValueError."""
    sizes = []
    for name, weights in (("gate", gate), ("up", up)):
        if not weights:
            raise ValueError(f"{name}: expected at least one factor, found none")
        for at, weight in enumerate(weights):
            if weight.dim() != 4:
                raise ValueError(f"{name}[{at}]: expected a shape (a, b, c, d), found {tuple(weight.shape)}")
        _check_sizes(name, weights)
        (a, b, _, d), (last_a, _, last_c, last_d) = weights[0].shape, weights[-1].shape
        sizes.append((last_a * last_c * last_d, a * b * d))
    if sizes[0] != sizes[1]:
        raise ValueError(f"up: expected (in_features, out_features) = {sizes[0]} as of gate, found {sizes[1]}")


def _check_sizes(name: str, weights: Sequence[Tensor]) -> None:
    """Refuses factors, each of four dimensions, that are empty or do not go together: nobody else looks where PyTorch's
    own products multiply, which would take wrong sizes for others."""
    before = None
    for at, weight in enumerate(weights):
        a, b, c, d = weight.shape
        if a == 0 or b == 0 or c == 0 or d == 0:
            raise ValueError(f"{name}[{at}]: expected at least one number along each axis, found shape {(a, b, c, d)}")
        if before is not None and a * b * d != before:
            raise ValueError(
                f"{name}[{at}]: expected a factor with {before} rows, as many as {name}[{at - 1}] has columns, found "
                f"shape {(a, b, c, d)} with {a * b * d}: they do not multiply"
            )
        before = a * c * d


def _refuse(x: Tensor, weights: Sequence[Tensor]) -> None:
    for at, weight in enumerate(weights):
        if weight.dim() != 4:
            raise ValueError(f"weights[{at}]: expected a shape (a, b, c, d), found {tuple(weight.shape)}")
        if weight.dtype != x.dtype:
            raise TypeError(f"x: expected {weight.dtype} like weights[{at}], found {x.dtype}")
        if weight.device != x.device:
            raise ValueError(f"x: expected a tensor on {weight.device} like weights[{at}], found one on {x.device}")
