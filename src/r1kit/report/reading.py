"""Reads a run directory as it is found: half-written, still growing, or with files missing.

Nothing here trusts the files: a line that is no JSON object is skipped and counted, a gzip stream that
ends early gives what it held until there.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1kit.types import UserError

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFiles:
    """What a run directory says about itself. ``metrics`` has one row a step, sorted by ``step``."""

    root: Path
    config: Row
    run: Row
    metrics: tuple[Row, ...]
    warnings: tuple[Row, ...]
    base_card: Row
    rollouts: tuple[Path, ...]
    token_values: tuple[Path, ...]
    evals: tuple[Path, ...]


def read_run(run_dir: Path) -> RunFiles:
    """Reads everything but the completions. Raises UserError where ``run_dir`` is no run directory."""
    root = Path(run_dir)
    if not root.is_dir():
        raise UserError(f"{root}: no such run directory; give the directory that `r1 run` wrote.")
    if not any((root / name).exists() for name in ("metrics.jsonl", "run.json", "config.json")):
        raise UserError(
            f"{root}: not a run directory (no metrics.jsonl, run.json or config.json); give the one `r1 run` wrote."
        )
    return RunFiles(
        root=root,
        config=read_object(root / "config.json"),
        run=read_object(root / "run.json"),
        metrics=by_step(iter_rows(root / "metrics.jsonl")),
        warnings=tuple(iter_rows(root / "warnings.jsonl")),
        base_card=read_object(root / "base_card.json"),
        rollouts=tuple(sorted((root / "rollouts").glob("*.jsonl.gz"))),
        token_values=tuple(sorted((root / "token_values").glob("*.jsonl.gz"))),
        evals=tuple(sorted((root / "evals").glob("*.jsonl.gz"))),
    )


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; empty where the file is missing, cut off, or something else."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def iter_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects in a ``.jsonl`` or ``.jsonl.gz`` file, one a line; what cannot be read is skipped."""
    for line in iter_lines(path):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


def iter_lines(path: Path) -> Iterator[bytes]:
    """Lines of a plain or gzip file, up to where it can be read."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            yield from stream
    except (OSError, EOFError, zlib.error):
        return


def by_step(rows: Iterable[Row]) -> tuple[Row, ...]:
    """One row a step, in order. A resumed run may have written a step twice: the later values win."""
    merged: dict[int, dict[str, Any]] = {}
    for row in rows:
        step = number(row.get("step"))
        if step is not None:
            merged.setdefault(int(step), {}).update(row)
    return tuple(merged[step] for step in sorted(merged))


def number(value: Any) -> float | None:
    """``value`` as a finite float, else None (so that NaN, text and null are all "no value")."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        result = float(value)
    except OverflowError:
        return None
    return result if math.isfinite(result) else None


def column(rows: Iterable[Row], key: str) -> list[float | None]:
    """Values of ``key``, one per row, None where a row has none."""
    return [number(row.get(key)) for row in rows]


def points(rows: Iterable[Row], key: str) -> list[tuple[Row, float]]:
    """The rows that have a finite ``key``, with its value."""
    return [(row, value) for row in rows if (value := number(row.get(key))) is not None]
