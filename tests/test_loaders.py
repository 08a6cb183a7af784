"""Every spelling of a row, every way to be broken, and the public data sets."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from r1kit.mini import world
from r1kit.rewards.scorer import Scorer
from r1kit.tasks.loaders import LoadedProblems, load_problems, problem_kinds
from r1kit.tasks.rows import gold_text
from r1kit.tasks.splits import held_out_position, split_problems
from r1kit.types import CountdownGoal, Problem, TextAnswer, UserError

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="public problem sets are not on this machine")
GOOD = {"question": "1+1?", "answer": "2"}


def load(folder: Path, *rows: Any, **options: Any) -> LoadedProblems:
    file = folder / "rows.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return load_problems(file, **options)


def one(folder: Path, row: Any, **options: Any) -> Problem:
    (problem,) = load(folder, row, **options).problems
    return problem


@pytest.mark.parametrize("column", ["prompt", "question", "problem"])
@pytest.mark.parametrize("answer", ["answer", "solution", "ground_truth", "final_answer"])
def test_spellings_of_columns(tmp_path: Path, column: str, answer: str) -> None:
    problem = one(tmp_path, {column: "1+1?", answer: "2"})
    assert (problem.text, problem.gold, problem.kind, problem.is_chat) == ("1+1?", TextAnswer(text="2"), "math", False)
    assert problem.columns == {answer: "2"}, "reward functions get the data set's own names"


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}],
        [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "1+1?"}],
        [{"from": "system", "value": "Be brief."}, {"from": "user", "value": "1+1?"}, {"from": "gpt", "value": "2"}],
    ],
)
@pytest.mark.parametrize("column", ["prompt", "messages"])
def test_chat_prompts(tmp_path: Path, messages: list[dict[str, str]], column: str) -> None:
    problem = one(tmp_path, {column: messages, "answer": 2})
    assert problem.is_chat
    assert [message["role"] for message in problem.messages] == ["system", "user"]
    assert problem.text == "1+1?"


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("6 * 12 = 72 of them.\n#### 72", "72"),
        ("#### 1,200", "1,200"),
        ("So it is $\\boxed{\\frac{1}{2}}$.", "\\frac{1}{2}"),
        (72, "72"),
        (0.5, "0.5"),
        (5e-05, "0.00005"),
        (-1.5e-07, "-0.00000015"),
        (1e22, "10000000000000000000000"),
        (["7"], "7"),
        (" 7 ", "7"),
    ],
)
def test_gold_answers(tmp_path: Path, answer: Any, gold: str) -> None:
    assert one(tmp_path, {"question": "?", "answer": answer}).gold == TextAnswer(text=gold)


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"prompt": "?", "answer": "12"}, "math"),
        ({"prompt": "?", "answer": "x"}, "math"),
        ({"prompt": "?", "answer": "\\text{Evelyn}"}, "math"),
        ({"prompt": "Capital of France?", "answer": "Paris"}, "exact"),
        ({"prompt": "Which?\n(A) one\n(B) two", "answer": "B"}, "choice"),
        ({"prompt": "Which?", "choices": ["one", "two"], "answer": "B"}, "choice"),
        ({"prompt": "Variable?", "answer": "B"}, "math"),
        ({"prompt": "Write a poem."}, "general"),
        ({"prompt": "Write a poem.", "answer": None, "kind": "general"}, "general"),
        ({"prompt": "?", "numbers": [1, 2], "target": 3}, "countdown"),
        ({"prompt": "?", "answer": "12", "kind": "exact"}, "exact"),
    ],
)
def test_kinds(tmp_path: Path, row: dict[str, Any], kind: str) -> None:
    assert one(tmp_path, row).kind == kind


@pytest.mark.parametrize("column", ["numbers", "nums"])
def test_countdown(tmp_path: Path, column: str) -> None:
    problem = one(tmp_path, {"prompt": "?", column: [36, 3, 19], "target": "51/2"})
    assert problem.gold == CountdownGoal(numbers=(36, 3, 19), target=Fraction(51, 2))
    assert gold_text(problem.gold) == "36, 3, 19 -> 51/2"
    transcript = {"prompt": "?", "kind": "countdown", "gold": gold_text(problem.gold)}
    assert one(tmp_path, transcript).gold == problem.gold


def test_a_countdown_key_is_the_same_from_a_file_and_from_the_built_in_world(tmp_path: Path) -> None:
    for made in world.make_problems("countdown3", 5, seed=0):
        assert one(tmp_path, {"prompt": made.text, **made.columns}).key == made.key
    assert one(tmp_path, {"prompt": "?", "numbers": [36, 3, 19], "target": 51}).key == "3,19,36"


def test_a_gold_number_of_any_size_is_right_when_it_is_repeated(tmp_path: Path) -> None:
    with Scorer(["accuracy"]) as scorer:
        for answer, said in [(5e-05, "0.00005"), (5e-05, "1/20000"), (1e22, "1" + "0" * 22)]:
            (verdict,) = scorer.score(one(tmp_path, {"prompt": "?", "answer": answer}), [f"\\boxed{{{said}}}"])
            assert verdict.total == 1.0
    tiny = one(tmp_path, {"prompt": "?", "numbers": [1, 20000], "target": 5e-05})
    assert tiny.gold == CountdownGoal(numbers=(1, 20000), target=Fraction(1, 20000))


@pytest.mark.parametrize(
    "reward_model",
    [None, "2", {}, {"style": "rule"}, {"ground_truth": None}, {"ground_truth": {"style": "none"}}],
)
@pytest.mark.parametrize("rest", [{}, {"answer": None}])
def test_a_verl_row_without_ground_truth_is_left_out_never_general(
    tmp_path: Path, reward_model: Any, rest: dict[str, Any]
) -> None:
    row = {"prompt": [{"role": "user", "content": "1+1?"}], "reward_model": reward_model, **rest}
    loaded = load(tmp_path, GOOD, row)
    assert [problem.text for problem in loaded.problems] == [GOOD["question"]]
    (said,) = loaded.report.without_gold
    assert "rows.jsonl:2: its '" in said
    assert "kind 'general'" in said
    assert one(tmp_path, row | {"kind": "general"}).kind == "general"


@pytest.mark.parametrize("row", ['{"question": "?", "answer": null}', '{"question": "?", "answer": NaN}'])
@pytest.mark.parametrize("options", [{}, {"kind": "math"}, {"answer_column": "answer"}])
def test_a_missing_gold_answer_is_left_out_whoever_names_kind_or_column(
    tmp_path: Path, row: str, options: dict[str, str]
) -> None:
    loaded = load(tmp_path, GOOD, row, **options)
    assert len(loaded.problems) == 1
    assert "rows.jsonl:2: its 'answer' is empty" in loaded.report.without_gold[0]


def test_a_named_answer_column_that_is_empty_makes_no_general_problem(tmp_path: Path) -> None:
    loaded = load(tmp_path, {"q": "a", "a": "1"}, {"q": "b", "a": None}, prompt_column="q", answer_column="a")
    assert [problem.text for problem in loaded.problems] == ["a"]
    assert "its 'a' is empty" in loaded.report.without_gold[0]


def test_rows_without_any_gold_answer_column_are_told(tmp_path: Path) -> None:
    rows = [GOOD, {"prompt": "a", "reply": "1"}, {"prompt": "b", "reply": "2"}, {"prompt": "c", "kind": "general"}]
    report = load(tmp_path, *rows).report
    assert (report.no_gold_column, report.columns) == (2, ("prompt", "reply"))
    (said,) = report.sentences()
    assert said == (
        "2 rows have no gold answer column (columns: 'prompt', 'reply') "
        "and can only be scored by rewards that need none"
    )
    assert load(tmp_path, rows[1], kind="general").report.sentences() == [], "who names the kind knows"


def test_verl_rows(tmp_path: Path) -> None:
    row = {
        "data_source": "gsm8k",
        "prompt": [{"role": "user", "content": "1+1?"}],
        "reward_model": {"style": "rule", "ground_truth": "2"},
        "extra_info": {"index": 4, "split": "test"},
    }
    problem = one(tmp_path, row)
    assert (problem.gold, problem.source, problem.is_chat) == (TextAnswer(text="2"), "gsm8k", True)
    row["reward_model"] = {"ground_truth": {"target": 3, "numbers": [1, 2]}}
    assert one(tmp_path, row).gold == CountdownGoal(numbers=(1, 2), target=Fraction(3))


def test_named_columns_and_kind(tmp_path: Path) -> None:
    row = {"prompt": "no", "q": "1+1?", "answer": "no", "gold_answer": "2"}
    problem = one(tmp_path, row, prompt_column="q", answer_column="gold_answer", kind="exact")
    assert (problem.text, problem.gold, problem.kind) == ("1+1?", TextAnswer(text="2"), "exact")


def test_the_same_question_under_another_id_or_with_another_answer_is_kept_and_said(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "question": "a", "answer": "1"},
        {"id": 2, "question": "b", "answer": "1"},
        {"id": 3, "question": "a", "answer": "1"},
        {"id": 4, "question": "a", "answer": "2"},
    ]
    loaded = load(tmp_path, *rows)
    assert len(loaded.problems) == 4
    (sentence,) = loaded.report.sentences()
    assert sentence.startswith("2 of 4 rows ask what another asks")
    assert ".jsonl:3 asks what" in sentence
    assert not load(tmp_path, *rows[:2], rows[0]).report.repeated
    assert not load(tmp_path, *rows[:2], rows[0], keep_duplicates=True).report.repeated


def test_identical_rows_merge_unless_kept(tmp_path: Path) -> None:
    rows = [{"question": "a", "answer": "1"}, {"question": "b", "answer": "1"}, {"question": "a", "answer": "1"}]
    loaded = load(tmp_path, *rows)
    assert [problem.text for problem in loaded.problems] == ["a", "b"]
    assert (loaded.report.rows, loaded.report.merged) == (3, 1)
    assert "1 of 3 rows" in loaded.report.sentences()[0]
    kept = load(tmp_path, *rows, rows[0], keep_duplicates=True)
    ids = [problem.id for problem in kept.problems]
    assert kept.report.merged == 0
    assert ids == [ids[0], ids[1], f"{ids[0]}#2", f"{ids[0]}#3"]


def test_ids(tmp_path: Path) -> None:
    rows = [{"id": "x", "question": "a", "answer": "1"}, {"id": 7, "question": "a", "answer": "1"}]
    assert [problem.id for problem in load(tmp_path, *rows).problems] == ["x", "7"]
    hashed = one(tmp_path, {"question": "a", "answer": "1", "difficulty": 3})
    assert len(hashed.id) == 16
    assert one(tmp_path, {"prompt": "a", "final_answer": 1}).id == hashed.id, "the spelling is no part of the content"
    assert one(tmp_path, {"question": "a", "answer": "2"}).id != hashed.id
    clash = [{"id": "x", "question": "a", "answer": "1"}, {"id": "x", "question": "b", "answer": "1"}]
    with pytest.raises(UserError, match=r"rows.jsonl:2.*'x' belongs to another problem at .*rows.jsonl:1"):
        load(tmp_path, *clash)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("{not json", "not JSON.*one JSON object per line"),
        ("1" * 5_000, "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1, 2]", "must be an object"),
        ({"text": "1+1?"}, "no prompt: it has 'text'.*prompt_column"),
        ({}, "no columns at all"),
        ({"question": "  ", "answer": "2"}, "'question' is empty"),
        ({"question": 5, "answer": "2"}, "must be a text or a list of messages, not 5"),
        ({"prompt": [{"role": "user"}], "answer": "2"}, "message 1 of 'prompt' needs texts"),
        ({"prompt": [{"role": "system", "content": "a"}], "answer": "2"}, "a user's message last"),
        ({"question": "?", "answer": {"a": 1}, "kind": "math"}, "needs an answer"),
        ({"question": "?", "answer": [1, 2]}, "must be a text or a finite number"),
        ({"question": "?", "answer": True}, "must be a text or a finite number"),
        ('{"question": "?", "answer": 1e999}', "a finite number, not inf"),
        ({"question": "?", "kind": "math"}, "a math problem needs an answer: add one of 'answer'"),
        ({"question": "?", "answer": "2", "kind": "maths"}, "did you mean 'math'"),
        ({"question": "?", "answer": "pear", "kind": "choice"}, "must be a letter"),
        ({"prompt": "?", "numbers": "1,2", "target": 3}, "a list of integers"),
        ({"prompt": "?", "numbers": [1, 2.5], "target": 3}, "non-negative integers, not 2.5"),
        ({"prompt": "?", "numbers": [1, True], "target": 3}, "non-negative integers, not True"),
        ({"prompt": "?", "numbers": [1, 2]}, "a number as 'target', not None"),
        ({"prompt": "?", "numbers": [1, 2], "target": "1e999999999"}, "a number as 'target'"),
        ({"prompt": "?", "numbers": [1, 2], "target": "1/0"}, "divides by zero"),
        ({"prompt": "?", "kind": "countdown", "gold": "1, 2"}, "a list of integers"),
    ],
)
def test_a_broken_row_is_named_with_its_line_and_the_mend(tmp_path: Path, row: Any, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        load(tmp_path, GOOD, "", row)
    assert "rows.jsonl:3" in str(caught.value)
    assert "\n" not in str(caught.value)
    loaded = load(tmp_path, GOOD, "", row, {"question": "2+2?", "answer": "4"}, on_bad_row="skip")
    assert [problem.text for problem in loaded.problems] == ["1+1?", "2+2?"]
    assert len(loaded.report.broken) == 1
    assert "rows.jsonl:3" in loaded.report.sentences()[0]


def test_a_wrong_column_name_is_corrected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no column 'questions'.*did you mean 'question'"):
        load(tmp_path, GOOD, prompt_column="questions")


def test_rows_without_gold_and_code_that_is_not_judged_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [
        GOOD,
        {"question": "?", "answer": ""},
        {"question": "?", "answer": None},
        {"prompt": "?", "tests": {"language": "rust", "test_cases": [{"input": "1", "output": "2"}]}},
    ]
    loaded = load(tmp_path, *rows)
    assert len(loaded.problems) == 1
    assert (len(loaded.report.unsupported), len(loaded.report.without_gold)) == (1, 2)
    said = " ".join(loaded.report.sentences())
    assert "rows.jsonl:4: programs in 'rust'" in said
    assert "rows.jsonl:2" in said
    with pytest.raises(UserError, match="only code problems that r1kit does not judge"):
        load(tmp_path, rows[3])


@pytest.mark.parametrize("content", ["", "\n\n", "[]"])
def test_an_empty_file_is_an_error(tmp_path: Path, content: str) -> None:
    with pytest.raises(UserError, match="no problems in it"):
        load(tmp_path, content)


def test_files_that_are_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.jsonl is not there"):
        load_problems(tmp_path / "nothing.jsonl")
    with pytest.raises(UserError, match="is a folder"):
        load_problems(tmp_path)
    (tmp_path / "a.jsonl").write_bytes(b'{"question": "\xff"}')
    with pytest.raises(UserError, match="not UTF-8"):
        load_problems(tmp_path / "a.jsonl")
    (tmp_path / "a.json").write_text('[{"question": "a",\n "answer": }]')
    with pytest.raises(UserError, match=r"a.json:2: not a JSON array"):
        load_problems(tmp_path / "a.json")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    pytest.importorskip("pyarrow")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        load_problems(tmp_path / "a.parquet")


def test_every_format_gives_the_same_problems(tmp_path: Path) -> None:
    rows = [{"question": f"1+{n}?", "answer": str(n + 1)} for n in range(5)]
    lines = "".join(json.dumps(row) + "\r\n" for row in rows)
    (tmp_path / "lines.jsonl").write_text("\ufeff" + lines, encoding="utf-8", newline="")
    (tmp_path / "array.json").write_text("\n " + json.dumps(rows, indent=1))
    with gzip.open(tmp_path / "lines.jsonl.gz", "wt") as stream:
        stream.write(lines)
    expected = [(problem.id, problem.text) for problem in load_problems(tmp_path / "lines.jsonl").problems]
    assert len(expected) == 5
    names = ["array.json", "lines.jsonl.gz"]
    if _has_pyarrow():
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "table.parquet")
        names.append("table.parquet")
    for name in names:
        assert [(problem.id, problem.text) for problem in load_problems(tmp_path / name).problems] == expected
    both = load_problems([tmp_path / "lines.jsonl", tmp_path / "array.json"])
    assert (len(both.problems), both.report.merged) == (5, 5)
    assert len(load_problems(tmp_path / "lines.jsonl", limit=2).problems) == 2


def _has_pyarrow() -> bool:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        return False
    return True


def test_missing_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(UserError, match=r"pip install pyarrow$"):
        load_problems(tmp_path / "a.parquet")


def test_splits_follow_the_key_and_nothing_else(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n} {t}", "numbers": [n, n + 1, 5], "target": t} for n in range(400) for t in (7, 8)]
    problems = load(tmp_path, *rows).problems
    splits = split_problems(problems, held_out=0.25)
    assert len(splits.train) + len(splits.held_out) == 800
    assert not {problem.key for problem in splits.train} & {problem.key for problem in splits.held_out}
    # 400 keys at 0.25: mean 100, standard deviation 8.7.
    assert 140 < len(splits.held_out) < 260
    again = split_problems(reversed(problems), held_out=0.25)
    assert {problem.id for problem in again.held_out} == {problem.id for problem in splits.held_out}
    more = split_problems(problems, held_out=0.5)
    assert {problem.id for problem in splits.held_out} < {problem.id for problem in more.held_out}
    assert split_problems(problems, held_out=0.0).held_out == ()
    assert held_out_position(problems[0], 0) != held_out_position(problems[0], 1)
    with pytest.raises(UserError, match="held_out is 1"):
        split_problems(problems, held_out=1)


@needs_data
@pytest.mark.parametrize(
    ("name", "count", "merged", "without_gold"),
    [
        ("gsm8k_test.jsonl", 1319, 0, 0),
        ("gsm8k_train.jsonl", 7473, 0, 0),
        ("math500.json", 500, 0, 0),
        ("aime2024.parquet", 30, 930, 0),
        ("math_model_outputs_dev.jsonl", 25, 175, 0),
    ],
)
def test_public_sets(name: str, count: int, merged: int, without_gold: int) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    loaded = load_problems(SHARED / name)
    assert (len(loaded.problems), loaded.report.merged, len(loaded.report.without_gold)) == (
        count,
        merged,
        without_gold,
    )
    assert problem_kinds(loaded.problems) == {"math": count}
    assert loaded.report.broken == ()


@needs_data
def test_math_train_loads_with_its_faults_reported() -> None:
    loaded = load_problems(SHARED / "math_train.json")
    report = loaded.report
    assert report.rows == 7474
    assert len(loaded.problems) == 7474 - report.merged - len(report.without_gold)
    assert len(report.without_gold) == 4
    assert any("math_train.json: row 5329: its gold answer is empty" in said for said in report.without_gold)


def test_torch_stays_out() -> None:
    code = (
        "import sys, r1kit.tasks.loaders, r1kit.tasks.splits, r1kit.grading, r1kit.rewards.scorer;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'sympy', 'math_verify', 'pyarrow', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
