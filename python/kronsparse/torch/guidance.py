"""``tune`` and ``advise`` for whole models."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from .. import _arguments
from .._advice import advise as advise_layer
from .._kronsparse import Advice
from .._tuning import Problem, Progress, Tuning, measure
from ._packing import DTYPES, interleaved
from .gated import KSGatedMLP
from .layer import KSLinear


def tune(
    model: nn.Module,
    example: int | Sequence[int] | Tensor | tuple[Any, ...] | dict[str, Any],
    *,
    caches: str = "cold",
    seconds: float = 0.1,
    store: str | os.PathLike[str] | None = None,
    again: bool = False,
    progress: Progress | None = None,
) -> Tuning:
    """Measures for every ``KSLinear`` and ``KSGatedMLP`` of a model which way of multiplying is the fastest, and keeps
    the results: later calls, in this process and others on this machine, take it. Layers that are alike are measured
    once.

    ``example`` is an input, a tuple of arguments or a dictionary of named ones: the model is run with it once, without
    gradients and in evaluation mode, and each layer is tuned for the numbers of vectors and the dtype that it had
    (autocast included). Or it is a number of vectors, or several, of all layers.

    The device is that of the model: its GPU, or the CPU with as many threads as PyTorch uses. Only forward passes
    without gradients of weights are tuned. The other arguments, interruptions and errors are as for
    ``kronsparse.tune``. ValueError for a model on several devices, without such layers, or an example that reaches
    none.
    """
    _check_model(model)
    layers = _layers(model)
    devices = {parameter.device for layer in layers for parameter in layer.parameters()}
    if len(devices) != 1:
        found = ", ".join(sorted(map(str, devices))) or "no KSLinear"
        raise ValueError(f"model: expected KSLinear layers on one device, found {found}")
    device = devices.pop()
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"model: expected layers on a CPU or a GPU, found some on {device}")
    batches = None if _is_input(example) else _arguments.batches(example, "example")

    def problems() -> list[Problem]:
        if batches is None:
            return _met(model, layers, example)
        return [_problem(layer, n, None) for n in batches for layer in layers]

    if device.type == "cuda":
        # The engine allocates beside PyTorch.
        torch.cuda.empty_cache()
    where = f"cuda:{device.index}" if device.type == "cuda" else "cpu"
    threads = 0 if device.type == "cuda" else torch.get_num_threads()
    return measure(problems, where, threads, caches, seconds, store, again, progress)


def _layers(model: nn.Module) -> list[KSLinear | KSGatedMLP]:
    """What multiplies in a model: a gate and an up layer that are one multiplication do not."""
    gated = [module for module in model.modules() if isinstance(module, KSGatedMLP)]
    joined = [module for module in gated if module.is_joined and not module._is_watched()]
    parts = {id(part) for module in joined for part in (module.gate, module.up)}
    return joined + [m for m in model.modules() if isinstance(m, KSLinear) and id(m) not in parts]


def _is_input(example: Any) -> bool:
    """Whether an example is something to be run with, rather than numbers of vectors."""
    if example is None or isinstance(example, (bool, float, str)):
        raise TypeError(f"example: expected an input of the model or numbers of vectors, found {example!r}")
    if isinstance(example, Sequence):
        return not all(isinstance(each, Integral) for each in example)
    return not isinstance(example, Integral)


def _check_model(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected an nn.Module, found {type(model).__name__}")


def _name(dtype: Any) -> str:
    """What the engine calls an element type; TypeError for one that it does not have."""
    if dtype not in DTYPES:
        raise TypeError(f"dtype: expected one of {', '.join(map(str, DTYPES))}, found {dtype!r}")
    return DTYPES[dtype]


def _problem(layer: KSLinear | KSGatedMLP, n: int, dtype: torch.dtype | None) -> Problem:
    """What a layer multiplies ``n`` vectors by, in a dtype, or its own."""
    if isinstance(layer, KSLinear):
        name = _name(layer.factors[0].dtype if dtype is None else dtype)
        return Problem(layer.patterns, name, n, bias=layer.bias is not None)
    gate, up = layer.gate, layer.up
    name = _name(gate.factors[0].dtype if dtype is None else dtype)
    bias = gate.bias is not None or up.bias is not None
    return Problem(interleaved(gate.patterns), name, n, bias=bias, activation=layer.activation, join="gate")


def _met(model: nn.Module, layers: Sequence[KSLinear | KSGatedMLP], example: Any) -> list[Problem]:
    """What the layers multiply by while the model takes an example."""
    found: list[Problem] = []

    def hook(layer: Any, _: Any, output: Tensor) -> None:
        last = layer if isinstance(layer, KSLinear) else layer.down
        n = output.numel() // last.out_features
        if n:
            found.append(_problem(layer, n, output.dtype))

    handles = [layer.register_forward_hook(hook) for layer in layers]
    # As it is used without gradients; nothing is to learn from the example, such as the means of a normalization.
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            if isinstance(example, Mapping):
                model(**example)
            else:
                model(*(example if isinstance(example, tuple) else (example,)))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    if not found:
        raise ValueError("example: expected an input that reaches a KSLinear with at least one vector, found none")
    return found


def advise(
    model: nn.Module,
    batch: int | Sequence[int] = (1, 32, 2048),
    *,
    dtype: torch.dtype | None = None,
    device: str = "h100",
    **options: Any,
) -> dict[str, Advice]:
    """Says for every ``nn.Linear`` of a model whether chains pay, which, and by how much: advice by the names of the
    layers. Layers of one size are asked about once.

    ``dtype`` is that of each weight unless it is given; ``options`` are those of ``kronsparse.advise``, whose errors
    are named with the layer.
    """
    _check_model(model)
    batches = _arguments.batches(batch)
    if dtype is not None:
        _name(dtype)
    known: dict[tuple[int, int, torch.dtype], Advice] = {}
    found: dict[str, Advice] = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Linear):
            continue
        kind = layer.weight.dtype if dtype is None else dtype
        key = layer.out_features, layer.in_features, kind
        if key not in known:
            try:
                known[key] = advise_layer(*key[:2], batches, dtype=_name(kind), device=device, **options)
            except (ValueError, TypeError) as error:
                kind_of = TypeError if isinstance(error, TypeError) else ValueError
                raise kind_of(f"layer {name}: {error}") from error
        found[name] = known[key]
    return found
