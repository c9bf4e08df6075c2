"""The Parquet file of a study holds what its CSV holds."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "python/examples/study_parquet.py"
RECORD = ROOT / "record/2026-11-22-h100/energy"


def convert(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), str(folder)], capture_output=True, text=True)


def test_every_number_and_text_survives(tmp_path: Path) -> None:
    for name in ("samples.csv", "machine.toml"):
        shutil.copy(RECORD / name, tmp_path)
    done = convert(tmp_path)
    assert done.returncode == 0, done.stderr
    table = parquet.read_table(tmp_path / "study.parquet")
    assert table.schema.metadata[b"machine.toml"] == (RECORD / "machine.toml").read_bytes()
    with open(RECORD / "samples.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    rows = table.to_pylist()
    assert len(rows) == len(lines) > 30
    numbers = 0
    for line, row in zip(lines, rows):
        assert list(line) == list(row)
        for name, text in line.items():
            value = row[name]
            if isinstance(value, str):
                assert value == text, name
            elif value is None:
                assert text == "", name
            else:
                numbers += 1
                assert value == type(value)(text), name
    assert numbers > 10 * len(lines)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("median_s", "median"), "these differ: median, median_s"),
        (lambda text: text + '"(1,2,2,1)",f32\n', "samples.csv: "),
        (lambda text: text.replace(",25088,", ",many,"), "samples.csv: "),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, change, words: str) -> None:
    (tmp_path / "samples.csv").write_text(change((RECORD / "samples.csv").read_text()))
    done = convert(tmp_path)
    assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "study.parquet").exists()


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    done = convert(tmp_path)
    assert done.returncode == 1 and "samples.csv" in done.stderr and "Traceback" not in done.stderr, done.stderr
