"""The pages of the documentation: their Python runs, their commands have the flags that the command has, and they say
something of every name that the package offers."""

import re
import shlex
import subprocess
import sys

import pytest
from pages import ROOT, blocks

PAGES = sorted((ROOT / "docs").glob("*.md"))
COMMANDS = [
    (page.name, line)
    for page in [ROOT / "README.md", *PAGES]
    for block in blocks(page, "sh")
    for line in re.sub(r"\\\n\s*", " ", block).splitlines()
    if line.startswith("kronsparse ")
]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, tmp_path):
    code = "\n".join(blocks(page, "python"))
    if "import torch" in code:
        pytest.importorskip("torch")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=300)


def flags(subcommand: str) -> set[str]:
    """The flags in the source of a subcommand, as clap derives them from the names of fields."""
    folder = ROOT / "crates/kronsparse-cli/src"
    found: set[str] = set()
    for path in [folder / f"{subcommand}.rs", folder / f"{subcommand}_gpu.rs"]:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for arguments, name in re.findall(r"#\[arg\((.*?)\)\]\s*(?:pub(?:\(\w+\))? )?(\w+):", text, re.DOTALL):
            if re.search(r"\bshort\b", arguments):
                given = re.search(r"short = '(.)'", arguments)
                found.add("-" + (given[1] if given else name[0]))
            if re.search(r"\blong\b", arguments):
                given = re.search(r'long = "([^"]+)"', arguments)
                found.add("--" + (given[1] if given else name.replace("_", "-")))
    return found


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_a_command_has_its_flags(page, line):
    _, subcommand, *words = shlex.split(line, comments=True)
    known = flags(subcommand)
    assert known, f"{page}: there is no subcommand {subcommand}"
    used = {word for word in words if word.startswith("-") and len(word) > 1}
    assert used <= known, f"{page}: {line}"


def test_commands_are_found_and_wrong_ones_would_be():
    assert len(COMMANDS) >= 10
    assert {"--budget", "-b", "--exclude", "--output", "-o"} <= flags("convert") and "--device" in flags("bench")
    assert "--in" in flags("advise") and "--inputs" not in flags("advise") and not flags("no-such-subcommand")


def test_every_public_name_is_in_the_reference():
    import kronsparse

    text = (ROOT / "docs/api/numpy.md").read_text(encoding="utf-8")
    missing = [name for name in kronsparse.__all__ if name[0] != "_" and f"kronsparse.{name}\n" not in text]
    assert not missing
    pytest.importorskip("torch")
    import kronsparse.torch

    text = (ROOT / "docs/api/torch.md").read_text(encoding="utf-8")
    names = {*kronsparse.torch.__all__} - {"functional"}
    assert not [name for name in names if f"kronsparse.torch.{name}\n" not in text]
