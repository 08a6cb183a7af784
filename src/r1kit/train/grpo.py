"""Group relative policy optimisation: one loop, whoever samples, scores and updates.

Sources of the equations are in ``losses``. A *rollout* is one generation phase; a *step* is one optimizer
update; a rollout feeds ``steps_per_generation * num_iterations`` steps.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor

from r1kit.batching import TrainBatch, build_grpo_batch, mini_batches, without_idle_sequences
from r1kit.config import GRPOConfig
from r1kit.learner import Learner
from r1kit.losses import GrpoLossConfig, LossInputs, grpo_loss
from r1kit.losses import Metrics as Sums
from r1kit.rollouts import Rollout, rollout_metrics
from r1kit.run_directory import Run
from r1kit.statistics import trend
from r1kit.token_values import pack
from r1kit.train.loop import Metrics, RolloutParts, begin, due, stop_if_asked, warn_if_all_truncated, with_rollout


def train(config: GRPOConfig, parts: RolloutParts, reward_model_seconds: Callable[[], float] = lambda: 0.0) -> None:
    """Run GRPO from the learner's step to ``config.max_steps``. ``reward_model_seconds``: of scoring, so far.

    Raises :class:`Stopped` after saving when asked to stop. Killed at any moment and run again, it ends
    bit-identical to a run left alone (one process, CPU, same versions and threads).
    """
    learner, run = parts.learner, parts.run
    elapsed = begin(parts)
    patience, hacking = _Patience(config, run), HackingGuard(config, run)
    for rollout in range(learner.step // config.steps_per_rollout, config.max_steps // config.steps_per_rollout):
        if patience.exhausted or hacking.stops:
            break
        started, scoring = time.perf_counter(), reward_model_seconds()
        taken = parts.rollouts.take(rollout, learner.step)
        _look_at_health(run, taken, learner.step)
        batch = make_batch(taken, config)
        found = TokenValues(batch) if config.save_rollouts else None
        rows = update(learner, batch, config, rollout, found)
        if found is not None:
            run.save_token_values(rollout, found.rows(taken))
        parts.engine.load(learner.publish(learner.step), version=learner.step)
        if config.reward_models:
            rows[-1]["time/reward_models"] = reward_model_seconds() - scoring
        final = hacking.after(taken, learner.step) or learner.step >= config.max_steps
        if final or due(config.eval_every, learner.step, config.steps_per_rollout):
            rows[-1] |= parts.evaluate(learner.step, final)
            if patience.after(rows[-1]) and not final:
                final = True
                rows[-1] |= parts.evaluate(learner.step, final)
        spent = time.perf_counter() - started
        elapsed += spent
        for row in with_rollout(rows, rollout, taken, elapsed, spent):
            run.record(row)
            parts.watcher.update(int(row["step"]), row)
        parts.show(learner.step, taken)
        stopping = parts.should_stop() and not final
        if final or stopping or due(config.save_every, learner.step, config.steps_per_rollout):
            run.checkpoint(learner.step, learner.save, {"elapsed": elapsed})
        stop_if_asked(stopping, run, learner)


class _Patience:
    """Early stopping on ``eval/accuracy``, by the rule of transformers' EarlyStoppingCallback. It remembers what
    ``metrics.jsonl`` holds, so a resumed run stops where the uninterrupted one does."""

    def __init__(self, config: GRPOConfig, run: Run) -> None:
        self._patience, self._threshold, self._run = (
            config.early_stopping_patience,
            config.early_stopping_threshold,
            run,
        )
        self._best, self._waited = -np.inf, 0
        for row in run.metrics() if self._patience else ():
            self._count(row)

    @property
    def exhausted(self) -> bool:
        return 0 < self._patience <= self._waited

    def after(self, row: Metrics) -> bool:
        """Count the evaluation in ``row``; whether the run should end with it."""
        self._count(row)
        if self.exhausted:
            self._run.warn(
                "early_stop",
                f"ended early: {self._waited} evaluations in a row did not beat eval/accuracy {self._best:.4g} by more "
                f"than {self._threshold:g}",
                int(row["step"]),
            )
        return self.exhausted

    def _count(self, row: Mapping[str, float]) -> None:
        accuracy = row.get("eval/accuracy")
        if accuracy is not None:
            self._waited = 0 if accuracy > self._best + self._threshold else self._waited + 1
            self._best = max(self._best, accuracy)


class HackingGuard:
    """Notices reward hacking: over ``hacking_window`` rollouts a reward model's mean score rises while the accuracy of
    the same rollouts falls (R1, arXiv 2501.12948 v2, B.5 and fig. 6: the helpful reward rises, Codeforces falls).

    Both trends must be clear (`r1kit.statistics.trend`): a reward model's score nearly always rises, so it is the fall
    of accuracy that decides, and docs/preferences.md says how often ``FALLS`` cries wolf. It remembers what
    ``metrics.jsonl`` holds, so a resumed run stops where the uninterrupted one does.
    """

    RISES, FALLS = 2.0, -4.0

    def __init__(self, config: GRPOConfig, run: Run) -> None:
        self._mode = config.hacking_guard if config.reward_models else "off"
        self._terms, self._run = tuple(config.reward_models), run
        self._seen: deque[Mapping[str, float]] = deque(maxlen=config.hacking_window)
        self._found = ""
        last = -1
        for row in run.metrics() if self._mode != "off" else ():
            if int(row.get("rollout", 0)) != last and "reward" in row:
                last = int(row["rollout"])
                self._count(row)

    @property
    def stops(self) -> bool:
        """Whether the run must not go on."""
        return self._mode == "stop" and bool(self._found)

    def after(self, taken: Rollout, step: int) -> bool:
        """Count a rollout; whether the run should end with it."""
        if self._mode == "off":
            return False
        self._count(rollout_metrics(taken))
        if self._found:
            end = "the run ends here" if self._mode == "stop" else "look at its answers, stop earlier or weigh it less"
            self._run.warn("reward_hacking", f"{self._found}: this looks like reward hacking; {end}", step)
        return self.stops

    def _count(self, metrics: Mapping[str, float]) -> None:
        names = ["rewards/accuracy/mean", *(f"rewards/{term}/mean" for term in self._terms)]
        if names[0] not in metrics or not any(name in metrics for name in names[1:]):
            return
        self._seen.append({name: float(metrics[name]) for name in names if name in metrics})
        if len(self._seen) == self._seen.maxlen and not self._found:
            self._found = self._look(names[0], names[1:])

    def _look(self, accuracy: str, terms: Sequence[str]) -> str:
        rights = [row[accuracy] for row in self._seen]
        if trend(rights) > self.FALLS:
            return ""
        for term in terms:
            scores = [row[term] for row in self._seen if term in row]
            if len(scores) >= len(rights) // 2 and trend(scores) >= self.RISES:
                edge = max(1, len(rights) // 4)
                return (
                    f"over {len(rights)} rollouts {term} rose from {np.mean(scores[:edge]):.3g} to "
                    f"{np.mean(scores[-edge:]):.3g} while accuracy fell from {np.mean(rights[:edge]):.3g} to "
                    f"{np.mean(rights[-edge:]):.3g}"
                )
        return ""


def make_batch(taken: Rollout, config: GRPOConfig) -> TrainBatch:
    """What one rollout teaches: its tokens, weights and advantages."""
    return build_grpo_batch(
        taken.groups,
        loss_type=config.loss_type,
        scale_rewards=config.scale_rewards,
        mask_truncated_completions=config.mask_truncated_completions,
        max_completion_length=config.max_completion_length,
    )


def update(
    learner: Learner, batch: TrainBatch, config: GRPOConfig, rollout: int, found: TokenValues | None = None
) -> list[Metrics]:
    """All optimizer steps that one rollout feeds; a row of metrics each. ``found`` is told what each step computes.

    With a single step the policy has not moved since sampling, so the ratio is 1 and no pass for the old
    log-probabilities is needed; the sampler's own are never taken for them, because another precision is not
    another policy.
    """
    off_policy = config.steps_per_rollout > 1
    if off_policy:
        batch = batch.with_inputs(old_logprob_N=learner.logprobs(batch, temperature=config.temperature))
    rows = []
    for iteration in range(config.num_iterations):
        seed = _split_seed(config.seed, rollout, iteration)
        for mini in mini_batches(batch, config.steps_per_generation, seed):
            rows.append(_step(learner, mini, config, found))
    return rows


def _step(learner: Learner, mini: TrainBatch, config: GRPOConfig, found: TokenValues | None) -> Metrics:
    if config.beta:
        reference = learner.logprobs(mini, temperature=config.temperature, reference=True)
        mini = mini.with_inputs(ref_logprob_N=reference)
    loss_config = GrpoLossConfig(
        epsilon=config.epsilon,
        epsilon_high=config.epsilon_high,
        delta=config.delta,
        beta=config.beta,
        importance_sampling_level=config.importance_sampling_level,
        use_bias_correction_kl=config.use_bias_correction_kl,
        sampler_ratio_cap=config.sampler_ratio_cap,
        entropy_coef=config.entropy_coef,
    )

    mismatch = _Mismatch()

    def loss(inputs: LossInputs) -> tuple[Tensor, Sums]:
        losses, metrics = grpo_loss(inputs, loss_config)
        if found is not None:
            found.take(inputs)
        return losses, {**metrics, **mismatch.of(inputs)}

    every_token_counts = config.beta > 0 or config.entropy_coef > 0
    active = without_idle_sequences(mini, keep_zero_advantage=every_token_counts)
    metrics = learner.forward_backward(active, loss, temperature=config.temperature)
    metrics |= mismatch.largest() | learner.optim_step()
    if config.ref_refresh_steps and learner.step % config.ref_refresh_steps == 0:
        learner.refresh_reference()
    return {"step": learner.step, **metrics}


class TokenValues:
    """At each token of a rollout, as of the last step that learned from it: the entropy of the trainer's distribution,
    and its log-probability less the sampler's (the ratio's logarithm: 0 where the policy has not moved and both
    programs agree). Sequences that teach nothing are not computed: their tokens have no values."""

    def __init__(self, batch: TrainBatch) -> None:
        self._starts = batch.cu_seqlens
        self._entropy_N, self._log_ratio_N = np.full((2, batch.num_tokens), np.nan, dtype=np.float32)

    def take(self, inputs: LossInputs) -> None:
        """Keep a micro-batch's values. Lanes call it at the same time, each for sequences of its own."""
        if inputs.position_N is None or inputs.sampler_logprob_N is None:
            return
        sequence, position, entropy, log_ratio = (
            values.detach().float().cpu().numpy() if values.is_floating_point() else values.cpu().numpy()
            for values in (
                inputs.sequence_id_N, inputs.position_N, inputs.entropy_N,
                inputs.logprob_N.detach() - inputs.sampler_logprob_N,
            )
        )  # fmt: skip
        places = self._starts[sequence] + position
        self._entropy_N[places], self._log_ratio_N[places] = entropy, log_ratio

    def rows(self, taken: Rollout) -> list[dict[str, object]]:
        """A row a completion, in the order of the transcript: its group, which of its members, the packed values."""
        rows: list[dict[str, object]] = []
        for group_index, group in enumerate(taken.groups):
            for member, completion in enumerate(group.completions):
                stop = self._starts[len(rows) + 1]
                part = slice(stop - completion.token_ids.size, stop)
                values = pack(self._entropy_N[part], self._log_ratio_N[part])
                rows.append({"group": group_index, "member": member, **values})
        return rows


class _Mismatch:
    """|sampler - trainer| log-probabilities before the policy moves: two programs that should agree. The learner's
    lanes ask at the same time, so sums go the way of the loss's metrics, which are added up in the lanes' order."""

    def __init__(self) -> None:
        self._largest: list[float] = []

    def of(self, inputs: LossInputs) -> Sums:
        """The sum over a micro-batch's tokens."""
        if inputs.sampler_logprob_N is None or not inputs.sampler_logprob_N.numel():
            return {}
        trainer = inputs.logprob_N.detach() if inputs.old_logprob_N is None else inputs.old_logprob_N
        gap = (trainer - inputs.sampler_logprob_N).abs()
        self._largest.append(float(gap.max()))
        return {"sampler_mismatch/mean_abs": gap.sum()}

    def largest(self) -> Metrics:
        return {"sampler_mismatch/max_abs": max(self._largest)} if self._largest else {}


def _split_seed(seed: int, rollout: int, iteration: int) -> int:
    return int(np.random.SeedSequence([seed, rollout, iteration]).generate_state(1)[0])


def _look_at_health(run: Run, taken: Rollout, step: int) -> None:
    """Warn of what makes learning impossible, and would otherwise pass without a word."""
    if not taken.groups:
        run.warn("no_groups", "no problem of this rollout could be scored: check the gold answers", step)
        return
    warn_if_all_truncated(run, taken, step)
    rewards = np.concatenate([group.rewards for group in taken.groups])
    if rewards.min() == rewards.max():
        run.warn(
            "constant_reward",
            f"every completion got the same reward ({rewards[0]:g}): nothing can be learned from it. Check the "
            "reward functions, the answer's format and whether the problems are within the model's reach",
            step,
        )
    elif all(group.rewards.min() == group.rewards.max() for group in taken.groups):
        run.warn(
            "no_variance",
            "in every group all completions got the same reward: all advantages are zero and this rollout teaches "
            "nothing. Take more completions a problem (num_generations) or problems of another difficulty",
            step,
        )
