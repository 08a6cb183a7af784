"""A few answers of the starting model."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from r1kit.config import GRPOConfig
from r1kit.engines.base import Engine
from r1kit.engines.native import NativeEngine
from r1kit.findings import Finding, duration, ok, warning
from r1kit.policy import Policy
from r1kit.rewards.scorer import Group, Scorer
from r1kit.rollouts import Draws, is_right, requests_for
from r1kit.runner.parts import (
    training_params,
)
from r1kit.tasks.sets import TrainingSets
from r1kit.types import Completion, Problem, RolloutGroup

SAMPLED, SAMPLES = 8, 4
"""Problems the starting model is tried on, and its answers to each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sampled:
    """What the engine gave within its time: ``whole`` is False where it was cut off."""

    completions: list[Completion]
    seconds: float
    whole: bool

    @property
    def tokens(self) -> int:
        return sum(completion.token_ids.size for completion in self.completions)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / max(self.seconds, 1e-9)


def two_samples(
    engine: Engine, config: GRPOConfig, policy: Policy, sets: TrainingSets, asked: list[Problem], seconds: float
) -> tuple[_Sampled, _Sampled]:
    """A few whole answers, and as much of the run's own batch as time allows."""
    whole = list(sets.train[: config.problems_per_rollout])
    sampled = _sample(engine, policy, config, asked, SAMPLES, seconds)
    return sampled, _sample(engine, policy, config, whole, config.num_generations, seconds / 4)


def _sample(
    engine: Engine, policy: Policy, config: GRPOConfig, problems: list[Problem], n: int, seconds: float
) -> _Sampled:
    draws = Draws(config.seed, "check", "samples", 0)
    items = [(problem, place) for place, problem in enumerate(problems)]
    # an engine in this process may be in the middle of a long answer; others are left between two
    timer = threading.Timer(seconds, engine.pause if isinstance(engine, NativeEngine) else lambda: None)
    started = time.perf_counter()
    engine.submit(requests_for(items, policy, training_params(config), n, draws))
    timer.start()
    found = []
    for completion in engine.completions():
        found.append(completion)
        if time.perf_counter() - started > seconds:
            break
    timer.cancel()
    spent = time.perf_counter() - started
    cut = engine.abort()
    engine.resume()
    return _Sampled(completions=found + cut, seconds=spent, whole=not cut)


def scored_groups(sampled: _Sampled, problems: Sequence[Problem], scorer: Scorer) -> list[RolloutGroup]:
    by_place: list[list[Completion]] = [[] for _ in problems]
    for completion in sampled.completions:
        if completion.draw is not None and completion.token_ids.size:
            by_place[completion.draw.occurrence].append(completion)
    groups = [Group(problem=p, completions=found) for p, found in zip(problems, by_place, strict=True)]
    return [
        RolloutGroup(problem=group.problem, completions=tuple(found), verdicts=tuple(verdicts))
        for group, found, verdicts in zip(groups, by_place, scorer.score_groups(groups), strict=True)
        if verdicts
    ]


def timed_scoring(
    sampled: _Sampled, full: _Sampled, sets: TrainingSets, asked: list[Problem], scorer: Scorer, seconds: float
) -> tuple[list[RolloutGroup], float]:
    """The few answers scored, and the seconds that one of the run's own batch takes: of the few alone, which starts
    checkers too, where the batch would take more than ``seconds``."""
    started = time.perf_counter()
    groups = scored_groups(sampled, asked, scorer)
    spent = (time.perf_counter() - started) / max(1, len(sampled.completions))
    if spent * len(full.completions) <= seconds:
        started = time.perf_counter()
        scored_groups(full, sets.train, scorer)
        spent = (time.perf_counter() - started) / max(1, len(full.completions))
    return groups, spent


def starting_model_findings(sampled: _Sampled, groups: Sequence[RolloutGroup]) -> Iterator[Finding]:
    """Does it ever earn a reward? Where it never does, GRPO has nothing to reinforce."""
    ended = [c for c in sampled.completions if c.finish_reason != "abort"]
    if not ended:
        yield warning(
            "samples",
            f"no answer of {len(sampled.completions)} ended within {duration(sampled.seconds)}: whether the model "
            "earns rewards is not known",
            "give more time with --seconds, or lower max_completion_length",
        )
        return
    pairs = [(c, v) for group in groups for c, v in zip(group.completions, group.verdicts, strict=True)]
    judged = [(c, v) for c, v in pairs if c.finish_reason != "abort"]
    right = sum(is_right(verdict) for _, verdict in judged)
    cut = sum(completion.finish_reason == "length" for completion in ended)
    mean = np.mean([completion.token_ids.size for completion in ended])
    said = f"{right} of {len(judged)} answers right, {mean:.0f} tokens on average, {cut} ran into the limit"
    rewards = np.array([verdict.total for _, verdict in judged])
    if not right:
        yield warning(
            "samples",
            said,
            "what the model never does cannot be reinforced: take easier problems, a better base or more samples",
        )
    else:
        yield ok("samples", said)
    if cut == len(ended):
        yield warning(
            "samples", "every answer ran into max_completion_length", "raise it, or check the end token above"
        )
    if rewards.size and rewards.min() == rewards.max():
        yield warning("samples", f"every answer got the same reward ({rewards[0]:g}): such a rollout teaches nothing")


def mean_length(sampled: _Sampled, config: GRPOConfig) -> float:
    """Tokens per answer; the limit where answers were cut off, because nobody knows."""
    if not sampled.whole:
        return float(config.max_completion_length)
    return sampled.tokens / max(1, len(sampled.completions))
