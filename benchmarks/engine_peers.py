"""The native engine beside other samplers of the same job: the shipped base answers 32 held-out problems 8 times each.

    python benchmarks/engine_peers.py [SAMPLER ...] [--vllm-python PATH] [--limit 300] [--out FILE]

Answers end where the model ends them (temperature 1, at most 384 tokens), so lengths spread as in training, and only
tokens up to the end count. Every setting runs in a process of its own, once to warm up on a quarter of the job and
once or twice measured (the better counts); one that takes longer than --limit seconds is said to. transformers'
`generate` (one padded batch) and `generate_batch` (its continuous batching) come in float32 and bfloat16; vLLM's CPU
build needs an environment of its own, whose interpreter --vllm-python names. What --out holds of other settings stays.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROMPTS, SAMPLES, LONGEST = 32, 8, 384
SETTINGS = [
    *(("native", "auto", threads) for threads in (1, 2)),
    *(("generate", dtype, threads) for dtype in ("float32", "bfloat16") for threads in (1, 2)),
    *(("generate_batch", dtype, 1) for dtype in ("float32", "bfloat16")),
]


def prompts_of(model: str) -> tuple[list[list[int]], list[int], Path]:
    """Token ids of the prompts, the ids that end an answer, and the checkpoint."""
    from r1kit import load
    from r1kit.mini import base_directory
    from r1kit.tasks.sets import load_set

    policy = load(model)
    problems = load_set("countdown3", n=PROMPTS, seed=0, split="heldout").problems
    folder = base_directory(model) or Path(model)
    return [policy.prompt_ids(p.messages).tolist() for p in problems], list(policy.eos_token_ids), folder


def until_end(tokens: list[int], ends: list[int]) -> int:
    """Tokens up to and with the first end."""
    return next((place + 1 for place, token in enumerate(tokens) if token in ends), len(tokens))


def native(job: dict[str, Any]) -> Callable[[list[list[int]]], list[int]]:
    import numpy as np

    from r1kit import load
    from r1kit.runner import make_engine
    from r1kit.types import DrawKey, Request, SamplingParams

    engine = make_engine(load(job["model"]))
    params = SamplingParams(max_completion_length=LONGEST)

    def run(prompts: list[list[int]]) -> list[int]:
        engine.submit([
            Request(
                problem_id=str(i), prompt_ids=np.array(prompt, dtype=np.int32), params=params,
                draw=DrawKey(run_seed=0, stage="s", purpose="b", rollout=0, problem_id=str(i), sample=sample),
            )
            for i, prompt in enumerate(prompts) for sample in range(SAMPLES)
        ])  # fmt: skip
        return [len(completion.token_ids) for completion in engine.completions()]

    return run


def transformers_model(job: dict[str, Any]) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(job["folder"], dtype=getattr(torch, job["dtype"])).eval()


def generate(job: dict[str, Any]) -> Callable[[list[list[int]]], list[int]]:
    import torch

    model = transformers_model(job)

    def run(prompts: list[list[int]]) -> list[int]:
        width = max(map(len, prompts))
        rows = [[0] * (width - len(p)) + p for p in prompts for _ in range(SAMPLES)]
        mask = [[0] * (width - len(p)) + [1] * len(p) for p in prompts for _ in range(SAMPLES)]
        with torch.inference_mode():
            out = model.generate(
                torch.tensor(rows), attention_mask=torch.tensor(mask), do_sample=True, top_k=0, temperature=1.0,
                max_new_tokens=LONGEST, eos_token_id=job["ends"], pad_token_id=0,
            )  # fmt: skip
        return [until_end(row, job["ends"]) for row in out[:, width:].tolist()]

    return run


def generate_batch(job: dict[str, Any]) -> Callable[[list[list[int]]], list[int]]:
    from transformers import GenerationConfig

    model = transformers_model(job)
    config = GenerationConfig(
        do_sample=True, top_k=0, temperature=1.0, max_new_tokens=LONGEST, eos_token_id=job["ends"][0], pad_token_id=0,
        num_blocks=1024, max_batch_tokens=1024,
    )  # fmt: skip

    def run(prompts: list[list[int]]) -> list[int]:
        found = model.generate_batch(inputs=[p for p in prompts for _ in range(SAMPLES)], generation_config=config)
        return [until_end(list(result.generated_tokens), job["ends"]) for result in found.values()]

    return run


def vllm(job: dict[str, Any]) -> Callable[[list[list[int]]], list[int]]:
    from vllm import LLM, SamplingParams

    model = LLM(job["folder"], dtype=job["dtype"], enforce_eager=True, max_model_len=512, disable_log_stats=True)
    params = SamplingParams(n=SAMPLES, temperature=1.0, max_tokens=LONGEST, stop_token_ids=job["ends"])

    def run(prompts: list[list[int]]) -> list[int]:
        found = model.generate([{"prompt_token_ids": prompt} for prompt in prompts], params)
        return [until_end(list(one.token_ids), job["ends"]) for result in found for one in result.outputs]

    return run


def child(path: str) -> None:
    """Measure one setting: a line of JSON."""
    job = json.loads(Path(path).read_text())
    if job["sampler"] != "vllm":  # vLLM sets its own
        import torch

        torch.set_num_threads(job["threads"])
    run = globals()[job["sampler"]](job)
    run(job["prompts"][: PROMPTS // 4])
    best: tuple[float, list[int]] | None = None
    for _ in range(2):
        start = time.perf_counter()
        lengths = run(job["prompts"])
        seconds = time.perf_counter() - start
        if best is None or seconds < best[0]:
            best = seconds, lengths
        if seconds > 60:
            break
    assert best is not None
    print(json.dumps({"seconds": best[0], "tokens": sum(best[1]), "completions": len(best[1])}))


def measure(python: str, job: dict[str, Any], limit: float) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(job, file)
        file.flush()
        # vLLM's own choice of address looks outside, and its choice of cache is half of the memory
        environment = {**os.environ, "VLLM_HOST_IP": "127.0.0.1", "VLLM_CPU_KVCACHE_SPACE": "2"}
        command = [python, __file__, "--child", file.name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False, env=environment)
        except subprocess.TimeoutExpired:
            return {"failed": f"not done after {limit:g} s"}
    if done.returncode:
        said = done.stderr.strip().splitlines()
        died = [line.split("] ")[-1] for line in said if "died unexpectedly" in line]
        return {"failed": (died or said or ["it died without a word"])[-1][:200]}
    found: dict[str, Any] = next(json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"seconds"'))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samplers", nargs="*", metavar="SAMPLER", help="native, generate, generate_batch, vllm")
    parser.add_argument("--model", default="mini-base")
    parser.add_argument("--vllm-python")
    parser.add_argument("--limit", type=float, default=300)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        return child(asked.child)
    prompts, ends, folder = prompts_of(asked.model)
    settings = [(sys.executable, *setting) for setting in SETTINGS]
    if asked.vllm_python:
        settings += [(asked.vllm_python, "vllm", dtype, 1) for dtype in ("float32", "bfloat16")]
    known = json.loads(asked.out.read_text()) if asked.out and asked.out.exists() else []
    rows = {(row["sampler"], row["dtype"], row["threads"]): row for row in known}
    for python, sampler, dtype, threads in settings:
        if asked.samplers and sampler not in asked.samplers:
            continue
        job = {"sampler": sampler, "dtype": dtype, "threads": threads, "model": asked.model, "folder": str(folder),
               "prompts": prompts, "ends": ends}  # fmt: skip
        found = measure(python, job, asked.limit)
        rows[sampler, dtype, threads] = {"sampler": sampler, "dtype": dtype, "threads": threads, **found}
        shown = found.get("failed") or (
            f"{found['tokens']:6,} tokens in {found['seconds']:6.2f} s: "
            f"{found['tokens'] / found['seconds']:8,.0f} tokens/s"
        )
        print(f"{sampler:15} {dtype:9} {threads} threads  {shown}", flush=True)
        if asked.out:
            asked.out.write_text(json.dumps(list(rows.values()), indent=1) + "\n")
    rates = [(row["tokens"] / row["seconds"], row["sampler"] == "native") for row in rows.values() if "seconds" in row]
    ours, theirs = (max((rate for rate, mine in rates if mine is kind), default=0.0) for kind in (True, False))
    if ours and theirs:
        print(f"the native engine runs at {ours / theirs:.1f} times the best of the others")
    return None


if __name__ == "__main__":
    main()
