"""Reinforcement learning by GRPO in one process."""

from __future__ import annotations

from contextlib import ExitStack

from r1kit.config import GRPOConfig
from r1kit.devices import set_threads
from r1kit.learner import Learner
from r1kit.policy import Policy
from r1kit.run_directory import InterruptGuard, Run
from r1kit.runner import parts
from r1kit.runner.evaluation import Evaluation
from r1kit.runner.parts import make_eval_scorer, make_run_policy, make_sampler, make_scorer, rollout_source, save_model
from r1kit.runner.problems import lineage, model_hash, reward_files, usable, with_general_sets
from r1kit.runner.reward_model import learned_rewards
from r1kit.runner.watching import shower, warn_of_code, watch
from r1kit.tasks.sets import load_training_sets
from r1kit.train import grpo
from r1kit.train.loop import RolloutParts


def run(config: GRPOConfig, run: Run, guard: InterruptGuard) -> None:
    threads = set_threads(config.torch_threads)
    sets = with_general_sets(config, load_training_sets(config))
    policy = make_run_policy(config)
    learned = learned_rewards(config)
    with ExitStack() as stack:
        scorer = stack.enter_context(make_scorer(config, policy, learned=learned))
        eval_scorer = stack.enter_context(make_eval_scorer(config, policy, sets, scorer.accuracy))
        sets, notes = usable(sets, policy, config, scorer, eval_scorer)
        models = {f"reward_models.{name}": model_hash(path) for name, path in config.reward_models.items()}
        run.set_lineage(lineage(config, sets) | models, threads=threads, mendable=reward_files(config))
        watched = watch(stack, config, run, policy, config.max_steps, notes)
        warn_of_code(config, sets, scorer, run)
        engine = make_sampler(config, policy)
        learner = make_learner(config, policy, threads)
        loop = RolloutParts(
            rollouts=rollout_source(config, run, engine, scorer, policy, sets.train),
            engine=engine,
            learner=learner,
            run=run,
            watcher=watched,
            evaluate=Evaluation(config, run, engine, eval_scorer, policy, sets.held_out),
            should_stop=lambda: guard.stop,
            show=shower(config, watched.progress, watched.trackers, policy),
        )
        grpo.train(config, loop, lambda: sum(term.seconds for term in learned.values()))
        save_model(learner, run)


def make_learner(config: GRPOConfig, policy: Policy, threads: int = 1) -> Learner:
    """The learner of :func:`r1kit.runner.parts.make_learner`; it holds a reference model only where ``beta`` > 0."""
    return parts.make_learner(
        config,
        policy,
        threads,
        max_steps=config.max_steps,
        warmup_steps=config.warmup_steps,
        layout=config.train_layout,
        use_reference=config.beta > 0,
    )
