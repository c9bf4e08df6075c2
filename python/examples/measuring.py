"""What the timing examples share: times by CUDA events or the clock, energy by the driver's counter, machine names."""

from __future__ import annotations

import ctypes
import math
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import kronsparse
import torch


class Meter:
    """The energy counter of a GPU, by NVML, which comes with the driver. OSError says what is missing."""

    def __init__(self, device: torch.device) -> None:
        self._nvml = ctypes.CDLL("libnvidia-ml.so.1")
        self._call("nvmlInit_v2")
        self._gpu = ctypes.c_void_p()
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode()
        self._call("nvmlDeviceGetHandleByUUID", ctypes.c_char_p(uuid), ctypes.byref(self._gpu))
        self.millijoules()

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._nvml, name)(*arguments)
        if code:
            raise OSError(f"{name} returned {code}")

    def driver(self) -> str:
        """The driver's version."""
        text = ctypes.create_string_buffer(96)
        self._call("nvmlSystemGetDriverVersion", text, ctypes.c_uint(len(text)))
        return text.value.decode()

    def millijoules(self) -> int:
        """Since the driver was loaded. The counter steps every few dozen milliseconds."""
        found = ctypes.c_ulonglong()
        self._call("nvmlDeviceGetTotalEnergyConsumption", self._gpu, ctypes.byref(found))
        return found.value


def meter_of(device: torch.device) -> tuple[Meter | None, str]:
    """The meter of a device, or why there is none."""
    if device.type != "cuda":
        return None, "energy is counted on NVIDIA GPUs only"
    try:
        return Meter(device), ""
    except OSError as error:
        return None, str(error)


def machine(device: torch.device, meter: Meter | None, commit: str | None) -> dict[str, str]:
    """Columns that say what ran where."""
    if commit is None:
        folder = Path(__file__).parent
        git = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
        try:
            commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            commit = "unknown"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {
        "device": name,
        "driver": meter.driver() if meter else "",
        "torch": torch.__version__,
        "kronsparse": kronsparse.__version__,
        "commit": commit,
    }


def times(call: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Milliseconds of calls, sorted, after three that are not counted."""
    for _ in range(3):
        call()
    found = []
    for _ in range(repeats):
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            end.synchronize()
            found.append(start.elapsed_time(end))
        else:
            begin = time.perf_counter()
            call()
            found.append(1e3 * (time.perf_counter() - begin))
    return sorted(found)


def joules(call: Callable[[], object], meter: Meter, milliseconds: float, seconds: float = 1.0) -> float | None:
    """Joules of one call repeated without pause, idle power included: between two steps of the counter that are at
    least ``seconds`` apart. None if the counter does not step."""
    several = max(1, math.ceil(5 / max(milliseconds, 1e-3)))

    def work() -> None:
        for _ in range(several):
            call()
        torch.cuda.synchronize()

    begin = time.perf_counter()
    while time.perf_counter() - begin < 0.15:
        work()
    calls, last, first = 0, meter.millijoules(), None
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds + 2:
        work()
        calls += several
        now = meter.millijoules()
        if now == last:
            continue
        last = now
        if first is None:
            first = now, calls, time.perf_counter()
        elif time.perf_counter() - first[2] >= seconds:
            return 1e-3 * (now - first[0]) / (calls - first[1])
    return None


def captured(call: Callable[[], object], several: int = 1) -> Callable[[], None]:
    """A call, or several of them, as a CUDA graph, after three runs beside it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(several):
            call()
    return graph.replay


def host_microseconds(call: Callable[[], object], device: torch.device, calls: int = 200, rounds: int = 20) -> float:
    """The median, over rounds, of what a call takes of the host's time. The GPU must be faster than the host."""
    found = []
    for _ in range(rounds + 2):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        found.append(1e6 * (time.perf_counter() - begin) / calls)
    return statistics.median(found[2:])
