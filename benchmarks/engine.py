"""Speed of the native engine on the laptop job: 32 prompts x 8 samples, 20 to 384 new tokens each (mean ~110).

    python benchmarks/engine.py [--threads 1] [--dtype auto] [--path auto] [--generate] [--profile]

Prints tokens per second and, on one thread, the limit: the processor time of the matrix products alone, measured in
torch at every batch size that occurred, and of reading the cached keys and values at the rate of copying memory. With
--generate, transformers' generate on the same job.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from r1kit.engines.native import NativeEngine
from r1kit.types import DrawKey, Request, SamplingParams

PROMPTS, SAMPLES = 32, 8


def build_model(vocab: int = 512) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=6,
        num_key_value_heads=2, head_dim=32, tie_word_embeddings=True, max_position_embeddings=512,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def build_requests(vocab: int = 512, prompts: int = PROMPTS, samples: int = SAMPLES) -> list[Request]:
    """Lengths are log-normal, as those of a policy in training, and forced: random weights never stop."""
    random = np.random.default_rng(0)
    lengths = np.clip(np.exp(random.normal(4.4, 0.75, prompts * samples)), 20, 384).astype(int)
    ids = [random.integers(0, vocab, random.integers(20, 31)).astype(np.int32) for _ in range(prompts)]
    return [
        Request(
            problem_id=f"p{i // samples}",
            prompt_ids=ids[i // samples],
            params=SamplingParams(max_completion_length=int(length)),
            draw=DrawKey(
                run_seed=0, stage="s", purpose="b", rollout=0, problem_id=f"p{i // samples}", sample=i % samples
            ),
        )
        for i, length in enumerate(lengths)
    ]


def time_engine(engine: NativeEngine, requests: list[Request]) -> tuple[float, float, int]:
    """Seconds of wall clock and of processor time, and tokens sampled."""
    start, used = time.perf_counter(), time.process_time()
    engine.submit(requests)
    tokens = sum(len(completion.token_ids) for completion in engine.completions())
    return time.perf_counter() - start, time.process_time() - used, tokens


def batch_sizes(engine: NativeEngine, requests: list[Request]) -> tuple[Counter[int], int]:
    """How often each batch size is decoded in this job, and the tokens that attention reads in all."""
    sizes: Counter[int] = Counter()
    read, decode = 0, engine._decoder.decode

    def counted(tokens: torch.Tensor) -> torch.Tensor:
        nonlocal read
        sizes[tokens.shape[0]] += 1
        read += int(engine._decoder.lengths.sum())
        return decode(tokens)

    engine._decoder.decode, engine.steps_at_once, together = counted, 1, engine.steps_at_once
    time_engine(engine, requests)
    del engine._decoder.decode
    engine.steps_at_once = together
    return sizes, read


@torch.inference_mode()
def seconds_of_products(model: Any, sizes: Counter[int], dtype: torch.dtype) -> float:
    """Processor time that the linear layers alone need for these batch sizes, in torch's products of fused weights."""
    weights = [model.model.embed_tokens.weight]
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        weights += [
            torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]),
            attention.o_proj.weight, torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]), mlp.down_proj.weight,
        ]  # fmt: skip
    weights, total = [weight.detach().to(dtype) for weight in weights], 0.0
    for rows, count in sizes.items():
        inputs = [torch.randn(rows, w.shape[1], device=w.device).to(dtype) for w in weights]
        for repeat in range(4):
            if repeat == 1:
                start = time.process_time()
            for x, w in zip(inputs, weights, strict=True):
                F.linear(x, w)
        total += count * (time.process_time() - start) / 3
    return total


def copy_rate() -> float:
    """Bytes per second read and written by copying 256 MB."""
    source = torch.empty(64 << 20)
    target = torch.empty_like(source)
    target.copy_(source)
    start = time.perf_counter()
    for _ in range(4):
        target.copy_(source)
    return 4 * 2 * source.numel() * 4 / (time.perf_counter() - start)


@torch.inference_mode()
def time_generate(model: Any, requests: list[Request]) -> float:
    """transformers' generate, sorted by nothing, one padded batch: runs until the longest answer is done."""
    longest = max(len(request.prompt_ids) for request in requests)
    ids = torch.zeros(len(requests), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, request in enumerate(requests):
        ids[row, longest - len(request.prompt_ids) :] = torch.from_numpy(request.prompt_ids.astype(np.int64))
        mask[row, longest - len(request.prompt_ids) :] = 1
    new = max(request.params.max_completion_length for request in requests)
    ids, mask = ids.to(model.device), mask.to(model.device)
    start = time.perf_counter()
    model.generate(ids, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=new, pad_token_id=0)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--path", default="auto")
    parser.add_argument("--max-batch-size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--generate", action="store_true")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, requests = build_model().to(options.device), build_requests()
    engine = NativeEngine(
        model, lambda ids: "", dtype=options.dtype, path=options.path, max_batch_size=options.max_batch_size
    )
    for repeat in range(options.repeats):
        seconds, used, tokens = time_engine(engine, requests)
        print(
            f"run {repeat}: {tokens} tokens in {seconds:.2f} s: {tokens / seconds:,.0f} tokens/s "
            f"({tokens / used:,.0f} per processor second; {engine.dtype})"
        )
    if options.threads == 1 and engine.path != "slow":
        sizes, read = batch_sizes(engine, requests)
        print(
            f"{sum(sizes.values())} steps, {sum(k * v for k, v in sizes.items()) / tokens:.3f} rows computed per token"
        )
        products, cache, rate = (
            seconds_of_products(model, sizes, engine.dtype),
            read * engine._decoder.bytes_per_token,
            copy_rate(),
        )
        print(
            f"limit: linear layers {products:.2f} s, keys and values {cache / 1e9:.1f} GB / {rate / 1e9:.1f} GB/s = "
            f"{cache / rate:.2f} s: the engine runs at {(products + cache / rate) / used:.0%} of it"
        )
    if options.profile:
        with torch.profiler.profile() as profile:
            time_engine(engine, requests)
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=40))
    if options.generate:
        seconds = time_generate(model.to(engine.dtype), requests)
        print(f"transformers generate: {seconds:.2f} s: {tokens / seconds:,.0f} tokens/s")


if __name__ == "__main__":
    main()
