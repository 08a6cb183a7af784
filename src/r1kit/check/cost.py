"""What a run of GRPO takes: memory, time and disk, by a real batch through the learner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from r1kit.check.parts import measured, memory_fits, memory_held, trained_bytes, weight_bytes
from r1kit.config import GRPOConfig
from r1kit.devices import free_memory
from r1kit.engines.native import NativeEngine
from r1kit.findings import Finding, duration, failure, file_size, ok
from r1kit.learner import Learner
from r1kit.policy import Policy
from r1kit.rollouts import Rollout
from r1kit.runner.parts import (
    resolve_model,
)
from r1kit.tasks.sets import TrainingSets
from r1kit.train import grpo
from r1kit.types import RolloutGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cost:
    """One batch through the learner: seconds per token of an update, bytes at the peak of forward and backward
    (gradients included), how many tokens that batch had, and tokens of a prompt on average."""

    seconds_per_token: float
    prompt_tokens: float
    peak_bytes: int
    tokens: int


def learner_cost(config: GRPOConfig, learner: Learner, groups: Sequence[RolloutGroup], seconds: float) -> _Cost:
    """Times a real update, first on one answer (which allocates the optimizer's state), then on as many as
    ``seconds`` allow, at most a micro-batch and at least one answer."""
    single = config.model_copy(
        update={"steps_per_generation": 1, "num_iterations": 1, "mask_truncated_completions": False}
    )
    shortest = min(groups, key=lambda group: sum(c.token_ids.size for c in group.completions))
    one = replace(shortest, completions=shortest.completions[:1], verdicts=shortest.verdicts[:1])
    first = _update_cost(single, learner, [one])
    allowed = seconds / max(first.seconds_per_token, 1e-9)
    room = min(_micro_batch_tokens(config, learner), allowed)
    chosen: list[RolloutGroup] = []
    tokens = 0
    while tokens < room and len(chosen) < 512:
        group = groups[len(chosen) % len(groups)]
        chosen.append(group)
        tokens += sum(c.token_ids.size + c.prompt_ids.size for c in group.completions)
    return _update_cost(single, learner, chosen) if tokens <= allowed else first


def _update_cost(config: GRPOConfig, learner: Learner, groups: Sequence[RolloutGroup]) -> _Cost:
    batch = grpo.make_batch(Rollout(groups=tuple(groups), sample_seconds=0.0, score_seconds=0.0), config)
    # every answer counts, also where the rewards of its group are equal and its advantage is 0
    batch = batch.with_inputs(advantage_N=batch.trained_N.astype(np.float32))
    spent, peak = measured(learner.policy.device, lambda: grpo.update(learner, batch, config, 0))
    prompts = [completion.prompt_ids.size for group in groups for completion in group.completions]
    return _Cost(
        seconds_per_token=spent / max(1, batch.num_tokens),
        prompt_tokens=float(np.mean(prompts)),
        peak_bytes=peak,
        tokens=batch.num_tokens,
    )


def _micro_batch_tokens(config: GRPOConfig, learner: Learner) -> int:
    if config.micro_batch_tokens != "auto":
        return config.micro_batch_tokens
    return 2048 if learner.policy.device.type == "cpu" else 16384  # the learner's own choice, see Learner


def state_bytes(policy: Policy, config: GRPOConfig) -> int:
    """A checkpoint: what is trained, two moments of AdamW, the reference; all in fp32."""
    return trained_bytes(policy) * (4 if config.beta else 3)


def memory_finding(config: GRPOConfig, policy: Policy, engine: NativeEngine, sampler: int, cost: _Cost) -> Finding:
    """``policy`` is the learner's, which has the adapter; ``sampler``: bytes of the engine's weights."""
    weights, trained = weight_bytes(policy), trained_bytes(policy)
    cache = engine.cache_bytes(config.max_prompt_length + config.max_completion_length)
    # a micro-batch holds at least one whole sequence, however long
    largest = max(
        config.micro_batch_tokens if config.micro_batch_tokens != "auto" else cost.tokens,
        config.max_prompt_length + config.max_completion_length,
    )
    grows = max(0, cost.peak_bytes - trained) * max(1.0, largest / cost.tokens)
    parts = {
        "weights": weights,
        "gradients": trained,
        "optimizer": 2 * trained,
        "reference": trained if config.beta else 0,
        "sampler": sampler,
        "KV cache": cache,
        "activations": int(grows),
    }
    # the cache is given back before gradients are taken, and they before the next cache
    in_turn = min(cache, trained + parts["activations"])
    return memory_fits(policy.device, parts, held=memory_held(policy.device), in_turn=in_turn)


def too_large_finding(config: GRPOConfig, device: torch.device) -> Finding | None:
    """A model whose training state alone cannot fit is not even loaded."""
    folder = Path(resolve_model(config.model))
    count = parameters_on_disk(folder) if folder.is_dir() else 0
    free = free_memory(device)[0]
    if config.use_peft:
        halved = config.dtype == "bfloat16" or (config.dtype == "auto" and device.type == "cuda")
        needed, for_what = count * (2 if halved else 4), "frozen weights"
    else:
        needed, for_what = count * 4 * (5 if config.beta else 4), "weights, gradients and optimizer"
    if not count or not free or needed <= free:
        return None
    return failure(
        "memory",
        f"{count:,} parameters need {file_size(needed)} for {for_what} alone; {file_size(free)} are free on {device}",
        "take a smaller model or a larger machine",
    )


def parameters_on_disk(folder: Path) -> int:
    """Parameters of a checkpoint by the headers of its safetensors files; 0 where they cannot be read."""
    from safetensors import SafetensorError, safe_open

    count = 0
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="numpy") as tensors:
                count += sum(int(np.prod(tensors.get_slice(name).get_shape())) for name in tensors.keys())  # noqa: SIM118
        except (SafetensorError, OSError):
            return 0
    return count


def rollouts_of(config: GRPOConfig) -> int:
    return config.max_steps // config.steps_per_rollout


def time_finding(
    config: GRPOConfig, sets: TrainingSets, length: float, tokens_per_second: float, score_seconds: float, cost: _Cost
) -> Finding:
    """What a run takes at the speeds just measured and the length answers have now."""
    answers = config.problems_per_rollout * config.num_generations
    sampling = answers * length / max(tokens_per_second, 1e-9)
    scoring = answers * score_seconds
    update = answers * (length + cost.prompt_tokens) * cost.seconds_per_token * config.num_iterations
    sizes = [len(part.problems) for part in sets.held_out]
    steps = config.max_steps // config.eval_every if config.eval_every else 0
    judged = sizes[0] * (steps + 2) + 2 * sum(sizes[1:]) if sizes else 0
    evaluation = judged * length / max(tokens_per_second, 1e-9)
    rollout = sampling + scoring + update
    total = rollout * rollouts_of(config) + evaluation
    return ok(
        "time",
        f"about {duration(rollout / config.steps_per_rollout)} a step, {duration(total)} in all ({duration(sampling)} "
        f"of sampling at {tokens_per_second:,.0f} tokens/s, {duration(scoring)} of scoring and {duration(update)} of "
        f"learning a rollout, {duration(evaluation)} of evaluation), while answers are as long as now: they may grow",
    )
