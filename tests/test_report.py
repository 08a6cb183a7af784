"""The report: what it says, what it chooses, and that neither damage nor hostile text breaks it."""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

import r1kit
from fake_run import BASE_CARD, HOSTILE, write_fake_run, write_gz
from r1kit.report import build_report, static_curves_svg
from r1kit.report.charts import charts, columns, thin, with_rest
from r1kit.report.embedding import embed_json
from r1kit.report.planted import planted
from r1kit.report.reading import by_step, iter_rows, number, read_run
from r1kit.report.selection import accuracy_by_length, is_right, select
from r1kit.report.svg import caption, lines, mean_line, smooth, ticks
from r1kit.report.tokens import token_bytes
from r1kit.report.words import change_of, duration, figures, headline
from r1kit.token_values import pack
from r1kit.types import UserError

TOKENIZER = Path(r1kit.__file__).parent / "mini" / "base" / "tokenizer.json"


@pytest.fixture(scope="module")
def fake_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_run(tmp_path_factory.mktemp("runs") / "r1_zero_mini", hostile=True)


@pytest.fixture(scope="module")
def page(fake_run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_report(fake_run, tmp_path_factory.mktemp("out") / "deep" / "report.html").read_text("utf-8")


def data_of(page: str) -> dict:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert match
    return json.loads(match[1])


def unpacked(page: str, block: str) -> bytes:
    match = re.search(rf'<script type="text/plain" id="{block}">(.*?)</script>', page, re.DOTALL)
    assert match
    return gzip.decompress(base64.b64decode(match[1])) if match[1] else b""


def completions_of(page: str) -> list[dict]:
    """The completions of a page, put together again as its script does."""
    packed = unpacked(page, "packed")
    if not packed:
        return []
    found = json.loads(packed)
    names, columns = found["names"], found["columns"]
    rows = range(len(columns["text"]))
    return [{f: names[f][c[i]] if f in names else c[i] for f, c in columns.items()} for i in rows]


def evaluations(*pairs: tuple[float, float]) -> list[dict]:
    return [{"step": 10 * i, "eval/accuracy": p, "eval/accuracy_se": se} for i, (p, se) in enumerate(pairs)]


# ---------- words ----------


def test_headline_of_a_gain() -> None:
    said = headline(evaluations((0.35, 0.015), (0.84, 0.012)))
    assert (
        said.text == "Held-out accuracy rose from 35.0\u00a0% to 84.0\u00a0% (±\u00a02.4): errors fell 4.1×."
    )  # .65/.16
    assert said.tone == "good"
    assert "± 3.8" in said.notes[0]  # 2 sqrt(1.5² + 1.2²) = 3.84


def test_headline_claims_nothing_within_two_standard_errors() -> None:
    edge = 2 * math.hypot(0.01, 0.01)
    assert headline(evaluations((0.50, 0.01), (0.50 + edge * 0.99, 0.01))).text.startswith("No gain beyond 2 standard")
    assert headline(evaluations((0.50, 0.01), (0.50 + edge * 1.01, 0.01))).tone == "good"
    assert headline(evaluations((0.50, 0.01), (0.50 - edge * 0.99, 0.01))).tone == "flat"


def test_headline_of_a_loss_and_of_a_peak() -> None:
    said = headline(evaluations((0.80, 0.01), (0.90, 0.01), (0.60, 0.01)))
    assert "fell from 80.0\u00a0% to 60.0\u00a0%" in said.text
    assert "errors grew 2.0×" in said.text
    assert any("90.0\u00a0% at step 10" in note and "30.0 points below" in note for note in said.notes)


def test_headline_without_errors_left_or_without_standard_error() -> None:
    assert "no error was left" in headline(evaluations((0.5, 0.01), (1.0, 0.0))).text
    rows = [{"step": 0, "eval/accuracy": 0.1}, {"step": 5, "eval/accuracy": 0.9}]
    said = headline(rows)
    assert said.tone == "flat"
    assert "no standard error" in said.text


def test_headline_falls_back_to_what_there_is() -> None:
    assert headline([]).text == "No step has been recorded yet."
    assert "one evaluation so far" in headline(evaluations((0.4, 0.02))).notes[0]
    losses = [{"step": i, "loss": 2.0 - i / 10} for i in range(10)]
    assert headline(losses).text == "Loss went from 2 to 1.1 over 9 steps."


def test_change_ignores_what_is_no_number() -> None:
    rows = [*evaluations((0.2, 0.01)), {"step": 5, "eval/accuracy": float("nan")}, {"step": 9, "eval/accuracy": 0.4}]
    change = change_of(rows)
    assert change is not None
    assert (change.last, change.last_step, change.two_se) == (0.4, 9, None)
    assert number(True) is None
    assert number("1") is None
    assert number(10**400) is None


def test_figures_prefer_evaluations_and_average_the_ends_of_training() -> None:
    rows = [{"step": i, "reward": float(i), "completions/mean_length": 7.0} for i in range(1, 21)]
    rows += [{"step": 21, "eval/mean_length": 50}, {"step": 22, "eval/mean_length": 110}]
    found = {figure.label: (figure.value, figure.was) for figure in figures(rows)}
    assert found["Training reward"] == ("19.50", "1.50")
    assert found["Tokens per answer"] == ("110", "50")


def test_durations() -> None:
    assert [duration(s) for s in (42, 60, 750, 4000, 7200)] == ["42 s", "1 min", "12 min 30 s", "1 h 7 min", "2 h"]


# ---------- reading ----------


def test_metrics_cut_by_a_kill_and_written_twice_by_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step":1,"reward":1}\n[]\n\xff\xfe\n{"step":0}\n{"step":1,"reward":2}\n{"step":2,"rew')
    assert by_step(iter_rows(path)) == ({"step": 0}, {"step": 1, "reward": 2})


def test_gzip_cut_in_the_middle_gives_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "000000.jsonl.gz"
    write_gz(path, [{"step": i, "text": str(hash(str(i)))} for i in range(3000)])
    whole = list(iter_rows(path))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    half = list(iter_rows(path))
    assert 0 < len(half) < len(whole)
    assert half == whole[: len(half)]
    path.write_bytes(b"no gzip")
    assert list(iter_rows(path)) == []


def test_what_is_no_run_directory_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run directory"):
        build_report(tmp_path / "nowhere")
    with pytest.raises(UserError, match="not a run directory"):
        build_report(tmp_path)


@pytest.mark.parametrize("kept", [["metrics.jsonl"], ["run.json"], ["config.json"], ["config.json", "evals"]])
def test_missing_files_do_not_break_it(fake_run: Path, tmp_path: Path, kept: list[str]) -> None:
    for name in kept:
        source = fake_run / name
        if source.is_dir():
            (tmp_path / name).mkdir()
            for file in source.iterdir():
                (tmp_path / name / file.name).write_bytes(file.read_bytes())
        else:
            (tmp_path / name).write_bytes(source.read_bytes())
    page = build_report(tmp_path).read_text("utf-8")
    assert page.rstrip().endswith("</html>")
    assert bool(completions_of(page)) == ("evals" in kept)
    assert bool(data_of(page)["charts"]) == ("metrics.jsonl" in kept)


def test_wrong_shapes_do_not_break_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[1, 2")
    (tmp_path / "run.json").write_text('{"versions": ["x"], "started": "soon", "command": ["r1", 7], "lineage": 3}')
    (tmp_path / "base_card.json").write_text(
        '{"corpus": [], "sets": {"a": 1, "b": {"pass@x": 1, "accuracy_by_length": 3}}}'
    )
    (tmp_path / "warnings.jsonl").write_text('{"step": null}\n{"message": ["x"]}\n')
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": "x"}\n{"step": 1, "reward": "high", "kl": NaN, "loss": Infinity}\n'
    )
    write_gz(
        tmp_path / "evals" / "000000.jsonl.gz", [{}, {"rewards": 3, "completion": None, "token_ids": "x", "step": "y"}]
    )
    page = build_report(tmp_path).read_text("utf-8")
    assert "2 warnings" in page
    assert len(completions_of(page)) == 1  # two rows of the same (unnamed) problem: one is kept


# ---------- curves ----------


def test_charts_have_only_series_with_data() -> None:
    rows = [
        {"step": 0, "eval/accuracy": 0.3},
        {"step": 1, "kl": None, "entropy": float("nan"), "rewards/language/mean": 1.0},
    ]
    found = {chart.id: [item.key for item in chart.series] for chart in charts(rows)}
    assert found == {"accuracy": ["eval/accuracy"], "terms": ["rewards/language/mean"]}


def test_many_held_out_sets_get_a_chart_each() -> None:
    def drawn(*names: str) -> dict[str, list[str]]:
        row = {"step": 0, "eval/accuracy": 0.3} | {f"eval/{name}/accuracy": 0.5 for name in names}
        return {chart.id: [series.key for series in chart.series] for chart in charts([row])}

    assert drawn("word", "logic") == {"accuracy": ["eval/accuracy", "eval/logic/accuracy", "eval/word/accuracy"]}
    many = [f"set-{number}" for number in range(5)]
    assert drawn(*many) == {"accuracy": ["eval/accuracy"]} | {
        f"accuracy-{name}": [f"eval/{name}/accuracy"] for name in many
    }


def test_every_metric_of_a_full_run_is_drawn(fake_run: Path) -> None:
    rows = read_run(fake_run).metrics
    drawn = {key for chart in charts(rows) for item in chart.series for key in (item.key, item.se)}
    present = {key for row in rows for key in row}
    not_drawn = present - drawn
    assert not_drawn == {"step", "rollout", "time/elapsed", "time/step", "learning_rate", "eval/countdown4/mean_length"}


def test_thinning_keeps_ends_and_evaluations() -> None:
    rows = [{"step": i, **({"eval/accuracy": 0.5} if i % 997 == 0 else {})} for i in range(20_000)]
    kept = [row["step"] for row in thin(rows, 300)]
    assert kept[0] == 0
    assert kept[-1] == 19_999
    assert set(range(0, 20_000, 997)) <= set(kept)
    assert len(kept) <= 321
    assert max(b - a for a, b in pairwise(kept)) <= 68
    assert thin(rows[:300], 300) == tuple(rows[:300])


def test_columns_are_aligned_and_hold_no_nan() -> None:
    rows = [
        {"step": 0, "eval/accuracy": 1 / 3, "eval/accuracy_se": 0.1},
        {"step": 1, "reward": float("nan")},
        {"step": 2, "reward": 2},
    ]
    table = columns(rows, charts(rows))
    assert table["eval/accuracy"] == [0.333333, None, None]
    assert table["reward"] == [None, None, 2]
    assert {len(values) for values in table.values()} == {3}


def test_what_a_steps_seconds_leave_unexplained_is_drawn_as_the_rest() -> None:
    rows = [{"step": 1, "time/step": 10.0, "time/sample": 3.0, "time/score": 1.0}, {"step": 2, "time/sample": 3.0}]
    assert [row.get("time/rest") for row in with_rest(rows)] == [6.0, None]
    (seconds,) = [chart for chart in charts(with_rest(rows)) if chart.id == "seconds"]
    assert [item.label for item in seconds.series] == ["sample", "score", "train and other"]
    full = [{"step": 1, "time/step": 10.0, "time/sample": 3.0, "time/score": 1.0, "time/train": 6.0}]
    assert "time/rest" not in with_rest(full)[0]


# ---------- what was planted ----------


def test_planted_sentences(fake_run: Path) -> None:
    base = planted(read_run(fake_run))
    assert base is not None
    text = " ".join(base.sentences).replace("\u00a0", " ")
    assert base.main_set == "countdown3"
    assert "35.0 % of countdown3 in one try and 92.0 % in 64 tries" in text
    assert "at most 32 tries of the base (pass@32 is 88.0 %)" in text  # 82 % at 16 < 83.9 % <= 88 % at 32
    assert "at most 59.0 % of the problems at any setting: the policy's 83.9 % is beyond its teacher" in text
    assert "The corpus has 4.2 reflective words" in text
    assert base.final["countdown4"] == pytest.approx(0.31, abs=0.01)


def test_beyond_the_bases_reach_and_no_gain_are_said_differently(tmp_path: Path) -> None:
    for final, words in ((0.97, "more than 64 tries"), (0.30, "no more than one try")):
        run = write_fake_run(tmp_path / str(final), steps=10, final=final)
        base = planted(read_run(run))
        assert base is not None
        assert words in base.sentences[1]
        assert ("beyond its teacher" in base.sentences[2]) == (final > 0.59)


def test_accuracy_by_length_counts_by_hand(tmp_path: Path) -> None:
    def row(tokens: int, accuracy: float, name: str = "a") -> dict:
        return {"set": name, "token_ids": [1] * tokens, "rewards": {"accuracy": accuracy}}

    path = tmp_path / "000000.jsonl.gz"
    write_gz(
        path,
        [
            row(9, 1),
            row(10, 1),
            row(19, 0),
            row(20, 1),
            row(384, 1),
            row(5, 0),
            row(5, 1, "b"),
            {"set": "a", "rewards": {}, "token_ids": [1]},
        ],
    )
    assert accuracy_by_length(path, "a", [(6, 10), (10, 20), (20, 30)]) == [
        {"from": 6, "to": 10, "n": 2, "accuracy": 0.5},  # 9 and, in the open first bin, 5
        {"from": 10, "to": 20, "n": 2, "accuracy": 0.5},
        {"from": 20, "to": 30, "n": 2, "accuracy": 1.0},  # 20 and, in the open last bin, 384
    ]


# ---------- selection ----------


def test_a_run_that_fits_is_shown_whole(fake_run: Path) -> None:
    chosen = select(read_run(fake_run))
    assert chosen.total == len(chosen.rows) == 130 * 32 + 14 * 110
    assert chosen.sentence == "All 5,700 completions of the run."


def test_a_budget_keeps_both_ends_and_spreads_over_the_run(fake_run: Path) -> None:
    files = read_run(fake_run)
    few = select(files, max_rows=1000)
    assert len(few.rows) == 1000
    assert few.sentence == "1,000 of the run's 5,700 completions shown, spread evenly over the run."
    held_out = [row for row in few.rows if row.set != "train"]
    assert len(held_out) == 14 * 35  # at most half, the same 35 problems in each of 14 evaluations
    assert {row.problem for row in held_out if row.step == 0} == {row.problem for row in held_out if row.step == 130}
    steps = sorted({row.step for row in few.rows if row.set == "train"})
    assert steps == list(range(128)) or len(steps) >= 127  # one group of four from nearly every rollout
    assert select(files, max_rows=1000) == few


def test_a_budget_of_bytes_is_kept(fake_run: Path) -> None:
    files = read_run(fake_run)
    small = select(files, max_bytes=100_000)
    prompts = {row.prompt for row in small.rows}
    assert 80_000 <= sum(row.size for row in small.rows) + sum(map(len, prompts)) <= 100_000
    assert {row.step for row in small.rows if row.set != "train"} >= {0, 130}


def test_whole_groups_are_kept(fake_run: Path) -> None:
    rows = [row for row in select(read_run(fake_run)).rows if row.set == "train"]
    sizes = Counter(row.problem for row in rows)
    assert set(sizes.values()) == {4}


def test_a_long_completion_loses_its_middle_only(tmp_path: Path) -> None:
    text = "A" * 6000 + "B" * 50_000 + "C" * 3000
    write_gz(tmp_path / "evals" / "000000.jsonl.gz", [{"set": "s", "problem_id": "1", "completion": text}])
    (tmp_path / "run.json").write_text("{}")
    (row,) = select(read_run(tmp_path)).rows
    assert row.left_out == 50_000
    assert row.text.startswith("A" * 6000 + "\n\n[… 50,000 characters left out")
    assert row.text.endswith("]\n\n" + "C" * 3000)
    assert "B" not in row.text


def test_right_means_the_accuracy_term_and_nothing_else() -> None:
    assert is_right({"reward": 1.1, "rewards": {"accuracy": 0.0}}) is False
    assert is_right({"reward": 0.1, "rewards": {"accuracy": 1.0}}) is True
    assert is_right({"reward": 1.0, "rewards": {"accuracy": None, "preference": 1.0}}) is None


def test_a_rollout_file_larger_than_its_share_is_cut_while_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    rows = [{"set": "train", "problem_id": f"{i // 4}", "sample": i % 4, "completion": "x" * 900} for i in range(400)]
    write_gz(tmp_path / "rollouts" / "000000.jsonl.gz", rows)
    chosen = select(read_run(tmp_path), max_rows=40)
    assert len(chosen.rows) == 40
    assert set(Counter(row.problem for row in chosen.rows).values()) == {4}


# ---------- tokens ----------


def test_token_values_are_those_of_the_file() -> None:
    of = token_bytes(TOKENIZER)
    assert of is not None
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    for text in ("<think>\n12+7=19 yes\n</think>", "等等，错了 é 😀 x"):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        logprobs = [-((i / 10) ** 2) for i in range(len(ids))]
        packed = of({"token_ids": [*ids, 2], "logprobs": [*logprobs, -200.0], "completion": text})
        n = len(ids) + 1
        assert len(packed) == 2 * n
        assert sum(packed[:n]) == len(text.encode("utf-16-le")) // 2
        assert list(packed[n:]) == [round(25 * i / 10) for i in range(n - 1)] + [255]
        assert packed[n - 1] == 0  # the end-of-sequence token has no text
    assert of({"token_ids": [5], "logprobs": [-0.5], "completion": "another text"}) == b""
    assert of({"token_ids": [5, 6], "logprobs": [-0.5], "completion": "x"}) == b""
    assert of({"token_ids": [5], "logprobs": [float("nan")], "completion": "<answer>"}) == b""
    assert of({"token_ids": [10**9], "logprobs": [-1.0], "completion": ""}) in (b"", bytes([0, 25]))
    assert token_bytes(TOKENIZER.with_name("nothing.json")) is None


def test_token_values_reach_the_page_in_the_order_of_the_rows(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tokenizer.json").write_bytes(TOKENIZER.read_bytes())
    (tmp_path / "run.json").write_text("{}")
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    rows = []
    for i, text in enumerate(["1+1=2", "3*4=12 no", "9-2=7 yes"]):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        rows.append({"set": "train", "problem_id": str(i), "token_ids": ids, "completion": text,
                     "logprobs": [-0.04 * (i + 1)] * len(ids)})  # fmt: skip
    write_gz(tmp_path / "rollouts" / "000000.jsonl.gz", [*rows, {"set": "train", "problem_id": "x", "completion": "?"}])
    page = build_report(tmp_path).read_text("utf-8")
    blob, at = unpacked(page, "packed_tokens"), 0
    assert "Token values for 3 training completions" in page
    for row in completions_of(page):
        if row["with_tokens"]:
            n = row["tokens"]
            assert sum(blob[at : at + n]) == len(row["text"])
            expected = round(25 * math.sqrt(0.04 * (int(row["problem"]) + 1)))
            assert set(blob[at + n : at + 2 * n]) == {expected}
            at += 2 * n
    assert at == len(blob) > 0
    (tmp_path / "model" / "tokenizer.json").unlink()
    assert "Token values" not in build_report(tmp_path).read_text("utf-8")
    (tmp_path / "config.json").write_text('{"model": "mini-base"}')  # as while a run goes on
    assert unpacked(build_report(tmp_path).read_text("utf-8"), "packed_tokens") == blob
    capped = select(read_run(tmp_path), token_bytes=token_bytes(TOKENIZER), max_token_bytes=30)
    assert 0 < capped.with_tokens < 3


def test_what_the_trainer_found_follows_what_the_sampler_thought(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"status": "finished"}')
    (tmp_path / "config.json").write_text('{"model": "mini-base"}')
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    rows, values = [], []
    for i, text in enumerate(["1+1=2", "3*4=12 no", "9-2=7 yes", "8-2=6"]):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        rows.append({"set": "train", "problem_id": str(i // 2), "group": i // 2, "token_ids": ids, "completion": text,
                     "logprobs": [-0.5] * len(ids)})  # fmt: skip
        entropy, ratio = np.full(len(ids), 0.25 * i, np.float32), np.full(len(ids), 0.0, np.float32)
        values.append({"group": i // 2, "member": i % 2, **pack(entropy, ratio)})
    write_gz(tmp_path / "rollouts" / "000000.jsonl.gz", rows)
    del values[1]  # one that was not computed, and one of another length
    values[2]["entropy"] = values[2]["entropy"][:-4]
    write_gz(tmp_path / "token_values" / "000000.jsonl.gz", values)
    page = build_report(tmp_path).read_text("utf-8")
    blob, at, seen = unpacked(page, "packed_tokens"), 0, {}
    for row in completions_of(page):
        n, size = row["tokens"], row["with_tokens"]
        seen[row["text"]] = list(blob[at : at + size * n][2 * n :])
        at += size * n
    assert at == len(blob)
    lengths = {text: len(tokenizer.encode(text, add_special_tokens=False).ids) for text in seen}
    assert seen == {
        "1+1=2": [0] * lengths["1+1=2"] + [127] * lengths["1+1=2"],
        "3*4=12 no": [],
        "9-2=7 yes": [round(40 * math.sqrt(0.5))] * lengths["9-2=7 yes"] + [127] * lengths["9-2=7 yes"],
        "8-2=6": [],
    }


# ---------- the page ----------


def test_bytes_depend_on_the_run_only(fake_run: Path, tmp_path: Path) -> None:
    first = build_report(fake_run, tmp_path / "a.html").read_bytes()
    code = (
        "import sys; from pathlib import Path; from r1kit.report import build_report; "
        "build_report(*map(Path, sys.argv[1:])); assert 'torch' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(fake_run), str(tmp_path / "b.html")], check=True, env={"PYTHONHASHSEED": "1"}
    )
    assert (tmp_path / "b.html").read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.html"]


class Tags(HTMLParser):
    """Every start tag of a page with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.found.append((tag, dict(attrs)))


def test_hostile_text_adds_no_tag(page: str) -> None:
    tags = Tags()
    tags.feed(page)
    kinds = [attrs.get("id") for tag, attrs in tags.found if tag == "script"]
    assert kinds == ["data", "packed", "packed_tokens", None]
    assert not [tag for tag, _ in tags.found if tag in ("img", "svg", "iframe", "object")]
    assert not [name for _, attrs in tags.found for name in attrs if name.startswith("on")]
    assert HOSTILE in [row["text"] for row in completions_of(page)]


def test_hostile_text_in_run_files_is_escaped(tmp_path: Path) -> None:
    write_fake_run(tmp_path, steps=10)
    for name in ("config.json", "run.json", "base_card.json"):
        (tmp_path / name).write_text(
            json.dumps({"recipe": HOSTILE, "status": HOSTILE, "name": HOSTILE, HOSTILE: HOSTILE, "command": HOSTILE})
        )
    (tmp_path / "warnings.jsonl").write_text(json.dumps({"step": 1, "code": HOSTILE, "message": HOSTILE}) + "\n")
    tags = Tags()
    tags.feed(build_report(tmp_path).read_text("utf-8"))
    assert sum(tag == "script" for tag, _ in tags.found) == 4
    assert not [tag for tag, _ in tags.found if tag == "img"]


def test_embedded_json_has_no_way_out() -> None:
    value = {"</script>": ["<!--", "&lt;", "\u2028\u2029", "\ud800x", "界"]}
    text = embed_json(value)
    assert not set("<>&\u2028\u2029\ud800") & set(text)
    assert json.loads(text) == value
    with pytest.raises(ValueError, match="JSON"):
        embed_json(float("nan"))


def test_the_page_asks_the_network_for_nothing(page: str) -> None:
    markup = page.split('<script type="application/json"')[0]
    assert not re.findall(r'(?:src|href)="(?!#|data:,")', markup)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', markup)
    assert policy
    assert "default-src 'none'" in policy[1]
    assert "unsafe" not in policy[1]


def test_what_a_reader_must_not_miss(page: str) -> None:
    assert "<h1" in page
    assert "Held-out accuracy rose from 35.0\u00a0% to 83.9\u00a0% (±\u00a02.3): errors fell 4.0×." in page
    assert "2 warnings" in page
    assert "6 % of the answers ran into the limit" in page
    assert "2 times, steps 90 and 120" in page
    assert 'class="status finished">finished' in page
    assert "20 Nov 2026, 09:00 UTC" in page
    assert "{{" not in page.split('id="data"')[0]


def test_secrets_stay_out_of_the_page(page: str, tmp_path: Path) -> None:
    assert "sk-1" not in page
    assert "max_completion_length" in page
    (tmp_path / "run.json").write_text(
        '{"lineage": {"judge": {"api_key": "sk-2"}}, "command": ["r1", "--hf_token", "sk-3", "access_token=sk-4"]}'
    )
    other = build_report(tmp_path).read_text("utf-8")
    assert "sk-2" not in other
    assert "sk-4" not in other


def test_a_run_that_samples_nothing_has_no_empty_sections(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("".join(f'{{"step": {i}, "loss": {3 - i / 10}}}\n' for i in range(20)))
    page = build_report(tmp_path).read_text("utf-8")
    assert '<section id="completions" hidden>' in page
    assert '<section id="planted" hidden>' in page
    assert "Loss went from" in page


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"status": "failed", "error": "<b>no memory</b>"}')
    page = build_report(tmp_path).read_text("utf-8")
    assert 'role="alert"><h2>The run failed</h2><p>&lt;b&gt;no memory&lt;/b&gt;</p>' in page


def test_a_run_still_going_on(tmp_path: Path) -> None:
    write_fake_run(tmp_path, steps=30, warnings=False)
    (tmp_path / "run.json").write_text('{"status": "running", "started": 1795165200}')
    metrics = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "metrics.jsonl").write_bytes(metrics[:-200])
    last = tmp_path / "rollouts" / "000029.jsonl.gz"
    last.write_bytes(last.read_bytes()[:-30])
    page = build_report(tmp_path).read_text("utf-8")
    assert 'class="status running"' in page
    assert data_of(page)["columns"]["step"][-1] == 29
    assert "⚠" not in page.split("</style>")[1].split("<script")[0]


# ---------- the picture for a README ----------


def test_svg_is_well_formed_and_says_the_numbers(fake_run: Path, tmp_path: Path) -> None:
    out = static_curves_svg([fake_run], tmp_path / "pictures" / "curves.svg")
    root = ET.fromstring(out.read_text("utf-8"))
    texts = [node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[0].replace("\u00a0", " ") == "Held-out accuracy: 35.0 % → 83.9 % in 9.9 minutes"
    assert {"held-out 84 %", "training 85 %"} <= set(texts)
    assert any(text.startswith("wrong ") for text in texts)
    assert "prefers-color-scheme: dark" in out.read_text("utf-8")
    width = float(root.attrib["viewBox"].split()[2])
    for node in root.iter("{http://www.w3.org/2000/svg}path"):
        xs = [float(x) for x in re.findall(r"[ML](-?[\d.]+) ", node.attrib["d"])]
        assert 0 <= min(xs) <= max(xs) <= width


def test_svg_of_several_runs_draws_their_mean(tmp_path: Path) -> None:
    runs = [write_fake_run(tmp_path / str(i), steps=20, seed=i, final=0.7 + 0.1 * i) for i in range(2)]
    text = static_curves_svg(runs, tmp_path / "c.svg").read_text("utf-8")
    assert "mean of 2 runs" in text
    assert text.count('class="thin heldout"') == 2
    assert text.count('class="bold heldout"') == 1


def test_svg_needs_a_held_out_curve(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "eval/accuracy": 0.3, "time/elapsed": 1}\n')
    with pytest.raises(UserError, match="nothing to draw"):
        static_curves_svg([tmp_path], tmp_path / "c.svg")


def test_mean_line_is_the_mean_over_the_shared_time() -> None:
    def rows(slope: float, stop: float) -> list[dict]:
        return [{"time/elapsed": 60 * t, "v": slope * t} for t in (0, stop / 2, stop)]

    mean = mean_line(lines([rows(1, 4), rows(3, 10)], "v"))
    assert (mean.x[0], mean.x[-1]) == (0, 4)
    assert mean.y == pytest.approx([2 * x for x in mean.x])


def test_smoothing_keeps_a_constant_and_ticks_are_round() -> None:
    assert smooth([3.0] * 100) == pytest.approx([3.0] * 100)
    assert smooth([1.0, 5.0]) == [1.0, 5.0]
    assert ticks(1.0, 5) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(9.9, 5) == [0, 2, 4, 6, 8]


def test_caption_speaks_of_hours_for_long_runs() -> None:
    rows = [{"time/elapsed": t, "eval/accuracy": a} for t, a in ((0, 0.5), (36_000, 0.6))]
    assert caption([rows]).endswith("in 10.0 hours")


def test_the_fake_run_follows_the_schema(fake_run: Path) -> None:
    with gzip.open(fake_run / "rollouts" / "000000.jsonl.gz", "rt") as stream:
        row = json.loads(stream.readline())
    assert {"rollout", "step", "set", "problem_id", "completion", "rewards", "advantage", "logprobs"} <= set(row)
    assert BASE_CARD["sets"]["countdown3"]["pass@64"] == 0.92
