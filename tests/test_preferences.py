"""Preferences: whom to compare, judges, verdicts, length balance, labels, win rates, and the recipe end to end."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chat_server import chat_server
from helpers import needs_mini
from r1kit.config import load_recipe
from r1kit.config.preferences import PreferencesConfig
from r1kit.engines.server import Ask
from r1kit.run_directory import Run, Stopped
from r1kit.runner import run_recipe
from r1kit.stages import preferences as stage
from r1kit.stages.asking import Answers
from r1kit.stages.cold_start import Sample
from r1kit.stages.data_files import Funnel
from r1kit.stages.preferences import Contest, ModelJudge, RuleJudge
from r1kit.tasks.preferences import load_labelled, load_preferences
from r1kit.types import Message, Preference, Problem, UserError
from tiny_models import make_tiny_checkpoint


def sample(text: str, right: bool | None = None, *, name: str = "p", place: int = 0, origin: str = "model") -> Sample:
    problem = Problem(id=name, messages=(Message(role="user", content=f"ask {name}"),), kind="general")
    cut = text.startswith("CUT")
    return Sample(problem=problem, place=place, text=text, tokens=3, right=right, cut_off=cut, origin=origin)


def contest(first: bool | None, second: bool | None, name: str = "p") -> Contest:
    return Contest(first=sample("one", first, name=name), second=sample("two", second, name=name, place=1))


# ------------------------------------------------------------------------------------------ whom to compare


def test_contests_are_between_whole_answers_that_differ() -> None:
    texts = ["<think>a</think>x", "<think>b</think>x", "<think>c</think>y", "<think>open", "CUT off"]
    samples = [sample(text, place=place) for place, text in enumerate(texts)]
    funnel = Funnel(stage.CUT_OFF, stage.UNREADABLE, stage.SAME)
    [found] = stage.contests_of(samples, 5, 0, funnel)
    assert {found.first.text, found.second.text} == {texts[0], texts[2]}
    assert dict(funnel.dropped) == {stage.CUT_OFF: 1, stage.UNREADABLE: 1, stage.SAME: 1}


def test_answers_of_different_models_meet_first() -> None:
    samples = [sample(f"t{i}", place=i, origin="model" if i < 3 else "model_2") for i in range(6)]
    found = stage.contests_of(samples, 4, 0, Funnel())
    assert len(found) == 4
    assert all(c.first.origin != c.second.origin for c in found)
    assert stage.contests_of(samples, 4, 0, Funnel()) == found
    assert stage.contests_of(samples, 4, 1, Funnel()) != found


def test_orders_are_random_and_balanced() -> None:
    orders = [stage.swaps(f"c{i}", 4, 0) for i in range(200)]
    assert all(sum(order) == 2 for order in orders)
    assert len({tuple(order) for order in orders}) == 6
    assert {sum(stage.swaps(f"c{i}", 3, 0)) for i in range(50)} == {1, 2}


# ------------------------------------------------------------------------------------------ judges


class Judging:
    """A judge model by a rule of its own, which likes the answer that stands first."""

    def __init__(self, bias: int, silent: bool = False) -> None:
        self.bias, self.silent, self.asked = bias, silent, 0

    def answer(self, asks: Sequence[Ask], keep: Any, should_stop: Any) -> None:
        for ask in asks:
            self.asked += 1
            texts = json.loads(ask.messages[-1]["content"])
            if "answer_A" in texts:
                value = 2 * (("good" in texts["answer_A"]) - ("good" in texts["answer_B"])) + self.bias
                names = {2: "A>>B", 1: "A>B", 0: "A=B", -1: "B>A", -2: "B>>A"}
                verdict = names[max(-2, min(2, value))]
            else:
                verdict = "unsafe" if "bad" in texts["answer"] else "safe"
            keep(ask, "I cannot say" if self.silent else json.dumps({"comparison": "{", "verdict": verdict}))


def model_judge(path: Path, judge: Judging) -> ModelJudge:
    return ModelJudge(answers=Answers(path / "judge.jsonl", "x", lambda: judge), tries=2)


def test_a_judge_that_likes_a_place_is_evened_out(tmp_path: Path) -> None:
    judge = model_judge(tmp_path, Judging(bias=1))
    pairs = [
        Contest(first=sample("dull", name=f"p{i}"), second=sample("good", name=f"p{i}", place=1)) for i in range(3)
    ]
    equal = Contest(first=sample("dull", name="e"), second=sample("grey", name="e", place=1))
    orders = [stage.swaps(c.id, 4, 0) for c in [*pairs, equal]]
    found = judge.compare([*pairs, equal], orders)
    assert all(sorted(said) == [-2, -2, -1, -1] for said in found[:3]), "from the first answer's side"
    assert sorted(found[3]) == [-1, -1, 1, 1]
    funnel = Funnel(*stage.PAIR_FUNNEL)
    kept = stage.judge_contests([*pairs, equal], judge, 4, 1.0, 0, funnel)
    assert [judged.mean for judged in kept] == [-1.5] * 3
    assert funnel.dropped[stage.CLOSE] == 1
    assert stage.preference_of(kept[0]).chosen == "good"


def test_nothing_is_judged_twice_and_no_verdict_is_counted(tmp_path: Path) -> None:
    first = Judging(bias=0)
    model_judge(tmp_path, first).compare([contest(None, None)], [[False, True, False, True]])
    assert first.asked == 4
    again = Judging(bias=0)
    model_judge(tmp_path, again).compare([contest(None, None)], [[False, True, False, True]])
    assert again.asked == 0
    (tmp_path / "other").mkdir()
    silent, funnel = Judging(bias=0, silent=True), Funnel(*stage.PAIR_FUNNEL)
    assert not stage.judge_contests([contest(None, None)], model_judge(tmp_path / "other", silent), 4, 1.0, 0, funnel)
    assert (silent.asked, funnel.dropped[stage.NO_VERDICT]) == (8, 1)


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ('{"verdict": "A>>B"}', 2),
        ('{"verdict": "[[B > A]]"}', -1),
        ('```json\n{"verdict": "A=B"}\n```', 0),
        ('{"verdict": "B>>A"} {"verdict": "C"}', -2),
        ('{"verdict": 2}', None),
        ("A>>B", None),
        ("{" * 5000, None),
    ],
)
def test_verdicts_are_read(reply: str, verdict: int | None) -> None:
    assert stage.read_verdict(reply) == verdict
    assert stage.read_label(reply) is None


def test_the_rule_judge_says_what_the_rules_say_with_as_much_noise_as_asked() -> None:
    contests = [contest(True, False, f"p{i}") for i in range(500)]
    orders = [[False] * 4] * 500
    assert RuleJudge(noise=0.0, seed=0).compare(contests, orders) == [[2] * 4] * 500
    noisy = np.array(RuleJudge(noise=0.2, seed=0).compare(contests, orders))
    assert set(noisy.ravel()) == {-2, 2}
    assert 0.17 < (noisy == -2).mean() < 0.23
    assert RuleJudge(noise=0.0, seed=0).compare([contest(None, True)], [[False]]) == [[None]]
    assert RuleJudge(noise=0.0, seed=0).compare([contest(True, True)], [[False]]) == [[0]]
    labels = RuleJudge(noise=0.0, seed=0).label([sample("a", True), sample("b", False), sample("c")], 2)
    assert labels == [[True, True], [False, False], [None, None]]


def test_labels_by_majority(tmp_path: Path) -> None:
    samples = [sample("<think>bad</think>x", name="a"), sample("fine", name="b"), sample("CUT", name="c")]
    funnel = Funnel(*stage.LABEL_FUNNEL)
    found = stage.labelled(samples, model_judge(tmp_path, Judging(bias=0)), 3, funnel)
    assert [(s.text, safe) for s, safe in found] == [("<think>bad</think>x", False), ("fine", True)], "thinking is read"
    assert funnel.dropped[stage.CUT_OFF] == 1


# ------------------------------------------------------------------------------------------ lengths


def pairs_of(differences: Sequence[int]) -> list[Preference]:
    prompt = (Message(role="user", content="?"),)
    return [
        Preference(id=str(i), prompt=prompt, chosen="x" * (200 + d), rejected="x" * 200)
        for i, d in enumerate(differences)
    ]


def test_after_the_balance_length_tells_nothing() -> None:
    rng = random.Random(0)
    pairs = pairs_of([round(rng.gauss(25, 40)) for _ in range(1000)])
    funnel = Funnel(stage.UNBALANCED)
    funnel.enter(len(pairs))
    kept = stage.balance_lengths(pairs, len, 0, funnel)
    before, after = stage.length_figures(pairs, len), stage.length_figures(kept, len)
    assert before["longer_chosen"] > 0.65
    assert after["longer_chosen"] == 0.5
    assert abs(after["chosen"] - after["rejected"]) < 2 < before["chosen"] - before["rejected"]
    assert funnel.kept == len(kept) > 300
    assert stage.balance_lengths(pairs, len, 0, Funnel()) == kept
    large = [pair for pair in kept if abs(len(pair.chosen) - 200) > 60]
    assert 0.3 < stage.length_figures(large, len)["longer_chosen"] < 0.7, "at every size, not on the whole only"


def test_equal_lengths_stay_and_one_sided_ones_go() -> None:
    assert len(stage.balance_lengths(pairs_of([0, 0, 5]), len, 0, Funnel())) == 2
    assert stage.balance_lengths([], len, 0, Funnel()) == []


# ------------------------------------------------------------------------------------------ the recipe


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    make_tiny_checkpoint(folder / "policy", "llama", initializer_range=0.02)
    rows = [{"prompt": f"say {i}", "kind": "exact", "answer": "x"} for i in range(24)]
    (folder / "asks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    human = [{"prompt": f"h{i}", "chosen": "yes " * (1 + i % 3), "rejected": "no " * (1 + i % 2)} for i in range(30)]
    (folder / "human.jsonl").write_text("".join(json.dumps(row) + "\n" for row in human))
    return folder


def config_of(world: Path, out: Path, *more: str) -> PreferencesConfig:
    asks = f"{world / 'asks.jsonl'}"
    named = [f"model={world / 'policy'}", f"problems={asks}", f"safety_problems={asks}", f"output_dir={out}"]
    fixed = ["template=plain", "torch_threads=1", "max_completion_length=4", "problems_per_rollout=8", "eval_size=1"]
    human = f"human_pairs={world / 'human.jsonl'}"
    config = load_recipe("preferences", [*named, *fixed, human, "num_problems=16", "num_generations=2", *more])
    assert isinstance(config, PreferencesConfig)
    return config


def test_a_run_makes_files_that_reward_models_read_and_resumes_to_the_same_bytes(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    noisy = "judge_noise=0.4"
    run_recipe(config_of(world, whole, noisy), ["r1"])
    pairs = load_preferences([str(whole / "data" / "preferences.jsonl")]).rows
    assert pairs
    card = json.loads((whole / "data" / "card.json").read_text())
    assert card["pairs"] == len(pairs)
    assert card["summary_tokens"]["after"].get("longer_chosen", 0.5) == 0.5
    assert "wrong on purpose" in (whole / "data" / "README.md").read_text()
    if (whole / "data" / "safety.jsonl").exists() and all(card["labels"].values()):
        load_labelled([str(whole / "data" / "safety.jsonl")])

    original, saved = Run.save_rollout, []

    def then_die(self: Run, rollout: int, rows: Any) -> None:
        original(self, rollout, rows)
        saved.append(rollout)
        if len(saved) == 2:
            raise Stopped("enough")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save_rollout", then_die)
        with pytest.raises(Stopped):
            run_recipe(config_of(world, cut, noisy), ["r1"])
    run_recipe(config_of(world, cut, noisy), ["r1"])
    for path in (whole / "data").iterdir():
        assert path.read_bytes().replace(b"whole", b"cut") == (cut / "data" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("min_difference=2", "keeps no pair"),
        ("learning_rate=0.1", "trains nothing"),
        ("max_repetition=0.1", "no effect"),
    ],
)
def test_settings_that_do_nothing_are_refused(world: Path, tmp_path: Path, override: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        config_of(world, tmp_path, override)


def test_no_pair_at_all_is_said_clearly(world: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no pair is left"):
        run_recipe(config_of(world, tmp_path / "run", "human_pairs=[]", "max_completion_length=2"), ["r1"])


@needs_mini
def test_a_judge_that_makes_no_sense_is_named_with_its_replies(tmp_path: Path) -> None:
    pytest.importorskip("openai")
    settings = ["model=mini-base", "template=chat", "problems=countdown3", "safety_problems=[]", "num_problems=4"]
    settings += ["num_generations=3", "max_completion_length=96", "torch_threads=1", f"output_dir={tmp_path / 'run'}"]
    with chat_server(lambda request: "I like turtles {") as (url, _):
        config = load_recipe("preferences", [*settings, f"judge={url}", "answer_tries=2"])
        with pytest.raises(UserError, match=r"no verdict of the judge\): .*look at its replies in .*judge\.jsonl"):
            run_recipe(config, ["r1"])
    assert not (tmp_path / "run" / "data").exists()
