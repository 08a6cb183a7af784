"""The benchmark for GPUs on a tiny model on the CPU: it runs, and its rows add up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu" / "run.py"


def test_its_parts_run_and_are_kept(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    parts = ("device", "engine", "update", "head")
    command = [sys.executable, SCRIPT, *parts, "--shape", "tiny", "--device", "cpu", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert list(found) == list(parts)
    engine, update = found["engine"], found["update"]
    assert engine["eager"]["tokens_per_s"] == pytest.approx(engine["tokens"] / engine["eager"]["seconds"])
    assert {name for name, row in update.items() if isinstance(row, dict) and "seconds" in row} == {
        "padded", "packed", "packed, checkpointed",
    }  # fmt: skip
    assert "CUDA" in update["packed, adamw_8bit"]["failed"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--out", tmp_path / "x.json"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "no CUDA device" in done.stderr
