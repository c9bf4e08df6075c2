"""``KSGatedMLP``: the gated part of a transformer's block, whose gate and up layers are one multiplication."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _modules

from .._chain import Chain
from .._types import PatternsLike
from ._packing import ACTIVATIONS, check_activation
from .functional import interleave, ks_gated
from .layer import KSLinear

# One node of a graph that torch.fx traces.
torch.fx.wrap("ks_gated")


class KSGatedMLP(nn.Module):
    """``down(activation(gate(x)) * up(x))``, as in Llama: ``(…, in_features)`` to ``(…, out_features of down)``.

    ``gate``, ``up`` and ``down`` are ``KSLinear`` layers, which the module keeps under these names; ``activation`` is
    ``none``, ``relu``, ``gelu``, ``gelu-tanh`` or ``silu``. Where gate and up have the same chain, whose last factor
    has ``d = 1``, they are one multiplication that reads ``x`` once and keeps what it makes of it to itself
    (``is_joined``). While gradients are recorded, and where somebody has to see the calls of gate or up (hooks of
    theirs or of all modules, a ``forward`` of their own), the layers are called one after the other. In 16-bit types
    the two ways may differ by a rounding.

    ValueError for layers whose sizes do not go together, and for another activation; TypeError for other layers.
    """

    def __init__(self, gate: KSLinear, up: KSLinear, down: KSLinear, activation: str = "silu") -> None:
        super().__init__()
        for name, layer in (("gate", gate), ("up", up), ("down", down)):
            if not isinstance(layer, KSLinear):
                raise TypeError(f"{name}: expected a KSLinear, found {type(layer).__name__}")
        sizes = gate.in_features, gate.out_features
        if (up.in_features, up.out_features) != sizes:
            found = up.in_features, up.out_features
            raise ValueError(f"up: expected (in_features, out_features) = {sizes} as of gate, found {found}")
        if down.in_features != gate.out_features:
            raise ValueError(
                f"down: expected in_features = {gate.out_features}, the out_features of gate, found {down.in_features}"
            )
        check_activation(activation)
        self.gate, self.up, self.down, self.activation = gate, up, down, activation

    @classmethod
    def from_layers(
        cls,
        gate: KSLinear | nn.Linear,
        up: KSLinear | nn.Linear,
        down: KSLinear | nn.Linear,
        activation: str = "silu",
        *,
        chain: Chain | PatternsLike | str | None = None,
        down_chain: Chain | PatternsLike | str | None = None,
    ) -> KSGatedMLP:
        """Of layers that there are. Those that are ``KSLinear`` are taken as they are; ``nn.Linear`` ones are
        factorized by ``KSLinear.from_linear``, gate and up with the patterns of ``chain``, down with ``down_chain``."""
        layers = []
        for name, layer, given in (("gate", gate, chain), ("up", up, chain), ("down", down, down_chain)):
            if isinstance(layer, nn.Linear):
                if given is None:
                    what = "down_chain" if name == "down" else "chain"
                    raise ValueError(f"{what}: expected the chain of {name}, an nn.Linear, found None")
                layer = KSLinear.from_linear(layer, given)
            layers.append(layer)
        made = cls(*layers, activation)
        made.training = gate.training
        return made

    @property
    def is_joined(self) -> bool:
        """Whether gate and up can be one multiplication: so they are, unless somebody has to see their calls."""
        gate, up = list(self.gate.factors), list(self.up.factors)
        return interleave(gate, up) and not gate[0].is_complex()

    def forward(self, x: Tensor) -> Tensor:
        """``(…, in_features)`` to ``(…, out_features of down)``."""
        gate, up = self.gate, self.up
        if not self._is_watched():
            parameters = [*list(gate.factors), *list(up.factors), gate.bias, up.bias]
            if not (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *parameters))):
                count = len(gate.factors)
                weights = parameters[:count], parameters[count:-2]
                return self.down(ks_gated(x, *weights, gate.bias, up.bias, self.activation))
        return self.down(ACTIVATIONS[self.activation](gate(x)) * up(x))

    def _is_watched(self) -> bool:
        """Whether somebody sees the calls of gate or up, or one of them is not what it was made as."""
        return _has_global_hooks() or _is_hooked(self.gate) or _is_hooked(self.up)

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"activation={self.activation!r}"


_FORWARD = KSLinear.forward


def _has_global_hooks() -> bool:
    """Whether there are hooks of all modules. They have no public name: hooks are assumed where one is gone."""
    try:
        return bool(
            _modules._global_forward_hooks
            or _modules._global_forward_pre_hooks
            or _modules._global_backward_hooks
            or _modules._global_backward_pre_hooks
        )
    except AttributeError:
        return True


def _is_hooked(layer: nn.Module) -> bool:
    return (
        type(layer) is not KSLinear
        or "forward" in layer.__dict__
        or KSLinear.forward is not _FORWARD
        or bool(layer._forward_hooks or layer._forward_pre_hooks)
        or bool(layer._backward_hooks or layer._backward_pre_hooks)
    )


def join_gated(
    model: nn.Module,
    gate: str = "gate_proj",
    up: str = "up_proj",
    down: str = "down_proj",
    activation: str = "silu",
) -> list[str]:
    """Replaces the gated MLPs of a model, in place, by ``KSGatedMLP``: modules with ``KSLinear`` layers under the names
    ``gate``, ``up`` and ``down`` (by default those of Llama models), after ``convert`` has made them.

    Returns the names of the modules that were replaced, which is none where no such module is found. What else they
    contain, such as an activation or a dropout, is gone: ``activation`` takes its place. The parameters are the same,
    under other names.
    """
    found: list[str] = []
    # A module may have several names.
    replaced: dict[int, KSGatedMLP] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        layers = [getattr(module, child, None) for child in (gate, up, down)]
        if name and not isinstance(module, KSGatedMLP) and all(isinstance(layer, KSLinear) for layer in layers):
            made = replaced.get(id(module))
            if made is None:
                made = replaced[id(module)] = KSGatedMLP(*layers, activation)  # type: ignore[arg-type]
                made.training = module.training
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, made)
            found.append(name)
    return found
