"""Rejection sampling: who decides, what is dropped, how it is balanced, mixed and kept clean of evaluation sets."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from chat_server import Fault, chat_server
from r1kit.config import load_recipe
from r1kit.engines.server import ServerGoneError
from r1kit.run_directory import read_json_lines
from r1kit.runner import resolve_model, run_recipe
from r1kit.stages.cold_start import Sample
from r1kit.stages.data_files import DataRow, Funnel
from r1kit.stages.judges import Judgement, Question
from r1kit.stages.readable import Readability
from r1kit.stages.rejection import FUNNEL, Rejection, balanced, mixed, tidied
from r1kit.tasks.contamination import NgramIndex
from r1kit.types import Kind, Message, Problem, TextAnswer, UserError
from tiny_models import make_tiny_checkpoint

needs_mini = pytest.mark.skipif(
    not Path(resolve_model("mini-base")).joinpath("model.safetensors").is_file(), reason="no shipped base model"
)


def problem(name: str, text: str = "What is it?", kind: Kind = "math", gold: str = "4") -> Problem:
    message = Message(role="user", content=text)
    return Problem(id=name, messages=(message,), kind=kind, gold=TextAnswer(text=gold) if gold else None)


def sample(
    asked: Problem, answer: str, place: int = 0, *, right: bool | None = True, working: str = "so it is"
) -> Sample:
    text = f"<think>\n{working}\n</think>\n{answer}" if working else answer
    return Sample(problem=asked, place=place, text=text, tokens=5, right=right, cut_off=False, origin="rejection")


def rejection(index: NgramIndex | None = None, **settings: Any) -> Rejection:
    return Rejection(
        **{"readability": Readability(), "max_per_problem": 2, "index": index or NgramIndex(n=4), **settings}
    )


def lost(funnel: Funnel) -> dict[str, int]:
    return {reason: count for reason, count in funnel.dropped.items() if count}


def test_rules_decide_where_they_can_and_the_judge_where_they_cannot() -> None:
    asked: list[Question] = []

    def judge(questions: Sequence[Question]) -> list[Judgement | None]:
        asked.extend(questions)
        verdicts: dict[str, Judgement | None] = {
            "yes": Judgement(correct=True, analysis="fits"),
            "no": Judgement(correct=False, analysis="does not"),
        }
        return [verdicts.get(question.answer) for question in questions]

    essay = problem("essay", "Why?", "general", gold="because")
    bare = problem("bare", "Why?", "general", gold="")
    samples = [
        sample(problem("a"), "4", right=True),
        sample(problem("b"), "5", right=False),
        sample(essay, "yes", 0, right=None),
        sample(essay, "no", 1, right=None),
        sample(essay, "hm", 2, right=None),
        sample(bare, "yes", right=None),
    ]
    funnel = Funnel(*FUNNEL)
    rows = rejection(judge=judge).rows(samples, funnel)
    assert [(row.id, row.provenance["verified"]) for row in rows] == [
        ("a/rejection/0", "rule"),
        ("essay/rejection/0", "judge"),
    ]
    assert [(question.reference, question.answer) for question in asked] == [
        ("because", "yes"),
        ("because", "no"),
        ("because", "hm"),
    ]
    assert lost(funnel) == {
        "wrong": 1,
        "wrong, says the judge": 1,
        "no verdict of the judge": 1,
        "no rule decides": 1,
    }
    assert lost_without_judge(samples) == {"wrong": 1, "no rule decides": 4}


def lost_without_judge(samples: Sequence[Sample]) -> dict[str, int]:
    funnel = Funnel(*FUNNEL)
    rejection().rows(samples, funnel)
    return lost(funnel)


def test_what_is_hard_to_read_or_said_before_goes() -> None:
    asked = problem("a")
    samples = [
        sample(asked, "4", 0, working="I add, 然后再检查一次看看对不对"),
        sample(asked, "4", 1, working="look:\n```python\nprint(4)\n```"),
        sample(asked, "4", 2, working=""),
        sample(asked, "", 3),
        sample(asked, "4", 4),
        sample(asked, "4", 5),
        sample(asked, "It is 4", 6),
        sample(asked, "Surely 4", 7),
    ]
    funnel = Funnel(*FUNNEL)
    rows = rejection().rows(samples, funnel)
    assert [row.provenance["sample"] for row in rows] == [4, 6]
    assert lost(funnel) == {
        "mixed languages": 1,
        "a code block in the thinking": 1,
        "no closed thinking": 1,
        "no thinking and summary": 1,
        "the same text again": 1,
        "more than max_per_problem": 1,
    }
    assert rows[0].messages[-1]["content"] == "<think>\nso it is\n</think>\n\n4"


def test_nothing_shares_words_with_an_evaluation_set() -> None:
    index = NgramIndex(n=4)
    index.add("bench", "1", ["How many legs has a spider?", "it has eight legs altogether"])
    samples = [
        sample(problem("a", "Tell me: HOW many, legs has an ant?"), "6"),
        sample(problem("b", "Count legs."), "So it has eight legs."),
        sample(problem("c", "Count arms."), "Two."),
    ]
    funnel = Funnel(*FUNNEL)
    assert [row.id for row in rejection(index).rows(samples, funnel)] == ["c/rejection/0"]
    assert lost(funnel) == {"shares words with an evaluation set": 2}


def rows_of(domain: str, count: int) -> list[DataRow]:
    messages = (Message(role="user", content="q"), Message(role="assistant", content="a"))
    return [DataRow(id=f"{domain}{n}", messages=messages, kind="math", source="s", domain=domain) for n in range(count)]


def test_no_domain_has_more_than_its_share() -> None:
    rows = [*rows_of("math", 60), *rows_of("code", 12), *rows_of("logic", 8)]
    funnel = Funnel()
    kept = Counter(row.domain for row in balanced(rows, 0.5, funnel))
    assert kept == {"math": 20, "code": 12, "logic": 8}
    assert funnel.dropped["over its domain's share"] == 40
    assert len(balanced(rows, 1.0, Funnel())) == 80
    assert len(balanced(rows_of("math", 7), 0.5, Funnel())) == 7, "one domain alone cannot be balanced"
    even = Counter(row.domain for row in balanced(rows, 0.1, Funnel()))
    assert even == {"math": 8, "code": 8, "logic": 8}, "as near as equal numbers come"
    assert [row.id for row in balanced(rows[::-1], 0.5, Funnel())] == [row.id for row in balanced(rows, 0.5, Funnel())][
        ::-1
    ]


def test_three_to_one() -> None:
    reasoning, general = rows_of("math", 30), rows_of("general", 25)
    funnel = Funnel()
    assert len(mixed(reasoning, general, 3.0, funnel)) == 10
    assert funnel.dropped["more than the mix needs"] == 15
    assert len(mixed(reasoning, general[:4], 3.0, Funnel())) == 4
    assert len(mixed(reasoning, general, 0.0, Funnel())) == 25


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("<think>a\nb</think><answer>4</answer>", "<think>\na\nb\n</think>\n\n<answer>4</answer>"),
        ("4", "4"),
        ("<think>never closed", "<think>never closed"),
        ("well <think>a</think>4", "well <think>a</think>4"),
    ],
)
def test_tidied(text: str, wanted: str) -> None:
    assert tidied(text) == wanted


# ------------------------------------------------------------------------------------------ runs


def run(directory: Path, *settings: str) -> Path:
    small = ["num_problems=6", "problems_per_rollout=3", "num_generations=4", "max_completion_length=96", "eval_size=2"]
    overrides = [*small, "torch_threads=1", f"output_dir={directory}", *settings]
    run_recipe(load_recipe("rejection", overrides), ["r1", "run", "rejection"])
    return directory


def data_files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((directory / "data").iterdir())}


def chats(path: Path) -> Path:
    rows = [{"prompt": f"Say number {n}.", "completion": f"Number {n}."} for n in range(8)]
    rows.append({"prompt": "one two three four five six seven eight nine ten eleven", "completion": "no"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@needs_mini
def test_a_run_mixes_is_clean_and_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    bench = tmp_path / "bench.jsonl"
    bench.write_text(
        json.dumps({"prompt": "zero one two three four five six seven eight nine ten", "answer": "1"}) + "\n"
    )
    settings = (f"general_data={chats(tmp_path / 'chats.jsonl')}", f"decontaminate={bench}")
    whole = run(tmp_path / "whole" / "run", *settings)
    card = json.loads((whole / "data" / "card.json").read_bytes())
    rows = read_json_lines(whole / "data" / "examples.jsonl")
    reasoning = sum(row["domain"] != "general" for row in rows)
    assert reasoning == card["filters"]["reasoning"]["kept"] > 0
    assert len(rows) - reasoning == round(reasoning / 3)
    assert card["filters"]["general"]["dropped"]["shares words with an evaluation set"] == 1
    assert [row["domain"] for row in card["domains"]] == ["math", "general", "total"]
    # what a kill after the first part leaves behind
    cut = tmp_path / "cut" / "run"
    shutil.copytree(whole, cut, ignore=shutil.ignore_patterns("data", "000001*"))
    record = json.loads((cut / "run.json").read_text())
    (cut / "run.json").write_text(json.dumps({**record, "status": "running"}))
    before = (cut / "rollouts" / "000000.jsonl.gz").stat().st_mtime_ns
    run(cut, *settings)
    assert data_files(cut) == data_files(whole)
    assert (cut / "rollouts" / "000000.jsonl.gz").stat().st_mtime_ns == before


@needs_mini
def test_a_judge_that_dies_midway_is_not_asked_twice(tmp_path: Path) -> None:
    pytest.importorskip("openai")
    problems = tmp_path / "problems.jsonl"
    rows = [{"prompt": f"What is {n}+{n}?", "answer": str(2 * n), "kind": "general"} for n in range(2, 9)]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = (f"problems={problems}", "eval_problems=countdown3", "server_model=tiny", "max_completion_length=48")
    served: Counter[str] = Counter()

    def judge(request: dict[str, Any]) -> str:
        text = request["messages"][1]["content"]
        if alive["left"] <= 0:
            raise Fault(503)
        alive["left"] -= 1
        served[text] += 1
        data = json.loads(text)
        right = data["reference"] in data["answer"]
        return json.dumps({"analysis": "compared", "correctness": "correct" if right else "incorrect"})

    alive = {"left": 2}
    directory = tmp_path / "run"
    with chat_server(judge) as (url, fake):
        more = (*settings, f"judge={url}", "server_tries=1", "min_language=0")
        with pytest.raises(ServerGoneError, match="are kept"):
            run(directory, *more)
        assert not (directory / "data").exists()
        alive["left"] = 1000
        before = len(read_json_lines(directory / "answers" / "judge.jsonl"))
        # more patience is no other run
        run(directory, *settings, f"judge={url}", "server_tries=4", "server_timeout=300", "min_language=0")
    assert before >= 1
    assert max(served.values()) == 1, "nothing that was judged is judged again"
    rows_made = read_json_lines(directory / "data" / "examples.jsonl")
    assert rows_made
    assert {row["provenance"]["verified"] for row in rows_made} == {"judge"}
    assert fake.requests


@needs_mini
def test_a_judge_that_makes_no_sense_is_named_with_its_replies(tmp_path: Path) -> None:
    pytest.importorskip("openai")
    problems = tmp_path / "problems.jsonl"
    problems.write_text(json.dumps({"prompt": "What is 2+3?", "answer": "5", "kind": "general"}) + "\n")
    settings = (f"problems={problems}", "eval_problems=countdown3", "max_completion_length=48", "min_language=0")
    directory = tmp_path / "run"
    with (
        chat_server(lambda request: "I like turtles {") as (url, _),
        pytest.raises(UserError, match=r"no verdict of the judge\): .*look at its replies in .*judge\.jsonl") as raised,
    ):
        run(directory, *settings, f"judge={url}")
    assert "remove that file to have the questions asked again" in str(raised.value)
    assert not (directory / "data").exists()
    # as it says: without the file, the same command asks again
    (directory / "answers" / "judge.jsonl").unlink()
    judgement = json.dumps({"analysis": "", "correctness": "correct"})
    with chat_server(lambda request: judgement, port=int(url.rpartition(":")[2].removesuffix("/v1"))):
        run(directory, *settings, f"judge={url}")
    assert read_json_lines(directory / "data" / "examples.jsonl")


def test_nothing_right_is_one_sentence(tmp_path: Path) -> None:
    model = make_tiny_checkpoint(tmp_path / "tiny")
    with pytest.raises(UserError, match=r"no example is left of 8 samples \(. dropped: (wrong|cut off)\)"):
        run(tmp_path / "run", f"model={model}", "template=plain", "max_completion_length=6", "num_problems=2")
