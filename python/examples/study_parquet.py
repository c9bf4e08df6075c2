"""A study's ``samples.csv`` as ``study.parquet``, typed; what study and machine are is in the file's metadata.

    python python/examples/study_parquet.py study-out

Needs pyarrow. The command itself writes CSV only: Parquet's library for Rust is kept out of its build by ``deny.toml``.
The file is read back and compared before it takes its place.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

WORDS = "chain dtype layout cache algorithm status reason why device driver plan".split()
COUNTS = "n threads samples checked_vectors sm_mhz memory_bytes".split()
NUMBERS = (
    "median_s iqr_s min_s gflops gbs roofline_share speedup_over_best_other rel_error checksum tolerance energy_j "
    "idle_w permutation_share"
).split()
TYPES = {
    **dict.fromkeys(WORDS, pa.string()),
    **dict.fromkeys(COUNTS, pa.int64()),
    **dict.fromkeys(NUMBERS, pa.float64()),
    "seed": pa.uint64(),
}


def read(folder: Path) -> pa.Table:
    """The rows of a study's folder, with its ``study.toml`` and ``machine.toml`` as metadata where they are there."""
    path = folder / "samples.csv"
    try:
        # An empty field of a number is a missing one; an empty text is a text.
        options = pa.csv.ConvertOptions(column_types=TYPES, null_values=[""], strings_can_be_null=False)
        table = pa.csv.read_csv(path, convert_options=options)
    except (OSError, pa.ArrowInvalid) as error:
        raise SystemExit(f"{path}: {error}") from error
    if set(table.column_names) != set(TYPES):
        differing = ", ".join(sorted(set(table.column_names) ^ set(TYPES)))
        raise SystemExit(f"{path}: expected the columns of this version, these differ: {differing}")
    files = [folder / name for name in ("study.toml", "machine.toml")]
    return table.replace_schema_metadata({file.name: file.read_bytes() for file in files if file.exists()})


def write(table: pa.Table, path: Path) -> None:
    """Writes the table, reads it back, and gives it its name if it is the same. SystemExit if it is not."""
    part = path.with_name(f"{path.name}.part")
    pa.parquet.write_table(table, part, compression="zstd")
    again = pa.parquet.read_table(part)
    if not again.equals(table) or again.schema.metadata != table.schema.metadata:
        part.unlink()
        raise SystemExit(f"{path}: what was written does not read back the same")
    part.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of a study")
    folder = parser.parse_args().folder
    table = read(folder)
    write(table, folder / "study.parquet")
    print(f"{folder / 'study.parquet'}: {table.num_rows} rows")


if __name__ == "__main__":
    main()
