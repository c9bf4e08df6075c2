"""``heal``: what a conversion has lost is learnt again from the original model, layer by layer, then as a whole."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from .layer import KSLinear

Loss = Callable[[Any, Any], Tensor]


@dataclass
class Phase:
    """What one phase of a healing did."""

    name: str
    steps: int = 0
    #: ``(step, loss)`` on the held-out batches, or the mean of the training losses since the last entry.
    history: list[tuple[int, float]] = field(default_factory=list)
    stopped_early: bool = False
    seconds: float = 0.0

    @property
    def best(self) -> float:
        """The least loss seen; NaN if there is none."""
        return min((loss for _, loss in self.history), default=math.nan)


@dataclass
class Healing:
    """What ``heal`` returns: one entry per phase that had steps."""

    phases: list[Phase]

    def __str__(self) -> str:
        lines = []
        for phase in self.phases:
            first = phase.history[0][1] if phase.history else math.nan
            early = ", stopped early" if phase.stopped_early else ""
            lines.append(
                f"{phase.name}: {first:.4f} → {phase.best:.4f} in {phase.steps} steps, {phase.seconds:.0f} s{early}"
            )
        return "\n".join(lines)


def relative_square(found: Any, expected: Any) -> Tensor:
    """``‖found − expected‖² / ‖expected‖²`` over all floating tensors of two tensors, sequences or mappings alike."""
    pairs = list(zip(_tensors(found), _tensors(expected)))
    if not pairs:
        raise TypeError(
            f"outputs: expected tensors of floating numbers, found {type(expected).__name__}; give a loss of your own"
        )
    difference = sum((x.float() - y.float()).square().sum() for x, y in pairs)
    norm = sum(y.float().square().sum() for _, y in pairs)
    return difference / norm.clamp_min(1e-30)


def heal(
    model: nn.Module,
    teacher: nn.Module,
    data: Iterable[Any],
    *,
    held_out: Sequence[Any] = (),
    layer_steps: int = 200,
    steps: int = 500,
    seconds: float = math.inf,
    layer_rate: float = 1e-3,
    rate: float = 3e-4,
    parameters: str = "chains",
    loss: Loss = relative_square,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    evaluate_every: int = 50,
    patience: int = 4,
    progress: bool | Callable[[str, int, int, float], None] = True,
) -> Healing:
    """Trains a converted model, in place, to do what the original does.

    First layer by layer, ``layer_steps`` steps: every ``KSLinear`` whose name is a linear layer's in ``teacher`` is fed
    what that layer is fed there, and learns its outputs (mean of the relative squared errors); all at once. Then as a
    whole, ``steps`` steps or for so many ``seconds``, whichever ends first: the model's outputs learn the teacher's by
    ``loss(student, teacher)``. Adam with a warm-up and a cosine decay to zero at the end, wherever it comes.

    ``data`` gives batches and is begun again when it ends, so it must not be a generator. ``forward(model, batch)``
    calls a model; without it a mapping becomes keyword arguments, a tuple or a list positional ones. It may return more
    than the model does, hidden states for example, if ``loss`` takes them, and may call it under ``torch.autocast``.
    ``parameters`` of the second phase: ``chains`` (factors and biases of all ``KSLinear``), or names as in
    ``named_parameters`` with ``*`` and ``?`` (``"encoder.*"`` leaves embeddings alone; ``"*"`` is all).

    Every ``evaluate_every`` steps the loss on ``held_out`` batches (without any: of the training since) is noted; after
    ``patience`` of them in which it has not gained one per cent the phase ends. The best weights seen are kept.
    ``progress`` is True for a bar on stderr, or a function of phase, step, steps, loss.

    ValueError if there is nothing to learn from or nothing to train; RuntimeError if a loss is not finite.
    """
    call = forward or _call
    layers = {name: module for name, module in model.named_modules() if isinstance(module, KSLinear)}
    if not layers:
        raise ValueError("model: expected at least one KSLinear, found none; convert it first")
    if parameters == "chains":
        chosen = [p for layer in layers.values() for p in layer.parameters()]
    else:
        chosen = [p for name, p in model.named_parameters() if fnmatchcase(name, parameters)]
    if not chosen:
        raise ValueError(
            f"parameters: expected 'chains' or names of parameters, found {parameters!r}, which names none"
        )
    if not seconds > 0:
        raise ValueError(f"seconds: expected a positive number, found {seconds}")
    report = _reporter(progress)
    modes = [(module, module.training) for root in (model, teacher) for module in root.modules()]
    wishes = [(p, p.requires_grad) for root in (model, teacher) for p in root.parameters()]
    try:
        teacher.eval()
        teacher.requires_grad_(False)
        model.eval()  # no dropout: the teacher has none either
        phases = []
        if layer_steps > 0:
            pairs = _pairs(layers, teacher)
            if pairs:
                narrow = [p for name in pairs for p in layers[name].parameters()]
                work = _LayerWise(teacher, layers, pairs, call)
                limits = _Limits(layer_steps, math.inf, layer_rate, evaluate_every, patience)
                phases.append(_train("layer by layer", model, narrow, data, held_out, work, limits, report))
        if steps > 0:

            def work(batch: Any) -> Tensor:
                with torch.no_grad():
                    expected = call(teacher, batch)
                return loss(call(model, batch), expected)

            limits = _Limits(steps, seconds, rate, evaluate_every, patience)
            phases.append(_train("as a whole", model, chosen, data, held_out, work, limits, report))
        return Healing(phases)
    finally:
        for module, training in modes:
            module.training = training
        for parameter, wish in wishes:
            parameter.requires_grad_(wish)


class _LayerWise:
    """The loss of all layers, each fed what its counterpart in the teacher is fed."""

    def __init__(self, teacher: nn.Module, layers: dict[str, KSLinear], pairs: dict[str, nn.Linear], call: Any) -> None:
        self.teacher, self.layers, self.pairs, self.call = teacher, layers, pairs, call

    def __call__(self, batch: Any) -> Tensor:
        losses: list[Tensor] = []

        def listen(layer: KSLinear) -> Any:
            def hook(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
                with torch.enable_grad():
                    losses.append(relative_square(layer(inputs[0].detach()), output.detach()))

            return hook

        hooks = [self.pairs[name].register_forward_hook(listen(self.layers[name])) for name in self.pairs]
        try:
            with torch.no_grad():
                self.call(self.teacher, batch)
        finally:
            for handle in hooks:
                handle.remove()
        if not losses:
            raise ValueError("teacher: none of the layers that were converted is called in its forward")
        return torch.stack(losses).mean()


def _pairs(layers: dict[str, KSLinear], teacher: nn.Module) -> dict[str, nn.Linear]:
    """The teacher's linear layers of the same names and sizes."""
    pairs = {}
    for name, other in teacher.named_modules():
        layer = layers.get(name)
        sizes = (layer.in_features, layer.out_features) if layer is not None else None
        if isinstance(other, nn.Linear) and (other.in_features, other.out_features) == sizes:
            pairs[name] = other
    return pairs


@dataclass(frozen=True)
class _Limits:
    """When a phase ends, and how fast it learns until then."""

    steps: int
    seconds: float
    rate: float
    #: Steps from one evaluation to the next, and how many without a gain end the phase.
    every: int
    patience: int

    def rate_at(self, step: int, elapsed: float) -> float:
        """Of a step, the first being 0, that begins after so many seconds."""
        warm = max(1, min(self.steps // 10, 100))
        done = max((step - warm) / max(1, self.steps - warm), elapsed / self.seconds, 0.0)
        return self.rate * min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def _train(
    name: str,
    model: nn.Module,
    chosen: list[nn.Parameter],
    data: Iterable[Any],
    held_out: Sequence[Any],
    work: Callable[[Any], Tensor],
    limits: _Limits,
    report: Callable[[str, int, int, float], None],
) -> Phase:
    phase, start = Phase(name), time.perf_counter()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in chosen:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(chosen, lr=limits.rate)

    def evaluate(recent: list[float]) -> float:
        if not held_out:
            return sum(recent) / len(recent)
        # With gradients, which are not used: without, chains on a GPU would be packed anew for a few batches.
        with torch.enable_grad():
            return sum(work(batch).item() for batch in held_out) / len(held_out)

    # The best weights, of the parameters that are trained.
    best, kept = math.inf, [p.detach().clone() for p in chosen]
    if held_out:
        best = evaluate([])
        phase.history.append((0, best))
    # The loss from which a gain is counted, and evaluations since it was seen.
    mark, since = best, 0
    recent: list[float] = []
    batches = _endless(data)
    for step in range(1, limits.steps + 1):
        elapsed = time.perf_counter() - start
        for group in optimizer.param_groups:
            group["lr"] = limits.rate_at(step - 1, elapsed)
        optimizer.zero_grad(set_to_none=True)
        value = work(next(batches))
        number = value.item()
        if not math.isfinite(number):
            raise RuntimeError(f"heal, {name}: the loss at step {step} is {number}; try a lower rate")
        value.backward()
        nn.utils.clip_grad_norm_(chosen, 1.0)
        optimizer.step()
        recent.append(number)
        phase.steps = step
        report(name, step, limits.steps, number)
        is_last = step == limits.steps or elapsed >= limits.seconds
        if step % limits.every == 0 or is_last:
            found = evaluate(recent)
            phase.history.append((step, found))
            recent = []
            if found < best:
                best, kept = found, [p.detach().clone() for p in chosen]
            mark, since = (found, 0) if found < 0.99 * mark else (mark, since + 1)
            if is_last:
                break
            if since >= limits.patience:
                phase.stopped_early = True
                break
    with torch.no_grad():
        for parameter, values in zip(chosen, kept):
            parameter.copy_(values)
    phase.seconds = time.perf_counter() - start
    return phase


def _endless(data: Iterable[Any]) -> Iterator[Any]:
    while True:
        empty = True
        for batch in data:
            empty = False
            yield batch
        if empty:
            raise ValueError(
                "data: expected batches, found none (a generator gives them only once; use a list or a DataLoader)"
            )


def _call(model: nn.Module, batch: Any) -> Any:
    if hasattr(batch, "keys"):
        return model(**batch)
    if isinstance(batch, (tuple, list)):
        return model(*batch)
    return model(batch)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if hasattr(value, "keys"):
        return [tensor for key in value for tensor in _tensors(value[key])]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def _reporter(progress: bool | Callable[[str, int, int, float], None]) -> Callable[[str, int, int, float], None]:
    if callable(progress):
        return progress
    if not progress or not sys.stderr.isatty():
        return lambda name, step, steps, loss: None

    def bar(name: str, step: int, steps: int, loss: float) -> None:
        done = 30 * step // steps
        end = "\n" if step == steps else ""
        print(
            f"\r{name} [{'#' * done}{'.' * (30 - done)}] {step}/{steps} loss {loss:.4f} ",
            end=end,
            file=sys.stderr,
            flush=True,
        )

    return bar
