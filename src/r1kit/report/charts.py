"""Which curves a report draws: chart specifications from the metric keys that a run recorded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from r1kit.report.reading import Row, column, number

MAX_POINTS = 1500
SIX_DIGITS = "%.6g"
REST = "time/rest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line. ``tone`` names its colour's meaning; ``se`` is the key of its standard error;
    ``sparse`` lines are measured now and then: drawn through dots, never smoothed. ``clock`` is the key of the
    seconds at which it was measured, where that is not the page's own ``time/elapsed``.
    """

    key: str
    label: str
    tone: str
    se: str = ""
    sparse: bool = False
    clock: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """``style`` is "percent" | "number" | "whole"; ``low`` / ``high`` fix an end of the y axis."""

    id: str
    title: str
    series: tuple[Series, ...]
    style: str = "number"
    note: str = ""
    low: float | None = None
    high: float | None = None
    stacked: bool = False
    marks: tuple[tuple[str, float], ...] = ()


SETS_TONES = ("violet", "right", "wrong", "ink")


def charts(rows: Sequence[Row], generator_best: float | None = None) -> tuple[Chart, ...]:
    """The charts that have data, in reading order; the first with accuracy is the large one."""
    keys = {key for row in rows for key, value in row.items() if number(value) is not None}
    further = sorted(match[1] for key in keys if (match := re.fullmatch(r"eval/(.+)/accuracy", key)))
    # more lines than there are tones cannot be told apart
    crowded = len(further) > len(SETS_TONES)
    every = (
        _accuracy([] if crowded else further, generator_best),
        *(_accuracy_of(name) for name in further if crowded),
        *_learning(keys),
        *_lengths(),
        *_policy(),
        *_machine("time/train" in keys),
    )
    result = []
    for chart in every:
        series = tuple(item for item in chart.series if item.key in keys)
        if series and not _constant_rate(chart, rows):
            fields = {name: getattr(chart, name) for name in Chart.__slots__}
            result.append(Chart(**{**fields, "series": series}))
    return tuple(result)


def _constant_rate(chart: Chart, rows: Sequence[Row]) -> bool:
    """A learning rate that never changes is in the configuration; a flat line would say nothing more."""
    return chart.id == "lr" and len({row["learning_rate"] for row in rows if "learning_rate" in row}) == 1


def _accuracy(further: Sequence[str], generator_best: float | None) -> Chart:
    series = [
        Series(key="rewards/accuracy/mean", label="training", tone="train"),
        Series(key="eval/accuracy", label="held-out", tone="heldout", se="eval/accuracy_se", sparse=True),
    ]
    for index, name in enumerate(further):
        key, tone = f"eval/{name}/accuracy", SETS_TONES[index % len(SETS_TONES)]
        series.append(Series(key=key, label=name, tone=tone, se=f"{key}_se", sparse=True))
    marks = () if generator_best is None else (("the corpus generator's best", generator_best),)
    note = "Share of answers that are right. Bands: ± 2 standard errors."
    return Chart(
        id="accuracy", title="Accuracy", series=tuple(series), style="percent", note=note, low=0, high=1, marks=marks
    )


def _accuracy_of(name: str) -> Chart:
    """A held-out set's own chart."""
    key = f"eval/{name}/accuracy"
    series = Series(key=key, label="held-out", tone="heldout", se=f"{key}_se", sparse=True)
    return Chart(id=f"accuracy-{name}", title=name, series=(series,), style="percent", note="Accuracy.", low=0, high=1)


def _learning(keys: set[str]) -> tuple[Chart, ...]:
    others = sorted(
        match[1]
        for key in keys
        if (match := re.fullmatch(r"rewards/(.+)/mean", key)) and match[1] not in ("accuracy", "format")
    )
    tones = ("heldout", "train", "right", "violet", "wrong", "ink")
    terms = tuple(
        Series(key=f"rewards/{name}/mean", label=name, tone=tones[i % len(tones)]) for i, name in enumerate(others)
    )
    return (
        Chart(
            id="reward",
            title="Reward",
            note="Mean over the step's answers, and their spread.",
            series=(
                Series(key="reward", label="mean", tone="train"),
                Series(key="reward_std", label="std", tone="ink"),
            ),
        ),
        Chart(
            id="format",
            title="Format",
            style="percent",
            low=0,
            high=1,
            note="Answers in the asked form.",
            series=(
                Series(key="rewards/format/mean", label="training", tone="train"),
                Series(key="eval/format", label="held-out", tone="heldout", sparse=True),
            ),
        ),
        Chart(id="terms", title="Other reward terms", series=terms),
        Chart(
            id="zero_std",
            title="Groups without signal",
            style="percent",
            low=0,
            note="All rewards of the group equal: nothing to learn from.",
            series=(Series(key="frac_reward_zero_std", label="share", tone="train"),),
        ),
    )


def _lengths() -> tuple[Chart, ...]:
    return (
        Chart(
            id="length",
            title="Length of answers",
            style="whole",
            note="Tokens, in training.",
            series=(
                Series(key="completions/wrong_mean_length", label="wrong", tone="wrong"),
                Series(key="completions/mean_length", label="mean", tone="ink"),
                Series(key="completions/right_mean_length", label="right", tone="right"),
            ),
        ),
        Chart(
            id="eval_length",
            title="Length, held-out",
            style="whole",
            note="Tokens, at evaluations.",
            series=(
                Series(key="eval/wrong_mean_length", label="wrong", tone="wrong", sparse=True),
                Series(key="eval/mean_length", label="mean", tone="ink", sparse=True),
                Series(key="eval/right_mean_length", label="right", tone="right", sparse=True),
            ),
        ),
        Chart(
            id="truncation",
            title="Truncation",
            style="percent",
            low=0,
            note="Answers cut off at the length limit.",
            series=(
                Series(key="completions/clipped_ratio", label="training", tone="train"),
                Series(key="eval/clipped_ratio", label="held-out", tone="heldout", sparse=True),
            ),
        ),
        Chart(
            id="reflective",
            title="Reflective words",
            low=0,
            note="Per 1,000 tokens, such as “wait”.",
            series=(
                Series(key="completions/reflective_per_1k", label="training", tone="train"),
                Series(key="eval/reflective_per_1k", label="held-out", tone="heldout", sparse=True),
            ),
        ),
    )


def _policy() -> tuple[Chart, ...]:
    return (
        Chart(
            id="entropy",
            title="Entropy",
            low=0,
            note="Nats per token.",
            series=(Series(key="entropy", label="entropy", tone="train"),),
        ),
        Chart(
            id="kl",
            title="KL to the reference",
            note="Nats per token (k3 estimate).",
            series=(Series(key="kl", label="KL", tone="train"),),
        ),
        Chart(
            id="clip",
            title="Clip ratio",
            style="percent",
            low=0,
            note="Tokens whose gradient the clip stopped.",
            series=(
                Series(key="clip_ratio/high_mean", label="high", tone="wrong"),
                Series(key="clip_ratio/low_mean", label="low", tone="heldout"),
                Series(key="clip_ratio/region_mean", label="both", tone="ink"),
            ),
        ),
        Chart(
            id="mismatch",
            title="Sampler against trainer",
            low=0,
            note="Difference of log-probabilities, nats per token.",
            series=(
                Series(key="sampler_mismatch/max_abs", label="max", tone="wrong"),
                Series(key="sampler_mismatch/mean_abs", label="mean", tone="heldout"),
            ),
        ),
        Chart(
            id="grad_norm",
            title="Gradient norm",
            low=0,
            note="Before clipping.",
            series=(Series(key="grad_norm", label="norm", tone="train"),),
        ),
        Chart(
            id="loss",
            title="Loss",
            series=(
                Series(key="loss", label="loss", tone="train"),
                Series(key="eval/loss", label="held-out", tone="heldout", sparse=True),
            ),
        ),
        Chart(id="lr", title="Learning rate", low=0, series=(Series(key="learning_rate", label="lr", tone="ink"),)),
    )


def _machine(train: bool) -> tuple[Chart, ...]:
    rest = "other" if train else "train and other"
    return (
        Chart(
            id="speed",
            title="Speed",
            style="whole",
            low=0,
            note="Tokens a second.",
            series=(Series(key="time/tokens_per_second", label="tokens/s", tone="train"),),
        ),
        Chart(
            id="seconds",
            title="Seconds per step",
            low=0,
            stacked=True,
            note="Where the time goes.",
            series=(
                Series(key="time/sample", label="sample", tone="heldout"),
                Series(key="time/score", label="score", tone="right"),
                Series(key="time/train", label="train", tone="train"),
                Series(key=REST, label=rest, tone="violet" if train else "train"),
            ),
        ),
    )


def with_rest(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Rows with ``time/rest``: the seconds of a step that sampling, scoring and training do not account for."""
    result: list[Row] = []
    for row in rows:
        step = number(row.get("time/step"))
        parts = [number(row.get(f"time/{name}")) for name in ("sample", "score", "train")]
        told = sum(part for part in parts if part is not None)
        if step is None or parts[0] is None or step - told < 0.01 * step:
            result.append(row)
        else:
            result.append({**row, REST: step - told})
    return tuple(result)


def thin(rows: Sequence[Row], limit: int = MAX_POINTS) -> tuple[Row, ...]:
    """At most about ``limit`` rows, evenly spread, first and last kept, and every evaluation kept
    (up to ``limit`` of those as well).
    """
    if len(rows) <= limit:
        return tuple(rows)
    evaluations = [i for i, row in enumerate(rows) if number(row.get("eval/accuracy")) is not None]
    kept = {round(i * (len(rows) - 1) / (limit - 1)) for i in range(limit)}
    kept.update(evaluations[:: max(1, -(-len(evaluations) // limit))])
    return tuple(rows[i] for i in sorted(kept))


def columns(rows: Sequence[Row], drawn: Iterable[Chart]) -> dict[str, list[float | None]]:
    """The columns that the charts need, six significant digits each."""
    keys = {"step", "time/elapsed"}
    for chart in drawn:
        for item in chart.series:
            keys.update(key for key in (item.key, item.se) if key)
    return {key: [None if v is None else float(SIX_DIGITS % v) for v in column(rows, key)] for key in sorted(keys)}


def as_json(chart: Chart) -> dict[str, Any]:
    """The specification as the page reads it."""
    return asdict(chart)
