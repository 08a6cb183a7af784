"""What the methods of the runner share: models, scorers, samplers and learners as a recipe asks for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from torch import get_num_threads

from r1kit.batching import Layout
from r1kit.config import GRPOConfig, PolicyConfig, RolloutConfig
from r1kit.devices import resolve_device
from r1kit.engines.base import Engine
from r1kit.engines.native import NativeEngine
from r1kit.fused import keep_last_norm_fp32
from r1kit.learner import Learner
from r1kit.lora import LoraSettings, save_adapter
from r1kit.machine import usable_cores
from r1kit.mini import base_directory
from r1kit.policy import Policy, load_policy, save_policy, with_adapter
from r1kit.rewards.accuracy import AccuracyChecker
from r1kit.rewards.learned import LearnedReward, routed_to
from r1kit.rewards.scorer import Scorer
from r1kit.rollouts import Draws, LateMix, Order, RolloutSource
from r1kit.run_directory import Run, saving
from r1kit.tasks.sets import TrainingSets
from r1kit.types import Problem, SamplingParams

EngineDtype = Literal["auto", "bfloat16", "float32"]
SMALL_MODEL = 50_000_000
"""Below this many parameters, CPU threads take a micro-batch each instead of sharing every operation."""
EVAL_REWARDS = ("accuracy", "format")
"""What held-out answers are judged by, whatever training rewards."""


def resolve_model(name: str) -> str:
    """The directory of a shipped model by its name (`r1kit.mini.BASES`); any other name or path as it is."""
    directory = base_directory(name)
    return name if directory is None else str(directory)


def make_run_policy(config: PolicyConfig) -> Policy:
    """The policy a recipe starts from, with its template (and opened ``<think>``, where it asks for that)."""
    # Frozen weights need no fp32 master copy; what is trained does.
    frozen = "bfloat16" if resolve_device(config.device).type == "cuda" else "float32"
    dtype = (frozen if config.dtype == "auto" else config.dtype) if config.use_peft else "float32"
    policy = load_policy(resolve_model(config.model), device=config.device, dtype=dtype, template=config.template)
    return with_prefill(policy) if isinstance(config, RolloutConfig) and config.prefill_think else policy


def with_prefill(policy: Policy) -> Policy:
    """The policy with ``<think>`` opened at the end of every prompt."""
    if policy.prefill_think:
        return policy
    before = policy.prompt_text([{"role": "user", "content": "?"}])
    tag = "<think>" if before[-1:].isspace() else " <think>"
    opened = policy.template + "{% if add_generation_prompt %}{{ '" + tag + "' }}{% endif %}"
    return replace(policy, template=opened, prefill_think=True)


def make_scorer(
    config: RolloutConfig,
    policy: Policy,
    accuracy: AccuracyChecker | None = None,
    learned: Mapping[str, LearnedReward] | None = None,
) -> Scorer:
    """The scorer of the answers that ``policy`` writes in training. ``accuracy``: a checker to share; ``learned``: the
    terms of reward models."""
    return Scorer.from_config(
        config,
        accuracy=accuracy,
        prefilled_think=policy.prefill_think,
        learned=learned,
        overlap=_overlaps(config, policy),
    )


def make_eval_scorer(
    config: RolloutConfig, policy: Policy, sets: TrainingSets, accuracy: AccuracyChecker | None = None
) -> Scorer:
    """The scorer of held-out answers: accuracy, and the format and language that training asks for; the training
    rewards where no held-out problem has a gold answer. ``accuracy``: a checker to share."""
    judged = any(problem.gold for held_out in sets.held_out for problem in held_out.problems)
    return Scorer.from_config(
        config,
        eval_rewards(config.reward_funcs) if judged else config.reward_funcs,
        accuracy=accuracy,
        prefilled_think=policy.prefill_think,
        overlap=_overlaps(config, policy),
    )


def eval_rewards(trained: Sequence[str]) -> tuple[str, ...]:
    """What held-out answers are judged by: ``EVAL_REWARDS``, R1's format where training rewards that, and language."""
    swapped = tuple("format_r1" if name == "format" and "format_r1" in trained else name for name in EVAL_REWARDS)
    return (*swapped, "language") if "language" in trained else swapped


def _overlaps(config: RolloutConfig, policy: Policy) -> bool:
    """Checkers that share their cores with the threads of torch cost it more than they save."""
    if config.overlap_scoring != "auto":
        return config.overlap_scoring
    return policy.device.type != "cpu" or get_num_threads() < usable_cores()


def training_params(config: RolloutConfig) -> SamplingParams:
    """How a recipe samples the answers it trains on."""
    return SamplingParams(
        temperature=config.temperature,
        top_p=config.top_p,
        max_completion_length=config.max_completion_length,
        stop=config.stop,
    )


def rollout_source(
    config: RolloutConfig, run: Run, engine: Engine, scorer: Scorer, policy: Policy, problems: Sequence[Problem]
) -> RolloutSource:
    return RolloutSource(
        engine=engine,
        scorer=scorer,
        encoder=policy,
        order=_order(config, problems),
        params=training_params(config),
        num_generations=config.num_generations,
        draws=Draws(config.seed, config.method, "train", 0),
        transcripts=run if config.save_rollouts else None,
        scale_rewards=config.scale_rewards if isinstance(config, GRPOConfig) else None,
    )


def _order(config: RolloutConfig, problems: Sequence[Problem]) -> Order[Problem] | LateMix[Problem]:
    if not isinstance(config, GRPOConfig) or not config.reward_models:
        return Order(problems, config.problems_per_rollout, config.seed)
    return LateMix(
        [problem for problem in problems if not routed_to(problem)],
        [problem for problem in problems if routed_to(problem)],
        config.problems_per_rollout,
        config.general_per_rollout,
        config.general_from_step // config.steps_per_rollout,
        config.seed,
    )


def make_engine(
    policy: Policy, *, dtype: EngineDtype = "auto", max_batch_size: int = 256, cast_lm_head_to_fp32: bool = False
) -> NativeEngine:
    """The native engine over a policy's weights, ending where the policy says an answer ends."""
    return NativeEngine(
        policy.model,
        policy.decode,
        dtype=dtype,
        max_batch_size=max_batch_size,
        eos_token_ids=policy.eos_token_ids,
        cast_lm_head_to_fp32=cast_lm_head_to_fp32,
    )


def make_sampler(config: RolloutConfig, policy: Policy) -> NativeEngine:
    """The engine that a recipe samples with, over these weights."""
    return make_engine(
        policy,
        dtype=config.engine_dtype,
        max_batch_size=config.engine_max_batch,
        cast_lm_head_to_fp32=config.cast_lm_head_to_fp32,
    )


def is_small(policy: Policy) -> bool:
    """Whether this is a small model on a CPU, of which each thread had better take work of its own."""
    parameters = sum(parameter.numel() for parameter in policy.model.parameters())
    return policy.device.type == "cpu" and parameters < SMALL_MODEL


def lanes_of(policy: Policy, threads: int) -> int:
    """How many micro-batches of a learner are worked on at a time: a small model's cores take one each."""
    return threads if is_small(policy) else 1


def make_learner(
    config: PolicyConfig,
    policy: Policy,
    threads: int = 1,
    *,
    max_steps: int,
    warmup_steps: int,
    layout: Layout,
    use_reference: bool = False,
) -> Learner:
    """A learner with the optimizer a recipe asks for. ``max_steps``: of the whole run; ``use_reference``: hold a frozen
    copy of the starting model. With ``use_peft`` it puts an adapter into the policy's model, in place
    (``learner.policy`` knows of it): make engines before."""
    if config.cast_lm_head_to_fp32:
        keep_last_norm_fp32(policy.model)
    return Learner(
        _with_adapter(policy, config),
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        adam_betas=(config.adam_beta1, config.adam_beta2),
        adam_eps=config.adam_epsilon,
        max_grad_norm=config.max_grad_norm,
        optim=config.optim,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=warmup_steps,
        max_steps=max_steps,
        min_lr_rate=config.min_lr_rate,
        autocast=config.autocast,
        micro_batch_tokens=None if config.micro_batch_tokens == "auto" else config.micro_batch_tokens,
        layout=layout,
        gradient_checkpointing=config.gradient_checkpointing,
        use_reference=use_reference,
        lanes=lanes_of(policy, threads),
    )


def _with_adapter(policy: Policy, config: PolicyConfig) -> Policy:
    if not config.use_peft:
        return policy
    settings = LoraSettings(
        lora_r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=config.lora_target_modules,
        use_rslora=config.use_rslora,
    )
    return with_adapter(policy, settings, seed=config.seed)


def save_model(learner: Learner, run: Run) -> None:
    with saving("the model", run.directory):
        save_policy(learner.policy, run.model_directory)
        if learner.policy.adapter is not None:
            save_adapter(learner.policy.adapter, run.directory / "adapter")
