"""One row a run in RECORDS.md, and what every benchmark measures the same way."""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import gc
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

RECORDS = Path(__file__).with_name("RECORDS.md")
COPY_BYTES = 1 << 28


def machine(device: torch.device) -> str:
    """Name the processor that does the work."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = lines[0].split(":")[1].strip() if lines else name
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{name}, {torch.get_num_threads()} threads, {capability}"


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time one call."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written a second while copying a tensor larger than any cache."""
    source = torch.ones(COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * COPY_BYTES / min(seconds(lambda: target.copy_(source), device) for _ in range(5))


def peak_resident_bytes(*, reset: bool = False) -> int:
    """Most memory this process has held, on Linux; ``reset`` begins to count from now."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in status if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def begin_peak(device: torch.device) -> int:
    """Begin to count the most memory held; returns what is held now, in bytes."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    with contextlib.suppress(AttributeError):  # glibc keeps what was freed until it is told
        ctypes.CDLL(None).malloc_trim(0)
    return peak_resident_bytes(reset=True)


def peak_since(before: int, device: torch.device) -> int:
    """Most bytes held since ``begin_peak`` beyond what was held then."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) - before
    return peak_resident_bytes() - before


def median_and_spread(values: Sequence[float], unit: str, digits: int = 2) -> str:
    """Write values as ``median (lowest–highest) unit``."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f}) {unit}"


def append(device: torch.device, figures: Mapping[str, str]) -> None:
    """Add a row to RECORDS.md: date, commit, machine, versions, command, figures."""
    commit = subprocess.run(
        ["git", "-C", str(RECORDS.parent), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    cells = [
        datetime.date.today().isoformat(),
        commit or "—",
        machine(device),
        f"Python {platform.python_version()}, torch {torch.__version__}",
        f"`{command}`",
        "; ".join(f"{name} {value}" for name, value in figures.items()),
    ]
    if not RECORDS.exists():
        RECORDS.write_text(HEADER)
    with RECORDS.open("a") as file:
        file.write("| " + " | ".join(cells) + " |\n")


HEADER = """# Records

One row a run, appended by the benchmarks themselves. Times are medians, with the lowest and the
highest in brackets. A baseline's number always comes from the same run.

| date | commit | machine | versions | command | figures |
|---|---|---|---|---|---|
"""
