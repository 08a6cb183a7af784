"""Which device, how many threads, which number type: asked once, answered the same everywhere."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from r1kit.machine import usable_cores
from r1kit.types import UserError

MOST_THREADS = 8
"""More threads than this only wait for each other on models that a CPU can train."""


def resolve_device(name: str) -> torch.device:
    """The device called ``name``; "auto" takes CUDA if there is one. Raises UserError for what this machine lacks."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    mend = "use auto, cpu, cuda or cuda:N"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f'device="{name}" is not a device: {mend}') from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f'device="{name}", but torch sees no CUDA device here: use device="cpu" or "auto"')
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f'device="{name}", but there are {torch.cuda.device_count()} CUDA devices (counted from 0)')
    if device.type not in ("cpu", "cuda"):
        raise UserError(f'device="{name}" is not supported: {mend}')
    return device


def has_native_bf16(device: torch.device) -> bool:
    """Does this device multiply bfloat16 in hardware? (CPU: AVX-512 BF16, AMX or Arm BF16; CUDA: from Ampere on.)
    Where it does not, bfloat16 products are emulated, and slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type != "cpu" or platform.system() != "Linux":
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16", " bf16"))


def free_memory(device: torch.device) -> tuple[int, int]:
    """(free, total) bytes of the device, what torch keeps for its next tensors counted as free; of a CPU what Linux
    calls available, and the control group's limit where it is lower. (0, 0) where the machine does not say."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free) + int(kept), int(total)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0, 0
    known = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}
    free, total = known.get("MemAvailable", 0), known.get("MemTotal", 0)
    limit, used = (_number_in(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    if limit is not None and used is not None and limit < total:
        return min(free, limit - used), limit
    return free, total


def _number_in(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def set_threads(wanted: int | str) -> int:
    """Set torch's threads and return how many: for "auto" the cores this process may use, at most ``MOST_THREADS``."""
    available = usable_cores()
    threads = min(available, MOST_THREADS) if wanted == "auto" else int(wanted)
    torch.set_num_threads(threads)
    return threads


@contextmanager
def single_threaded_operations() -> Iterator[None]:
    """Threads started inside run each torch operation on one core: the cores are shared by giving each its own work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
