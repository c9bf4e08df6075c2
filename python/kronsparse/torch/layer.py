"""``KSLinear``: a linear layer whose matrix is a chain of factors, with the manners of ``nn.Linear``."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from .. import _kronsparse
from .._chain import Chain
from .._factorize import factorize
from .._kronsparse import Pattern
from .._types import PatternsLike
from . import _engine
from .functional import ks_linear

# One node of a graph that torch.fx traces.
torch.fx.wrap("ks_linear")


class KSLinear(nn.Module):
    """``y = x W^T + bias`` with ``W = K_1 … K_L`` of shape ``(out_features, in_features)``.

    ``chain`` is a ``kronsparse.Chain`` whose weights are copied, or, like ``patterns``, a list of patterns left to
    right or text (``"monarch:32,32"``, ``"(1,64,64,64)(64,64,64,1)"``), for which weights are drawn. ``factors`` holds
    one parameter of shape ``(a, b, c, d)`` per factor, named ``factors.0 …`` in a ``state_dict``. There is no
    ``weight``: ``to_dense`` makes one.

    On a GPU calls on several streams wait for each other, since a chain has working memory; CUDA graphs that hold the
    same layer must not be replayed at the same time, nor while another stream uses the layer.

    ValueError for a chain of another shape than ``(out_features, in_features)``.
    """

    in_features: int
    out_features: int
    bias: Tensor | None
    #: The short way of a forward that nobody watches, as long as the parameters are what they were.
    _call: Any = None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        chain: Chain | PatternsLike | str | None = None,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        patterns: PatternsLike | str | None = None,
    ) -> None:
        super().__init__()
        if (chain is None) == (patterns is None):
            found = "neither" if chain is None else "both"
            raise ValueError(f"KSLinear: expected either chain or patterns, found {found}")
        given = chain if isinstance(chain, Chain) else None
        self.in_features, self.out_features = in_features, out_features
        self.patterns: tuple[Pattern, ...] = _resolve(
            chain if patterns is None else patterns, out_features, in_features
        )
        if given is not None and dtype is None:
            dtype = torch_dtype(given.dtype)
        factory = {"device": device, "dtype": dtype}
        self.factors = nn.ParameterList(nn.Parameter(torch.empty(tuple(p), **factory)) for p in self.patterns)
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, **factory))
        else:
            self.register_parameter("bias", None)
        self.register_load_state_dict_pre_hook(_before_loading)
        self.register_load_state_dict_post_hook(_after_loading)
        self.reset_parameters()
        if given is not None:
            with torch.no_grad():
                for factor, weights in zip(self.factors, given.weights):
                    factor.copy_(to_torch(weights))

    def reset_parameters(self) -> None:
        """Draws new parameters: the output has the variance that ``nn.Linear`` gives it, a third of the input's, the
        factors taking equal parts; the bias is uniform within ``1 / sqrt(in_features)``, as there."""
        gain = (1 / 3) ** (1 / len(self.factors))
        for factor in self.factors:
            # The variance of uniform numbers within ±r is r²/3, and an output sums c of them.
            bound = math.sqrt(3 * gain / factor.shape[2])
            _uniform(factor, bound)
        if self.bias is not None:
            _uniform(self.bias, 1 / math.sqrt(self.in_features))

    def forward(self, x: Tensor) -> Tensor:
        """``(…, in_features)`` to ``(…, out_features)``."""
        if not is_compiling():
            # A ParameterList takes microseconds to list; a parametrized one holds its parameters elsewhere.
            plain = self._modules["factors"]._parameters  # type: ignore[union-attr]
            if self._call is not None:
                y = self._call.run(x, plain, self._parameters)
                if y is not None:
                    return y
            if tuple(plain) == _names(len(self.patterns)):
                weights, bias = list(plain.values()), self.bias
                y = ks_linear(x, weights, bias)
                # Not through nn.Module, which would look what it is given.
                self.__dict__["_call"] = _engine.call_of(weights, bias)
                return y
        return ks_linear(x, list(self.factors), self.bias)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_call"}

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        # Parameters that move leave what was packed of them, which might forbid to swap them.
        self._leave_packed()
        super()._apply(fn, recurse)
        for factor in self.factors:
            # Four dimensions do not make an image: ``to(memory_format=torch.channels_last)`` is not meant.
            if not factor.is_contiguous() and type(factor) is nn.Parameter:
                factor.data = factor.data.contiguous()
        return self

    def _leave_packed(self) -> None:
        self.__dict__["_call"] = None
        self._forget_packed()

    def _forget_packed(self) -> None:
        for parameter in [*self.factors, self.bias]:
            if parameter is not None:
                _engine.forget(parameter)

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        chain = "".join(str(pattern) for pattern in self.patterns)
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, chain='{chain}', "
            f"bias={self.bias is not None}"
        )

    @property
    def parameters_of_chain(self) -> int:
        """Numbers in all factors, without the bias."""
        return sum(pattern.nnz for pattern in self.patterns)

    def chain(self) -> Chain:
        """A copy of the factors as a NumPy chain (bfloat16 with the package ml_dtypes)."""
        return Chain([to_numpy(factor) for factor in self.factors], copy=True)

    def to_dense(self) -> Tensor:
        """The matrix ``W`` as a tensor ``(out_features, in_features)``, summed in float64 and rounded once."""
        first = self.factors[0]
        wide = torch.complex128 if first.is_complex() else torch.float64
        chain = Chain([factor.detach().to("cpu", wide).numpy() for factor in self.factors])
        return torch.from_numpy(chain.to_dense()).to(first.device, first.dtype)

    def refresh(self) -> None:
        """Forgets all that depends on the weights, which are packed again at the next call. Needed only

        * after single numbers were changed (on a GPU: anything) in a way that PyTorch does not count: through
          ``.data``, by collective communication, by the replay of a CUDA graph, by a fused optimizer that is compiled;
        * after frozen weights (without ``requires_grad``) on a GPU were changed in place, if ``torch.compile`` has
          recorded CUDA graphs of them (``mode="reduce-overhead"``): the graphs are then recorded again.
          ``load_state_dict`` does it. A graph that you captured by yourself without gradients keeps the weights that it
          was captured with. Where there is one, or one of ``torch.compile``, both move the weights to other memory: a
          training step that you captured must be captured again then, since it names the old one.
        """
        if not _engine.renew(list(self.factors), self.bias):
            self._forget_packed()

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        chain: Chain | PatternsLike | str,
        *,
        order: str = "l2r",
        orthonormal: bool = True,
    ) -> KSLinear:
        """The layer whose chain approximates a linear layer's weight: factorized in float64, rounded to its dtype; the
        bias is copied.

        ``chain`` is a list of chainable patterns or text; or a ``Chain``, which is taken as it is. The attribute
        ``relative_error`` of the result has ``‖weight − W‖ / ‖weight‖``.
        """
        weight, bias = linear.weight, linear.bias
        shape = tuple(weight.shape)
        if isinstance(chain, Chain):
            dense = weight.detach().to("cpu", torch.float64).numpy()
            factors = chain
            difference = (
                float(np.linalg.norm(chain.astype(np.float64).to_dense() - dense)) if chain.shape == shape else 0.0
            )
            error = difference / max(float(np.linalg.norm(dense)), 1e-300)
        else:
            # Narrow types are factorized in float32 and rounded once.
            wide = weight.dtype if weight.dtype in (torch.float32, torch.float64) else torch.float32
            found = factorize(
                weight.detach().to("cpu", wide).numpy(), _resolve(chain, *shape), order=order, orthonormal=orthonormal
            )
            factors, error = found.chain, found.relative_error
        layer = cls(shape[1], shape[0], factors, bias=bias is not None, device=weight.device, dtype=weight.dtype)
        if bias is not None:
            with torch.no_grad():
                layer.bias.copy_(bias)  # type: ignore[union-attr]
        layer.relative_error = error
        layer.train(linear.training)
        return layer

    @classmethod
    def from_application_order(
        cls, patterns: PatternsLike, weights: Sequence[Tensor], bias: Tensor | None = None
    ) -> KSLinear:
        """From patterns and weights in the order of application (right to left), as the reference implementation lists
        them; weights of shape ``(a, b, c, d)``, the layout that its constructor takes. ValueError names a shape that
        does not fit."""
        patterns = [p if isinstance(p, Pattern) else _pattern(p) for p in patterns]
        weights = list(weights)
        if len(patterns) != len(weights):
            raise ValueError(f"weights: expected one tensor for each of {len(patterns)} patterns, found {len(weights)}")
        for at, (pattern, weight) in enumerate(zip(patterns, weights)):
            if tuple(weight.shape) != tuple(pattern):
                raise ValueError(f"weights[{at}]: expected shape {tuple(pattern)}, found {tuple(weight.shape)}")
        checked = _kronsparse.check_chain(patterns[::-1])
        first = weights[0]
        layer = cls(
            checked[-1].cols,
            checked[0].rows,
            patterns=checked,
            bias=bias is not None,
            device=first.device,
            dtype=first.dtype,
        )
        with torch.no_grad():
            for factor, weight in zip(layer.factors, weights[::-1]):
                factor.copy_(weight)
            if bias is not None:
                if tuple(bias.shape) != (layer.out_features,):
                    raise ValueError(f"bias: expected shape ({layer.out_features},), found {tuple(bias.shape)}")
                layer.bias.copy_(bias)  # type: ignore[union-attr]
        return layer


@functools.cache
def _names(count: int) -> tuple[str, ...]:
    """How a list of so many parameters names them. Pruning, say, takes one out and puts others there."""
    return tuple(str(at) for at in range(count))


def _before_loading(layer: KSLinear, *_: Any) -> None:
    if torch.__future__.get_swap_module_params_on_conversion():
        layer._leave_packed()


def _after_loading(layer: KSLinear, _: Any) -> None:
    _engine.renew(list(layer.factors), layer.bias)


def _uniform(tensor: Tensor, bound: float) -> None:
    with torch.no_grad():
        if tensor.is_complex():
            # Real and imaginary part have half of the variance each.
            torch.view_as_real(tensor).uniform_(-bound / math.sqrt(2), bound / math.sqrt(2))
        else:
            tensor.uniform_(-bound, bound)


def _pattern(value: Any) -> Pattern:
    return Pattern.parse(value) if isinstance(value, str) else Pattern(*value)


def _resolve(chain: Any, rows: int, cols: int) -> tuple[Pattern, ...]:
    """The patterns of whatever names a chain, for a matrix of this shape."""
    if isinstance(chain, Chain):
        found = chain.patterns
    elif isinstance(chain, str):
        return tuple(_kronsparse.parse_chain(chain, rows, cols))
    else:
        found = tuple(_kronsparse.check_chain(list(chain)))
    shape = found[0].rows, found[-1].cols
    if shape != (rows, cols):
        text = "".join(str(pattern) for pattern in found)
        raise ValueError(f"chain {text}: expected shape (out_features, in_features) = {(rows, cols)}, found {shape}")
    return found


def torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """PyTorch's name of a chain's element type."""
    return getattr(torch, np.dtype(dtype).name)


def to_torch(array: Any) -> Tensor:
    """A tensor with a copy of an array's numbers, bfloat16 included."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def to_numpy(tensor: Tensor) -> Any:
    """A tensor's numbers as an array, bfloat16 included."""
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    if tensor.dtype == torch.bfloat16:
        try:
            import ml_dtypes
        except ImportError as error:
            raise ImportError(
                "bfloat16 arrays need the package ml_dtypes; or convert the layer with .float()"
            ) from error
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
