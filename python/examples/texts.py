"""Sentences of documentation that comes with Python and its packages, and their split by document.

A document is a topic of Python's reference or a module with its docstrings. What is held out is held out by whole
documents, and what is learnt from has no sentence that differs from a held-out one in case, digits and signs only.
"""

from __future__ import annotations

import ast
import importlib.util
import random
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

#: Sentences by document.
Documents = dict[str, list[str]]


def documents(sources: Iterable[str]) -> Documents:
    """Of the language's reference (``topics``), the standard library (``stdlib``) and installed packages, by name."""
    found: Documents = {}
    for source in sources:
        if source == "topics":
            from pydoc_data.topics import topics

            found.update((f"topics/{name}", list(sentences(topics[name]))) for name in sorted(topics))
        else:
            found.update(_modules(_folder(source), source))
    return {name: kept for name, kept in found.items() if kept}


def _folder(source: str) -> Path:
    if source == "stdlib":
        return Path(sysconfig.get_paths()["stdlib"])
    place = importlib.util.find_spec(source)
    if place is None or not place.submodule_search_locations:
        raise SystemExit(f"sources: expected topics, stdlib or names of installed packages, found {source!r}")
    return Path(place.submodule_search_locations[0])


def _modules(root: Path, name: str) -> Iterator[tuple[str, list[str]]]:
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if {"test", "tests", "site-packages", "dist-packages"}.intersection(parts):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            # Templates, and files that are wrong on purpose.
            continue
        nodes = (node for node in ast.walk(tree) if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)))
        texts = filter(None, map(ast.get_docstring, nodes))
        yield "/".join([name, *parts]), [sentence for text in texts for sentence in sentences(text)]


def sentences(text: str) -> Iterator[str]:
    """Sentences of 30 to 300 characters that are words for the most part, not code or tables."""
    for sentence in re.split(r"(?<=[.!?]) ", re.sub(r"\s+", " ", text)):
        words = sum(letter.isalpha() or letter == " " for letter in sentence)
        if 30 <= len(sentence) <= 300 and words > 0.85 * len(sentence):
            yield sentence


def plain(sentence: str) -> str:
    """What is the same in sentences that differ in case, digits and signs only."""
    return " ".join(re.findall(r"[^\W\d_]+", sentence.lower()))


def split(documents: Documents, held_out: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Different sentences to learn from, and ``held_out`` different ones of documents apart from those, both shuffled
    in a way that the seed decides."""
    chance = random.Random(seed)
    names = sorted(documents)
    chance.shuffle(names)
    apart: dict[str, str] = {}
    while len(apart) < held_out:
        if not names:
            raise SystemExit(f"texts: expected more than {held_out} different sentences, found {len(apart)}")
        apart.update((plain(sentence), sentence) for sentence in documents[names.pop()])
    learnt = {plain(sentence): sentence for name in names for sentence in documents[name]}
    kept = [sentence for key, sentence in learnt.items() if key not in apart]
    chosen = list(apart.values())
    chance.shuffle(kept)
    chance.shuffle(chosen)
    return kept, chosen[:held_out]
