"""Typed configuration: defaults < preset < recipe file < ``key=value``.

A preset named in the recipe lies under the recipe's own keys; a preset named on the command line lies
over the recipe and under the other command-line keys, so that ``r1 run r1_zero preset=r1_paper`` does
what it says instead of being silently outvoted by the recipe.

Keys are flat and carry TRL's names where TRL has one. torch is not imported here.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticUndefined

from r1kit.config.cold_start import ColdStartConfig
from r1kit.config.grpo import PRESETS, GRPOConfig
from r1kit.config.pipeline import PipelineConfig, with_stage_overrides
from r1kit.config.preferences import PreferencesConfig
from r1kit.config.pretrain import CorpusPhase, PretrainConfig
from r1kit.config.rejection import RejectionConfig
from r1kit.config.reward_model import REWARD_PRESETS, RewardModelConfig
from r1kit.config.self_instruct import SelfInstructConfig
from r1kit.config.shared import PolicyConfig, RecipeConfig, RolloutConfig, SupervisedKeys
from r1kit.config.supervised import SFT_PRESETS, DistillConfig, SFTConfig
from r1kit.config.toml import toml_text, type_text
from r1kit.types import UserError

__all__ = [
    "COMMAND_LINE", "KEYS_WITHOUT_EFFECT", "METHODS", "PRESETS", "REWARD_PRESETS", "SFT_PRESETS", "ColdStartConfig",
    "CorpusPhase", "DistillConfig", "GRPOConfig", "KeyDescription", "PipelineConfig", "PolicyConfig",
    "PreferencesConfig", "PretrainConfig", "Recipe", "RecipeConfig", "RejectionConfig", "RewardModelConfig",
    "RolloutConfig", "SFTConfig", "SelfInstructConfig", "SupervisedKeys", "config_from_dict", "describe_keys",
    "differences", "load_recipe", "override_text", "recipe_names", "stage_config",
]  # fmt: skip

COMMAND_LINE = "command line"

Recipe = (
    GRPOConfig | PretrainConfig | SFTConfig | DistillConfig | RewardModelConfig | PipelineConfig | ColdStartConfig
    | RejectionConfig | SelfInstructConfig | PreferencesConfig
)  # fmt: skip
METHODS: Mapping[str, type[Recipe]] = {
    "grpo": GRPOConfig,
    "pretrain": PretrainConfig,
    "sft": SFTConfig,
    "distill": DistillConfig,
    "reward_model": RewardModelConfig,
    "pipeline": PipelineConfig,
    "cold_start": ColdStartConfig,
    "rejection": RejectionConfig,
    "self_instruct": SelfInstructConfig,
    "preferences": PreferencesConfig,
}

# Keys that change no number of a run: a run resumes although they differ.
KEYS_WITHOUT_EFFECT = frozenset(
    {
        "output_dir",
        "sample_every",
        "keep_checkpoints",
        "overlap_scoring",
        "report_to",
        "project",
        "run_name",
        "log_completions",
        # how patiently a server is asked: who raises a limit after a time-out goes on with what was judged
        "server_timeout",
        "server_tries",
        "server_concurrency",
        "server_api_key_env",
    }
)


def recipe_names() -> tuple[str, ...]:
    """Names of the recipes inside the package, sorted."""
    folder = resources.files("r1kit.recipes")
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The configuration of a recipe.

    ``name_or_path`` is the name of a recipe in the package (``r1_zero_mini``) or a path to a TOML file.
    ``overrides`` are ``key=value`` texts whose values are read as TOML, or as plain text where they are
    not TOML (``model=mini-base``). Raises UserError naming the file (or the command line), the key, the
    value and what was expected.
    """
    name, origin, text = _read_recipe(name_or_path)
    from_file = _parse_toml(text, origin)
    from_command = dict(_parse_override(override) for override in overrides)
    if from_file.get("method") == "pipeline":
        from_file, from_command = with_stage_overrides(from_file, from_command)
    layers: list[tuple[Mapping[str, Any], str]] = [({"recipe": name}, origin)]
    layers += _with_preset(from_file, origin) + _with_preset(from_command, COMMAND_LINE)
    return _validate(*_merged(layers), origin)


def stage_config(keys: Mapping[str, Any], origin: str, *, recipe: str, defaults: Mapping[str, Any]) -> Recipe:
    """The configuration of a pipeline's stage: ``defaults`` < the keys of its ``recipe`` ("": none) < its own ``keys``.

    ``origin`` is named in errors (UserError). Presets lie under the keys that they stand beside.
    """
    layers: list[tuple[Mapping[str, Any], str]] = [(defaults, origin)]
    if recipe:
        _, file_origin, text = _read_recipe(recipe)
        layers += _with_preset(_parse_toml(text, file_origin), file_origin)
    return _validate(*_merged([*layers, *_with_preset(keys, origin)]), origin)


def _merged(layers: Sequence[tuple[Mapping[str, Any], str]]) -> tuple[dict[str, Any], dict[str, str]]:
    """The values of layers that lie over each other, and where each comes from."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer, layer_origin in layers:
        values.update(layer)
        origins.update(dict.fromkeys(layer, layer_origin))
    return values, origins


def config_from_dict(values: Mapping[str, Any], origin: str = "configuration") -> Recipe:
    """The configuration that ``values`` (as in ``config.json``) describe. ``origin`` is named in errors."""
    return _validate(dict(values), {}, origin)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Keys, sorted, in which two configurations (as in ``config.json``) differ.

    Keys that change no number of the run are ignored, and a key that one of the two does not know (it
    was written by another version) counts as that key's default.
    """
    model = METHODS.get(str(new.get("method")))
    keys = (set(old) | set(new)) - KEYS_WITHOUT_EFFECT
    return sorted(key for key in keys if _value_or_default(old, key, model) != _value_or_default(new, key, model))


def override_text(key: str, value: Any) -> str:
    """``key=value`` as ``load_recipe`` reads it: the exact inverse for texts, numbers, lists, tables and None."""
    return f"{key}={toml_text(value)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyDescription:
    """A configuration key for documentation: ``default`` and ``values`` as text."""

    name: str
    values: str
    default: str
    description: str


def describe_keys(method: str) -> tuple[KeyDescription, ...]:
    """Every key of a method's configuration, in the order in which they are declared."""
    described = []
    for name, info in METHODS[method].model_fields.items():
        default = "required" if info.is_required() else toml_text(info.default)
        described.append(
            KeyDescription(
                name=name, values=type_text(info.annotation), default=default, description=info.description or ""
            )
        )
    return tuple(described)


def _read_recipe(name_or_path: str | Path) -> tuple[str, str, str]:
    """(name, origin for errors, TOML text)."""
    name = str(name_or_path)
    if name in recipe_names():
        return name, f"{name}.toml", (resources.files("r1kit.recipes") / f"{name}.toml").read_text(encoding="utf-8")
    path = Path(name_or_path)
    if path.is_file():
        try:
            return path.stem, str(path), path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the recipe {path}: {error}") from error
    if path.suffix == ".toml" or len(path.parts) > 1:
        raise UserError(f"there is no recipe file {path}; recipes in the package: {', '.join(recipe_names())}")
    hint = _did_you_mean(name, recipe_names()) or "; give a name or the path of a .toml file"
    raise UserError(f"there is no recipe {name!r}{hint} (recipes in the package: {', '.join(recipe_names())})")


def _parse_toml(text: str, origin: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{origin} is not valid TOML: {error}") from error


def _parse_override(override: str) -> tuple[str, Any]:
    key, separator, text = override.partition("=")
    key, text = key.strip(), text.strip()
    if not separator or not key:
        raise UserError(f"{override!r} on the command line is not key=value, such as max_steps=200")
    try:
        return key, text if "\n" in text else tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key, text


def _with_preset(layer: Mapping[str, Any], origin: str) -> list[tuple[Mapping[str, Any], str]]:
    preset = layer.get("preset", "none")
    known = {**PRESETS, **SFT_PRESETS, **REWARD_PRESETS}.get(preset, {}) if isinstance(preset, str) else {}
    return [(known, f"preset {preset}"), (layer, origin)]


def _validate(values: dict[str, Any], origins: Mapping[str, str], origin: str) -> Recipe:
    method = values.get("method", "grpo")
    if not isinstance(method, str) or method not in METHODS:
        place = origins.get("method", origin)
        raise UserError(f"{place}: method = {toml_text(method)} is not known; expected one of {', '.join(METHODS)}")
    config = METHODS[method]
    for key in values:
        if key not in config.model_fields:
            place = origins.get(key, origin)
            hint = _other_method_hint(key, method) or _did_you_mean(key, config.model_fields)
            hint = hint or "; `r1 run` with `--show` lists the keys that there are"
            raise UserError(f"{place}: unknown key {key!r}{hint}")
    try:
        return config.model_validate(values)
    except ValidationError as error:
        raise UserError(_sentence(error.errors(), origins, origin)) from error


def _sentence(errors: Sequence[ErrorDetails], origins: Mapping[str, str], origin: str) -> str:
    """One sentence for the first key that is wrong; a union gives several errors for one key."""
    key = str(errors[0]["loc"][0]) if errors[0]["loc"] else ""
    if not key:
        return f"{origin}: {_expected(errors[0])}"
    same_key = [error for error in errors if str(error["loc"][0]) == key]
    first = same_key[0]
    inner = [str(part) for part in first["loc"][1:] if isinstance(part, int) or part in CorpusPhase.model_fields]
    place = key + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in inner)
    expected = " or ".join(dict.fromkeys(_expected(error) for error in same_key)).replace(" or expected", " or")
    shown = "" if first["type"] in ("missing", "value_error") else f" = {toml_text(first['input'])}"
    return f"{origins.get(key, origin)}: {place}{shown}: {expected}"


_PLAIN_WORDS = {
    "valid ": "",
    "a integer": "an integer",
    "a tuple": "a list",
    "a boolean": "true or false",
    "a dictionary": "a table",
    "a string": "a text",
    " or None": "",
}


def _expected(error: ErrorDetails) -> str:
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return "this key is required"
    if error["type"] == "extra_forbidden":
        return f"unknown key{_did_you_mean(str(error['loc'][-1]), CorpusPhase.model_fields)}"
    if not message.startswith("Input should be "):
        return message[:1].lower() + message[1:]
    message = message.removeprefix("Input should be ")
    for words, plain in _PLAIN_WORDS.items():
        message = message.replace(words, plain)
    return f"expected {'a value ' if message.startswith(('greater', 'less')) else ''}{message}"


def _did_you_mean(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def _other_method_hint(key: str, method: str) -> str:
    others = [name for name, config in METHODS.items() if name != method and key in config.model_fields]
    return f" for method {method!r} (it belongs to {', '.join(others)})" if others else ""


def _value_or_default(values: Mapping[str, Any], key: str, model: type[BaseModel] | None) -> Any:
    if key in values:
        return values[key]
    info = model.model_fields.get(key) if model else None
    if info is None or info.default is PydanticUndefined:
        return PydanticUndefined
    return list(info.default) if isinstance(info.default, tuple) else info.default
