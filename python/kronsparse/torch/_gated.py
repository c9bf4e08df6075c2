"""The custom operation ``torch.ops.kronsparse.gated``: the gate and up layers of a gated MLP in one multiplication."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._engine import multiply_cpu, multiply_cuda
from ._ops import apply
from ._packing import ACTIVATIONS, Gated

_library = torch.library.Library("kronsparse", "FRAGMENT")
_ARGUMENTS = (
    "(Tensor x, Tensor[] gate, Tensor[] up, Tensor? gate_bias, Tensor? up_bias, str activation, bool cast=False)"
    " -> Tensor"
)
# As for ``apply`` and ``apply_frozen``: graphs that torch.compile records by itself hold frozen weights only.
_library.define("gated" + _ARGUMENTS, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.cudagraph_unsafe))
_library.define("gated_frozen" + _ARGUMENTS, tags=(torch.Tag.pt2_compliant_tag,))

#: ``gated(x, gate, up, gate_bias, up_bias, activation)``: ``activation(x @ G.T + gate_bias) * (x @ U.T + up_bias)`` for
#: chains of the same shapes whose last factor has ``d = 1``, real numbers; ``cast`` as for ``apply``.
gated = torch.ops.kronsparse.gated.default
#: The same for weights that are not trained and not changed in place.
gated_frozen = torch.ops.kronsparse.gated_frozen.default


def of_pair(
    gate: Sequence[Tensor], up: Sequence[Tensor], gate_bias: Tensor | None, up_bias: Tensor | None, activation: str
) -> tuple[Gated, list[Tensor]]:
    """What is packed, and its tensors in a row."""
    biases = [bias for bias in (gate_bias, up_bias) if bias is not None]
    return Gated(len(gate), gate_bias is not None, up_bias is not None, activation), [*gate, *up, *biases]


def _cpu(x: Tensor, *pair: Any, cast: bool = False) -> Tensor:
    return multiply_cpu(x, *of_pair(*pair), True, cast)


def _cuda(x: Tensor, *pair: Any, cast: bool = False) -> Tensor:
    return multiply_cuda(x, *of_pair(*pair), cast)


def _cuda_frozen(x: Tensor, *pair: Any, cast: bool = False) -> Tensor:
    return multiply_cuda(x, *of_pair(*pair), cast, True)


def _fake(x: Tensor, *pair: Any, cast: bool = False) -> Tensor:
    what, tensors = of_pair(*pair)
    rows, _ = what.check(x, tensors, cast)
    return x.new_empty((*x.shape[:-1], rows))


def _autograd(operation: Any) -> Any:
    def run(keys: Any, x: Tensor, *pair: Any, cast: bool = False) -> Tensor:
        what, tensors = of_pair(*pair)
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *tensors)):
            # One after the other: these operations have gradients, which flow through the cast as well.
            gate, up, gate_bias, up_bias = what.parts([t.to(x.dtype) for t in tensors] if cast else tensors)
            activated = ACTIVATIONS[what.activation](apply(x, list(gate), gate_bias, False, False))
            return activated * apply(x, list(up), up_bias, False, False)
        with torch._C._AutoDispatchBelowAutograd():
            return operation.redispatch(keys & torch._C._after_autograd_keyset, x, *pair, cast)

    return run


def _positional(function: Any, leading: int) -> Any:
    """A kernel is given all arguments by place, the last one only where it is not what it usually is."""

    def kernel(*arguments: Any) -> Tensor:
        count = leading + 6
        return function(*arguments[:count], cast=len(arguments) > count and arguments[count])

    return kernel


for _operation, _on_gpu in ((gated, _cuda), (gated_frozen, _cuda_frozen)):
    _name = _operation.name().removeprefix("kronsparse::")
    _library.impl(_name, _positional(_cpu, 0), "CPU")
    _library.impl(_name, _positional(_on_gpu, 0), "CUDA")
    _library.impl(_name, _positional(_autograd(_operation), 1), "Autograd", with_keyset=True)
    torch.library.register_fake(f"kronsparse::{_name}", _positional(_fake, 0), lib=_library)
