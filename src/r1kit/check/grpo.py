"""Checks of a GRPO recipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import torch

from r1kit.check.cost import learner_cost, memory_finding, rollouts_of, state_bytes, time_finding, too_large_finding
from r1kit.check.model import policy_findings, prompt_findings
from r1kit.check.parts import disk_finding, tried, weight_bytes
from r1kit.check.rewards import reward_findings
from r1kit.check.sampling import SAMPLED, mean_length, starting_model_findings, timed_scoring, two_samples
from r1kit.config import GRPOConfig
from r1kit.findings import Finding, ok, warning
from r1kit.policy import Policy
from r1kit.rewards.scorer import Scorer
from r1kit.rollouts import rows_of_groups
from r1kit.run_directory import pack_rows
from r1kit.runner.grpo import make_learner
from r1kit.runner.parts import (
    make_eval_scorer,
    make_run_policy,
    make_sampler,
    make_scorer,
)
from r1kit.runner.problems import usable
from r1kit.runner.reward_model import learned_rewards
from r1kit.tasks.loaders import problem_kinds
from r1kit.tasks.rows import content_hash
from r1kit.tasks.sets import TrainingSets, load_training_sets


def check_grpo(config: GRPOConfig, device: torch.device, threads: int, seconds: float) -> Iterator[Finding]:
    sets, failures = tried("problems", lambda: load_training_sets(config))
    yield from failures
    if sets is not None:
        yield from _problems(sets)
    too_large = too_large_finding(config, device)
    if too_large is not None:
        yield too_large
        return
    policy, failures = tried("model", lambda: make_run_policy(config))
    yield from failures
    if policy is None:
        return
    yield from policy_findings(policy, config, sets)
    if sets is None:
        return
    learned, failures = tried("reward models", lambda: learned_rewards(config))
    yield from failures
    if learned:
        yield ok("reward models", ", ".join(f"{name} reads the {term.reads}" for name, term in learned.items()))
    with ExitStack() as stack:
        scorer, failures = tried("rewards", lambda: stack.enter_context(make_scorer(config, policy)))
        yield from failures
        if scorer is None:
            return
        eval_scorer = stack.enter_context(make_eval_scorer(config, policy, sets))
        kept, failures = tried("prompts", lambda: usable(sets, policy, config, scorer, eval_scorer))
        yield from failures
        if kept is None:
            return
        yield from prompt_findings(sets, kept[0], kept[1][len(sets.notes) :], policy, config)
        yield from reward_findings(kept[0].train, scorer, policy)
        yield from _tried_out(config, policy, scorer, kept[0], threads, seconds)


def _problems(sets: TrainingSets) -> Iterator[Finding]:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in problem_kinds(sets.train).items())
    held_out = ", ".join(f"{len(part.problems):,} {part.name}" for part in sets.held_out) or "none"
    yield ok("problems", f"training: {kinds}; held out: {held_out}")
    for note in sets.notes:
        yield warning("problems", note)
    if not sets.held_out:
        yield warning("held-out", "nothing is held out, so gains cannot be measured", "name eval_problems")
    hashes = [content_hash(problem.messages, problem.kind, problem.gold) for problem in sets.train]
    repeated = len(hashes) - len(set(hashes))
    if repeated:
        yield warning("problems", f"{repeated:,} of {len(hashes):,} training problems repeat another under another id")


def _tried_out(
    config: GRPOConfig, policy: Policy, scorer: Scorer, sets: TrainingSets, threads: int, seconds: float
) -> Iterator[Finding]:
    """A few answers of the starting model, and a batch through the learner."""
    asked = list(sets.train[:SAMPLED])
    # before the learner puts an adapter into the model, as in a run
    engine, failures = tried("samples", lambda: make_sampler(config, policy))
    yield from failures
    if engine is None:
        return
    parameters = sum(parameter.numel() for parameter in policy.model.parameters())
    sampler_bytes = parameters * torch.empty(0, dtype=engine.dtype).element_size()
    both, failures = tried("samples", lambda: two_samples(engine, config, policy, sets, asked, seconds))
    yield from failures
    if both is None:
        return
    sampled, full = both
    scored, failures = tried("samples", lambda: timed_scoring(sampled, full, sets, asked, scorer, seconds))
    yield from failures
    if scored is None:
        return
    groups, score_seconds = scored
    yield from starting_model_findings(sampled, groups)
    learner = make_learner(config, policy, threads)
    cost = learner_cost(config, learner, groups, seconds)
    yield memory_finding(config, learner.policy, engine, sampler_bytes, cost)
    length = mean_length(sampled, config)
    yield time_finding(config, sets, length, full.tokens_per_second, score_seconds, cost)
    rows = pack_rows(rows_of_groups(groups, policy, set_name="train", rollout=0, step=0))
    per_token = len(rows) / max(1, sampled.tokens)
    asked_in_all = config.problems_per_rollout * config.num_generations * rollouts_of(config)
    transcripts = asked_in_all * length * per_token if config.save_rollouts else 0.0
    merged = weight_bytes(policy) if config.use_peft else 0
    yield disk_finding(config, state_bytes(policy, config), transcripts + merged)
