"""A CUDA device's speed at what r1kit asks of it, against the limit measured on the same device in the same run.

    python benchmarks/gpu/run.py [PART ...] [--shape 0.5b] [--out benchmarks/results/gpu.json]

Parts: device (rates of matrix products and of copying), engine (answers of spread lengths, decode steps recorded and
not, beside transformers' generate), update (a GRPO update: padded, packed, checkpointed, 8-bit optimizer), head
(memory of log-probabilities at the full vocabulary), learning (r1_zero_mini on this device). Weights are random, in
the shape of Qwen2.5, and lengths are forced. Results go to --out part by part; one that fails is kept with the
reason. Whole, about 6 minutes on a data-centre GPU. tests/test_cuda.py holds what is right; this is how fast it is.
`--shape tiny --device cpu` only shows that it runs.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from engine import batch_sizes, time_engine, time_generate
from trainer import ADAMW_PASSES, ATTENTION_PRODUCTS, completion, scored

from r1kit.batching import TrainBatch, build_grpo_batch
from r1kit.engines.native import NativeEngine
from r1kit.fused import make_lean
from r1kit.learner import Learner
from r1kit.losses import GrpoLossConfig, grpo_loss
from r1kit.mini.tokenizer import build_tokenizer
from r1kit.policy import make_policy
from r1kit.types import DrawKey, Request, SamplingParams

Row = dict[str, Any]
SHAPES: dict[str, Row] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 512},
    "0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
             "num_key_value_heads": 2, "vocab_size": 151_936},
    "1.5b": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
             "num_key_value_heads": 2, "vocab_size": 151_936},
}  # fmt: skip
SIZES: dict[str, Row] = {
    "tiny": {"prompts": 4, "samples": 4, "mean": 20, "longest": 40, "product": 128, "copy": 1 << 20, "steps": 1},
    "full": {"prompts": 32, "samples": 16, "mean": 600, "longest": 2048, "product": 8192, "copy": 1 << 30, "steps": 48},
}


class Bench:
    """What every part needs."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device = torch.device(options.device)
        self.shape = SHAPES[options.shape]
        self.sizes = SIZES["tiny" if options.shape == "tiny" else "full"]
        self.tied = options.shape != "tiny"
        self.rates: Row = {}

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], Any], repeats: int = 3) -> float:
        """Median of ``repeats`` after one to warm up."""
        found = []
        for _ in range(repeats + 1):
            self.synchronize()
            started = time.perf_counter()
            work()
            self.synchronize()
            found.append(time.perf_counter() - started)
        return statistics.median(found[1:])

    def peak_gb(self, work: Callable[[], Any]) -> float:
        """Gigabytes of the device by which ``work`` rises above where it began."""
        if self.device.type != "cuda":
            work()
            return float("nan")
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        work()
        self.synchronize()
        return (torch.cuda.max_memory_allocated(self.device) - before) / 1e9

    def model(self) -> Any:
        from transformers import Qwen2Config, Qwen2ForCausalLM

        torch.manual_seed(0)
        config = Qwen2Config(
            **self.shape, tie_word_embeddings=self.tied, max_position_embeddings=4096, bos_token_id=None,
            eos_token_id=None, use_sliding_window=False,
        )  # fmt: skip
        with torch.device(self.device):
            return Qwen2ForCausalLM(config).eval()

    def requests(self) -> list[Request]:
        """Log-normal lengths, as those of a policy in training, and forced: random weights never stop."""
        random, sizes = np.random.default_rng(0), self.sizes
        count = sizes["prompts"] * sizes["samples"]
        lengths = np.clip(np.exp(random.normal(np.log(sizes["mean"]) - 0.28, 0.75, count)), 8, sizes["longest"])
        prompts = [random.integers(0, 500, random.integers(20, 200)).astype(np.int32) for _ in range(sizes["prompts"])]
        return [
            Request(
                problem_id=f"p{i // sizes['samples']}", prompt_ids=prompts[i // sizes["samples"]],
                params=SamplingParams(max_completion_length=int(length)),
                draw=DrawKey(
                    run_seed=0, stage="s", purpose="b", rollout=0, problem_id=f"p{i // sizes['samples']}",
                    sample=i % sizes["samples"],
                ),
            )
            for i, length in enumerate(lengths)
        ]  # fmt: skip

    def batch(self) -> TrainBatch:
        random = np.random.default_rng(0)
        groups: dict[str, list[Any]] = {}
        for request in self.requests():
            groups.setdefault(request.problem_id, []).append(completion(request, random))
        return build_grpo_batch([scored(name, rows, random) for name, rows in groups.items()])

    def learner(self, **settings: Any) -> Learner:
        model = self.model()
        make_lean(model)
        tokenizer = build_tokenizer(["0123456789 yes no"], 512)
        return Learner(make_policy(model, tokenizer), **{"learning_rate": 1e-6, "autocast": "bf16", **settings})

    def product_rate(self) -> float:
        """bfloat16 operations per second of a large square product."""
        if "products" not in self.rates:
            n = self.sizes["product"]
            a, b = (torch.randn(n, n, device=self.device).bfloat16() for _ in range(2))
            self.rates["products"] = 2 * n**3 / self.seconds(lambda: a @ b, repeats=10)
        return float(self.rates["products"])

    def copy_rate(self) -> float:
        """Bytes read and written per second by copying."""
        if "copy" not in self.rates:
            source = torch.empty(self.sizes["copy"], device=self.device)
            target = torch.empty_like(source)
            self.rates["copy"] = 8 * source.numel() / self.seconds(lambda: target.copy_(source), repeats=10)
        return float(self.rates["copy"])


# -- the parts -----------------------------------------------------------------------------------------


def device_part(bench: Bench) -> Row:
    name = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else "cpu"
    row = {"device": name, "torch": torch.__version__, "tflops": bench.product_rate() / 1e12,
           "copy_gb_per_s": bench.copy_rate() / 1e9, "shape": bench.shape}  # fmt: skip
    print("  {device}, torch {torch}: {tflops:.0f} TFLOP/s, {copy_gb_per_s:,.0f} GB/s copied".format(**row))
    return row


def engine_part(bench: Bench) -> Row:
    """In turn, in one process: with recorded decode steps, without, and transformers' generate in one padded batch.

    The limit of a decode step: the weights and the live keys and values read once, at the rate of reading that copying
    shows, or the products at their rate, whichever is longer; prefill is products.
    """
    model, requests, rows = bench.model(), bench.requests(), {}
    tokens = sum(request.params.max_completion_length for request in requests)
    engine = NativeEngine(model, lambda ids: "", eos_token_ids=[], dtype="bfloat16", max_batch_size=256, path="fast")
    graphs = engine._decoder.graphs
    limit = engine_limit(bench, engine, requests)
    for name, used in {"recorded": graphs, "eager": None}.items() if graphs is not None else {"eager": None}.items():
        engine._decoder.graphs = used
        seconds = bench.seconds(partial(time_engine, engine, requests), repeats=2)
        rows[name] = {"seconds": seconds, "tokens_per_s": tokens / seconds, "share_of_limit": limit / seconds}
        print(f"  {name}: {tokens / seconds:,.0f} tokens/s, {limit / seconds:.0%} of the limit", flush=True)
    del engine
    seconds = bench.seconds(partial(time_generate, model.bfloat16(), requests), repeats=1)
    rows["transformers generate"] = {"seconds": seconds, "tokens_per_s": tokens / seconds}
    print(f"  transformers' generate: {tokens / seconds:,.0f} tokens/s", flush=True)
    return {"tokens": tokens, "answers": len(requests), "limit_seconds": limit, **rows}


def engine_limit(bench: Bench, engine: NativeEngine, requests: list[Request]) -> float:
    steps, read = batch_sizes(engine, requests)
    weights = sum(p.numel() for p in bench.model().parameters())
    reading, products = bench.copy_rate(), bench.product_rate()
    seconds = sum(count * max(2 * weights / reading, 2 * weights * rows / products) for rows, count in steps.items())
    return float(seconds + read * engine._decoder.bytes_per_token / reading)


def update_part(bench: Bench) -> Row:
    """The limit: three products of every weight a token, attention's below the diagonal, AdamW's passes."""
    batch, rows = bench.batch(), {}
    weights = sum(p.numel() for p in bench.model().parameters())
    pairs = sum(length * (length + 1) / 2 for length in batch.lengths.tolist())
    operations = (
        6.0 * weights * batch.num_tokens
        + ATTENTION_PRODUCTS * 2 * bench.shape["hidden_size"] * pairs * (bench.shape["num_hidden_layers"])
    )
    limit = operations / bench.product_rate() + ADAMW_PASSES * 4 * weights / bench.copy_rate()
    settings: dict[str, Row] = {
        "padded": {"layout": "padded"},
        "packed": {"layout": "packed"},
        "packed, checkpointed": {"layout": "packed", "gradient_checkpointing": True},
        "packed, adamw_8bit": {"layout": "packed", "optim": "adamw_8bit"},
    }
    for name, setting in settings.items():
        try:
            learner = bench.learner(**setting)
            work = partial(one_update, learner, batch)
            peak = bench.peak_gb(work)
            seconds = bench.seconds(work, repeats=2)
        except Exception as error:
            rows[name] = {"failed": str(error)[:200]}
            print(f"  {name}: {rows[name]['failed']}", flush=True)
            continue
        rows[name] = {"seconds": seconds, "tokens_per_s": batch.num_tokens / seconds,
                      "share_of_limit": limit / seconds, "peak_gb": peak}  # fmt: skip
        print(
            f"  {name}: {batch.num_tokens / seconds:,.0f} tokens/s, {limit / seconds:.0%} of the limit, "
            f"{peak:.1f} GB at the peak above the weights",
            flush=True,
        )
        del learner, work
    return {"tokens": batch.num_tokens, "limit_seconds": limit, **rows}


def one_update(learner: Learner, batch: TrainBatch) -> None:
    learner.forward_backward(batch, partial(grpo_loss, config=GrpoLossConfig()))
    learner.optim_step()


def head_part(bench: Bench) -> Row:
    from r1kit.fused import chunked_logprobs

    vocabulary, width, positions = bench.shape["vocab_size"], bench.shape["hidden_size"], 8192
    head = torch.nn.Linear(width, vocabulary, bias=False, device=bench.device)
    hidden = torch.randn(positions, width, device=bench.device, requires_grad=True)
    targets = torch.randint(vocabulary, (positions,), device=bench.device)

    def ours() -> None:
        chunked_logprobs(hidden, head, targets, chunk=max(64, (1 << 27) // vocabulary))[0].mean().backward()
        head.zero_grad()

    def naive() -> None:
        torch.log_softmax(head(hidden), dim=-1).gather(1, targets[:, None]).mean().backward()
        head.zero_grad()

    row = {"ours_gb": bench.peak_gb(ours), "naive_gb": bench.peak_gb(naive),
           "ours_seconds": bench.seconds(ours), "naive_seconds": bench.seconds(naive)}  # fmt: skip
    print(
        f"  {positions} positions at {vocabulary:,} ids: {row['ours_gb']:.2f} GB of full logits' "
        f"{row['naive_gb']:.2f}, {row['ours_seconds']:.3f} and {row['naive_seconds']:.3f} s"
    )
    return row


def learning_part(bench: Bench) -> Row:
    from r1kit.config import load_recipe
    from r1kit.run_directory import read_json_lines
    from r1kit.runner import run_recipe

    with tempfile.TemporaryDirectory() as folder:
        directory, steps = Path(folder) / "run", bench.sizes["steps"]
        settings = [f"device={bench.device}", f"max_steps={steps}", "eval_every=0", f"output_dir={directory}"]
        run_recipe(load_recipe("r1_zero_mini", settings), ["benchmark"])
        rows = list(read_json_lines(directory / "metrics.jsonl"))
    accuracy = [row["eval/accuracy"] for row in rows if "eval/accuracy" in row]
    timed = [row for row in rows if "time/step" in row]
    row = {
        "steps": steps, "accuracy_before": accuracy[0], "accuracy_after": accuracy[-1],
        "seconds_per_step": statistics.median(one["time/step"] for one in timed),
        "tokens_per_s": statistics.median(one["time/tokens_per_second"] for one in timed),
        "mismatch": statistics.median(one["sampler_mismatch/mean_abs"] for one in timed),
    }  # fmt: skip
    print(
        "  r1_zero_mini, {steps} steps: {accuracy_before:.3f} -> {accuracy_after:.3f}, {seconds_per_step:.2f} s each, "
        "{tokens_per_s:,.0f} tokens/s sampled, log-probabilities {mismatch:.4f} apart".format(**row)
    )
    return row


PARTS: dict[str, Callable[[Bench], Row]] = {
    "device": device_part, "engine": engine_part, "update": update_part, "head": head_part, "learning": learning_part,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--shape", choices=SHAPES, default="0.5b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu.json"))
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device here: run this on a machine that has one")
    bench, found = Bench(options), {}
    for name in options.parts or PARTS:
        print(f"{name}:", flush=True)
        try:
            found[name] = PARTS[name](bench)
        except Exception as error:
            traceback.print_exc()
            found[name] = {"failed": f"{type(error).__name__}: {error}"[:300]}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    if any("failed" in row for row in found.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
