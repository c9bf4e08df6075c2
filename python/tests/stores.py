"""Tuning stores for the tests: what was measured, changed so that it can be told whether it is used."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import kronsparse as ks

#: What the first line of a store is.
FIRST = "kronsparse tuning 1\n"


def line(record: dict) -> str:
    """A record as the line of a store."""
    text = json.dumps(record)
    return f"{zlib.crc32(text.encode()):08x} {text}\n"


def records(path: Path) -> list[dict]:
    """The records of a store."""
    first, *lines = path.read_text().splitlines(keepends=True)
    assert first == FIRST
    return [json.loads(text.split(" ", 1)[1]) for text in lines]


def prefer(path: Path, name: str) -> None:
    """Makes all records of a store say that a way is ten times as fast as the others."""
    changed = []
    for record in records(path):
        chosen = next(way for way in record["measured"] if way["steps"][0]["name"] == name)
        for way in [*record["measured"], record["untuned"]]:
            way["seconds"] = 1e-2
        chosen["seconds"] = 1e-3
        changed.append(line({**record, "best": chosen}))
    path.write_text(FIRST + "".join(changed))
    assert all(record.chosen.name == name and record.gain > 9 for record in ks.read_tuning(path))
