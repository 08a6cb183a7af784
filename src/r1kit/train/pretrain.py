"""Pre-training of the miniature base: packed next-token prediction on the synthetic corpus."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.batching import build_sft_batch
from r1kit.config import CorpusPhase, PretrainConfig
from r1kit.devices import resolve_device
from r1kit.learner import Learner, learning_rate_factor
from r1kit.losses import cross_entropy
from r1kit.mini import base_directory
from r1kit.mini.data import batch, tokenizer_sample
from r1kit.mini.tokenizer import build_tokenizer
from r1kit.mini.writers.logic import spelled_words
from r1kit.policy import Policy, make_policy, save_policy
from r1kit.run_directory import Run
from r1kit.train.loop import Metrics, Watcher, due, restore, stop_if_asked
from r1kit.types import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LONGEST_CONTEXT = 1024
VOCABULARY_MULTIPLE = 32
LOG_EVERY = 20
EARLY_MODEL = "model_early"


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One optimizer step: its phase (and the phase's index), its number within the phase, its rows."""

    phase: CorpusPhase
    index: int
    step: int
    rows: int
    learning_rate: float


def plan(config: PretrainConfig) -> list[PlannedStep]:
    """All steps in order; as many rows a step as fit in ``batch_tokens``. The learning rate follows the schedule once
    over each stretch of phases; a phase that says ``restart`` begins a stretch."""
    stretches: list[list[tuple[CorpusPhase, int, int, int]]] = []
    for index, phase in enumerate(config.phases):
        rows = config.batch_tokens // phase.sequence_length
        count = phase.tokens // (rows * phase.sequence_length)
        if not stretches or phase.restart:
            stretches.append([])
        stretches[-1] += [(phase, index, step, rows) for step in range(count)]
    return [
        PlannedStep(*step, learning_rate=_learning_rate(config, place, len(stretch)))
        for stretch in stretches
        for place, step in enumerate(stretch)
    ]


def step_after(steps: Sequence[PlannedStep], tokens: int) -> int:
    """The number of the first step after which ``tokens`` tokens have been seen; the last one where there are fewer."""
    seen = 0
    for number, planned in enumerate(steps, start=1):
        seen += planned.rows * planned.phase.sequence_length
        if seen >= tokens:
            return number
    return len(steps)


def _learning_rate(config: PretrainConfig, step: int, steps: int) -> float:
    factor = learning_rate_factor(
        step,
        config.lr_scheduler_type,
        warmup_steps=config.warmup_steps,
        max_steps=steps,
        min_lr_rate=config.min_lr_rate,
    )
    return config.learning_rate * factor


def make_tokenizer(config: PretrainConfig) -> PreTrainedTokenizerFast:
    """That of ``config.tokenizer``, or one read off the corpus of the first stretch, so that stretches added later go
    on from the same model. Raises UserError where there is no such tokenizer."""
    if config.tokenizer is None:
        first = [phase for i, phase in enumerate(config.phases) if not any(p.restart for p in config.phases[: i + 1])]
        sample = tokenizer_sample(first or config.phases, config.seed)
        return build_tokenizer(sample, config.vocab_size, spelled=spelled_words())
    from transformers import PreTrainedTokenizerFast

    folder = base_directory(config.tokenizer) or Path(config.tokenizer)
    if not (folder / "tokenizer.json").is_file():
        raise UserError(f"tokenizer = {config.tokenizer!r}: {folder} holds no tokenizer.json")
    found: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return found


def new_policy(config: PretrainConfig) -> Policy:
    """A randomly initialised model and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

    from r1kit.fused import make_lean

    tokenizer = make_tokenizer(config)
    torch.manual_seed(config.seed)
    rows = -(-len(tokenizer) // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    shape = {"llama": LlamaConfig, "qwen2": Qwen2Config}[config.architecture]
    model: Any = AutoModelForCausalLM.from_config(
        shape(
            vocab_size=rows,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            head_dim=config.hidden_size // config.num_attention_heads,
            max_position_embeddings=LONGEST_CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.to(resolve_device(config.device))
    make_lean(model)
    return make_policy(model, tokenizer)


def make_learner(config: PretrainConfig, policy: Policy, lanes: int = 1) -> Learner:
    """``lanes``: CPU threads that each take rows of their own."""
    return Learner(
        policy,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        adam_betas=(0.9, config.adam_beta2),
        max_grad_norm=1.0,
        autocast=config.autocast,
        lanes=lanes,
    )


def train(
    config: PretrainConfig,
    learner: Learner,
    run: Run,
    watcher: Watcher,
    should_stop: Callable[[], bool],
    evaluate: Callable[[int], Metrics] | None = None,
) -> float:
    """Train from the learner's step to the end of the plan; returns the seconds spent in all. ``evaluate(step)`` is
    asked every ``eval_every`` steps.

    Raises :class:`Stopped` after saving when asked to stop.
    """
    steps = plan(config)
    early = step_after(steps, config.early_tokens) if config.early_tokens else None
    elapsed = restore(run, learner)
    for planned in steps[learner.step :]:
        started = time.perf_counter()
        metrics = take_step(planned, learner, config, learner.policy.tokenizer)
        elapsed += time.perf_counter() - started
        step, final = learner.step, learner.step == len(steps)
        asked = evaluate is not None and due(config.eval_every, step)
        if step % LOG_EVERY == 0 or final or asked:
            tokens = planned.rows * planned.phase.sequence_length
            row = {"step": step, "phase": planned.index, **metrics, "time/elapsed": elapsed}
            row["time/tokens_per_second"] = tokens / (time.perf_counter() - started)
            if evaluate is not None and asked:
                row |= evaluate(step)
            run.record(row)
            watcher.update(step, row)
        if step == early:
            save_policy(learner.policy, run.directory / EARLY_MODEL)
        stopping = should_stop() and not final
        if final or stopping or due(config.save_every, step):
            run.checkpoint(step, learner.save, {"elapsed": elapsed})
        stop_if_asked(stopping, run, learner)
    return elapsed


def take_step(
    planned: PlannedStep, learner: Learner, config: PretrainConfig, tokenizer: PreTrainedTokenizerFast
) -> dict[str, Any]:
    """One optimizer step on the corpus; returns its metrics."""
    tokens = batch(tokenizer, planned.phase, planned.index, config.seed, planned.step, planned.rows)
    metrics = learner.forward_backward(build_sft_batch(list(tokens)), cross_entropy)
    return metrics | learner.optim_step(planned.learning_rate)
