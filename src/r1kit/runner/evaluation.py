"""Held-out figures in the course of training."""

from __future__ import annotations

from dataclasses import dataclass

from r1kit.config import RolloutConfig
from r1kit.engines.base import Engine
from r1kit.policy import Policy
from r1kit.rewards.scorer import Scorer, VerifierErrors
from r1kit.rollouts import Draws, Rollout, collect, eval_metrics, groups_of_rows, rows_of_groups
from r1kit.run_directory import Run
from r1kit.tasks.sets import ProblemSet
from r1kit.types import Problem, SamplingParams


@dataclass(slots=True)
class Evaluation:
    """Held-out figures: the first set at every evaluation, the others at the start and at the end, or every time with
    ``eval_every_set``."""

    config: RolloutConfig
    run: Run
    engine: Engine
    scorer: Scorer
    policy: Policy
    sets: tuple[ProblemSet, ...]

    def __call__(self, step: int, final: bool) -> dict[str, float]:
        all_due = final or step == 0 or self.config.eval_every_set
        due = self.sets if all_due else self.sets[:1]
        saved = self.run.load_eval(step)
        metrics: dict[str, float] = {}
        rows = []
        for index, held_out in enumerate(due):
            items = [(problem, 0) for problem in held_out.problems]
            mine = [row for row in saved or () if row["set"] == held_out.name]
            if mine:
                rollout = Rollout(groups=groups_of_rows(mine, items), sample_seconds=0.0, score_seconds=0.0)
            else:
                rollout = self._sample(held_out.name, items, step)
                rows += rows_of_groups(
                    rollout.groups, self.policy, set_name=held_out.name, rollout=0, step=step, logprobs=False
                )
            metrics |= eval_metrics(
                rollout,
                "eval" if index == 0 else f"eval/{held_out.name}",
                prefilled_think=self.scorer.prefilled_think,
            )
        if rows:
            self.run.save_eval(step, [*(saved or ()), *rows])
        return metrics

    def _sample(self, name: str, items: list[tuple[Problem, int]], step: int) -> Rollout:
        params = SamplingParams(
            temperature=self.config.eval_temperature,
            top_p=self.config.eval_top_p,
            max_completion_length=self.config.max_completion_length,
            stop=self.config.stop,
        )
        draws = Draws(self.config.seed, self.config.method, f"eval:{name}", step)
        return collect(items, self.engine, self.scorer, self.policy, params, 1, draws, errors=VerifierErrors())
