"""The engine contract, over every engine that runs here, and parity with the plain transformers forward."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from r1kit import kernels
from r1kit.engines.base import Engine, EngineError
from r1kit.engines.native import NativeEngine
from r1kit.kernels import weights as kernel_weights
from r1kit.types import Completion, DrawKey, Request, SamplingParams, UserError
from tiny_models import EOS_TOKEN_ID, make_tiny_checkpoint, make_tiny_model, make_tiny_tokenizer, silence_layers

NEEDS_KERNELS = pytest.mark.skipif(bool(kernels.unavailable()), reason=f"no kernels: {kernels.unavailable()}")
ENGINES = ("fast", "slow", pytest.param("compiled", marks=NEEDS_KERNELS))
TOLERANCE = {"fast": 1e-4, "slow": 1e-4, "compiled": 0.3}
"""Of log-probabilities. The compiled path multiplies in bfloat16, and the tiny models' weights are ten times as large
as usual; ``test_kernels`` holds it to bfloat16's own error."""
TOKENIZER = make_tiny_tokenizer()


@functools.cache
def model_of(arch: str, seed: int = 0) -> Any:
    return make_tiny_model(arch, seed)


def engine_of(kind: str, model: Any = None, **settings: Any) -> NativeEngine:
    settings = {"dtype": "bfloat16" if kind == "compiled" else "float32", "eos_token_ids": [], **settings}
    return NativeEngine(model_of("qwen3") if model is None else model, TOKENIZER, path=kind, **settings)


def requests_of(
    prompts: Sequence[str], samples: int = 1, lengths: Sequence[int] = (12,), **params: Any
) -> list[Request]:
    """``samples`` requests per prompt; lengths are taken in turn."""
    result = []
    for text in prompts:
        for sample in range(samples):
            settings = {"max_completion_length": lengths[len(result) % len(lengths)], **params}
            draw = DrawKey(run_seed=0, stage="s", purpose="p", rollout=0, problem_id=text, sample=sample)
            ids = np.array(TOKENIZER(text)["input_ids"], dtype=np.int32)
            result.append(Request(problem_id=text, prompt_ids=ids, params=SamplingParams(**settings), draw=draw))
    return result


def run(engine: Engine, requests: Sequence[Request]) -> dict[tuple[str, int], Completion]:
    engine.submit(requests)
    return by_key(engine.completions())


def by_key(completions: Any) -> dict[tuple[str, int], Completion]:
    result: dict[tuple[str, int], Completion] = {}
    for completion in completions:
        assert completion.draw is not None
        key = (completion.problem_id, completion.draw.sample)
        assert key not in result, "a completion came twice"
        result[key] = completion
    return result


@torch.inference_mode()
def reference_logprobs(model: Any, completion: Completion, temperature: float = 1.0) -> np.ndarray:
    """Log-probabilities of the completion's tokens by one plain forward pass, one sequence, no cache."""
    ids = torch.from_numpy(np.concatenate([completion.prompt_ids, completion.token_ids]).astype(np.int64))
    logits = model(ids.unsqueeze(0), use_cache=False).logits[0].float() / temperature
    logprobs = torch.log_softmax(logits, dim=-1)
    start = len(completion.prompt_ids)
    return logprobs[start - 1 : -1].gather(1, ids[start:, None])[:, 0].numpy()


PROMPTS = (
    "Hi",
    "User: 3, 19, 36 make 51.\nAssistant:",
    "中文?",
    "a longer prompt than the others, by a good deal " * 2,
)


# -- the contract ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ENGINES)
def test_every_request_gets_one_completion_of_its_length(kind: str) -> None:
    engine = engine_of(kind, max_batch_size=5)
    assert isinstance(engine, Engine)
    requests = requests_of(PROMPTS, samples=3, lengths=(1, 4, 23, 9))
    completions = run(engine, requests)
    assert len(completions) == 12
    for request in requests:
        completion = completions[request.problem_id, request.draw.sample]
        assert len(completion.token_ids) == request.params.max_completion_length
        assert completion.finish_reason == "length"
        assert np.array_equal(completion.prompt_ids, request.prompt_ids)
        assert completion.text == TOKENIZER.decode(completion.token_ids[completion.token_ids != EOS_TOKEN_ID + 1])
        assert completion.draw == request.draw
        (segment,) = completion.segments
        assert (segment.start, segment.stop, segment.trained, segment.policy_version) == (
            0, len(completion.token_ids), True, 0,
        )  # fmt: skip
    assert list(engine.completions()) == []


@pytest.mark.parametrize("kind", ENGINES)
def test_completions_do_not_depend_on_the_batch(kind: str) -> None:
    requests = requests_of(PROMPTS, samples=4, lengths=(40, 3, 17, 28, 9), temperature=0.9)
    alone: dict[tuple[str, int], Completion] = {}
    single = engine_of(kind, max_batch_size=1)
    for request in requests[::5]:
        alone |= run(single, [request])
    for batch, order in ((3, requests), (16, requests[::-1])):
        together = run(engine_of(kind, max_batch_size=batch), order)
        for key, completion in alone.items():
            assert together[key].token_ids.tolist() == completion.token_ids.tolist()
            assert np.abs(together[key].logprobs - completion.logprobs).max() <= 1e-5


@pytest.mark.parametrize("kind", ENGINES)
def test_equal_calls_give_equal_bits(kind: str) -> None:
    requests = requests_of(PROMPTS, samples=6, lengths=(5, 30, 12), top_p=0.9)
    first, second = (run(engine_of(kind, max_batch_size=7, dtype="auto"), requests) for _ in range(2))
    assert list(first) == list(second), "the order of finishing is part of it"
    for key, completion in first.items():
        assert completion.token_ids.tobytes() == second[key].token_ids.tobytes()
        assert completion.logprobs.tobytes() == second[key].logprobs.tobytes()


@pytest.mark.parametrize("kind", ENGINES)
def test_samples_of_a_group_differ_and_share_one_prefill(kind: str) -> None:
    engine = engine_of(kind, max_batch_size=6)
    completions = run(engine, requests_of(PROMPTS[:3], samples=8))
    assert engine.prefilled_prompts == 3, "groups that straddle a full batch too"
    for prompt in PROMPTS[:3]:
        texts = {completions[prompt, sample].token_ids.tobytes() for sample in range(8)}
        assert len(texts) == 8


@pytest.mark.parametrize("kind", ENGINES)
def test_samples_follow_the_model_distribution(kind: str) -> None:
    count = 600
    completions = run(engine_of(kind), requests_of(["Hi"], samples=count, lengths=(1,), temperature=1.5))
    counts = Counter(int(completion.token_ids[0]) for completion in completions.values())
    with torch.inference_mode():
        logits = model_of("qwen3")(torch.tensor([TOKENIZER("Hi")["input_ids"]])).logits[0, -1]
    probs = torch.softmax(logits / 1.5, -1).numpy()
    common = probs > 0.02
    assert common.sum() >= 3
    for token in np.flatnonzero(common):
        deviation = np.sqrt(count * probs[token] * (1 - probs[token]))
        assert abs(counts[token] - count * probs[token]) < 4.5 * deviation


@pytest.mark.parametrize("kind", ENGINES)
def test_greedy_takes_the_most_probable_token_and_records_temperature_one(kind: str) -> None:
    engine = engine_of(kind)
    (completion,) = run(engine, requests_of(["Hi there"], temperature=0.0)).values()
    expected = reference_logprobs(model_of("qwen3"), completion)
    assert np.abs(completion.logprobs - expected).max() < TOLERANCE[kind]
    with torch.inference_mode():
        ids = torch.from_numpy(np.concatenate([completion.prompt_ids, completion.token_ids]).astype(np.int64))
        every = model_of("qwen3")(ids[None]).logits[0].log_softmax(-1)[len(completion.prompt_ids) - 1 : -1]
    best = every.max(-1).values.numpy()
    assert (best - expected).max() < TOLERANCE[kind], "no other token is more probable, up to rounding"


@pytest.mark.parametrize("kind", ["fast", "slow"])
def test_top_p_logprobs_are_renormalised_over_the_nucleus(kind: str) -> None:
    (completion,) = run(engine_of(kind), requests_of(["Hi"], lengths=(30,), top_p=0.5)).values()
    plain = reference_logprobs(model_of("qwen3"), completion)
    ids = torch.from_numpy(np.concatenate([completion.prompt_ids, completion.token_ids]).astype(np.int64))
    with torch.inference_mode():
        probs = model_of("qwen3")(ids[None]).logits[0].softmax(-1)[len(completion.prompt_ids) - 1 : -1]
    for step, row in enumerate(probs.double().numpy()):
        ordered = np.sort(row)[::-1]
        size = int(np.searchsorted(np.cumsum(ordered), 0.5)) + 1
        assert row[completion.token_ids[step]] >= ordered[size - 1] - 1e-6
        assert completion.logprobs[step] == pytest.approx(plain[step] - np.log(ordered[:size].sum()), abs=1e-4)


@pytest.mark.parametrize("kind", ENGINES)
def test_end_of_sequence_ends_a_completion_and_is_kept_in_its_tokens(kind: str) -> None:
    free = run(engine_of(kind), requests_of(["Hi"], samples=4, lengths=(30,)))
    ending = int(free["Hi", 0].token_ids[10])
    stopped = run(engine_of(kind, eos_token_ids=[ending]), requests_of(["Hi"], samples=4, lengths=(30,)))
    for key, completion in stopped.items():
        whole = free[key].token_ids.tolist()
        expected = whole[: whole.index(ending) + 1] if ending in whole else whole
        assert completion.token_ids.tolist() == expected
        assert completion.finish_reason == ("stop" if ending in whole else "length")
        assert completion.text == TOKENIZER.decode([t for t in expected if t not in (ending, EOS_TOKEN_ID + 1)])


@pytest.mark.parametrize("kind", ENGINES)
def test_stop_strings_may_straddle_tokens_and_stay_in_the_text(kind: str) -> None:
    free = run(engine_of(kind), requests_of(["Hi", "yes"], samples=4, lengths=(120,)))
    text = free["Hi", 0].text
    stop = next(text[i : i + 2] for i in range(8, 100) if text[i : i + 2].isascii())
    requests = requests_of(["Hi"], samples=4, lengths=(120,), stop=("\u2603 never", stop))
    requests += requests_of(["yes"], samples=4, lengths=(120,))
    stopped = run(engine_of(kind), requests)
    assert stopped["Hi", 0].finish_reason == "stop"
    for sample in range(4):
        assert stopped["yes", sample].token_ids.tolist() == free["yes", sample].token_ids.tolist()
        tokens = free["Hi", sample].token_ids.tolist()
        lengths = [n for n in range(1, 121) if stop in TOKENIZER.decode(tokens[:n])]
        assert stopped["Hi", sample].token_ids.tolist() == tokens[: min(lengths, default=120)]
        assert (stop in stopped["Hi", sample].text) == bool(lengths)


@pytest.mark.parametrize("kind", ENGINES)
def test_a_stop_character_inside_a_byte_sequence_is_found(kind: str) -> None:
    """é is two tokens here, and neither alone decodes to it."""
    model = make_tiny_model("qwen3", tie_word_embeddings=False)
    first, second = TOKENIZER("é")["input_ids"]
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.model.embed_tokens.weight.zero_()
        model.model.embed_tokens.weight[:, 0] = 1.0
        model.model.embed_tokens.weight[first, :2] = torch.tensor([0.0, 1.0])
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.norm.weight.fill_(1.0)
        model.lm_head.weight[first, 0] = 10.0
        model.lm_head.weight[second, 1] = 10.0
    requests = requests_of(["x"], lengths=(9,), stop=("é",), temperature=0.0)
    (completion,) = run(engine_of(kind, model), requests).values()
    assert completion.token_ids.tolist() == [first, second]
    assert (completion.text, completion.finish_reason) == ("é", "stop")


@pytest.mark.parametrize("kind", ENGINES)
def test_the_context_ends_a_completion_and_refuses_a_prompt_that_fills_it(kind: str) -> None:
    model = make_tiny_model("qwen3", max_position_embeddings=24)
    engine = engine_of(kind, model)
    (completion,) = run(engine, requests_of(["x" * 20], lengths=(100,))).values()
    assert (len(completion.token_ids), completion.finish_reason) == (4, "length")
    with pytest.raises(UserError, match=r"'y{30}'.* 30 tokens .* 24"):
        engine.submit([*requests_of(["x"]), *requests_of(["y" * 30])])
    assert list(engine.completions()) == [], "nothing of a refused list is queued"


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize(
    ("params", "words"),
    [({"temperature": -1.0}, "temperature"), ({"top_p": 0.0}, "top_p"), ({"lengths": (0,)}, "max_completion_length")],
)
def test_settings_that_make_no_sense_are_refused(kind: str, params: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        engine_of(kind).submit(requests_of(["Hi"], **params))


@pytest.mark.parametrize("kind", ENGINES)
def test_requests_may_be_submitted_while_others_run(kind: str) -> None:
    engine = engine_of(kind, max_batch_size=4)
    engine.submit(requests_of(["Hi"], samples=3, lengths=(3, 30, 30)))
    stream = engine.completions()
    done = [next(stream)]
    engine.submit(requests_of(["later"], samples=3, lengths=(50,)))
    done += list(stream)
    assert by_key(done).keys() == {(text, i) for text in ("Hi", "later") for i in range(3)}
    assert done[-1].problem_id == "later"


@pytest.mark.parametrize("kind", ENGINES)
def test_weights_loaded_while_paused_govern_the_later_tokens(kind: str) -> None:
    old, new = model_of("qwen3"), model_of("qwen3", 1)
    engine = engine_of(kind, old, max_batch_size=6)
    requests = requests_of(["Hi", "yes", "and"], samples=3, lengths=(8, 40, 30))
    engine.submit(requests)
    first = next(engine.completions())
    engine.pause()
    finished_meanwhile = list(engine.completions())
    engine.load(new.named_parameters(), version=5)
    engine.resume()
    rest = [*finished_meanwhile, *engine.completions()]
    mixed = [completion for completion in rest if len(completion.segments) == 2]
    assert {segment.policy_version for segment in first.segments} == {0}
    assert mixed
    assert any(completion.segments[0].policy_version == 5 for completion in rest), "some had not begun"
    for completion in rest:
        for segment in completion.segments:
            expected = reference_logprobs({0: old, 5: new}[segment.policy_version], completion)
            part = slice(segment.start, segment.stop)
            assert np.abs(expected[part] - completion.logprobs[part]).max() < TOLERANCE[kind]
        assert completion.segments[-1].stop == len(completion.token_ids)
    assert len(by_key([first, *rest])) == 9
    assert np.abs(reference_logprobs(old, mixed[0]) - mixed[0].logprobs).max() > 0.6, "the two models differ"


@pytest.mark.parametrize("kind", ENGINES)
def test_load_is_in_place_complete_and_strict(kind: str) -> None:
    old, new = model_of("qwen3"), model_of("qwen3", 1)
    engine = engine_of(kind, old)
    weights = dict(new.named_parameters())
    with pytest.raises(EngineError, match="no place"):
        engine.load([("model.layers.9.mlp.up_proj.weight", torch.zeros(1))], version=1)
    with pytest.raises(EngineError, match="were not given"):
        engine.load(list(weights.items())[:-1], version=1)
    with pytest.raises(EngineError, match="does not fit"):
        engine.load([("model.norm.weight", torch.zeros(3))], version=1)
    assert engine.version == 0
    in_torch = kind != "compiled"  # there the library packs the weights into its own memory
    places = [place.data_ptr() for place, _, _ in engine._decoder.destinations._places.values()] if in_torch else []
    engine.load([*weights.items(), ("lm_head.weight", weights["model.embed_tokens.weight"])], version=7)
    if in_torch:
        assert places == [place.data_ptr() for place, _, _ in engine._decoder.destinations._places.values()]
    (completion,) = run(engine, requests_of(["Hi"])).values()
    assert completion.segments[0].policy_version == 7
    assert np.abs(reference_logprobs(new, completion) - completion.logprobs).max() < TOLERANCE[kind]


def test_routing_biases_are_loaded_too() -> None:
    """DeepSeek-V3 keeps them in a buffer, which ``state_dict`` has and ``named_parameters`` has not."""
    old, new = model_of("deepseek_v3"), make_tiny_model("deepseek_v3")
    with torch.no_grad():
        new.model.layers[1].mlp.gate.e_score_correction_bias.copy_(torch.tensor([9.0, 9.0, -9.0, -9.0]))
    engine = engine_of("auto", old)
    engine.load(old.named_parameters(), version=1)
    engine.load(new.state_dict().items(), version=2)
    (completion,) = run(engine, requests_of(["Hi there"], lengths=(40,))).values()
    assert np.abs(reference_logprobs(new, completion) - completion.logprobs).max() < 1e-4
    assert np.abs(reference_logprobs(old, completion) - completion.logprobs).max() > 1e-3


def test_an_unknown_dtype_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="float8"):
        engine_of("fast", dtype="float8")


@pytest.mark.parametrize("kind", ENGINES)
def test_loading_while_sampling_is_refused(kind: str) -> None:
    engine = engine_of(kind)
    engine.submit(requests_of(["Hi"], samples=2, lengths=(2, 90)))
    next(engine.completions())
    with pytest.raises(EngineError, match="pause"):
        engine.load(model_of("qwen3").named_parameters(), version=1)


@pytest.mark.parametrize("kind", ENGINES)
def test_the_engine_keeps_its_own_weights(kind: str) -> None:
    model = make_tiny_model("qwen3")
    engine = engine_of(kind, model)
    before = run(engine, requests_of(["Hi"]))["Hi", 0]
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.5)
    assert run(engine, requests_of(["Hi"]))["Hi", 0].logprobs.tobytes() == before.logprobs.tobytes()


@pytest.mark.parametrize("kind", ENGINES)
def test_abort_gives_back_everything(kind: str) -> None:
    engine = engine_of(kind, max_batch_size=4)
    requests = requests_of(["Hi", "yes"], samples=4, lengths=(6, 50, 50, 50))
    whole = run(engine_of(kind), requests)
    engine.submit(requests)
    first = next(engine.completions())
    aborted = engine.abort()
    assert by_key([first, *aborted]).keys() == whole.keys()
    assert {completion.finish_reason for completion in aborted} == {"abort"}
    lengths = sorted(len(completion.token_ids) for completion in aborted)
    assert lengths[:3] == [0, 0, 0]
    assert lengths[-1] >= 6
    for completion in aborted:
        full = whole[completion.problem_id, completion.draw.sample]  # type: ignore[union-attr]
        assert completion.token_ids.tolist() == full.token_ids[: len(completion.token_ids)].tolist()
    assert list(engine.completions()) == []
    assert len(run(engine, requests)) == 8, "the engine can go on"


@pytest.mark.parametrize("kind", ENGINES)
def test_diverged_weights_are_reported(kind: str) -> None:
    model = make_tiny_model("qwen3")
    with torch.no_grad():
        model.model.norm.weight[3] = float("nan")
    with pytest.raises(EngineError, match=r"'Hi'.*not finite"):
        run(engine_of(kind, model), requests_of(["Hi"]))


def test_the_cache_bound_limits_the_rows() -> None:
    engine = engine_of("fast", max_tokens_in_cache=100)
    engine.submit(requests_of(["Hi"], samples=9, lengths=(30,)))
    engine._step()
    assert len(engine._answers) == 3
    assert len(list(engine.completions())) == 9
    with pytest.raises(UserError, match="max_tokens_in_cache"):
        engine.submit(requests_of(["Hi"], lengths=(200,)))


# -- parity with transformers ------------------------------------------------------------------------

ROPES: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}


def check_parity(engine: NativeEngine, model: Any, temperature: float = 0.7, tolerance: float = 1e-4) -> None:
    requests = requests_of(PROMPTS, samples=2, lengths=(70, 12, 33), temperature=temperature)
    for completion in run(engine, requests).values():
        expected = reference_logprobs(model, completion, temperature)
        assert np.abs(expected - completion.logprobs).max() <= tolerance


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
def test_fast_path_agrees_with_transformers(arch: str, rope: str) -> None:
    model = make_tiny_model(arch, rope_parameters={"rope_theta": 10_000.0, "rope_type": "default", **ROPES[rope]})
    engine = engine_of("auto", model, max_batch_size=5)
    assert engine.path == "fast", engine.why_slow
    check_parity(engine, model)


def test_rope_types_differ_from_each_other() -> None:
    """Else the parity tests of the rope types would prove nothing."""
    (completion,) = run(engine_of("fast"), requests_of(["Hi"], lengths=(60,))).values()
    for rope in ("linear", "yarn", "llama3"):
        model = make_tiny_model("qwen3", rope_parameters={"rope_theta": 10_000.0, **ROPES[rope]})
        assert np.abs(reference_logprobs(model, completion) - completion.logprobs).max() > 1e-2


@pytest.mark.parametrize("settings", [{"attention_bias": True, "mlp_bias": True}, {"num_key_value_heads": 4}])
def test_fast_path_covers_biases_and_ungrouped_heads(settings: dict[str, Any]) -> None:
    model = make_tiny_model("llama", **settings)
    engine = engine_of("fast", model)
    check_parity(engine, model)


@pytest.mark.parametrize("arch", ["deepseek_v3", "qwen2", "qwen3_sliding"])
def test_slow_path_agrees_with_transformers(arch: str) -> None:
    sliding = {
        "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1,
    }  # fmt: skip
    model = make_tiny_model("qwen3", **sliding) if arch == "qwen3_sliding" else make_tiny_model(arch)
    engine = engine_of("slow" if arch == "qwen2" else "auto", model, max_batch_size=5)
    assert engine.path == "slow"
    check_parity(engine, model)


def test_unknown_layouts_take_the_slow_path_with_a_reason() -> None:
    assert "DeepseekV3" in engine_of("auto", model_of("deepseek_v3")).why_slow
    assert "activation" in engine_of("auto", make_tiny_model("llama", hidden_act="gelu")).why_slow
    with pytest.raises(UserError, match="fast path does not cover"):
        engine_of("fast", model_of("deepseek_v3"))


@pytest.mark.parametrize("kind", ENGINES)
def test_bfloat16_stays_near_float32(kind: str) -> None:
    model = model_of("qwen3")
    engine = engine_of(kind, model, dtype="bfloat16")
    differences = np.concatenate(
        [
            reference_logprobs(model, completion) - completion.logprobs
            for completion in run(engine, requests_of(PROMPTS, samples=2, lengths=(40,))).values()
        ]
    )
    assert 0 < np.abs(differences).mean() < 0.1
    assert all(weight.dtype == torch.float32 for weight in model.parameters())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ENGINES)
def test_an_fp32_head_brings_bfloat16_nearer_to_float32(kind: str, tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_weights, "WIDE_HEAD_WEIGHTS", 0)  # heads as small as this one are wide in any case
    model = silence_layers(make_tiny_model("llama", tie_word_embeddings=tied, head_dim=32))

    def error(wide: bool) -> float:
        engine = engine_of(kind, model, dtype="bfloat16", cast_lm_head_to_fp32=wide)
        engine.load(model.named_parameters(), version=1)
        found = run(engine, requests_of(PROMPTS, samples=8, lengths=(40,))).values()
        return float(np.mean([np.abs(reference_logprobs(model, one) - one.logprobs).mean() for one in found]))

    assert error(True) < 0.8 * error(False)


def test_a_checkpoint_on_disk_samples_with_its_own_end_of_sequence(tmp_path: Any) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = make_tiny_checkpoint(tmp_path / "tiny", "qwen2", seed=3)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    with torch.no_grad():
        model.lm_head.weight[EOS_TOKEN_ID] = 0
    engine = NativeEngine(model, tokenizer, dtype="float32")
    assert np.flatnonzero(engine._eos).tolist() == [EOS_TOKEN_ID]
    completions = run(engine, requests_of(PROMPTS, samples=16, lengths=(200,), temperature=2.0))
    ended = [completion for completion in completions.values() if completion.finish_reason == "stop"]
    assert ended
    assert all(completion.token_ids[-1] == EOS_TOKEN_ID for completion in ended)
    assert all("<|endoftext|>" not in completion.text for completion in completions.values())
