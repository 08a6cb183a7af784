"""Pre-training as a recipe: the plan, an interrupted run, the model and its card."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from r1kit import mini
from r1kit.config import PretrainConfig, load_recipe
from r1kit.devices import set_threads
from r1kit.mini import kinds
from r1kit.policy import load_policy
from r1kit.run_directory import Run, Stopped, read_json_lines, unpack_rows
from r1kit.runner import resolve_model, run_recipe
from r1kit.train import pretrain
from r1kit.types import UserError

RECIPE = """
method = "pretrain"
batch_tokens = 256
hidden_size = 16
intermediate_size = 32
num_hidden_layers = 1
num_attention_heads = 2
num_key_value_heads = 1
vocab_size = 512
save_every = 2
card_problems = 2
card_samples = 2
card_sets = ["countdown3", "arithmetic", "word-2", "logic-zh"]
early_tokens = 1000
eval_every = 6
eval_size = 1
torch_threads = 1
[[phases]]
tokens = 1024
sequence_length = 64
mix = { drill = 0.5, word = 0.5 }
[[phases]]
tokens = 600
sequence_length = 100
mix = { word = 0.6, equation = 0.4 }
"""


class Silent:
    def update(self, step: int, metrics: object) -> None: ...

    def sample(self, prompt: str, completion: str, reward: float, gold: str) -> None: ...


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny_base.toml"
    path.write_text(RECIPE)
    return path


def test_the_plan_covers_the_phases(recipe: Path) -> None:
    config = load_recipe(recipe)
    assert isinstance(config, PretrainConfig)
    steps = pretrain.plan(config)
    assert [(step.index, step.step, step.rows) for step in steps] == [
        (0, 0, 4), (0, 1, 4), (0, 2, 4), (0, 3, 4), (1, 0, 2), (1, 1, 2), (1, 2, 2),
    ]  # fmt: skip
    assert config.tokens == 1624


def test_stopped_and_resumed_it_ends_the_same(recipe: Path, tmp_path: Path) -> None:
    def run(directory: Path, stop_at: int | None) -> bytes:
        config = load_recipe(recipe, [f"output_dir={directory}"])
        assert isinstance(config, PretrainConfig)
        set_threads(1)
        with Run.open(directory, config, command=["r1"]) as opened:
            policy = pretrain.new_policy(config)
            learner = pretrain.make_learner(config, policy)
            pretrain.train(config, learner, opened, Silent(), lambda: learner.step == stop_at)
        return (directory / "checkpoints" / "000007" / "weights.safetensors").read_bytes()

    alone = run(tmp_path / "alone", None)
    with pytest.raises(Stopped, match="step 3"):
        run(tmp_path / "cut", 3)
    assert run(tmp_path / "cut", None) == alone


def test_the_recipe_makes_a_model_with_a_card(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_recipe(load_recipe(recipe, [f"output_dir={out}"]), ["r1"])
    card = json.loads((out / "model" / "base_card.json").read_text())
    assert {"countdown3", "arithmetic", "word-2", "logic-zh"} == set(card["sets"])
    assert {"pass@1", "pass@2", "accuracy_by_length"} <= set(card["sets"]["countdown3"])
    solves = card["corpus"]["generator_solves"]
    assert {"countdown3/careful", "word-1/once", "code-3/program", "request-1/usual"} <= set(solves)
    assert card["tokens"] == 1624
    assert "What was planted" in (out / "model" / "README.md").read_text()
    assert read_json_lines(out / "metrics.jsonl")[-1]["step"] == 7
    assert (out / "report.html").is_file()
    asked = [row for row in read_json_lines(out / "metrics.jsonl") if "eval/accuracy" in row]
    assert [row["step"] for row in asked] == [6]
    rows = unpack_rows((out / "evals" / "000006.jsonl.gz").read_bytes())
    assert len(rows) == len(kinds.names())
    # the model as it was after the fourth step, of 256 tokens
    early = load_policy(out / "model_early").model
    late = load_policy(out / "model").model
    assert any(not torch.equal(a, b) for a, b in zip(early.parameters(), late.parameters(), strict=True))
    about = json.loads((out / "model_early" / "base_card.json").read_text())
    assert (about["early"], about["tokens"], card["early"]) == (True, 1000, False)
    assert "saved early on" in (out / "model_early" / "README.md").read_text()


def test_a_base_of_another_family_takes_anothers_tokenizer_and_phases(tmp_path: Path) -> None:
    config = load_recipe(
        "pretrain_mini_student",
        ["architecture=qwen2", "tokenizer=mini-base", "hidden_size=16", "num_attention_heads=2"],
    )
    assert isinstance(config, PretrainConfig)
    whole = load_recipe("pretrain_mini")
    assert isinstance(whole, PretrainConfig)
    assert [phase.mix for phase in config.phases] == [phase.mix for phase in whole.phases]
    assert config.tokens == whole.tokens // 2
    policy = pretrain.new_policy(config)
    assert policy.model.config.model_type == "qwen2"
    shipped = load_policy(resolve_model("mini-base")).tokenizer
    assert policy.tokenizer.get_vocab() == shipped.get_vocab()
    learner = pretrain.make_learner(config, policy)
    step = pretrain.plan(config)[0]
    first = pretrain.take_step(step, learner, config, policy.tokenizer)
    for _ in range(3):
        last = pretrain.take_step(replace(step, learning_rate=3e-3), learner, config, policy.tokenizer)
    assert last["loss"] < first["loss"]


def test_borrowed_phases_and_tokenizers_must_exist() -> None:
    with pytest.raises(UserError, match=r"phases_of = 'nothing' is no recipe of the package that has phases"):
        load_recipe("pretrain_mini_student", ["phases_of=nothing"])
    config = load_recipe("pretrain_mini_student", ["tokenizer=nowhere"])
    assert isinstance(config, PretrainConfig)
    with pytest.raises(UserError, match=r"tokenizer = 'nowhere'.*no tokenizer\.json"):
        pretrain.new_policy(config)


def test_a_base_that_is_not_shipped_says_how_to_make_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mini.BASES, "mini-none", ("none", "pretrain_mini_student"))
    with pytest.raises(UserError, match=r"mini-none does not come with this version.*r1 run pretrain_mini_student"):
        resolve_model("mini-none")
    assert resolve_model("some/model") == "some/model"
