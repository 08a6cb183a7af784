"""Does a run grow slow as its process grows old? Speed beside the state of glibc's main arena, step by step.

    python benchmarks/heap.py r1_zero_world max_steps=16 eval_size=8 eval_every=0 torch_threads=1 output_dir=/tmp/heap

Runs the recipe in this process. Megabytes in use and free, and how many pieces the free ones are in (mallinfo2; Linux
with glibc 2.33 or newer). The same run under other settings of the allocator: MALLOC_ARENA_MAX, MALLOC_MMAP_THRESHOLD_,
ONEDNN_PRIMITIVE_CACHE_CAPACITY in the environment.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from pathlib import Path
from typing import Any

from r1kit.config import load_recipe
from r1kit.run_directory import read_json_lines
from r1kit.runner import run_recipe


class Arena(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


def watch(metrics: Path, over: threading.Event) -> None:
    """Print a line for every new row of metrics."""
    libc: Any = ctypes.CDLL("libc.so.6")
    libc.mallinfo2.restype = Arena
    told = 0
    while not over.wait(0.05):
        rows = read_json_lines(metrics)
        for row in rows[told:]:
            found = libc.mallinfo2()
            speed = row.get("time/tokens_per_second", 0)
            print(
                f"heap at step {row['step']}: {found.uordblks / 1e6:.0f} MB in use, {found.fordblks / 1e6:.0f} MB "
                f"free in {found.ordblks:,} pieces, {speed:,.0f} tokens/s",
                flush=True,
            )
        told = len(rows)


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    config = load_recipe(sys.argv[1], sys.argv[2:])
    over = threading.Event()
    watcher = threading.Thread(target=watch, args=(Path(config.output_dir) / "metrics.jsonl", over))
    watcher.start()
    try:
        run_recipe(config, ["python", *sys.argv])
    finally:
        over.wait(0.2)
        over.set()
        watcher.join()


if __name__ == "__main__":
    main()
