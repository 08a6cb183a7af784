"""The compiled kernels against torch: forward, gradients, log-probabilities, drawing, and what happens without them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from r1kit import kernels
from r1kit.batching import TrainBatch, build_sft_batch, model_view
from r1kit.engines import _compiled, _sampling
from r1kit.engines.draws import uniforms
from r1kit.engines.native import NativeEngine
from r1kit.kernels import training
from r1kit.kernels.training import trained_model
from r1kit.kernels.weights import why_not
from r1kit.learner import Learner
from r1kit.losses import LossInputs, cross_entropy
from r1kit.policy import make_policy, token_logprobs
from test_engine import check_parity, engine_of, requests_of, run
from tiny_models import make_tiny_model, make_tiny_tokenizer

needs_kernels = pytest.mark.skipif(bool(kernels.unavailable()), reason=f"kernels: {kernels.unavailable()}")
WIDE = {"head_dim": 32}
SHAPES: dict[str, dict[str, Any]] = {
    "grouped": {"arch": "llama", **WIDE},
    "biases": {"arch": "qwen2", **WIDE},
    "one group of five, heads of 64": {
        "arch": "llama",
        "hidden_size": 160,
        "num_attention_heads": 5,
        "num_key_value_heads": 1,
        "head_dim": 64,
    },
    "no groups, three layers": {"arch": "qwen2", **WIDE, "num_key_value_heads": 4, "num_hidden_layers": 3},
}
LENGTHS = (3, 40, 130, 64, 33)


def model_of(shape: str, **more: Any) -> Any:
    settings = {**SHAPES[shape], **more}
    return make_tiny_model(settings.pop("arch"), **settings)


def batch_of(lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> TrainBatch:
    random = np.random.default_rng(seed)
    return build_sft_batch([random.integers(0, 250, n) for n in lengths])


def logprobs_and_gradients(
    model: Any, layout: Any, *, bf16: bool, temperature: float = 1.0
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Of a fixed random combination of log-probabilities and entropies."""
    view = model_view(batch_of(), layout)
    random = torch.Generator().manual_seed(1)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logprob, entropy = token_logprobs(model, view, temperature=temperature)
    order = torch.from_numpy(np.argsort(view.stream_M))
    logprob, entropy = logprob[order], entropy[order]
    by_logprob, by_entropy = torch.randn(2, len(order), generator=random)
    (logprob @ by_logprob + entropy @ by_entropy).backward()
    return logprob.detach(), entropy.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def gap(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@needs_kernels
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("shape", SHAPES)
def test_they_are_as_near_to_float32_as_torch_in_bfloat16(
    shape: str, layout: str, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(shape)
    exact = logprobs_and_gradients(model, layout, bf16=False, temperature=temperature)
    with torch.autocast("cpu", torch.bfloat16):
        assert trained_model(model, 100) is not None
    ours = logprobs_and_gradients(model, layout, bf16=True, temperature=temperature)
    monkeypatch.setattr("r1kit.policy.trained_model", lambda model, tokens: None)
    torchs = logprobs_and_gradients(model, layout, bf16=True, temperature=temperature)
    assert (ours[0] - exact[0]).abs().mean() <= 1.2 * (torchs[0] - exact[0]).abs().mean()
    assert (ours[1] - exact[1]).abs().mean() <= 1.2 * (torchs[1] - exact[1]).abs().mean()
    for name, expected in exact[2].items():
        assert gap(ours[2][name], expected) <= 1.3 * gap(torchs[2][name], expected) + 1e-3, name


@needs_kernels
def test_a_sequence_has_the_same_gradient_in_any_company() -> None:
    model = model_of("grouped")

    def gradients(batch: TrainBatch, tokens: int) -> dict[str, Tensor]:
        learner = Learner(make_policy(model, make_tiny_tokenizer()), learning_rate=1e-3, autocast="bf16",
                          micro_batch_tokens=tokens)  # fmt: skip
        learner.forward_backward(batch, cross_entropy_of)
        found = {name: p.grad.clone() for name, p in model.named_parameters()}
        model.zero_grad()
        return found

    whole = gradients(batch_of(), 4096)
    for tokens in (64, 200):
        for name, gradient in gradients(batch_of(), tokens).items():
            assert gap(gradient, whole[name]) <= 1e-5, name


def cross_entropy_of(inputs: LossInputs) -> Any:
    return cross_entropy(inputs)


@needs_kernels
@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adamw_torch"])
def test_a_step_of_the_optimizer_is_seen(optim: Any) -> None:
    """torch's fused optimizer changes weights without counting up their version."""
    model = model_of("grouped")
    learner = Learner(make_policy(model, make_tiny_tokenizer()), learning_rate=1e-2, autocast="bf16", optim=optim)
    batch = batch_of()
    before = learner.logprobs(batch)
    learner.forward_backward(batch, cross_entropy_of)
    learner.optim_step()
    after = learner.logprobs(batch)
    fresh = Learner(make_policy(model, make_tiny_tokenizer()), learning_rate=0.1, autocast="none").logprobs(batch)
    assert np.abs(after - before).mean() > 10 * np.abs(after - fresh).mean()


@needs_kernels
def test_a_second_backward_pass_is_refused() -> None:
    """Its activations may be another micro-batch's by then."""
    model, view = model_of("grouped"), model_view(batch_of(), "packed")
    with torch.autocast("cpu", torch.bfloat16):
        logprob, _ = token_logprobs(model, view)
    logprob.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="forward pass again"):
        logprob.sum().backward()


@needs_kernels
def test_two_lanes_give_the_same_bits_every_time() -> None:
    def gradients() -> list[bytes]:
        model = model_of("grouped")
        learner = Learner(make_policy(model, make_tiny_tokenizer()), learning_rate=1e-3, autocast="bf16", lanes=2,
                          micro_batch_tokens=128)  # fmt: skip
        metrics = learner.forward_backward(batch_of(seed=3), cross_entropy_of)
        return [repr(metrics).encode(), *(p.grad.numpy().tobytes() for p in model.parameters())]

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # so that lanes meet wherever they can
    try:
        first = gradients()
        assert all(gradients() == first for _ in range(30))
    finally:
        sys.setswitchinterval(before)


@needs_kernels
@pytest.mark.parametrize("rope", ["default", "linear", "llama3", "yarn"])
@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
def test_the_sampler_agrees_with_transformers(arch: str, rope: str) -> None:
    from test_engine import ROPES

    parameters = {"rope_theta": 10_000.0, "rope_type": "default", **ROPES[rope]}
    model = make_tiny_model(arch, rope_parameters=parameters, initializer_range=0.08, **WIDE)
    engine = engine_of("auto", model, dtype="bfloat16", max_batch_size=5)
    assert engine.path == "compiled", engine.why_slow
    check_parity(engine, model, tolerance=0.05)
    torchs = engine_of("fast", model, dtype="bfloat16", max_batch_size=5)
    assert mean_gap(engine, model) <= 1.2 * mean_gap(torchs, model)


def mean_gap(engine: NativeEngine, model: Any) -> float:
    from test_engine import PROMPTS, reference_logprobs

    found = run(engine, requests_of(PROMPTS, samples=8, lengths=(70, 12, 33))).values()
    return float(np.mean([np.abs(reference_logprobs(model, one) - one.logprobs).mean() for one in found]))


@needs_kernels
def test_a_completion_has_the_same_bits_in_any_batch_on_any_number_of_threads() -> None:
    requests = requests_of(
        ("Hi", "a longer prompt by far", "中文?"), samples=30, lengths=(40, 3, 90, 28, 9), temperature=0.9
    )
    model = model_of("grouped")
    found = []
    before = torch.get_num_threads()
    try:
        for threads, rows, order in ((1, 1, requests), (1, 90, requests), (2, 90, requests[::-1]), (2, 37, requests)):
            torch.set_num_threads(threads)
            found.append(run(engine_of("compiled", model, dtype="bfloat16", max_batch_size=rows), order))
    finally:
        torch.set_num_threads(before)
    for key, one in found[0].items():
        for other in found[1:]:
            assert other[key].token_ids.tobytes() == one.token_ids.tobytes()
            assert other[key].logprobs.tobytes() == one.logprobs.tobytes()


@needs_kernels
def test_gradient_checkpointing_is_left_to_torch_where_it_saves_much(monkeypatch: pytest.MonkeyPatch) -> None:
    model, found = model_of("grouped"), []
    made = Learner(make_policy(model, make_tiny_tokenizer()), learning_rate=1e-3, autocast="bf16",
                   gradient_checkpointing=True)  # fmt: skip
    with torch.autocast("cpu", torch.bfloat16):
        assert trained_model(model, 2048) is not None
        assert trained_model(model, 10**8) is None
    for allowed in (1 << 30, 0):
        monkeypatch.setattr(training, "CHECKPOINTED_BYTES", allowed)
        made.forward_backward(batch_of(), cross_entropy_of)
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        model.zero_grad()
    assert (found[0] - found[1]).norm() < 0.05 * found[1].norm()
    assert not torch.equal(*found), "two programs"


@needs_kernels
@pytest.mark.parametrize("rows", [4, 60])
def test_steps_taken_together_are_those_taken_singly(rows: int) -> None:
    requests = requests_of(
        ("Hi", "a longer prompt by far", "中文?"), samples=20, lengths=(40, 1, 90, 28, 9), temperature=0.9, top_p=0.97
    )
    greedy = requests_of(("greedy",), samples=1, lengths=(50,), temperature=0.0)
    model, found = model_of("grouped"), []
    for steps in (1, 5, 16, 1000):
        engine = engine_of("compiled", model, dtype="bfloat16", max_batch_size=rows, eos_token_ids=range(0, 40, 3))
        engine.steps_at_once = steps
        found.append(run(engine, [*requests, *greedy]))
    assert {one.finish_reason for one in found[0].values()} == {"stop", "length"}
    for key, one in found[0].items():
        for other in found[1:]:
            assert other[key].token_ids.tobytes() == one.token_ids.tobytes()
            assert other[key].logprobs.tobytes() == one.logprobs.tobytes()
            assert other[key].finish_reason == one.finish_reason


@needs_kernels
@pytest.mark.parametrize("vocab", [5, 320, 1000])
def test_tokens_are_drawn_as_by_torch(vocab: int) -> None:
    random = np.random.default_rng(vocab)
    rows = 400
    logits = torch.from_numpy(random.normal(0, 3, (rows, vocab)).astype(np.float32))
    logits[:40] = 0  # nothing but ties
    temperature = random.choice([0.0, 0.6, 1.0, 1.7], rows)
    top_p = random.choice([1.0, 0.95, 0.5, 1e-6, 0.999999], rows)
    words, counts = random.integers(0, 2**63, rows).astype(np.uint64), random.integers(0, 500, rows)
    tokens, logprobs = _compiled.draw(logits, temperature, top_p, words, counts)
    params = _sampling.RowParams.of(temperature, top_p, torch.device("cpu"))
    expected, wanted = _sampling.sample(logits, torch.from_numpy(uniforms(words, counts)), params)
    assert (tokens != expected).sum() <= 1, "a draw on the border of two tokens may fall either way"
    same = (tokens == expected).numpy()
    assert np.abs(logprobs - wanted.numpy())[same].max() <= 2e-6


@needs_kernels
def test_logits_that_are_not_finite_are_told() -> None:
    logits = torch.zeros(4, 50)
    logits[0, 3], logits[1, 49], logits[2, 0] = float("nan"), float("inf"), float("-inf")
    settings = np.ones(4), np.ones(4), np.arange(4, dtype=np.uint64), np.zeros(4, dtype=np.int64)
    _, logprobs = _compiled.draw(logits, *settings)
    assert np.isnan(logprobs).tolist() == [True, True, True, False]


@needs_kernels
@pytest.mark.parametrize(
    ("settings", "words"),
    [({"hidden_act": "gelu"}, "activation"), ({"head_dim": 16}, "multiples of 32"), ({"mlp_bias": True}, "biases")],
)
def test_models_they_cannot_run_are_left_to_torch(settings: dict[str, Any], words: str) -> None:
    model = make_tiny_model("llama", **{**WIDE, **settings})
    assert words in why_not(model)
    assert engine_of("auto", model, dtype="bfloat16").path != "compiled"
    with torch.autocast("cpu", torch.bfloat16):
        assert trained_model(model, 100) is None


def test_float32_stays_with_torch() -> None:
    model = model_of("grouped")
    assert engine_of("auto", model, dtype="float32").path == "fast"
    assert trained_model(model, 100) is None


REASON = "from r1kit import kernels; print(kernels.unavailable())"
SAMPLED = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_kernels import engine_of, model_of, mean_gap
engine = engine_of("auto", model_of("grouped", initializer_range=0.08), dtype="bfloat16")
print(engine.path, mean_gap(engine, model_of("grouped", initializer_range=0.08)))
"""


def elsewhere(script: str, **environment: str) -> str:
    """What a process of its own prints."""
    found = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


@needs_kernels
def test_without_tiles_they_agree_too(tmp_path: Path) -> None:
    """The processor's AVX-512 alone, which AMD's have, compiled anew where there is nothing yet."""
    path, error = elsewhere(SAMPLED, R1KIT_KERNELS="avx512", XDG_CACHE_HOME=str(tmp_path)).split()
    assert path == "compiled"
    assert 0 < float(error) < 0.01
    assert len(list((tmp_path / "r1kit").glob("kernels-*.so"))) == 1


def test_switched_off_they_leave_the_work_to_torch() -> None:
    path, error = elsewhere(SAMPLED, R1KIT_KERNELS="0").split()
    assert path == "fast"
    assert 0 < float(error) < 0.01


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"R1KIT_KERNELS": "0"}, "R1KIT_KERNELS=0"),
        ({"PATH": "/nowhere", "CXX": ""}, "no C++ compiler was found"),
        ({"CXX": "false"}, "false"),
        ({"CXX": "/nowhere/g++"}, "/nowhere/g++"),
    ],
)
def test_the_reason_why_they_are_missing_is_told(environment: dict[str, str], words: str, tmp_path: Path) -> None:
    if kernels.unavailable() and "compiler" not in kernels.unavailable():
        pytest.skip(f"the machine comes first: {kernels.unavailable()}")
    assert words in elsewhere(REASON, **environment, XDG_CACHE_HOME=str(tmp_path))


@needs_kernels
def test_a_cache_that_others_can_write_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "r1kit").mkdir()
    (tmp_path / "r1kit").chmod(0o777)
    assert elsewhere(REASON, XDG_CACHE_HOME=str(tmp_path), TMPDIR=str(tmp_path)) == ""
    assert not list((tmp_path / "r1kit").iterdir())
    assert not list(tmp_path.glob("r1kit-*")), "a folder of the process's own, gone with it"
