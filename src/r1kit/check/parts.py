"""What the checks share: trying, the run directory, memory, measuring."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch

from r1kit.config import Recipe, differences
from r1kit.devices import free_memory
from r1kit.findings import Finding, failure, file_size, ok, warning
from r1kit.policy import Policy
from r1kit.types import R1Error

TIGHT = 0.85
"""Share of the free memory above which a run is likely to fail when answers grow."""
T = TypeVar("T")


def tried(name: str, work: Callable[[], T]) -> tuple[T | None, list[Finding]]:
    """What ``work`` gives, or the failure that its error is."""
    try:
        return work(), []
    except R1Error as error:
        return None, [failure(name, str(error))]


def output_finding(config: Recipe) -> Finding:
    """Is the run directory free, or this very run's?"""
    directory = Path(config.output_dir)
    known = directory / "config.json"
    if directory.exists() and not directory.is_dir():
        return failure("output", f"{directory} is a file", "name another output_dir")
    if not known.is_file():
        return ok("output", f"{directory} (new)")
    try:
        different = differences(json.loads(known.read_text(encoding="utf-8")), config.to_dict())
    except (OSError, ValueError, AttributeError) as error:
        return failure("output", f"{known} cannot be read ({error})", "name another output_dir")
    if different:
        shown = ", ".join(different[:6]) + (", ..." if len(different) > 6 else "")
        return failure("output", f"{directory} holds a run with another {shown}", "name another output_dir")
    return ok("output", f"{directory} holds this run: it goes on, or is found finished")


def disk_finding(config: Recipe, checkpoint_bytes: int, transcript_bytes: float) -> Finding:
    """Room for the checkpoints (one more than are kept, while it is written), the model and the transcripts."""
    place = Path(config.output_dir).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    needed = checkpoint_bytes * (config.keep_checkpoints + 1) + transcript_bytes
    said = f"about {file_size(needed)} needed ({file_size(checkpoint_bytes)} a checkpoint), {file_size(free)} free"
    if needed > free:
        return failure("disk", said, "free some, or name an output_dir on another disk")
    return warning("disk", said, "that is close") if needed > TIGHT * free else ok("disk", said)


def measured(device: torch.device, work: Callable[[], object]) -> tuple[float, int]:
    """Seconds that ``work`` takes, and by how many bytes memory rises above where it was meanwhile (0 where the
    machine does not say)."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    else:
        _reset_peak()
        before = _resident("VmRSS")
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter() - started, torch.cuda.max_memory_allocated(device) - before
    return time.perf_counter() - started, max(0, _resident("VmHWM") - before)


def _reset_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _resident(field: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)


def weight_bytes(policy: Policy) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in policy.model.parameters())


def trained_bytes(policy: Policy) -> int:
    """What is trained is fp32; of a model with an adapter it is the adapter alone."""
    return sum(4 * parameter.numel() for parameter in policy.model.parameters() if parameter.requires_grad)


def memory_held(device: torch.device) -> int:
    """What this process itself holds of the device's memory: a run would have it."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else _resident("VmRSS")


def memory_fits(device: torch.device, parts: dict[str, int], held: int, *, in_turn: int = 0) -> Finding:
    """Whether all ``parts`` have room, of which ``in_turn`` bytes are given back before others are taken."""
    needed, free = sum(parts.values()) - in_turn, free_memory(device)[0] + held
    shown = ", ".join(f"{name} {file_size(size)}" for name, size in parts.items() if size)
    said = f"up to {file_size(needed)} of {file_size(free)} ({shown})"
    if not free:
        return ok("memory", f"up to {file_size(needed)} ({shown}); this machine does not say how much is free")
    mend = "lower micro_batch_tokens, engine_max_batch or max_completion_length, or set gradient_checkpointing=true"
    if needed > free:
        return failure("memory", said, mend)
    return warning("memory", said, f"that is close: {mend}") if needed > TIGHT * free else ok("memory", said)
