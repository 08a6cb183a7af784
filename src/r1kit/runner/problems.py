"""Which of a recipe's problems can be used, and the hashes of what decides a run's numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from r1kit.config import GRPOConfig, RolloutConfig
from r1kit.policy import Policy
from r1kit.rewards.learned import ROUTE_COLUMN, routed_to
from r1kit.rewards.scorer import Scorer
from r1kit.run_directory import hash_path
from r1kit.runner.parts import resolve_model
from r1kit.tasks.rows import gold_text
from r1kit.tasks.sets import TrainingSets, load_training_sets
from r1kit.types import Problem, UserError


def usable(
    sets: TrainingSets, policy: Policy, config: RolloutConfig, scorer: Scorer, eval_scorer: Scorer
) -> tuple[TrainingSets, list[str]]:
    """The problems that can be asked and scored, and notes for people on what was left out and why.

    Left out are prompts longer than ``max_prompt_length`` or the model's context, and gold answers that cannot be read.
    Raises UserError where nothing is left to train on, or where accuracy is asked for and no problem has an answer.
    """
    notes = list(sets.notes)
    if "accuracy" in config.reward_funcs and not any(problem.gold for problem in sets.train):
        columns = sorted({name for problem in sets.train[:100] for name in problem.columns})
        raise UserError(
            f"no training problem has an answer to check (columns found: {', '.join(columns) or 'only the prompt'}): "
            "name the answer's column `answer`, or leave `accuracy` out of reward_funcs"
        )
    train = _askable(sets.train, policy, config, scorer, "training", notes)
    if not train:
        raise UserError(f"no training problem can be used: {notes[-1]}")
    if isinstance(config, GRPOConfig) and config.reward_models:
        general = sum(bool(routed_to(problem)) for problem in train)
        if not 0 < general < len(train):
            raise UserError(f"no {'reasoning' if general else 'general'} problem can be used: {notes[-1]}")
    held_out = tuple(
        replace(part, problems=tuple(_askable(part.problems, policy, config, eval_scorer, part.name, notes)))
        for part in sets.held_out
    )
    parameters = sum(parameter.numel() for parameter in policy.model.parameters())
    notes.append(f"{parameters:,} parameters on {policy.device}, {len(train):,} training problems")
    context = getattr(policy.model.config, "max_position_embeddings", None)
    if context and config.max_prompt_length + config.max_completion_length > context:
        notes.append(f"the model's context is {context:,} tokens: longer answers are cut there")
    kept = replace(sets, train=tuple(train), held_out=tuple(part for part in held_out if part.problems))
    return kept, notes


def with_general_sets(config: GRPOConfig, sets: TrainingSets) -> TrainingSets:
    """The sets with the general problems of a recipe beside them, each routed to its reward model, under ids of their
    own. Held out are those that rules can check too. Raises UserError where a set is not there."""
    train, held_out, notes = list(sets.train), list(sets.held_out), list(sets.notes)
    for term, names in config.general_problems.items():
        own = load_training_sets(
            config.model_copy(update={"problems": names, "eval_problems": (), "problem_kind": "auto"})
        )
        train += [
            replace(problem, id=f"{term}/{problem.id}", columns={**problem.columns, ROUTE_COLUMN: term})
            for problem in own.train
        ]
        taken = {part.name for part in held_out}
        held_out += [part for part in own.held_out if part.name not in taken and any(p.gold for p in part.problems)]
        notes += own.notes
    return replace(sets, train=tuple(train), held_out=tuple(held_out), notes=tuple(notes))


def _askable(
    problems: Iterable[Problem], policy: Policy, config: RolloutConfig, scorer: Scorer, name: str, notes: list[str]
) -> list[Problem]:
    context = getattr(policy.model.config, "max_position_embeddings", None) or config.max_prompt_length + 1
    longest = min(config.max_prompt_length, context - 1)
    kept, too_long, unreadable = [], 0, []
    for problem in problems:
        reason = scorer.gold_problem(problem)
        if reason is not None:
            unreadable.append(f"{problem.id}: {reason}")
        elif len(policy.prompt_ids(problem.messages)) > longest:
            too_long += 1
        else:
            kept.append(problem)
    if unreadable:
        notes.append(f"{len(unreadable):,} {name} problems cannot be scored and were left out; {unreadable[0]}")
    if too_long:
        limit = "max_prompt_length" if longest == config.max_prompt_length else "the model's context"
        notes.append(f"{too_long:,} {name} problems are longer than {limit} ({longest} tokens) and were left out")
    return kept


def lineage(config: RolloutConfig, sets: TrainingSets) -> dict[str, str]:
    """Hashes of what decides the run's numbers beside its configuration."""
    lineage = {
        "model": model_hash(config.model),
        "problems": _problems_hash(sets.train),
        "held_out": _problems_hash([problem for part in sets.held_out for problem in part.problems]),
    }
    files = [config.template, *reward_files(config)]
    return lineage | {name: hash_path(name) for name in files if name and Path(name).is_file()}


def reward_files(config: RolloutConfig) -> list[str]:
    """The files of a recipe's own reward functions."""
    return [file for name in config.reward_funcs if (file := name.rpartition(":")[0])]


def model_hash(name: str) -> str:
    folder = Path(resolve_model(name))
    return hash_path(folder) if folder.is_dir() else name


def _problems_hash(problems: Iterable[Problem]) -> str:
    total = hashlib.sha256()
    for problem in problems:
        row = [problem.id, problem.kind, problem.messages, gold_text(problem.gold), dict(problem.columns)]
        total.update(json.dumps(row, sort_keys=True, default=str).encode())
    return total.hexdigest()
