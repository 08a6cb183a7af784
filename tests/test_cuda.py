"""What runs differently on CUDA: recorded decode steps, attention over packed sequences, memory taken in turns."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from r1kit.config import load_recipe
from r1kit.devices import free_memory
from r1kit.engines.native import NativeEngine
from r1kit.fused import Packing, make_lean, packed_attention
from r1kit.learner import Learner
from r1kit.policy import make_policy
from r1kit.run_directory import read_json_lines
from r1kit.runner import run_recipe
from test_engine import PROMPTS, TOKENIZER, model_of, reference_logprobs, requests_of, run
from test_learner import grpo, grpo_batch
from tiny_models import make_tiny_model, make_tiny_tokenizer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def engine_of(model: Any, **settings: Any) -> NativeEngine:
    settings = {"dtype": "float32", "eos_token_ids": [], "max_batch_size": 9, **settings}
    return NativeEngine(copy.deepcopy(model).cuda(), TOKENIZER, **settings)


def learner_of(arch: str, device: str, **settings: Any) -> Learner:
    model = make_tiny_model(arch)
    make_lean(model)
    policy = make_policy(model.to(device), make_tiny_tokenizer())
    return Learner(policy, **{"learning_rate": 1e-3, "autocast": "none", **settings})


def gradients(made: Learner) -> torch.Tensor:
    return torch.cat([p.grad.flatten().cpu() for p in made.policy.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
def test_replayed_steps_give_transformers_log_probabilities(arch: str) -> None:
    model = model_of(arch)
    engine = engine_of(model)
    requests = requests_of(PROMPTS, samples=6, lengths=(70, 9, 33, 58, 21), temperature=0.7)
    recorded = []
    graphs = engine._decoder.graphs
    record, graphs._record = graphs._record, lambda step: recorded.append(1) or record(step)
    for completion in run(engine, requests).values():
        assert np.abs(reference_logprobs(model, completion, 0.7) - completion.logprobs).max() <= 1e-3
    assert len(recorded) > 2


def test_replayed_steps_take_up_new_weights() -> None:
    engine = engine_of(model_of("qwen3"))
    for seed in (0, 1):
        engine.load(model_of("qwen3", seed).named_parameters(), seed)
        for completion in run(engine, requests_of(PROMPTS, samples=2, lengths=(40,))).values():
            expected = reference_logprobs(model_of("qwen3", seed), completion)
            assert np.abs(expected - completion.logprobs).max() <= 1e-3


def test_other_architectures_are_sampled_too() -> None:
    model = model_of("deepseek_v3")
    for completion in run(engine_of(model), requests_of(PROMPTS, samples=2, lengths=(20, 7))).values():
        assert np.abs(reference_logprobs(model, completion) - completion.logprobs).max() <= 1e-3


def test_an_idle_engine_holds_no_cache() -> None:
    engine = engine_of(model_of("llama"))
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    run(engine, requests_of(PROMPTS, samples=6, lengths=(70, 9)))
    assert torch.cuda.memory_allocated() - before < 1 << 20
    taken = torch.empty(free_memory(torch.device("cuda"))[0] // 2, dtype=torch.uint8, device="cuda")
    had = engine._cache_tokens
    run(engine, requests_of(PROMPTS[:1], lengths=(3,)))
    assert engine._cache_tokens < 0.7 * had, "what training holds is not the cache's"
    del taken


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)])
def test_packed_attention_equals_each_sequence_alone(heads: tuple[int, int]) -> None:
    torch.manual_seed(0)
    bounds = np.array([0, 5, 6, 70, 300], dtype=np.int64)
    packing = Packing.of(bounds, torch.device("cuda"))
    shapes = [(1, count, 300, 32) for count in (heads[0], heads[1], heads[1])]
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        torch.manual_seed(1)
        streams = [torch.randn(shape, device="cuda").to(dtype).requires_grad_() for shape in shapes]
        out = packed_attention(*streams, 32**-0.5, packing)
        weights = torch.linspace(-1, 1, out.numel(), device="cuda").view(out.shape)
        found.append([out.detach().float(), *torch.autograd.grad((out.float() * weights).sum(), streams)])
    for half, whole in zip(*found, strict=True):
        assert (half.float() - whole.float()).norm() < 0.02 * whole.float().norm()


@pytest.mark.parametrize("arch", ["llama", "qwen3", "deepseek_v3"])
def test_gradients_are_those_of_a_cpu(arch: str) -> None:
    batch = grpo_batch()
    found = []
    for device in ("cpu", "cuda"):
        made = learner_of(arch, device)
        made.forward_backward(batch, grpo(beta=0.04), temperature=0.9)
        found.append(gradients(made))
    assert (found[1] - found[0]).norm() < 1e-3 * found[0].norm()


def test_layouts_and_micro_batches_agree_in_bfloat16() -> None:
    batch, found = grpo_batch(), []
    for layout in ("padded", "packed"):
        for tokens in (64, 10_000):
            made = learner_of("llama", "cuda", autocast="bf16", layout=layout, micro_batch_tokens=tokens)
            made.forward_backward(batch, grpo(), temperature=0.9)
            found.append(gradients(made))
    for other in found[1:]:
        assert (other - found[0]).norm() < 0.03 * found[0].norm()


def test_gradient_checkpointing_changes_nothing() -> None:
    batch, found = grpo_batch(), []
    for saving in (False, True):
        made = learner_of("qwen3", "cuda", autocast="bf16", layout="packed", gradient_checkpointing=saving)
        made.forward_backward(batch, grpo())
        found.append(gradients(made))
    assert (found[1] - found[0]).norm() < 1e-2 * found[0].norm()


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("optim", ["adamw_8bit", "paged_adamw_8bit"])
def test_eight_bit_optimizers_step_save_and_go_on(optim: Any, tmp_path: Path) -> None:
    batch = grpo_batch()
    one, other = (learner_of("llama", "cuda", optim=optim) for _ in range(2))
    for _ in range(2):
        one.forward_backward(batch, grpo())
        one.optim_step()
    one.save(tmp_path / "state")
    other.load(tmp_path / "state")
    for made in (one, other):
        made.forward_backward(batch, grpo())
        made.optim_step()
    for a, b in zip(one.policy.model.parameters(), other.policy.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_run_samples_and_learns(tmp_path: Path) -> None:
    settings = [
        "device=cuda", "problems_per_rollout=4", "num_generations=4", "max_completion_length=64", "eval_size=8",
        "eval_every=2", "save_every=2", "max_steps=4", f"output_dir={tmp_path / 'run'}",
    ]  # fmt: skip
    run_recipe(load_recipe("r1_zero_mini", settings), ["test"])
    rows = [row for row in read_json_lines(tmp_path / "run" / "metrics.jsonl") if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(np.isfinite([row["loss"], row["grad_norm"]]).all() for row in rows)
    assert all(row["sampler_mismatch/mean_abs"] < 0.05 for row in rows)
