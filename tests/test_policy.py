"""Loading, templates, saving; token log-probabilities against full logits, and what they keep in memory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from r1kit import fused
from r1kit.batching import TrainBatch, build_sft_batch, packed_view, padded_view
from r1kit.fused import Packing, causal_attention, chunked_logprobs, is_lean, keep_last_norm_fp32, make_lean
from r1kit.mini.tokenizer import build_tokenizer
from r1kit.policy import Policy, load_policy, make_policy, save_policy, token_logprobs
from r1kit.types import Message, UserError
from tiny_models import make_tiny_checkpoint, make_tiny_model, make_tiny_tokenizer, silence_layers

QUESTION = [Message(role="user", content="What is 1+1?")]
R1_TEXT = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant "
    "first thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning "
    "process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., <think> "
    "reasoning process here </think> <answer> answer here </answer>. User: What is 1+1?. Assistant:"
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("model") / "qwen3", "qwen3")


@pytest.fixture
def copied(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


def batch_of(lengths: tuple[int, ...] = (5, 9, 17, 30), seed: int = 0) -> TrainBatch:
    rng = np.random.default_rng(seed)
    return build_sft_batch([rng.integers(0, 256, n) for n in lengths])


def edit_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


# Loading -----------------------------------------------------------------------------------------------


def test_a_policy_encodes_prompts_and_decodes_completions(checkpoint: Path) -> None:
    policy = load_policy(checkpoint, device="cpu")
    assert policy.prompt_text(QUESTION) == R1_TEXT
    ids = policy.prompt_ids(QUESTION)
    assert ids.dtype == np.int32
    assert not ids.flags.writeable
    assert bytes(ids.tolist()).__len__() == len(R1_TEXT)
    text = "<think>\nhm, é 中\n</think> <answer>2</answer>"
    assert policy.decode([*policy.encode(text), policy.eos_token_ids[0], policy.pad_token_id]) == text
    assert policy.warnings == ()
    assert not policy.prefill_think


def test_tags_that_are_added_tokens_survive_decoding() -> None:
    tokenizer = make_tiny_tokenizer()
    tokenizer.add_tokens(["<think>", "</think>"])
    policy = make_policy(make_tiny_model("llama", vocab_size=300), tokenizer)
    ids = policy.encode("<think>a</think>b")
    assert len(ids) == 4
    assert policy.decode(ids) == "<think>a</think>b"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: shutil.rmtree(d), "no such model folder"),
        (lambda d: (d / "config.json").unlink(), "no config.json"),
        (lambda d: (d / "model.safetensors").rename(d / "pytorch_model.bin"), "pickled"),
        (lambda d: (d / "model.safetensors").unlink(), "no weights"),
        (lambda d: (d / "model.safetensors").write_bytes(b"junk"), "cannot load the model"),
        (lambda d: [f.unlink() for f in d.glob("tokenizer*")], "no tokenizer"),
        (lambda d: (d / "tokenizer.json").write_text("{"), "tokenizer cannot be loaded"),
        (lambda d: edit_json(d / "tokenizer_config.json", eos_token=None), "no eos_token"),
        (lambda d: edit_json(d / "config.json", model_type="nonesuch"), "cannot load the model"),
    ],
)
def test_a_damaged_checkpoint_is_one_clear_sentence(copied: Path, damage: Any, message: str) -> None:
    damage(copied)
    with pytest.raises(UserError, match=message) as caught:
        load_policy(copied)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_larger_than_the_embeddings_is_refused(copied: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(copied)
    tokenizer.add_tokens([f"<x{i}>" for i in range(9)])
    tokenizer.save_pretrained(copied)
    with pytest.raises(UserError, match="269 tokens but the model embeds only 260"):
        load_policy(copied)


def test_code_in_a_checkpoint_does_not_run(copied: Path) -> None:
    (copied / "evil.py").write_text("raise SystemExit('ran')\nclass Config: pass\n")
    edit_json(copied / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Config"})
    with pytest.raises(UserError):
        load_policy(copied)


def test_end_tokens_that_disagree_are_joined_and_reported(copied: Path) -> None:
    edit_json(copied / "generation_config.json", eos_token_id=[258])
    policy = load_policy(copied)
    assert policy.eos_token_ids == (256, 258)
    assert "<|endoftext|>" in policy.warnings[0]
    assert "<|im_start|>" in policy.warnings[0]


def test_a_template_with_its_own_turn_end_is_joined_and_reported(copied: Path) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    )
    (copied / "chat_template.jinja").write_text(template)
    policy = load_policy(copied)
    assert policy.eos_token_ids == (256, 259)
    assert "<|im_end|>" in policy.warnings[0]
    assert policy.prefill_think
    assert policy.prompt_text(QUESTION).endswith("<|im_start|>assistant\n<think>\n")
    assert load_policy(copied, template="r1_zero").prompt_text(QUESTION) == R1_TEXT


def test_templates_by_name_and_by_file(checkpoint: Path, tmp_path: Path) -> None:
    orz = load_policy(checkpoint, template="r1_zero_orz")
    assert orz.prefill_think
    assert orz.prompt_text(QUESTION).endswith("problem:\nWhat is 1+1?\nAssistant: <think>")
    assert load_policy(checkpoint, template="plain").prompt_text(QUESTION) == "What is 1+1?"
    file = tmp_path / "mine.jinja"
    file.write_text("Q: {{ messages[0].content }} A:")
    assert load_policy(checkpoint, template=str(file)).prompt_text(QUESTION) == "Q: What is 1+1? A:"
    with pytest.raises(UserError, match="no chat template"):
        load_policy(checkpoint, template="chat")
    with pytest.raises(UserError, match='Unknown template "r2"'):
        load_policy(checkpoint, template="r2")


def test_a_hostile_template_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "evil.jinja"
    file.write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(UserError, match="chat template failed"):
        load_policy(checkpoint, template=str(file))


# Saving ------------------------------------------------------------------------------------------------


def test_a_saved_policy_loads_again_in_r1kit_and_in_transformers(checkpoint: Path, tmp_path: Path) -> None:
    policy = load_policy(checkpoint, template="r1_zero_orz")
    target = tmp_path / "out" / "model"
    save_policy(policy, target)
    save_policy(policy, target)  # over an existing one
    again = load_policy(target)
    assert (again.prompt_text(QUESTION), again.prefill_think) == (policy.prompt_text(QUESTION), True)
    ours, theirs = policy.model.state_dict(), AutoModelForCausalLM.from_pretrained(target).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert [p.name for p in target.parent.iterdir()] == ["model"]
    assert json.loads((target / "generation_config.json").read_text())["eos_token_id"] == 256


def test_saving_in_bf16_says_so_in_the_configuration(checkpoint: Path, tmp_path: Path) -> None:
    policy = load_policy(checkpoint)
    save_policy(policy, tmp_path / "half", dtype=torch.bfloat16)
    assert AutoConfig.from_pretrained(tmp_path / "half").dtype == torch.bfloat16
    half = load_policy(tmp_path / "half", dtype="auto")
    assert next(half.model.parameters()).dtype == torch.bfloat16
    assert next(policy.model.parameters()).dtype == torch.float32


# Log-probabilities -----------------------------------------------------------------------------------


def naive_logprobs(model: Any, batch: TrainBatch, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """One sequence at a time, full logits, no padding."""
    logprobs, entropies = [], []
    for a, b in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True):
        ids = torch.from_numpy(batch.tokens_N[a:b].astype(np.int64))
        log_p = torch.log_softmax(model(input_ids=ids[None]).logits[0].float() / temperature, -1)[:-1]
        logprobs.append(log_p.gather(-1, ids[1:, None]).squeeze(-1))
        entropies.append(-(log_p.exp() * log_p).sum(-1))
    return torch.cat(logprobs), torch.cat(entropies)


def assert_gradients_agree(one: Any, other: Any, tolerance: float) -> None:
    for (name, a), (_, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        if a.grad is None and b.grad is None:
            continue
        assert (a.grad - b.grad).norm() <= tolerance * (b.grad.norm() + 1e-3), name


@pytest.mark.parametrize("view_of", [padded_view, packed_view])
@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3", "deepseek_v3"])
def test_logprobs_and_gradients_equal_those_of_full_logits(arch: str, view_of: Any) -> None:
    plain, lean, batch = make_tiny_model(arch), make_tiny_model(arch), batch_of()
    assert make_lean(lean) == (arch != "deepseek_v3") == is_lean(lean)
    expected = naive_logprobs(plain, batch, 0.7)
    found = token_logprobs(lean, view_of(batch), temperature=0.7, chunk=7)
    weights = torch.linspace(-1, 1, len(found[0]))
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).abs().max() < 2e-5
    (weights @ found[0] + 0.3 * weights @ found[1]).backward()
    (weights @ expected[0] + 0.3 * weights @ expected[1]).backward()
    assert_gradients_agree(lean, plain, 1e-4)


def test_chunked_head_equals_the_whole_to_1e_6() -> None:
    torch.manual_seed(0)
    hidden, head = 0.2 * torch.randn(23, 8), torch.nn.Linear(8, 40)
    targets = torch.randint(0, 40, (23,))
    whole = chunked_logprobs(hidden, head, targets, chunk=1000, temperature=0.5)
    log_p = torch.log_softmax(head(hidden) / 0.5, -1)
    assert (whole[0] - log_p.gather(-1, targets[:, None]).squeeze(-1)).abs().max() < 1e-6
    for chunk in (1, 5, 23):
        part = chunked_logprobs(hidden, head, targets, chunk=chunk, temperature=0.5)
        assert all((a - b).abs().max() < 1e-6 for a, b in zip(part, whole, strict=True))


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("use", ["logprob", "entropy", "both"])
def test_chunked_head_gradients_equal_autograd(use: str, softcap: float | None) -> None:
    torch.manual_seed(1)
    hidden, head = torch.randn(11, 6), torch.nn.Linear(6, 13)
    targets, weights = torch.randint(0, 13, (11,)), torch.randn(2, 11)
    weights[0] *= use != "entropy"
    weights[1] *= use != "logprob"

    def gradients(values: tuple[torch.Tensor, torch.Tensor], source: torch.Tensor) -> list[torch.Tensor]:
        used = [i for i in range(2) if weights[i].any()]
        total = sum((weights[i] @ values[i] for i in used), torch.zeros(()))
        return list(torch.autograd.grad(total, [source, head.weight, head.bias]))

    source = hidden.clone().requires_grad_()
    chunked = chunked_logprobs(source, head, targets, chunk=4, temperature=1.3, scale=0.5, softcap=softcap)
    found = gradients(chunked, source)
    logits = head(source) * 0.5
    logits = (logits if softcap is None else torch.tanh(logits / softcap) * softcap) / 1.3
    log_p = torch.log_softmax(logits, -1)
    whole = (log_p.gather(-1, targets[:, None]).squeeze(-1), -(log_p.exp() * log_p).sum(-1))
    for a, b in zip(found, gradients(whole, source), strict=True):
        assert (a - b).abs().max() < 2e-6


class LargestTensor(TorchDispatchMode):
    """Remembers the largest number of elements that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


def test_full_logits_are_never_in_memory() -> None:
    vocabulary, batch = 5000, batch_of((40, 50, 60))
    model = make_tiny_model("llama", vocab_size=vocabulary)
    full = padded_view(batch).tokens_BT.size * vocabulary
    token_logprobs(model, padded_view(batch), chunk=16)  # the one-time trial of the head
    with LargestTensor() as seen:
        logprobs, _ = token_logprobs(model, padded_view(batch), chunk=16)
        logprobs.sum().backward()
    weight = vocabulary * 64
    assert seen.elements <= weight < full / 2
    with LargestTensor() as seen:
        model(input_ids=torch.from_numpy(padded_view(batch).tokens_BT))
    assert seen.elements == full  # the watcher does see them where they are


def test_only_predicted_positions_reach_the_head() -> None:
    model = make_tiny_model("llama")
    model.lm_head.forward = lambda *_: pytest.fail("the whole head ran")
    batch = build_sft_batch([np.arange(50)], [[0] * 47 + [1] * 3])
    from r1kit import policy as module

    module._heads[model] = module._Head(model.lm_head, 1.0, None)
    logprobs, _ = token_logprobs(model, padded_view(batch))
    assert logprobs.shape == (3,)


def test_a_head_that_is_not_a_plain_map_falls_back_to_the_models_logits() -> None:
    model, batch = make_tiny_model("llama"), batch_of()
    original = type(model).forward

    def shifted(*args: Any, **kwargs: Any) -> Any:
        out = original(model, *args, **kwargs)
        out.logits = out.logits + torch.linspace(0, 3, out.logits.shape[-1])
        return out

    model.forward = shifted
    found, _ = token_logprobs(model, packed_view(batch))
    expected, _ = naive_logprobs(model, batch, 1.0)
    assert (found - expected).abs().max() < 2e-5


@pytest.mark.parametrize("arch", ["gemma2", "granite", "cohere"])
def test_capped_and_scaled_heads(arch: str) -> None:
    extra: dict[str, Any] = {
        "gemma2": {"final_logit_softcapping": 3.0, "head_dim": 16},
        "granite": {"logits_scaling": 4.0},
    }
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0, "initializer_range": 0.3}
    config = AutoConfig.for_model(arch, **sizes, **extra.get(arch, {}))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    batch = build_sft_batch([[5, 6, 7, 8], [9, 10]])
    from r1kit import policy as module

    found, _ = token_logprobs(model, padded_view(batch))
    assert module._heads[model] is not None
    assert (found - naive_logprobs(model, batch, 1.0)[0]).abs().max() < 1e-5


# The lean pieces -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [37, 150])
def test_short_bf16_attention_is_as_near_to_fp32_as_sdpa(length: int) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, heads, length, 16) for heads in (6, 2, 2))
    grad = torch.randn(3, 6, length, 16)

    def run(function: Any, dtype: torch.dtype) -> list[torch.Tensor]:
        leaves = [x.clone().to(dtype).requires_grad_() for x in (q, k, v)]
        out = function(*leaves)
        out.backward(grad.to(dtype))
        return [out.detach().float(), *[x.grad.float() for x in leaves if x.grad is not None]]

    def sdpa(q: Any, k: Any, v: Any) -> Any:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.25, enable_gqa=True)

    exact = run(sdpa, torch.float32)
    usual = run(sdpa, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        ours = run(lambda q, k, v: causal_attention(q, k, v, 0.25), torch.bfloat16)
    assert len(ours) == 4
    for right, a, b in zip(exact, ours, usual, strict=True):
        assert (a - right).norm() <= 1.3 * (b - right).norm() + 1e-3 * right.norm()


def documented_varlen(query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, max_q: int, max_k: int, *,
                      scale: float | None = None, window_size: tuple[int, int] = (-1, -1)) -> Any:  # fmt: skip
    """torch.nn.attention.varlen.varlen_attn, which needs CUDA, as its documentation describes it, without groups."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert (max_q, max_k) == (int(cu_seq_q.diff().max()), int(cu_seq_k.diff().max()))
    assert window_size == (-1, 0)
    assert query.shape == key.shape == value.shape
    parts = []
    for start, stop in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        q, k, v = (x[start:stop].transpose(0, 1) for x in (query, key, value))
        parts.append(torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale))
    return torch.cat(parts, dim=1).transpose(0, 1)


def documented_grouped_varlen(*args: Any, enable_gqa: bool = False, **options: Any) -> Any:
    query, key, value, *rest = args
    groups = query.shape[1] // key.shape[1]
    assert enable_gqa == (groups > 1)
    return documented_varlen(query, *(x.repeat_interleave(groups, dim=1) for x in (key, value)), *rest, **options)


@pytest.mark.parametrize("knows_groups", [False, True])
@pytest.mark.parametrize("heads", [(4, 4), (6, 2)])
def test_packed_rows_are_handed_to_variable_length_attention_as_it_wants_them(
    heads: tuple[int, int], knows_groups: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = documented_grouped_varlen if knows_groups else documented_varlen
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", function)
    torch.manual_seed(0)
    packing = Packing.of(np.array([0, 5, 6, 40], dtype=np.int64), torch.device("cpu"))
    streams = [torch.randn(1, count, 40, 16) for count in (heads[0], heads[1], heads[1])]
    found = fused._varlen_attention(*streams, 0.2, packing)
    assert (found - fused.packed_attention(*streams, 0.2, packing)).abs().max() < 1e-5


def test_bf16_autocast_is_as_near_to_fp32_as_transformers() -> None:
    plain, lean, batch = make_tiny_model("qwen3"), make_tiny_model("qwen3"), batch_of((60, 70, 80, 90, 100))
    make_lean(lean)
    exact, _ = token_logprobs(plain, padded_view(batch))
    with torch.autocast("cpu", torch.bfloat16):
        usual, _ = token_logprobs(plain, padded_view(batch))
        ours, _ = token_logprobs(lean, padded_view(batch))
    assert (ours - exact).abs().mean() <= 1.2 * (usual - exact).abs().mean()


def test_an_fp32_head_reads_states_that_were_not_rounded() -> None:
    model, batch = silence_layers(make_tiny_model("qwen3")), batch_of((60, 70, 80, 90, 100))
    make_lean(model)
    exact, _ = token_logprobs(model, padded_view(batch))

    @torch.no_grad()
    def error() -> float:
        with torch.autocast("cpu", torch.bfloat16):
            found, _ = token_logprobs(model, padded_view(batch))
        return float((found - exact).abs().mean())

    rounded = error()
    keep_last_norm_fp32(model)
    assert error() < 1e-6 < rounded


def test_a_frozen_head_gets_no_gradient_and_the_states_get_theirs() -> None:
    torch.manual_seed(0)
    head, targets = torch.nn.Linear(8, 30), torch.randint(0, 30, (11,))
    hidden = torch.randn(11, 8)
    grads = []
    for frozen in (False, True):
        head.requires_grad_(not frozen).zero_grad()
        states = hidden.clone().requires_grad_()
        with ProductCounter() as products:
            chunked_logprobs(states, head, targets, chunk=4)[0].sum().backward()
        grads.append((states.grad, products.count))
        assert (head.weight.grad is None) == (head.bias.grad is None) == frozen
    (trained, products_trained), (found, products_frozen) = grads
    assert torch.equal(found, trained)
    assert products_trained - products_frozen == 3, "no product is spent on it in any of the three chunks"


class ProductCounter(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function._overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_)
        return function(*args, **(kwargs or {}))


def test_generation_with_a_cache_still_works_on_a_lean_model() -> None:
    plain, lean = make_tiny_model("llama"), make_tiny_model("llama")
    make_lean(lean)
    prompt = torch.tensor([[1, 2, 3], [4, 5, 6]])
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    outs = [m.generate(prompt, attention_mask=mask, max_new_tokens=8, do_sample=False) for m in (plain, lean)]
    assert torch.equal(*outs)


def test_sliding_windows_are_left_alone() -> None:
    model = make_tiny_model("qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=0)
    assert not make_lean(model)


def test_policy_is_frozen(checkpoint: Path) -> None:
    policy = load_policy(checkpoint)
    assert isinstance(policy, Policy)
    with pytest.raises(AttributeError):
        policy.template = ""  # type: ignore[misc]


def test_a_tokenizer_of_words_stays_what_it_is_beside_any_architecture(tmp_path: Path) -> None:
    """transformers would read it as Qwen2's, with other borders between words and a token more."""
    words = build_tokenizer(["the cat sat on the mat"] * 5, 320)
    model = make_tiny_model("qwen2", vocab_size=len(words))
    saved = save_policy(make_policy(model, words), tmp_path / "model")
    loaded = load_policy(saved).tokenizer
    text = "the cat sat. <think>\n the mat</think> 中"
    assert loaded(text)["input_ids"] == words(text)["input_ids"]
    assert len(loaded) == len(words)
