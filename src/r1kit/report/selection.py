"""Which completions go into a report: bounded, evenly spread over the run, the same for the same run.

Files are streamed and only what the page shows of the chosen rows is kept, so a run of many gigabytes needs
little memory.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from r1kit.report.reading import Row, RunFiles, iter_lines, iter_rows, number
from r1kit.token_values import unpack_bytes

MAX_COMPLETIONS = 50_000
MAX_BYTES = 24_000_000
MAX_TOKEN_BYTES = 6_000_000
MAX_EVALS, MAX_ROLLOUTS = 40, 400
SAMPLES_PER_GROUP = 64
HEAD_CHARS, TAIL_CHARS = 6000, 3000
COUNT_LIMIT_BYTES = 64 << 20
ROW_BYTES = 120

TokenBytes = Callable[[Row], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What the page shows of a completion. ``tokens``: its length (None: not recorded). ``left_out``: characters cut
    from the middle of ``text``. ``token_bytes``: as ``tokens.token_bytes`` gives them, and after them those of
    ``token_values.unpack_bytes``, if the run has them; or empty. ``right`` is None
    where nothing judged the answer. ``group``: which completions were compared with each other.
    """

    set: str
    step: int
    problem: str
    sample: int | None
    group: int | None
    kind: str
    prompt: str
    gold: str
    text: str
    left_out: int
    tokens: int | None
    right: bool | None
    reward: float | None
    terms: Mapping[str, float | None]
    advantage: float | None
    outcome: str
    note: str
    finish: str
    token_bytes: bytes = b""

    @property
    def size(self) -> int:
        """About how many bytes it takes in the page before compression, its token values and prompt left out."""
        return ROW_BYTES + len((self.text + self.gold + self.note).encode(errors="replace"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The chosen completions, as the page reads them. ``total`` is None where counting would take too long."""

    rows: tuple[Record, ...]
    total: int | None
    files_read: int
    files: int

    @property
    def with_tokens(self) -> int:
        return sum(bool(row.token_bytes) for row in self.rows)

    @property
    def sentence(self) -> str:
        """How many of how many are shown, and for how many their tokens."""
        shown = f"{len(self.rows):,}"
        if self.total is None:
            text = f"{shown} completions shown, from {self.files_read:,} of the run's {self.files:,} files."
        elif self.total == len(self.rows):
            text = f"All {shown} completions of the run."
        else:
            text = f"{shown} of the run's {self.total:,} completions shown, spread evenly over the run."
        if self.with_tokens:
            text += f" Token values for {self.with_tokens:,} training completions."
        return text


def select(
    files: RunFiles,
    *,
    max_rows: int = MAX_COMPLETIONS,
    max_bytes: int = MAX_BYTES,
    max_token_bytes: int = MAX_TOKEN_BYTES,
    token_bytes: TokenBytes | None = None,
) -> Selection:
    """Held-out problems first (at most half; first and last evaluation before the ones between), then training
    groups in turn from every rollout.
    """
    evals = _spread(files.evals, MAX_EVALS)
    rollouts = _spread(files.rollouts, MAX_ROLLOUTS)
    held_out = _evaluation_rows(evals, max(2, max_rows // 2 // max(1, len(evals))))
    share = 2 / max(1, len(rollouts))
    values = {path.name: path for path in files.token_values}
    training = [
        _training_groups(
            path, int(share * max_rows) + 1, int(share * max_bytes) + 1, token_bytes, values.get(path.name)
        )
        for path in rollouts
    ]
    ordered = [*held_out, *(row for group in _take_turns(training) for row in group)]
    rows = _within(ordered, max_rows, max_bytes, max_token_bytes)
    every = [*files.evals, *files.rollouts]
    return Selection(
        rows=tuple(sorted(rows, key=lambda row: (row.set != "train", row.set, row.step))),
        total=_count(every),
        files_read=len(evals) + len(rollouts),
        files=len(every),
    )


def is_right(row: Row) -> bool | None:
    """Whether the answer was right; None where nothing judged that (no accuracy term)."""
    terms = row.get("rewards")
    accuracy = number(terms.get("accuracy")) if isinstance(terms, dict) else None
    return None if accuracy is None else accuracy > 0.999


def tokens_of(row: Row) -> int | None:
    """Length of the completion in tokens."""
    ids = row.get("token_ids")
    return len(ids) if isinstance(ids, list) else None


def accuracy_by_length(path: Path, name: str, edges: Sequence[tuple[float, float]]) -> list[dict[str, Any]]:
    """Accuracy of set ``name`` in an evaluation file by length in tokens, ``from <= length < to``.

    The first and the last bin are open: what is shorter or longer than any bin counts there.
    """
    starts = [start for start, _ in edges]
    tally: dict[int, list[int]] = {index: [0, 0] for index in range(len(edges))}
    for row in iter_rows(path):
        length, right = tokens_of(row), is_right(row)
        if row.get("set") != name or length is None or right is None:
            continue
        index = max(0, bisect_right(starts, length) - 1)
        tally[index][0] += 1
        tally[index][1] += right
    bins = ((edges[index], count) for index, count in tally.items())
    return [{"from": a, "to": b, "n": n, "accuracy": good / n if n else None} for (a, b), (n, good) in bins]


def set_names(path: Path) -> list[str]:
    """Names of the sets in an evaluation file, the largest first."""
    sizes = Counter(str(row.get("set", "")) for row in iter_rows(path))
    return [name for name, _ in sizes.most_common()]


def _spread(paths: Sequence[Path], limit: int) -> list[Path]:
    if len(paths) <= limit:
        return list(paths)
    return [paths[i] for i in sorted({round(k * (len(paths) - 1) / (limit - 1)) for k in range(limit)})]


def _evaluation_rows(paths: Sequence[Path], per_file: int) -> list[Record]:
    """The same problems in every evaluation: the first of each set, one sample each."""
    if not paths:
        return []
    wanted = _first_problems(paths[0], per_file)
    by_file = []
    for path in paths:
        seen: set[tuple[str, str]] = set()
        kept = []
        for row in iter_rows(path):
            key = (str(row.get("set", "")), str(row.get("problem_id", "")))
            if key in wanted and key not in seen:
                seen.add(key)
                kept.append(_record(row, None))
        by_file.append(kept)
    ends = [by_file[0], by_file[-1]] if len(by_file) > 1 else by_file
    return [row for rows in (*ends, *by_file[1:-1]) for row in rows]


def _first_problems(path: Path, limit: int) -> set[tuple[str, str]]:
    """At most ``limit`` problems: three in four of the largest set, the rest of the others alike."""
    by_set: dict[str, dict[str, None]] = defaultdict(dict)
    for row in iter_rows(path):
        by_set[str(row.get("set", ""))].setdefault(str(row.get("problem_id", "")))
    sizes = sorted(by_set, key=lambda name: -len(by_set[name]))
    further = limit // 4 // max(1, len(sizes) - 1)
    limits = dict.fromkeys(sizes[1:], further) | {sizes[0]: limit - further * (len(sizes) - 1)} if sizes else {}
    return {(name, problem) for name in sizes for problem in list(by_set[name])[: limits[name]]}


def _training_groups(
    path: Path, max_rows: int, max_bytes: int, token_bytes: TokenBytes | None, values: Path | None
) -> list[tuple[Record, ...]]:
    """Whole groups of a rollout file in the order of a hash, so that no kind of problem is favoured; the last in
    that order are dropped while the file is read, down to one group.
    """
    found = {(row.get("group"), row.get("member")): row for row in iter_rows(values)} if values and token_bytes else {}
    members: Counter[Any] = Counter()
    groups: dict[str, list[Record]] = {}
    ranks: dict[str, bytes] = {}
    rows = size = 0
    for row in iter_rows(path):
        group = _whole(row.get("group"))
        members[group] += 1
        name = f"{row.get('problem_id', '')}\x1f{row.get('occurrence', '')}\x1f{row.get('group', '')}"
        if name not in ranks:
            ranks[name] = hashlib.blake2b(f"{path.name}\x1f{name}".encode(errors="replace")).digest()
            groups[name] = []
        if name not in groups or len(groups[name]) >= SAMPLES_PER_GROUP:
            continue
        groups[name].append(_record(row, token_bytes, found.get((group, members[group] - 1), {})))
        rows, size = rows + 1, size + groups[name][-1].size
        while len(groups) > 1 and (rows > max_rows or size > max_bytes):
            gone = groups.pop(max(groups, key=lambda key: ranks[key]))
            rows, size = rows - len(gone), size - sum(record.size for record in gone)
    return [tuple(groups[name]) for name in sorted(groups, key=lambda key: ranks[key])]


def _take_turns(lists: Sequence[Sequence[tuple[Record, ...]]]) -> list[tuple[Record, ...]]:
    """A group from every rollout in turn, so that a budget cuts all parts of the run alike."""
    longest = max((len(groups) for groups in lists), default=0)
    return [groups[at] for at in range(longest) for groups in lists if at < len(groups)]


def _within(rows: Iterable[Record], max_rows: int, max_bytes: int, max_token_bytes: int) -> list[Record]:
    prompts: set[str] = set()
    chosen: list[Record] = []
    size = token_size = 0
    for row in rows:
        if len(chosen) == max_rows:
            break
        added = row.size + (0 if row.prompt in prompts else len(row.prompt.encode(errors="replace")))
        if size + added > max_bytes:
            continue
        size += added
        prompts.add(row.prompt)
        if token_size + len(row.token_bytes) > max_token_bytes:
            row = replace(row, token_bytes=b"")
        token_size += len(row.token_bytes)
        chosen.append(row)
    return chosen


def _record(row: Row, token_bytes: TokenBytes | None, values: Row | None = None) -> Record:
    terms = row.get("rewards")
    text, left_out = _clip(str(row.get("completion", "")))
    return Record(
        set=str(row.get("set", "")),
        step=_whole(row.get("step")) or 0,
        problem=str(row.get("problem_id", "")),
        sample=_whole(row.get("sample")),
        group=_whole(row.get("group")),
        kind=str(row.get("kind", "")),
        prompt=_clip(str(row.get("prompt", "")))[0],
        gold=_clip(str(row.get("gold") or ""))[0],
        text=text,
        left_out=left_out,
        tokens=tokens_of(row),
        right=is_right(row),
        reward=number(row.get("reward")),
        terms={str(k): number(v) for k, v in terms.items()} if isinstance(terms, dict) else {},
        advantage=number(row.get("advantage")),
        outcome=str(row.get("outcome", "")),
        note=str(row.get("note") or "")[:500],
        finish=str(row.get("finish_reason", "")),
        token_bytes=_with_values(token_bytes(row), values or {}) if token_bytes and not left_out else b"",
    )


def _with_values(known: bytes, values: Row) -> bytes:
    return known + unpack_bytes(values, len(known) // 2)


def _whole(value: Any) -> int | None:
    found = number(value)
    return None if found is None else int(found)


def _clip(text: str) -> tuple[str, int]:
    """A long text without its middle, and how many characters were left out."""
    left_out = len(text) - HEAD_CHARS - TAIL_CHARS
    if left_out <= 0:
        return text, 0
    return f"{text[:HEAD_CHARS]}\n\n[… {left_out:,} characters left out here …]\n\n{text[-TAIL_CHARS:]}", left_out


def _count(paths: Sequence[Path]) -> int | None:
    if sum(path.stat().st_size for path in paths) > COUNT_LIMIT_BYTES:
        return None
    return sum(1 for path in paths for _ in iter_lines(path))
