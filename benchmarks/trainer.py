"""Speed of one optimizer update on the laptop job, against what its matrix products alone would take here.

    python benchmarks/trainer.py [--lanes 2] [--repeats 5] [--micro-batch-tokens 2048] [--profile]

The job: the 256 completions of benchmarks/engine.py (log-normal lengths, 20 to 384, mean about 110) to 32 prompts, the
shipped base's architecture, GRPO's loss. The limit: forward, input-gradient and weight-gradient products of every
linear layer and of the head, and attention's below the diagonal, for the job's tokens alone (no padding), at the rate
of the layers' products with as many threads side by side as the trainer uses; AdamW's passes over the weights at the
measured rate of copying memory; and, said apart, writing and reading once what the backward pass needs. Seconds
against tokens: benchmarks/growth.py.
"""

from __future__ import annotations

import argparse
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from engine import PROMPTS, SAMPLES, build_model, build_requests, copy_rate

from r1kit.batching import TrainBatch, build_grpo_batch
from r1kit.learner import Learner
from r1kit.losses import GrpoLossConfig, LossInputs, grpo_loss
from r1kit.mini.tokenizer import build_tokenizer
from r1kit.policy import make_policy
from r1kit.types import Completion, Message, Problem, Request, RewardBreakdown, RolloutGroup

ATTENTION_PRODUCTS = (
    7  # scores and their use; in the backward pass scores again, and the gradients of both sides of each
)
ADAMW_PASSES = 7  # reads weight, gradient and both moments; writes weight and both moments


def completion(request: Request, random: np.random.Generator) -> Completion:
    length = request.params.max_completion_length
    return Completion(
        problem_id=request.problem_id, prompt_ids=request.prompt_ids,
        token_ids=random.integers(0, 512, length).astype(np.int32),
        logprobs=np.full(length, -1.0, np.float32), text="", finish_reason="stop", draw=request.draw,
    )  # fmt: skip


def build_batch(prompts: int = PROMPTS, samples: int = SAMPLES) -> TrainBatch:
    """A rollout's groups with random rewards."""
    random = np.random.default_rng(0)
    groups: dict[str, list[Completion]] = {}
    for request in build_requests(prompts=prompts, samples=samples):
        groups.setdefault(request.problem_id, []).append(completion(request, random))
    return build_grpo_batch([scored(name, rows, random) for name, rows in groups.items()])


def scored(name: str, rows: list[Completion], random: np.random.Generator) -> RolloutGroup:
    weights = {"accuracy": 1.0}
    verdicts = tuple(
        RewardBreakdown(terms={"accuracy": float(random.random())}, weights=weights, outcome="scored") for _ in rows
    )
    problem = Problem(id=name, messages=(Message(role="user", content=name),), kind="general")
    return RolloutGroup(problem=problem, completions=tuple(rows), verdicts=verdicts)


def make_learner(lanes: int, micro_batch_tokens: int | None) -> Learner:
    from r1kit.fused import make_lean

    model = build_model()
    make_lean(model)
    policy = make_policy(model, build_tokenizer(["0123456789 yes no"], 512))
    return Learner(policy, learning_rate=1e-4, lanes=lanes, micro_batch_tokens=micro_batch_tokens)


def time_update(learner: Learner, batch: TrainBatch) -> tuple[float, float]:
    """Seconds of wall clock and of processor time."""

    def loss(inputs: LossInputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return grpo_loss(inputs, GrpoLossConfig())

    start, used = time.perf_counter(), time.process_time()
    learner.forward_backward(batch, loss)
    learner.optim_step()
    return time.perf_counter() - start, time.process_time() - used


def seconds_of_update(learner: Learner, batch: TrainBatch, repeats: int) -> float:
    """Median of ``repeats`` updates after one to warm up."""
    found = [time_update(learner, batch)[0] for _ in range(repeats + 1)]
    return statistics.median(found[1:])


def product_rate(model: torch.nn.Module, lanes: int, tokens: int, dtype: torch.dtype) -> tuple[float, float]:
    """Floating-point operations per second of the layers' products at ``tokens`` rows, all threads together, and the
    operations that one token needs (forward and both gradients)."""
    shapes = [tuple(p.shape) for p in model.parameters() if p.ndim == 2]
    weights = [torch.randn(shape).to(dtype) for shape in shapes]

    def work(repeats: int) -> None:
        for _ in range(repeats):
            for weight in weights:
                out, inner = weight.shape
                x, g = torch.randn(tokens, inner).to(dtype), torch.randn(tokens, out).to(dtype)
                stopwatch = time.perf_counter()
                torch.nn.functional.linear(x, weight)
                g @ weight
                g.t() @ x
                spent.append(time.perf_counter() - stopwatch)

    spent: list[float] = []
    torch.set_num_threads(1)
    with ThreadPoolExecutor(lanes) as pool:
        list(pool.map(work, [1] * lanes))
        spent.clear()
        list(pool.map(work, [6] * lanes))
    per_token = 6.0 * sum(out * inner for out, inner in shapes)
    return per_token * tokens * 6 * lanes / (sum(spent) / lanes), per_token


def activation_bytes(config: Any) -> int:
    """Bytes a token that a backward pass needs of the forward pass: the inputs of every product, in bfloat16."""
    width, queries = config.hidden_size, config.num_attention_heads * config.head_dim
    keys = 2 * config.num_key_value_heads * config.head_dim
    return 2 * config.num_hidden_layers * (2 * width + 2 * queries + keys + 3 * config.intermediate_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lanes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--micro-batch-tokens", type=int)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    batch = build_batch()
    learner = make_learner(options.lanes, options.micro_batch_tokens)
    torch.set_num_threads(options.lanes)
    seconds = seconds_of_update(learner, batch, options.repeats)
    print(f"update: {batch.num_tokens:,} tokens in {seconds:.2f} s: {batch.num_tokens / seconds:,.0f} tokens/s")
    dtype = torch.bfloat16 if learner._bf16 else torch.float32
    rate, per_token = product_rate(learner.policy.model, options.lanes, options.micro_batch_tokens or 2048, dtype)
    parameters = sum(p.numel() for p in learner.policy.model.parameters())
    copying = copy_rate()
    config = learner.policy.model.config
    pairs = sum(length * (length + 1) / 2 for length in batch.lengths.tolist())
    attention = ATTENTION_PRODUCTS * 2 * config.num_attention_heads * config.head_dim * config.num_hidden_layers * pairs
    products, between = (per_token * batch.num_tokens + attention) / rate, activation_bytes(config) * batch.num_tokens
    passes, traffic = ADAMW_PASSES * 4 * parameters / copying, 2 * between / copying
    print(
        f"limit: ({per_token / 1e6:.2f} MFLOP a token x {batch.num_tokens:,} tokens + {attention / 1e9:.1f} GFLOP of "
        f"attention) / {rate / 1e9:.0f} GFLOP/s ({dtype}, {options.lanes} threads) = {products:.3f} s; AdamW "
        f"{ADAMW_PASSES} x {4 * parameters / 1e6:.1f} MB / {copying / 1e9:.1f} GB/s = {passes:.3f} s: "
        f"the update runs at {(products + passes) / seconds:.0%} of it; with activations, 2 x {between / 1e9:.2f} GB, "
        f"= {traffic:.3f} s: at {(products + passes + traffic) / seconds:.0%}"
    )
    if options.profile:
        with torch.profiler.profile() as profile:
            seconds_of_update(learner, batch, 1)
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=30, max_name_column_width=50))


if __name__ == "__main__":
    main()
