"""Configuration: layers, errors that help, recipes that load."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from r1kit.config import (
    METHODS,
    PRESETS,
    GRPOConfig,
    PretrainConfig,
    config_from_dict,
    describe_keys,
    differences,
    load_recipe,
    override_text,
    recipe_names,
)
from r1kit.types import Kind, UserError


def grpo(*overrides: str, recipe: str | Path = "r1_zero_mini") -> GRPOConfig:
    config = load_recipe(recipe, overrides)
    assert isinstance(config, GRPOConfig)
    return config


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_in_the_package_loads_and_survives_json(name: str) -> None:
    config = load_recipe(name)
    assert config.recipe == name
    assert config.output_dir == f"runs/{name}"
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_shipped_recipes_are_there() -> None:
    assert {"r1_zero", "r1_zero_mini", "pretrain_mini"} <= set(recipe_names())
    assert isinstance(load_recipe("pretrain_mini"), PretrainConfig)


def test_mini_recipe_is_the_measured_setting() -> None:
    config = grpo()
    assert (config.problems_per_rollout, config.num_generations, config.max_completion_length) == (32, 8, 576)
    assert (config.learning_rate, config.beta, config.loss_type) == (3e-4, 0.0, "dapo")
    assert (config.reward_funcs, config.reward_weights) == (("accuracy", "format"), (1.0, 1.0))
    assert config.problems == ("countdown3",)
    assert config.eval_problems == ("countdown3", "countdown4")
    assert "length" not in config.reward_funcs


def test_layers_default_preset_recipe_override(tmp_path: Path) -> None:
    path = write(tmp_path, 'preset = "r1_paper"\nnum_generations = 4\nepsilon = 5.0\nmax_steps = 1600\n')
    config = grpo("epsilon=7", recipe=path)
    assert config.temperature == 1.0  # default
    assert config.ref_refresh_steps == 400  # preset over default
    assert config.num_generations == 4  # recipe over preset
    assert config.epsilon == 7.0  # command line over recipe
    assert config.recipe == "mine"


def test_preset_on_the_command_line_lies_over_the_recipe() -> None:
    config = grpo("preset=r1_paper", "max_steps=32", "epsilon=3")
    assert config.learning_rate == 3e-6
    assert config.loss_type == "grpo"
    assert config.epsilon == 3.0
    assert config.max_completion_length == 576


def test_r1_paper_preset_has_the_papers_geometry() -> None:
    config = grpo("preset=r1_paper", "max_steps=10400")
    assert config.problems_per_rollout * config.num_generations == 8192
    assert 8192 // config.steps_per_generation == 512 == 32 * config.num_generations
    assert config.max_steps // config.steps_per_rollout == 650
    assert (config.epsilon, config.epsilon_high) == (10.0, None)
    assert (config.beta, config.learning_rate, config.ref_refresh_steps) == (0.001, 3e-6, 400)
    assert (config.reward_funcs, config.reward_weights) == (("accuracy", "format"), (1.0, 1.0))


def test_other_presets() -> None:
    dapo = grpo("preset=dapo")
    assert (dapo.epsilon, dapo.epsilon_high) == (0.2, 0.28)
    assert dapo.mask_truncated_completions
    dr_grpo = grpo("preset=dr_grpo")
    assert (dr_grpo.scale_rewards, dr_grpo.loss_type, dr_grpo.beta) == ("none", "dr_grpo", 0.0)
    for preset in PRESETS.values():
        assert set(preset) <= set(GRPOConfig.model_fields)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("model=my/model-1.5B", "model", "my/model-1.5B"),
        ('model="quoted"', "model", "quoted"),
        ("output_dir=runs/a b", "output_dir", "runs/a b"),
        ("learning_rate=1e-4", "learning_rate", 1e-4),
        ("temperature=1", "temperature", 1.0),
        ("save_rollouts=false", "save_rollouts", False),
        ('problems=["a", "b"]', "problems", ("a", "b")),
        ("problems=one.jsonl", "problems", ("one.jsonl",)),
        ("epsilon_high=0.3", "epsilon_high", 0.3),
        ("epsilon_high=none", "epsilon_high", None),
        ("torch_threads=2", "torch_threads", 2),
        ("torch_threads=auto", "torch_threads", "auto"),
        ("stop=</answer>", "stop", ("</answer>",)),
        ("recipe=other", "output_dir", "runs/other"),
        ("model=a=b", "model", "a=b"),
        ("max_steps=1_000", "max_steps", 1000),
    ],
)
def test_override_values(override: str, key: str, value: Any) -> None:
    assert getattr(grpo(override), key) == value


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("num_generation=4", ("command line", "'num_generation'", "did you mean 'num_generations'?")),
        ("max_steps=many", ("command line", 'max_steps = "many"', "expected an integer")),
        ('max_steps="100"', ('max_steps = "100"', "expected an integer")),
        ("max_steps=true", ("max_steps = true", "expected an integer")),
        ("num_generations=1", ("num_generations = 1", "greater than or equal to 2")),
        ("loss_type=dpo", ('loss_type = "dpo"', "'grpo', 'dapo', 'dr_grpo' or 'bnpo'")),
        ("torch_threads=0", ("torch_threads = 0", "greater than or equal to 1 or 'auto'")),
        ("learning_rate=nan", ("learning_rate", "finite")),
        ("save_rollouts=1", ("save_rollouts = 1", "expected true or false")),
        ("problems=3", ("problems = 3", "expected a list")),
        ("problems=[1]", ("problems[0] = 1", "expected a text")),
        ("top_p=0.9", ("top_p = 0.9", "log-probability", "use top_p = 1.0")),
        ("max_steps", ("'max_steps'", "not key=value")),
        ("steps_per_generation=5", ("32 x 8 = 256", "steps_per_generation = 5")),
        ("reward_weights=[1.0]", ("1 values for 2 reward_funcs",)),
        ("ref_refresh_steps=400", ("no effect with beta = 0",)),
        ("method=ppo", ("command line", 'method = "ppo"', "grpo, pretrain, sft, distill")),
        ("hidden_size=64", ("'hidden_size'", "belongs to pretrain")),
        ("preset=r1", ('preset = "r1"', "'r1_paper'")),
    ],
)
def test_mistakes_get_one_sentence_with_place_and_mend(override: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe("r1_zero_mini", [override])
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", "none"),
        ("model", 'a "quoted" \\ text\n\t等 😀 \x7f'),
        ("model", "12"),
        ("learning_rate", 1.2345678901234567e-5),
        ("epsilon_high", None),
        ("save_rollouts", False),
        ("problems", ("a", "b c")),
        ("reward_weights", (1.0, 1 / 3)),
        ("max_steps", 7),
    ],
)
def test_override_text_is_read_back_exactly(key: str, value: Any) -> None:
    text = override_text(key, value)
    assert getattr(grpo(text), key) == value


def test_max_steps_must_be_whole_rollouts() -> None:
    with pytest.raises(UserError, match=r"max_steps = 10 .*4 steps each.*use 8 or 12"):
        grpo("max_steps=10", "steps_per_generation=2", "num_iterations=2")
    assert grpo("max_steps=12", "steps_per_generation=2", "num_iterations=2").steps_per_rollout == 4


def test_mistakes_in_a_file_name_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "max_step = 3\n")
    with pytest.raises(UserError, match=r"mine\.toml: unknown key 'max_step'; did you mean 'max_steps'\?"):
        load_recipe(path)
    with pytest.raises(UserError, match=r"unknown key 'zzzz'; `r1 run` with `--show` lists the keys"):
        grpo("zzzz=1")
    path = write(tmp_path, "max_steps = = 3\n")
    with pytest.raises(UserError, match=r"mine\.toml is not valid TOML.*line 1"):
        load_recipe(path)
    path = write(tmp_path, 'max_steps = "x"\n')
    with pytest.raises(UserError, match=r"mine\.toml: max_steps = \"x\": expected an integer"):
        load_recipe(path, ["seed=3"])


def test_unknown_recipe_lists_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"did you mean 'r1_zero_mini'\?.*pretrain_mini, .*r1_zero"):
        load_recipe("r1_zero_minny")
    with pytest.raises(UserError, match=r"no recipe file .*absent\.toml.*r1_zero_mini"):
        load_recipe(tmp_path / "absent.toml")


def test_configuration_is_frozen() -> None:
    with pytest.raises(ValidationError):
        grpo().seed = 3  # type: ignore[misc]


def test_pretrain_phases(tmp_path: Path) -> None:
    first, second = "tokens = 10\nmix = {web = 1}", "tokens = 20\nmix = {a = 0.5, b = 2}"
    text = f'method = "pretrain"\n[[phases]]\n{first}\n[[phases]]\n{second}\n'
    config = load_recipe(write(tmp_path, text))
    assert isinstance(config, PretrainConfig)
    assert [(phase.tokens, phase.mix) for phase in config.phases] == [(10, {"web": 1.0}), (20, {"a": 0.5, "b": 2.0})]
    assert config.tokens == 30
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config
    for wrong, right, message in (
        ("tokens = 20", 'tokens = "x"', r'phases\[1\]\.tokens = "x": expected an integer'),
        ("web = 1", "web = 0", r"phases\[0\]: .*sum to 0"),
        ("mix = {web", "mx = {web", r"phases\[0\]\.mix: this key is required or unknown key; did you mean 'mix'"),
        ("tokens = 10", "tokens = 10\nsequence_length = 9999", r"phases\[0\]\.sequence_length = 9999 is larger than"),
    ):
        with pytest.raises(UserError, match=message):
            load_recipe(write(tmp_path, text.replace(wrong, right)))
    phases = load_recipe(write(tmp_path, text), [override_text("phases", [{"tokens": 3, "mix": {"a b": 0.1}}])])
    assert isinstance(phases, PretrainConfig)
    assert phases.phases[0].mix == {"a b": 0.1}


def test_differences_ignore_what_changes_no_number() -> None:
    old = grpo().to_dict()
    new = grpo("output_dir=elsewhere", "sample_every=1", "keep_checkpoints=9").to_dict()
    assert differences(old, new) == []
    assert differences(old, grpo("seed=1", "stop=x").to_dict()) == ["seed", "stop"]
    older = {key: value for key, value in old.items() if key not in ("delta", "stop")}
    assert differences(older, old) == []
    assert differences(older, grpo("delta=2").to_dict()) == ["delta"]
    assert "method" in differences(old, load_recipe("pretrain_mini").to_dict())


def test_every_key_is_described() -> None:
    for method, model in METHODS.items():
        keys = describe_keys(method)
        assert [key.name for key in keys] == list(model.model_fields)
        assert all(key.description.endswith(".") and key.values for key in keys)
    by_name = {key.name: key for key in describe_keys("grpo")}
    assert by_name["loss_type"].values == "grpo | dapo | dr_grpo | bnpo"
    assert by_name["torch_threads"].values == "integer | auto"
    assert by_name["epsilon_high"].default == '"none"'
    assert by_name["problems"].values == "list of text"


def test_defaults_shown_in_the_docs_can_be_written_in_a_recipe(tmp_path: Path) -> None:
    lines = [f"{key.name} = {key.default}" for key in describe_keys("grpo") if key.default != "required"]
    text = "\n".join(lines)
    assert tomllib.loads(text)
    assert load_recipe(write(tmp_path, text)) == load_recipe(write(tmp_path, ""))


def test_problem_kinds_are_those_of_the_records() -> None:
    annotation = GRPOConfig.model_fields["problem_kind"].annotation
    assert set(get_args(annotation)) == {"auto", *get_args(Kind)}


@pytest.mark.parametrize("recipe", ["r1_zero", "r1_zero_mini"])
@pytest.mark.parametrize("preset", ["none", "r1_paper", "dapo", "dr_grpo"])
def test_every_preset_fits_every_recipe(recipe: str, preset: str) -> None:
    assert load_recipe(recipe, [f"preset={preset}"])
