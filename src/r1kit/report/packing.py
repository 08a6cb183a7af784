"""Completions as columns, texts once each: what the page unpacks in the browser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from r1kit.report.selection import Record

WRITTEN_ONCE = ("set", "problem", "kind", "prompt", "gold", "outcome", "note", "finish")
AS_THEY_ARE = ("step", "sample", "group", "left_out", "tokens", "right")
ROUNDED = ("reward", "advantage")


def columns_of(rows: Sequence[Record], signs: Sequence[int]) -> dict[str, Any]:
    """``names``: per field the different texts; ``columns``: per field a value a row, an index into ``names`` where
    there is one; ``terms``: per reward term a column (None: the term does not apply). ``signs`` is a bit field a row.
    ``with_tokens``: bytes that the row has for each of its tokens.
    """
    names: dict[str, list[str]] = {}
    columns: dict[str, list[Any]] = {
        "signs": list(signs),
        "with_tokens": [len(row.token_bytes) // (row.tokens or 1) for row in rows],
    }
    for field in WRITTEN_ONCE:
        index: dict[str, int] = {}
        columns[field] = [index.setdefault(getattr(row, field), len(index)) for row in rows]
        names[field] = list(index)
    for field in AS_THEY_ARE:
        columns[field] = [getattr(row, field) for row in rows]
    for field in ROUNDED:
        columns[field] = [_rounded(getattr(row, field)) for row in rows]
    columns["text"] = [row.text for row in rows]
    terms = sorted({name for row in rows for name in row.terms})
    return {
        "names": names,
        "columns": columns,
        "terms": {name: [_rounded(row.terms.get(name)) for row in rows] for name in terms},
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
