"""kronsparse in a process of its own: the client of the library's example `peer_server`, which has the protocol."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from inputs import Inputs

ROOT = Path(__file__).resolve().parents[2]


def build_example(name: str) -> Path:
    """Builds an example of the library with cargo, optimised, and returns the program's path."""
    command = ["cargo", "build", "--release", "-p", "kronsparse", "--example", name, "--message-format=json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"`{' '.join(command)}` failed with {done.returncode}")
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message["target"]["name"] == name and message["executable"]:
            return Path(message["executable"])
    raise RuntimeError(f"cargo built no program for example {name}")


class Server:
    """A running server and the folder through which arrays are exchanged. Use as a context manager."""

    def __init__(self, program: Path, threads: int, pages: str) -> None:
        self.threads, self.pages = threads, pages
        # Memory, where the system has such a folder: nothing here is timed, but arrays are large.
        memory = Path("/dev/shm")
        self._folder = tempfile.TemporaryDirectory(prefix="kronsparse-peers-", dir=memory if memory.is_dir() else None)
        self.folder = Path(self._folder.name)
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, request: str) -> list[str]:
        """Sends one line; the words of the answer after its first. An `error` answer raises RuntimeError."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(request + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline().split()
        except BrokenPipeError:
            answer = []
        if not answer:
            raise RuntimeError(f"the kronsparse server ended during `{request}` ({self._process.poll()})")
        if answer[0] == "error":
            raise RuntimeError(" ".join(answer[1:]))
        return answer[1:]

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        # It owns nothing but memory, and an interrupted run may have left it in the middle of a request.
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
        self._folder.cleanup()


class Kronsparse:
    """kronsparse as a contender: `mode` is `whole` (one fused operator) or `factors` (one after the other)."""

    def __init__(self, server: Server, inputs: Inputs, name: str, mode: str, algorithm: str) -> None:
        self.server, self.inputs, self.name = server, inputs, name
        cell = inputs.cell
        words = [name, cell.name, cell.dtype, cell.layout, cell.n, server.threads, mode, algorithm, server.pages]
        inputs.write(server.folder)
        try:
            rows, cols, tolerance = server.ask(f"prepare {' '.join(map(str, words))} {server.folder}")
        finally:
            for file in server.folder.glob("*.bin"):
                file.unlink()
        if (int(rows), int(cols)) != (cell.rows, cell.cols):
            raise RuntimeError(f"the server sees {rows} x {cols}, expected {cell.rows} x {cell.cols}")
        self.tolerance = float(tolerance)

    def check(self) -> float:
        """The error of a multiplication into a poisoned output."""
        self.server.ask(f"verify {self.name}")
        file = self.server.folder / f"{self.name}.y.bin"
        error = self.inputs.error(self.inputs.read_output(file))
        file.unlink()
        return error

    def sample(self, calls: int) -> float:
        return float(self.server.ask(f"sample {self.name} {calls}")[0])

    def close(self) -> None:
        self.server.ask(f"drop {self.name}")
