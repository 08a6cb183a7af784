"""Cold start: filters, the rule rewriter, a model as rewriter, and whole runs that are killed, starved or empty."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from chat_server import chat_server
from r1kit.config import config_from_dict, load_recipe
from r1kit.rewards.countdown import check_countdown
from r1kit.rewards.text_terms import keeps_r1_format
from r1kit.run_directory import Stopped, read_json_lines
from r1kit.runner import resolve_model, run_recipe
from r1kit.stages import cold_start
from r1kit.stages.data_files import Funnel, domain_of, domain_table
from r1kit.stages.readable import CODE_BLOCK, LONG_PARAGRAPH, MIXED, REPETITION, Readability, claims
from r1kit.stages.rewriting import (
    FALSE_STEP,
    NO_ANSWER,
    UNSUPPORTED,
    Draft,
    Rewritten,
    RuleRewriter,
    asked,
    translated,
)
from r1kit.tasks.examples import load_examples
from r1kit.types import CountdownGoal, Problem, TextAnswer, UserError
from tiny_models import make_tiny_checkpoint

needs_mini = pytest.mark.skipif(
    not Path(resolve_model("mini-base")).joinpath("model.safetensors").is_file(), reason="no shipped base model"
)
SMALL = ["num_problems=6", "problems_per_rollout=3", "max_completion_length=96", "eval_size=2", "torch_threads=1"]


def countdown(target: int, *numbers: int, prompt: str = "Make it.") -> Problem:
    goal = CountdownGoal(numbers=numbers, target=Fraction(target))
    return Problem(id=f"c{target}", messages=({"role": "user", "content": prompt},), kind="countdown", gold=goal)


def word(answer: str, prompt: str) -> Problem:
    gold = TextAnswer(text=answer)
    return Problem(id="w", messages=({"role": "user", "content": prompt},), kind="math", gold=gold)


def thought(thinking: str, answer: str) -> str:
    return f"<think>\n{thinking}\n</think>\n<answer>{answer}</answer>"


def rewritten(problem: Problem, text: str, language: str = "en", style: Any = "answer") -> Any:
    outcome = RuleRewriter(answer_style=style).rewrite(Draft(problem=problem, text=text, language=language))
    return outcome.text if isinstance(outcome, Rewritten) else outcome


# ------------------------------------------------------------------------------------------ rules


def test_the_rewriter_by_hand() -> None:
    lines = [
        "16+6=22,22+3=25 no",
        "16+6=22,22+3=25 no",  # again
        "6*16=86,86-3=83 no",  # 96
        "等等，错了",
        "16*3=48,48+6=54 no, too big",  # too small
        "16+9=25,25*3=75 no",  # there is no 9
        "16+6=22,3*22=66 yes",
        "等等，检查 16+6=22,3*22=66 对",
    ]
    text = rewritten(countdown(66, 6, 3, 16), thought("\n".join(lines), "3*(16+6)"))
    assert text == (
        "<think>\n16+6=22,22+3=25 no\nwait, that is wrong\n16+6=22,3*22=66 yes\n"
        "wait, check 16+6=22,3*22=66 yes\n</think>\n\n16+6=22 and 3*22=66.\n<answer>3*(16+6)</answer>"
    )
    assert keeps_r1_format(text)


def test_a_chinese_question_gets_a_chinese_working_and_a_box() -> None:
    text = rewritten(
        countdown(9, 4, 5, prompt="用 4、5 得到 9。"), thought("hmm, try again\n4+5=9 yes", "4+5"), "zh", "boxed"
    )
    assert text == "<think>\n再试一次\n4+5=9 对\n</think>\n\n4+5=9。\n\\boxed{4+5}"


def test_an_answer_that_the_working_lacks_is_a_guess() -> None:
    problem = countdown(66, 6, 3, 16)
    assert rewritten(problem, thought("16+6=22,22+3=25 no", "3*(16+6)")) == UNSUPPORTED
    assert rewritten(problem, thought("16+6=22,22*3=66 no", "3*(16+6)")) == UNSUPPORTED, "it denied what is right"
    assert rewritten(problem, "<think>\n16+6=22\n</think>\nwell") == NO_ANSWER


def test_a_working_that_goes_on_from_a_wrong_sum_is_dropped() -> None:
    problem = word("20", "How many are left?")
    assert rewritten(problem, thought("4*5=21\n21-1=20", "20")) == FALSE_STEP
    assert "4*5=21" not in rewritten(problem, thought("4*5=21\n4*5=20", "20"))


def test_verdicts_that_stand_twice_with_good_reason_stay() -> None:
    logic = Problem(id="l", messages=({"role": "user", "content": "A. B. Who is what?"},), kind="logic")
    working = "Dan knave, Leo knight\nDan no\nDan knight, Leo knave\nDan no\nhmm, try again\nhmm, try again"
    text = rewritten(logic, thought(working, "Dan: knight"))
    assert text.count("Dan no") == 2
    assert text.count("hmm, try again") == 1
    assert text.startswith("<think>\nDan knave, Leo knight\n")
    assert text.endswith("</think>\n\nThe answer is:\n<answer>Dan: knight</answer>")


def test_no_calculation_is_ever_invented() -> None:
    """On samples of the shipped writers: all that the rewriter calculates stood in the sample."""
    import random

    from r1kit.mini.corpus import CARELESS, SOURCES

    assert CARELESS
    rng, rewrites = random.Random(5), 0
    for _ in range(300):
        question, _, said = SOURCES["countdown3"](rng).partition("\nAssistant: ")
        numbers = [int(part) for part in "".join(c if c.isdigit() else " " for c in question).split()]
        problem = countdown(numbers[-1], *numbers[:-1], prompt=question)
        answer = said.rpartition("<answer>")[2].partition("</answer>")[0]
        if "<answer>" not in said or check_countdown(answer, problem.gold).value != 1.0:  # type: ignore[arg-type]
            continue
        outcome = rewritten(problem, said.strip())
        if not outcome.startswith("<think>"):
            continue
        rewrites += 1
        stood = {(claim.left, claim.result) for claim in claims(said)}
        made = {(claim.left, claim.result) for claim in claims(outcome.partition("<answer>")[0])}
        assert made <= stood
        assert all(claim.right for claim in claims(outcome))
        assert keeps_r1_format(outcome)
    assert rewrites > 30


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("3+6=9,16+9=25 no", [("3+6", 9, True), ("16+9", 25, True)]),
        ("21-22=1", [("21-22", 1, False)]),
        ("check 7*-14=-98,-98-10=-108", [("7*-14", -98, True), ("-98-10", -108, True)]),
        ("3z+6=8z+81=5, x=4, 56<69, fish!=2", []),
        ("24/0=3", []),
        ("2*(3+4)=14.", [("2*(3+4)", 14, True)]),
        ("1 " * 20_000, []),
    ],
)
def test_claims(text: str, found: list[Any]) -> None:
    assert [(claim.left, claim.result, claim.right) for claim in claims(text)] == found


def test_translations_and_what_is_asked() -> None:
    assert (
        translated("1+1=2 不对，太大\nplum=2 对, milk!=plum no", "en") == "1+1=2 no, too big\nplum=2 yes, milk!=plum no"
    )
    assert translated("1+1=2 no, too small", "zh") == "1+1=2 不对，太小"
    assert translated("对不起", "en") == "对不起", "no marker: the language filter sees it"
    assert asked(word("3", "Ann has 2. She gets 1. How many now?")) == "How many now?"
    assert asked(word("D", "Which equals 9?\nA. 26\nB. 17")) == "Which equals 9?"


def test_readability() -> None:
    rules = Readability(max_repetition=0.3, n_grams=4, min_language=0.8, max_paragraph=20)
    assert rules.complaint("I try this. It works well.", "en") is None
    assert rules.complaint("one two three four " * 5, "en") == REPETITION
    assert rules.complaint("I try this, 然后再试一次看看", "en") == MIXED
    assert rules.complaint(" ".join(f"word{n}x other{n}y" for n in range(12)), "en") == LONG_PARAGRAPH
    assert rules.complaint("so\n```python\nx = 1\n```", "en") == CODE_BLOCK


def stage(check: Any = lambda pairs: [True] * len(pairs), **settings: Any) -> cold_start.ColdStart:
    defaults: dict[str, Any] = {
        "readability": Readability(),
        "min_language": 0.9,
        "max_per_problem": 1,
        "rewrite": RuleRewriter(answer_style="answer"),
        "check": check,
    }
    return cold_start.ColdStart(**{**defaults, **settings})


def sample(problem: Problem, text: str, place: int, *, right: bool | None = True, cut: bool = False) -> Any:
    return cold_start.Sample(
        problem=problem, place=place, text=text, tokens=9, right=right, cut_off=cut, origin="r1_zero"
    )


def test_the_funnel_counts_every_sample_once() -> None:
    problem = countdown(9, 4, 5)
    good = thought("4+5=9 yes", "4+5")
    samples = [
        sample(problem, good, 0, cut=True),
        sample(problem, good, 1, right=False),
        sample(problem, "<answer>4+5</answer>", 2),
        sample(problem, good, 3),
        sample(problem, good, 4),
        sample(problem, thought("5+4=9 yes", "4+5"), 5),
    ]
    funnel = Funnel(*cold_start.FUNNEL)
    rows = stage().rows(samples, funnel)
    assert [row.id for row in rows] == ["c9/r1_zero/3"]
    lost = {reason: count for reason, count in funnel.dropped.items() if count}
    assert lost == {
        "cut off": 1,
        "wrong": 1,
        "no closed thinking": 1,
        "the same text again": 1,
        "more than max_per_problem": 1,
    }
    assert funnel.kept == len(rows)
    broken = Funnel()
    assert stage(check=lambda pairs: [False] * len(pairs)).rows(samples[3:4], broken) == []
    assert broken.dropped["a rewrite that broke the answer"] == 1


def test_a_request_keeps_its_response() -> None:
    request = Problem(id="r", messages=({"role": "user", "content": "Be kind. Say hello."},), kind="instruction")
    rows = stage(max_per_problem=2).rows(
        [sample(request, thought("kind", "Hello, friend."), 0), sample(request, "Hello you.", 1)], Funnel()
    )
    assert [row.messages[-1]["content"] for row in rows] == [
        "<think>\nkind\n</think>\n\nHello, friend.",
        "<think>\nSay hello.\n</think>\n\nHello you.",
    ]
    assert {row.domain for row in rows} == {"general"}


def test_the_table_of_domains() -> None:
    rows = stage(max_per_problem=9).rows(
        [sample(countdown(9, 4, 5), thought(f"{a}=9 yes", "4+5"), n) for n, a in enumerate(("4+5", "5+4"))], Funnel()
    )
    table = domain_table(rows, lambda text: len(text.split()))
    assert [row["domain"] for row in table] == ["math", "total"]
    assert table[0] == {"domain": "math", "samples": 2, "mean_rounds": 1.0, "mean_tokens": 6.0}
    assert domain_of(countdown(1, 1)) == "math"


# ------------------------------------------------------------------------------------------ runs


def settings_of(directory: Path, *settings: str) -> list[str]:
    return [*SMALL, f"output_dir={directory}", *settings]


def run(directory: Path, *settings: str) -> Path:
    run_recipe(load_recipe("cold_start", settings_of(directory, *settings)), ["r1", "run", "cold_start"])
    return directory


def data_files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((directory / "data").iterdir())}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("cold") / "run")


@needs_mini
def test_a_run_makes_examples_that_sft_reads(whole: Path) -> None:
    rows = read_json_lines(whole / "data" / "examples.jsonl")
    card = json.loads((whole / "data" / "card.json").read_bytes())
    counts = card["filters"]["r1_zero"]
    assert counts["samples"] == 6 * 4
    assert counts["kept"] == len(rows) == card["examples"] > 0
    assert counts["samples"] - sum(counts["dropped"].values()) == counts["kept"]
    assert all(keeps_r1_format(row["messages"][-1]["content"]) for row in rows)
    assert len({row["provenance"]["problem"] for row in rows}) == len(rows), "one a problem"
    loaded = load_examples([str(whole / "data" / "examples.jsonl")])
    assert len(loaded.examples) == len(rows)
    assert json.loads((whole / "run.json").read_text())["status"] == "finished"


@needs_mini
def test_killed_and_started_again_it_writes_the_same_bytes(tmp_path: Path, whole: Path) -> None:
    killed = whole.parent / "killed" / "run"
    command = [sys.executable, "-m", "r1kit.cli", "run", "cold_start", *settings_of(killed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None and not (killed / "rollouts").exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    assert not (killed / "data").exists()
    first = killed / "rollouts" / "000000.jsonl.gz"
    before = first.stat().st_mtime_ns if first.exists() else None
    run(killed)
    assert data_files(killed) == data_files(whole)
    assert before in (None, first.stat().st_mtime_ns), "sampled twice"


@needs_mini
def test_ctrl_c_keeps_what_was_sampled(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from r1kit.runner import answering

    stopped = tmp_path / "run"
    real = answering.collect

    def interrupted(*arguments: Any, **keywords: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments, **keywords)

    monkeypatch.setattr(answering, "collect", interrupted)
    with pytest.raises(Stopped, match=r"1 of 2 parts.*same command"):
        run(stopped)
    monkeypatch.undo()
    run(stopped)
    assert {name: content for name, content in data_files(stopped).items() if name == "examples.jsonl"} == {
        "examples.jsonl": (whole / "data" / "examples.jsonl").read_bytes()
    }


def refining(request: dict[str, Any]) -> str:
    """A rewriter by rule behind the protocol."""
    data = json.loads(request["messages"][1]["content"])
    if '"summary"' in request["messages"][0]["content"]:
        broken = data["problem"].endswith("7.")
        return json.dumps({"summary": f"It works out.\n<answer>{'1' if broken else data['answer']}</answer>"})
    return json.dumps({"thinking": f"Let me think about this. {data['working'].splitlines()[-1]}"})


@needs_mini
def test_a_server_refines_and_its_breaks_are_found(tmp_path: Path, whole: Path) -> None:
    pytest.importorskip("openai")
    with chat_server(refining) as (url, fake):
        directory = run(tmp_path / "run", f"rewriter={url}", "server_model=tiny")
        asked = len(fake.requests)
    rows = read_json_lines(directory / "data" / "examples.jsonl")
    assert rows
    assert all("It works out." in row["messages"][-1]["content"] for row in rows)
    counts = json.loads((directory / "data" / "card.json").read_bytes())["filters"]["r1_zero"]
    assert asked == 2 * (counts["kept"] + sum(counts["dropped"][name] for name in cold_start.FUNNEL[-4:]))
    assert not any(row["messages"][0]["content"].endswith("7.") for row in rows), "the verifier saw the broken answers"


@needs_mini
def test_examples_in_the_prompt_are_a_second_source(tmp_path: Path, whole: Path) -> None:
    shots = whole / "data" / "examples.jsonl"
    directory = run(
        tmp_path / "run", f"few_shot={shots}", "few_shot_count=1", "few_shot_generations=2", "num_problems=3"
    )
    card = json.loads((directory / "data" / "card.json").read_bytes())
    assert card["filters"]["few_shot"]["samples"] == 3 * 2
    assert len(list((directory / "rollouts").iterdir())) == 2


def test_a_model_that_knows_nothing_is_told_apart(tmp_path: Path) -> None:
    model = make_tiny_checkpoint(tmp_path / "tiny")
    settings = ["template=plain", "max_completion_length=8", "num_problems=2", "num_generations=2"]
    with pytest.raises(UserError, match=r"no example is left of 4 samples \(. dropped: (wrong|cut off)\): "):
        run(tmp_path / "run", f"model={model}", *settings)
    assert not (tmp_path / "run" / "data").exists()


def test_keys_that_mean_nothing_here_are_refused() -> None:
    with pytest.raises(UserError, match="learning_rate has no effect"):
        load_recipe("cold_start", ["learning_rate=1e-3"])
    with pytest.raises(UserError, match="needs accuracy"):
        load_recipe("cold_start", ["reward_funcs=format"])
    config = load_recipe("cold_start", ["num_problems=3"])
    assert config_from_dict(config.to_dict()) == config
