"""Writers of the corpus about the reasoning kinds: what they claim, how often they are right, what drills hold."""

from __future__ import annotations

import ast
import hashlib
import math
import random
import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kind_oracles import solve, value
from r1kit.config import PretrainConfig, load_recipe
from r1kit.mini import corpus, kinds, writers
from r1kit.mini.data import tokenizer_sample
from r1kit.mini.kinds import code, puzzles
from r1kit.mini.tokenizer import build_tokenizer
from r1kit.mini.world import split_of
from r1kit.mini.writers.base import Page
from r1kit.mini.writers.logic import spelled_words
from r1kit.rewards.scorer import Scorer
from r1kit.tasks.sets import EVAL_SEED
from r1kit.types import Gold, Problem

KIND_OF = {name: name if name in kinds.KINDS else "logic" for name in writers.DESKS}
NUMBERS = (
    "drill", "chain_drill", "arithmetic", "check", "check_long", "countdown3", "countdown4", "countdown3_careful",
    "countdown4_careful", "countdown4_patient",
)  # fmt: skip


def pages(desk: str, count: int, seed: int = 0) -> Iterator[Page]:
    """Pages of every writer, level and tongue in turn."""
    found = writers.DESKS[desk]
    rng = random.Random(f"pages|{desk}|{seed}")
    tongues = list(found.tongues or {"en": 1, "zh": 1, "mixed": 1})
    for place in range(count):
        habits = rng.choice(list(found.writers.values()))
        yield found.write(rng, place % 3 + 1, habits, rng.choice(tongues))


def problem_of(desk: str, page: Page, gold: Gold) -> Problem:
    kind = KIND_OF[desk]
    return Problem(
        id="page",
        messages=({"role": "user", "content": page.prompt},),
        kind=kinds.KINDS[kind].kind,
        gold=gold,
        source=kind,
    )


@pytest.fixture(scope="module")
def scorer() -> Iterator[Scorer]:
    scorer = Scorer(("accuracy",))
    yield scorer
    scorer.accuracy.close()


@pytest.mark.parametrize("desk", [name for name in writers.DESKS if name != "code"])
def test_a_page_is_called_solved_just_where_the_kinds_checker_says_so(desk: str, scorer: Scorer) -> None:
    solved = 0
    for page in pages(desk, 90):
        assert page.gold is not None
        text = f"<think>\nx\n</think>\n<answer>{page.answer}</answer>"
        verdict = scorer.score(problem_of(desk, page, page.gold), [text])[0]
        assert (verdict.terms["accuracy"] == 1.0) == page.solved, (page, verdict.note)
        solved += page.solved
    assert 15 < solved < 75


def test_a_program_is_called_solved_where_it_passes_the_tests(scorer: Scorer) -> None:
    rng = random.Random(3)
    desk = writers.DESKS["code"]
    for place in range(24):
        habits = rng.choice(list(desk.writers.values()))
        state = rng.getstate()
        function = writers.code.drawn(rng, code.KIND, place % 3 + 1)
        rng.setstate(state)
        page = desk.write(rng, place % 3 + 1, habits, "en")
        assert isinstance(function, code.Function)
        name = re.search(r"Python function (\w+)\(", page.prompt)
        assert name
        problem = problem_of("code", page, code._goal(function.spec, name[1]))
        verdict = scorer.score(problem, [f"<think>\nx\n</think>\n<answer>\n{page.answer}\n</answer>"])[0]
        assert (verdict.terms["accuracy"] == 1.0) == page.solved, (page, verdict.note)


@cache
def held_out(kind: str) -> tuple[frozenset[str], frozenset[object]]:
    """Prompts, and what makes problems the same one as read off the prompt."""
    names = [f"{kind}{zh}" for zh in ("", "-zh") if kind != "code" or not zh]
    problems = [p for name in names for p in kinds.make_problems(name, 100, EVAL_SEED, "heldout")]
    return frozenset(p.text for p in problems), frozenset(solve(p).same for p in problems) - {None}


@pytest.mark.parametrize("desk", list(writers.DESKS))
def test_nobody_writes_about_what_is_held_out(desk: str) -> None:
    prompts, same = held_out(KIND_OF[desk])
    assert len(prompts) > 90
    for page in pages(desk, 100, seed=1):
        assert page.prompt not in prompts
        if page.gold is not None:
            assert solve(problem_of(desk, page, page.gold)).same not in same


def test_no_bug_makes_what_a_held_out_function_does() -> None:
    rng = random.Random(5)
    for _ in range(60):
        function = writers.code.drawn(rng, code.KIND, 2)
        assert isinstance(function, code.Function)
        assert split_of(code.Function(writers.code.bugged(rng, function.spec)).key) == "train"


def test_no_writer_solves_more_than_the_promised_share() -> None:
    n = 150
    rates = writers.solve_rates(n, seed=9)
    allowed = 0.6 + 3 * math.sqrt(0.24 / n)
    assert not {name: rate for name, rate in rates.items() if rate > allowed}
    for desk in writers.DESKS:
        assert max(rate for name, rate in rates.items() if name.startswith(f"{desk}-")) > 0.4


def test_the_number_sources_are_what_they_have_always_been() -> None:
    total = hashlib.sha256()
    for phase in range(3):
        for text in corpus.documents(0, phase, 7, dict.fromkeys(NUMBERS, 1.0), 600):
            total.update(text.encode())
    assert total.hexdigest() == "5cf7103d8961b38c740369e64c0dae0b17de8cf433f99b2597506a479f1ce7e9"


def documents(source: str, count: int) -> list[str]:
    return list(corpus.documents(4, 0, 0, {source: 1.0}, count))


def test_signed_calculations_and_moved_letters_of_drills_are_right() -> None:
    lines = [line for text in documents("signed_drill", 60) for line in text.splitlines()]
    assert len(lines) > 400
    for line in lines:
        left, right = line.split("=")
        assert value(left.replace("-", "0-", 1) if left.startswith("-") else left) == value(
            f"0{right}" if right.startswith("-") else right
        ) or _by_hand(left) == int(right), line
    moved = [line for text in documents("letters_drill", 60) for line in text.splitlines()]
    for line in moved:
        match = re.fullmatch(r"([a-z])([+-]\d+)=([a-z])", line)
        assert match, line
        assert (ord(match[1]) + int(match[2]) - ord(match[3])) % 26 == 0, line


def _by_hand(text: str) -> int:
    match = re.fullmatch(r"(-?\d+)([-+*/])(\d+)", text)
    assert match, text
    left, right = int(match[1]), int(match[3])
    return {"+": left + right, "-": left - right, "*": left * right, "/": left // right}[match[2]]


def test_claims_of_drills_are_judged_rightly() -> None:
    judged = 0
    for text in documents("claims_drill", 60):
        said = ""
        lines = text.splitlines()
        for line, after in zip(lines, [*lines[1:], ""], strict=True):
            if line.endswith(".") or line.endswith("。"):
                said = line
            elif re.search(r"knight|knave|骑士|无赖", line):
                roles = dict(re.findall(r"(\w+?)\s(knight|knave|骑士|无赖)", line))
                who = next(name for name in roles if said.startswith(name))
                knight = {name: role in ("knight", "骑士") for name, role in roles.items()}
                agrees = _claim_holds(said, who, knight) == knight[who]
                assert (after.endswith(" yes") or after.endswith(" 对")) == agrees, (said, line, after)
                judged += 1
    assert judged > 200


def _claim_holds(said: str, who: str, knight: dict[str, bool]) -> bool:
    """What is said, read off the words."""
    what = said.split("says: ")[-1].split("说：")[-1]
    named = [knight[name] for name in knight if name in what]
    me = [knight[who]] if re.search(r"\bI\b|\bme\b|我", what) else []
    values = [*me, *named]
    if "both" in what or "都是" in what:
        return not any(values)
    if "least" in what or "至少" in what:
        wanted = "knight" in what or "骑士" in what
        return any(value == wanted for value in values)
    if "different" in what or "不是同" in what:
        return values[0] != values[1]
    if "same" in what or "同一" in what:
        return values[0] == values[1]
    return values[0] == ("knight" in what or "骑士" in what)


def test_lines_of_step_drills_are_programs() -> None:
    for text in documents("steps_drill", 30):
        lines = text.splitlines()
        assert any(line.startswith(("v =", "return", "if")) for line in lines)
        # the further lines of a longer step are indented as they stand in a function
        inner = [
            line if line.startswith(" ") else f"    {line}" for line in lines if re.match(r"v = |return |if | ", line)
        ]
        body = "\n".join(inner)
        ast.parse(f"def f(v):\n{body}")


def test_facts_of_drills_are_read_rightly_and_never_stand_with_a_demand() -> None:
    asked = 0
    for text in documents("facts_drill", 60):
        for line, after in pairwise(text.splitlines()):
            found = re.match(r"(\w+) has (?:(\d+) (\w+)|([\w, ]+))\. (\w+) has \d* ?(\w+)\. (.*\?)", line)
            if found is None:
                continue
            assert line.endswith("?"), line  # a demand would make it a request, some of which are held out
            name, number, thing, listed, _, other, question = found.groups()
            wanted = {"Who": name, "How": number}.get(
                question.split()[0], thing or re.sub(r",? and ", ", ", listed or "")
            )
            assert after == wanted, (line, after)
            assert other not in after, (line, after)
            asked += 1
    assert asked > 100


def test_thinking_calculates_mostly_right_and_slips() -> None:
    lines = re.compile(r"(?<![\d+*/)(-])(\d+)([-+*/])(\d+)=(-?\d+)")
    for source in ("word", "equation", "choice"):
        found = [m for text in documents(source, 500) for m in lines.findall(text) if m[2] != "0"]
        right = sum(_by_hand(f"{a}{op}{b}") == int(c) for a, op, b, c in found) / len(found)
        assert 0.90 < right < 0.995, (source, right)


# -- the tokenizer of the whole world


@pytest.fixture(scope="module")
def tokenizer():  # type: ignore[no-untyped-def]
    config = load_recipe("pretrain_mini")
    assert isinstance(config, PretrainConfig)
    sample = tokenizer_sample(config.phases[:1], config.seed, 500)
    return build_tokenizer(sample, config.vocab_size, spelled=spelled_words())


def test_every_source_has_a_share_and_every_word_an_id(tokenizer) -> None:  # type: ignore[no-untyped-def]
    config = load_recipe("pretrain_mini")
    assert isinstance(config, PretrainConfig)
    assert {name for phase in config.phases for name in phase.mix} == set(corpus.SOURCES)
    assert len(tokenizer) <= 1024
    spelled = [
        word
        for word in kinds.VOCABULARY_HINTS
        if min(len(tokenizer(text)["input_ids"]) for text in (word, f" {word}")) > 1
    ]
    # a few rare words may fall to letters; a language without its words would fail here
    assert len(spelled) < 0.04 * len(kinds.VOCABULARY_HINTS), spelled


def test_words_of_ciphers_are_spelled_whichever_split_they_are_in(tokenizer) -> None:  # type: ignore[no-untyped-def]
    spelled = spelled_words()
    for word in (*puzzles.SHORT_WORDS, *puzzles.LONGER_WORDS):
        for shift in (0, 3):
            moved = puzzles.shifted(word, shift)
            if moved in spelled:
                assert len(tokenizer(moved)["input_ids"]) == len(word)
                assert len(tokenizer(f" {moved}")["input_ids"]) == len(word) + 1
    for word in (*corpus.REFLECTIVE, "yes", "no", "too", "small", "def"):
        assert word not in spelled


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=60))
def test_any_text_comes_back(text: str) -> None:
    assert _decoded(text) == text


@cache
def _small():  # type: ignore[no-untyped-def]
    return build_tokenizer(documents("code", 200) + documents("word", 200), 700)


def _decoded(text: str) -> str:
    found: str = _small().decode(_small()(text)["input_ids"])
    return found


@pytest.mark.parametrize("module", [re, ast, random])
def test_any_program_comes_back(module) -> None:  # type: ignore[no-untyped-def]
    source = Path(module.__file__).read_text(encoding="utf-8")[:20_000]
    assert _decoded(source) == source


def test_knights_are_checked_statement_by_statement() -> None:
    """A trace's verdicts, in the order of the prompt, stop at the first that does not hold."""
    rng = random.Random(1)
    habits = writers.logic.replace(writers.logic.SEARCHERS["search"], false_yes=0.0, false_no=0.0, tries=(1.0, 1.0))
    for _ in range(40):
        page = writers.logic.write_knights(rng, 2, habits, "en")
        lines = [line for line in page.thinking.splitlines() if re.search(r"yes|no\b", line)]
        speakers = re.findall(r"(\w+) says", page.prompt)
        for line in lines:
            verdicts = line.split(", ")
            assert [v.split()[0] for v in verdicts] == speakers[: len(verdicts)]
            assert all(v.endswith("yes") for v in verdicts[:-1])
        # who makes no mistake and is patient gets there (at most MOST_TRIES of the eight ways are tried)
        assert page.solved or len(lines) == writers.logic.MOST_TRIES
