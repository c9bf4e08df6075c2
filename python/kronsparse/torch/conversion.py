"""``convert``: the linear layers of any model replaced by ``KSLinear``, and a table of what that did."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Union

import numpy as np
import torch
from torch import nn

from .. import _kronsparse
from .._factorize import factorize
from .._types import PatternsLike
from .layer import KSLinear

#: What a rule says of the layers that it matches: a chain (text or patterns), a budget (share of the parameters), or
#: None: keep.
Rule = Union[str, PatternsLike, float, None]  # noqa: UP007 (evaluated by Python 3.10)


@dataclass(frozen=True)
class Row:
    """What became of one linear layer."""

    name: str
    in_features: int
    out_features: int
    #: The chain as text; empty where the layer was kept.
    chain: str
    #: Numbers in the weight, before and after; the bias stays as it is.
    parameters_before: int
    parameters_after: int
    #: ``‖weight − W‖ / ‖weight‖`` (Frobenius); None for fresh weights and layers that were kept.
    relative_error: float | None
    #: Why the layer was kept; empty where it was converted.
    reason: str


class Table(tuple[Row, ...]):
    """The rows of a conversion, one per linear layer, in the model's order. Printed as text."""

    __slots__ = ()

    @property
    def converted(self) -> list[Row]:
        """The layers that are chains now."""
        return [row for row in self if row.chain]

    def __str__(self) -> str:
        head = ("layer", "out × in", "chain", "before", "after", "kept", "error")
        lines = [head]
        for row in self:
            error = "" if row.relative_error is None else f"{row.relative_error:.3f}"
            what = row.chain or f"dense: {row.reason}"
            share = f"{row.parameters_after / max(row.parameters_before, 1):.1%}"
            size = f"{row.out_features} × {row.in_features}"
            lines.append((row.name, size, what, str(row.parameters_before), str(row.parameters_after), share, error))
        before, after = sum(r.parameters_before for r in self), sum(r.parameters_after for r in self)
        total = f"{after / max(before, 1):.1%}"
        lines.append((f"{len(self.converted)} of {len(self)} layers", "", "", str(before), str(after), total, ""))
        widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
        text = []
        for line in lines:
            left = [cell.ljust(width) for cell, width in zip(line[:3], widths[:3])]
            right = [cell.rjust(width) for cell, width in zip(line[3:], widths[3:])]
            text.append("  ".join(left + right).rstrip())
        return "\n".join(text)


def convert(
    model: nn.Module,
    rules: Mapping[str, Rule] | None = None,
    *,
    budget: float | None = None,
    fresh: bool = False,
    low_rank: bool = True,
    progress: Callable[[int, int, str], None] | None = None,
) -> Table:
    """Replaces ``nn.Linear`` layers of a model, in place, by chains that approximate their weights.

    ``rules`` maps names of layers to what they become, the first that matches counting: names as in ``named_modules``,
    with ``*`` and ``?`` as in file names (``"encoder.layer.*.output.dense"``). A rule is a chain (``"monarch:32,32"``,
    patterns), a share of the parameters (``0.25``), or None, which keeps the layer. Layers without a rule get the share
    ``budget``, or are kept if that is None. For a share up to six chains of two factors are factorized and the best is
    taken, plain low rank included unless ``low_rank`` is False. ``fresh`` draws new weights instead of factorizing; for
    a share it takes the chain of the smallest blocks.

    Kept, with the reason in the table: subclasses of ``nn.Linear`` (others read their weights), weights that several
    modules share, weights on the meta device unless ``fresh``, and layers for which no chain fits a share. A chain that
    does not fit a layer is a ValueError, before anything is replaced.

    ``progress(done, total, name)`` is called before each layer. The model keeps its dtype, device, hooks outside of the
    layers and mode.
    """
    if rules is None and budget is None:
        raise ValueError("convert: expected rules or a budget, found neither")
    if isinstance(model, nn.Linear):
        raise ValueError(
            "model: expected a module that contains linear layers, found one itself; use KSLinear.from_linear"
        )
    rules = {} if rules is None else rules
    owners = _owners(model)
    rows: dict[str, Row] = {}
    plans: list[tuple[str, nn.Linear, list[Any]]] = []
    matched: set[str] = set()
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        rule: Rule = budget
        for glob, what in rules.items():
            if fnmatchcase(name, glob):
                matched.add(glob)
                rule = what
                break
        reason = _why_not(name, module, owners, fresh)
        if reason is None and rule is None:
            reason = "no rule" if budget is None else "a rule keeps it"
        if reason is None:
            chains = _chains(name, module, rule, low_rank)
            if chains:
                plans.append((name, module, chains[-1:] if fresh else chains))
                continue
            reason = f"no chain has at most {rule} of its parameters"
        weight = module.in_features * module.out_features
        rows[name] = Row(name, module.in_features, module.out_features, "", weight, weight, None, reason)
    unused = [glob for glob in rules if glob not in matched]
    if unused:
        raise ValueError(f"rules: expected names of linear layers, found {unused} that match none")
    replaced = []
    for done, (name, linear, chains) in enumerate(plans):
        if progress is not None:
            progress(done, len(plans), name)
        layer = _fresh(linear, chains[0]) if fresh else _best(linear, chains)
        error = None if fresh else layer.relative_error
        text = "".join(str(pattern) for pattern in layer.patterns)
        weight = linear.in_features * linear.out_features
        rows[name] = Row(
            name, linear.in_features, linear.out_features, text, weight, layer.parameters_of_chain, error, ""
        )
        replaced.append((name, layer))
    # Only now, so that an error leaves the model as it was.
    for name, layer in replaced:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)
    _without_shortcuts(model)
    order = [name for name, _ in model.named_modules() if name in rows]
    return Table(rows[name] for name in order)


def _without_shortcuts(model: nn.Module) -> None:
    """PyTorch's own encoders have a shortcut for inference that reads the weights of their linear layers: those that
    have chains now take the usual way, which calls the layers."""
    changed = []
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and KSLinear in (type(module.linear1), type(module.linear2)):
            # As for an activation that the shortcut does not know.
            module.activation_relu_or_gelu = 0
            changed.append(module)
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and any(layer in changed for layer in module.layers):
            module.use_nested_tensor = False


def _owners(model: nn.Module) -> dict[int, list[str]]:
    """Under which names each parameter is known, shared ones under several."""
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    return owners


def _why_not(name: str, linear: nn.Linear, owners: dict[int, list[str]], fresh: bool) -> str | None:
    if type(linear) is not nn.Linear:
        return f"a subclass of nn.Linear, {type(linear).__name__}"
    if linear.weight.is_meta and not fresh:
        return "its weight is on the meta device"
    others = [other for other in owners.get(id(linear.weight), []) if other != f"{name}.weight"]
    if others:
        return f"its weight is also {others[0]}"
    if linear.weight.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return f"its weight is of {linear.weight.dtype}"
    return None


def _chains(name: str, linear: nn.Linear, rule: Rule, low_rank: bool) -> list[Any]:
    """The chains to try for a layer; empty if none fits the share."""
    rows, cols = linear.out_features, linear.in_features
    if isinstance(rule, (int, float)):
        return _kronsparse.budget_chains(rows, cols, float(rule), low_rank=low_rank)
    try:
        if isinstance(rule, str):
            chain = _kronsparse.parse_chain(rule, rows, cols)
        else:
            chain = _kronsparse.check_chain(list(rule))  # type: ignore[arg-type]
            if (chain[0].rows, chain[-1].cols) != (rows, cols):
                found = (chain[0].rows, chain[-1].cols)
                raise ValueError(f"expected shape (out_features, in_features) = {(rows, cols)}, found {found}")
        return [chain]
    except ValueError as error:
        raise ValueError(f"layer {name}: {error}") from error


def _fresh(linear: nn.Linear, chain: Any) -> KSLinear:
    weight = linear.weight
    bias = linear.bias is not None
    layer = KSLinear(linear.in_features, linear.out_features, chain, bias, weight.device, weight.dtype)
    return layer.train(linear.training)


def _best(linear: nn.Linear, chains: list[Any]) -> KSLinear:
    """The chain with the least error of those that were tried."""
    if len(chains) == 1:
        return KSLinear.from_linear(linear, chains[0])
    wide = torch.float64 if linear.weight.dtype == torch.float64 else torch.float32
    matrix = linear.weight.detach().to("cpu", wide).numpy()
    found = min((factorize(matrix, chain) for chain in chains), key=lambda f: f.relative_error)
    layer = KSLinear.from_linear(linear, found.chain)
    if np.isfinite(found.relative_error) and wide == linear.weight.dtype:
        layer.relative_error = found.relative_error
    return layer
