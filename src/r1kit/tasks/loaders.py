"""Problems from files (JSON lines, a JSON array, Parquet; plain or gzip-compressed text) and from the hub."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from r1kit.tasks.hub import hub_name, hub_rows
from r1kit.tasks.row_errors import NoGoldError, RowError, UnsupportedRowError
from r1kit.tasks.rows import content_hash, problem_from_row
from r1kit.types import Problem, UserError

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What loading did: ``rows`` read, ``merged`` identical ones, and what was left out as sentences with place
    (``without_gold``: an empty gold answer; ``unsupported``: code in a language or with tests that r1kit does not
    judge; ``broken``: no problem at all).

    ``repeated``: rows that ask word for word what another asks, under an id or with an answer of their own; they stay.
    ``no_gold_column``: rows that have no column for a gold answer and name no kind. They became problems
    of kind "general"; ``columns`` are those of the first such row.
    """

    rows: int
    merged: int
    unsupported: tuple[str, ...]
    without_gold: tuple[str, ...]
    broken: tuple[str, ...]
    repeated: tuple[str, ...] = ()
    no_gold_column: int = 0
    columns: tuple[str, ...] = ()

    def sentences(self) -> list[str]:
        """For people; empty where every row became a problem of its own."""
        said = []
        if self.merged:
            said.append(f"{self.merged:,} of {self.rows:,} rows repeat another and were merged")
        if self.repeated:
            said.append(
                f"{len(self.repeated):,} of {self.rows:,} rows ask what another asks, under an id or with an answer of "
                f"their own, and were kept; the first: {self.repeated[0]}"
            )
        if self.unsupported:
            said.append(f"{len(self.unsupported):,} code problems were left out; the first: {self.unsupported[0]}")
        if self.without_gold:
            said.append(f"{len(self.without_gold):,} rows without a gold answer were left out: {self.without_gold[0]}")
        if self.no_gold_column:
            shown = ", ".join(map(repr, self.columns[:12])) + (", ..." if len(self.columns) > 12 else "")
            said.append(
                f"{self.no_gold_column:,} rows have no gold answer column (columns: {shown}) and can only be scored "
                "by rewards that need none"
            )
        if self.broken:
            said.append(f"{len(self.broken):,} broken rows were left out; the first: {self.broken[0]}")
        return said


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedProblems:
    """Problems in file order, and what happened on the way."""

    problems: tuple[Problem, ...]
    report: LoadReport


def load_problems(
    paths: PathLike | Sequence[PathLike],
    *,
    kind: str | None = None,
    limit: int | None = None,
    prompt_column: str | None = None,
    answer_column: str | None = None,
    keep_duplicates: bool = False,
    on_bad_row: Literal["error", "skip"] = "error",
    splits: Sequence[str] = ("train",),
    adapt: Callable[[Any], Any] | None = None,
) -> LoadedProblems:
    """Problems from one file or data set of the hub (``r1kit.tasks.hub``) or several, in order; at most ``limit`` of
    them. ``splits``: which split is read of a data set that names none, the first that there is. ``adapt``: makes a row
    of another spelling one that `problem_from_row` reads, or None to leave it out; it may raise RowError.

    Rows with the same prompt, kind and gold answer (and id, where they have one) merge;
    ``keep_duplicates`` keeps them under ids ending in ``#2``, ``#3``. Raises UserError with file, line
    and mend for a broken row (``on_bad_row="skip"`` leaves it out and reports it), for one id on two
    different problems, and for files that hold no problem.
    """
    files = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    collected = _Collector(keep_duplicates)
    for file in files:
        named = hub_name(str(file))
        for place, row in read_rows(file, on_bad_row=on_bad_row, broken=collected.broken, splits=splits):
            if limit is not None and len(collected.problems) >= limit:
                break
            collected.rows += 1
            try:
                row = adapt(row) if adapt is not None else row
                if row is None:
                    continue
                problem = problem_from_row(
                    row,
                    kind=kind,
                    prompt_column=prompt_column,
                    answer_column=answer_column,
                    source=named.short if named else Path(file).name,
                )
                collected.add(problem, place)
                if problem.kind == "general" and kind is None and row.get("kind") is None:
                    collected.count_no_gold_column(row)
            except NoGoldError as error:
                collected.without_gold.append(f"{place}: {error}")
            except UnsupportedRowError as error:
                collected.unsupported.append(f"{place}: {error}")
            except RowError as error:
                _complain(f"{place}: {error}", on_bad_row, collected.broken)
    result = collected.result()
    if not result.problems and limit != 0:
        raise UserError(_nothing(files, result.report))
    return result


class _Collector:
    """Problems so far, by id."""

    def __init__(self, keep_duplicates: bool) -> None:
        self.keep_duplicates = keep_duplicates
        self.problems: dict[str, Problem] = {}
        self.seen: dict[str, tuple[str, str, int]] = {}
        self.asked: dict[str, str] = {}
        self.repeated: list[str] = []
        self.broken: list[str] = []
        self.without_gold: list[str] = []
        self.unsupported: list[str] = []
        self.columns: tuple[str, ...] = ()
        self.rows = self.merged = self.no_gold_column = 0

    def count_no_gold_column(self, row: Mapping[str, Any]) -> None:
        self.no_gold_column += 1
        self.columns = self.columns or tuple(map(str, row))

    def add(self, problem: Problem, place: str) -> None:
        content = content_hash(problem.messages, problem.kind, problem.gold)
        if problem.id not in self.seen:
            self.seen[problem.id] = (content, place, 1)
            self.problems[problem.id] = problem
            self.note_repeated(problem, place)
            return
        first_content, first_place, copies = self.seen[problem.id]
        if content != first_content:
            raise RowError(f"the id {problem.id!r} belongs to another problem at {first_place}; give each its own")
        if not self.keep_duplicates:
            self.merged += 1
            return
        self.seen[problem.id] = (content, first_place, copies + 1)
        copy = replace(problem, id=f"{problem.id}#{copies + 1}")
        self.add(copy, place)

    def note_repeated(self, problem: Problem, place: str) -> None:
        """A problem under a new id: does it ask word for word what another one asks?"""
        if self.keep_duplicates:
            return
        first = self.asked.setdefault(content_hash(problem.messages, problem.kind, None), place)
        if first != place:
            self.repeated.append(f"{place} asks what {first} asks")

    def result(self) -> LoadedProblems:
        report = LoadReport(
            rows=self.rows,
            merged=self.merged,
            unsupported=tuple(self.unsupported),
            without_gold=tuple(self.without_gold),
            broken=tuple(self.broken),
            repeated=tuple(self.repeated),
            no_gold_column=self.no_gold_column,
            columns=self.columns,
        )
        return LoadedProblems(problems=tuple(self.problems.values()), report=report)


def _nothing(files: Sequence[PathLike], report: LoadReport) -> str:
    names = ", ".join(str(file) for file in files) or "no files"
    if report.unsupported and not report.broken and not report.without_gold:
        return f"{names}: only code problems that r1kit does not judge; the first: {report.unsupported[0]}"
    if report.without_gold:
        return f"{names}: no row has a gold answer; the first: {report.without_gold[0]}"
    if report.broken:
        return f"{names}: no row is a problem; the first fault: {report.broken[0]}"
    return f"{names}: no problems in it; give a file with one problem per row"


def _complain(sentence: str, on_bad_row: str, broken: list[str]) -> None:
    if on_bad_row == "error":
        raise UserError(sentence)
    broken.append(sentence)


def read_rows(
    path: PathLike,
    *,
    on_bad_row: Literal["error", "skip"] = "error",
    broken: list[str] | None = None,
    splits: Sequence[str] = ("train",),
) -> Iterator[tuple[str, Any]]:
    """(place, row) for each row; ``place`` is ``file:line`` (JSON lines), ``file: row n`` or ``name (split): row n``.

    Raises UserError for a file that cannot be read; for a row that is not JSON too, unless
    ``on_bad_row="skip"``, which appends a sentence to ``broken`` instead.
    """
    named = hub_name(str(path))
    if named is not None:
        return hub_rows(named, splits)
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{file} is not there; give a .jsonl, .json or .parquet file of problems")
    if file.suffix.lower() in (".parquet", ".pq"):
        return _parquet_rows(file)
    return _text_rows(file, on_bad_row, [] if broken is None else broken)


def _text_rows(file: Path, on_bad_row: str, broken: list[str]) -> Iterator[tuple[str, Any]]:
    if _opening(file) == "[":
        yield from _array_rows(file)
        return
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        place = f"{file}:{number}"
        try:
            yield place, json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "numbers or nesting out of bounds"
            _complain(f"{place}: not JSON ({reason}); write one JSON object per line", on_bad_row, broken)


def _array_rows(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        rows = json.loads("".join(_lines(file)))
    except (ValueError, RecursionError) as error:
        where = f"{file}:{error.lineno}" if isinstance(error, json.JSONDecodeError) else str(file)
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "numbers or nesting out of bounds"
        raise UserError(f"{where}: not a JSON array of rows ({reason}); mend it there") from None
    for number, row in enumerate(rows, start=1):
        yield f"{file}: row {number}", row


def _lines(file: Path) -> Iterator[str]:
    try:
        if file.suffix == ".gz":
            with gzip.open(file, "rt", encoding="utf-8-sig", newline="\n") as stream:
                yield from stream
        else:
            with file.open(encoding="utf-8-sig", newline="\n") as stream:
                yield from stream
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except (OSError, EOFError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from None


def _opening(file: Path) -> str:
    return next((line.lstrip()[0] for line in _lines(file) if line.strip()), "")


def _parquet_rows(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise UserError(f"{file}: Parquet needs pyarrow; install it with: pip install pyarrow") from None
    number = 0
    try:
        # Without memory mapping: a file that is truncated while we read gives an error, not a crash.
        with parquet.ParquetFile(file, memory_map=False) as table:
            for batch in table.iter_batches(batch_size=1_024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{file}: row {number}", row
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{file}: not a readable Parquet file ({reason})") from None


def problem_kinds(problems: Iterable[Problem]) -> dict[str, int]:
    """How many problems of each kind there are."""
    counts: dict[str, int] = {}
    for problem in problems:
        counts[problem.kind] = counts.get(problem.kind, 0) + 1
    return counts
