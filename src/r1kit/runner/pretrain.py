"""A base model of the miniature world, from nothing to its card."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from r1kit.config import PretrainConfig
from r1kit.devices import set_threads
from r1kit.engines.native import NativeEngine
from r1kit.learner import Learner
from r1kit.mini import kinds
from r1kit.mini.card import corpus_hash, write_card
from r1kit.policy import load_policy, save_policy
from r1kit.progress import Progress
from r1kit.rewards.scorer import Scorer, VerifierErrors
from r1kit.rollouts import Draws, collect, eval_metrics, rows_of_groups
from r1kit.run_directory import InterruptGuard, Run, saving
from r1kit.runner.parts import lanes_of, make_engine
from r1kit.runner.watching import Watched, make_trackers, steps_done
from r1kit.tasks.sets import EVAL_SEED
from r1kit.train import pretrain
from r1kit.train.loop import Metrics
from r1kit.types import Problem, SamplingParams

SAMPLED = SamplingParams(temperature=1.0, top_p=1.0, max_completion_length=256)


@dataclass(slots=True)
class Samples:
    """A few answers to held-out problems of every kind in the course of training, for the report."""

    config: PretrainConfig
    run: Run
    learner: Learner
    engine: NativeEngine
    scorer: Scorer
    problems: tuple[Problem, ...]

    @classmethod
    @contextmanager
    def of(cls, config: PretrainConfig, run: Run, learner: Learner) -> Iterator[Samples]:
        names = kinds.names()
        problems = tuple(p for name in names for p in kinds.make_problems(name, config.eval_size, EVAL_SEED, "heldout"))
        with Scorer(("accuracy", "format")) as scorer:
            yield cls(config, run, learner, make_engine(learner.policy), scorer, problems)

    def __call__(self, step: int) -> Metrics:
        self.engine.load(self.learner.publish(step), version=step)
        items = [(problem, 0) for problem in self.problems]
        draws = Draws(self.config.seed, "pretrain", "samples", step)
        policy = self.learner.policy
        found = collect(items, self.engine, self.scorer, policy, SAMPLED, 1, draws, errors=VerifierErrors())
        self.run.save_eval(
            step, rows_of_groups(found.groups, policy, set_name="world", rollout=0, step=step, logprobs=False)
        )
        return eval_metrics(found, "eval", prefilled_think=False)


def run(config: PretrainConfig, run: Run, guard: InterruptGuard) -> None:
    threads = set_threads(config.torch_threads)
    policy = pretrain.new_policy(config)
    steps = len(pretrain.plan(config))
    run.set_lineage({"corpus": corpus_hash()}, threads=threads)
    with ExitStack() as stack:
        trackers = stack.enter_context(make_trackers(config, run))
        progress = stack.enter_context(Progress(steps, config.recipe, start_step=steps_done(run)))
        run.on_warning = progress.warn
        learner = pretrain.make_learner(config, policy, lanes=lanes_of(policy, threads))
        samples = stack.enter_context(Samples.of(config, run, learner)) if config.eval_every else None
        seconds = pretrain.train(config, learner, run, Watched(progress, trackers), lambda: guard.stop, samples)
        with saving("the model", run.directory):
            save_policy(policy, run.model_directory)
            progress.note("measuring the model card")
            write_card(config, policy, run.model_directory, seconds)
            early = run.directory / pretrain.EARLY_MODEL
            if config.early_tokens and early.exists():
                share = config.early_tokens / config.tokens
                write_card(config, load_policy(early), early, share * seconds, tokens=config.early_tokens)
