"""How cost grows: seconds with tokens and with the group's size, memory with the vocabulary and with long answers.

    python benchmarks/growth.py [update] [group] [head] [records] [--lanes 2] [--repeats 3] [--quick] [--out FILE]

- update: seconds of one optimizer update against tokens, from an eighth of the job of benchmarks/trainer.py to twice as
  much, and the exponent of the power law through them (asked: at most 1.05).
- group: seconds of sampling and of the update against ``num_generations``, for as many completions in all and for as
  many prompts, and what that makes a token.
- head: peak memory of log-probabilities through an LM head of 151,936 ids, forward and backward: ours, and the full
  logits with their log_softmax (asked: at most a quarter).
- records: memory of 512 completions of 32k tokens in scored groups (asked: at most 300 MB), and of their batch.

All of them where none is named. Memory is what a process of its own holds resident beyond what it held before (Linux);
the other parts want a machine on which nothing else runs. --out keeps what was found as JSON, part by part.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from r1kit.learner import Learner

Row = dict[str, Any]


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Of the power law that fits best, in logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


# -- seconds -------------------------------------------------------------------------------------------


def update_growth(options: argparse.Namespace) -> Row:
    import torch
    from engine import PROMPTS
    from trainer import build_batch, make_learner, time_update

    torch.set_num_threads(options.lanes)
    learner = make_learner(options.lanes, None)
    shares = (1 / 16, 1 / 8) if options.quick else (1 / 8, 1 / 4, 1 / 2, 1, 2)
    batches = [build_batch(round(share * PROMPTS)) for share in shares]
    times = in_turns([partial(time_update, learner, batch) for batch in batches], options.repeats)
    points = []
    for share, batch, (seconds, used) in zip(shares, batches, times, strict=True):
        points.append({"share": share, "tokens": batch.num_tokens, "seconds": seconds, "processor_seconds": used})
        rate = batch.num_tokens / seconds
        print(
            f"  {batch.num_tokens:7,} tokens: {seconds:6.3f} s, {rate:7,.0f} tokens/s ({used:.3f} s of processor time)"
        )
    powers = {
        part: exponent([point["tokens"] for point in points], [point[part] for point in points])
        for part in ("seconds", "processor_seconds")
    }
    print(
        f"  seconds grow as tokens to the power {powers['seconds']:.3f} (asked: at most 1.05), those of processor time "
        f"to the power {powers['processor_seconds']:.3f}"
    )
    return {"lanes": options.lanes, "points": points, "exponents": powers}


def group_growth(options: argparse.Namespace) -> Row:
    import torch
    from engine import PROMPTS, SAMPLES
    from trainer import make_learner

    torch.set_num_threads(options.lanes)
    learner = make_learner(options.lanes, None)
    sizes = (2, 4) if options.quick else (2, 4, 8, 16, 32)
    prompts, completions = (2, 8) if options.quick else (PROMPTS, PROMPTS * SAMPLES)
    return {
        "lanes": options.lanes,
        f"{completions} completions": group_rows(learner, [(completions // n, n) for n in sizes], options.repeats),
        f"{prompts} prompts": group_rows(learner, [(prompts, n) for n in sizes], options.repeats),
    }


def group_rows(learner: Learner, jobs: Sequence[tuple[int, int]], repeats: int) -> list[Row]:
    """Seconds of sampling and of the update for each (prompts, num_generations)."""
    from engine import build_requests, time_engine
    from trainer import build_batch, time_update

    from r1kit.engines.native import NativeEngine

    engine = NativeEngine(learner.policy.model, lambda ids: "")
    requests = [build_requests(prompts=prompts, samples=size) for prompts, size in jobs]
    batches = [build_batch(prompts, size) for prompts, size in jobs]
    sampling = in_turns([partial(time_engine, engine, job) for job in requests], repeats)
    updating = in_turns([partial(time_update, learner, batch) for batch in batches], repeats)
    rows: list[Row] = []
    for (prompts, size), (*sample, tokens), update, batch in zip(jobs, sampling, updating, batches, strict=True):
        rows.append({
            "prompts": prompts, "num_generations": size, "sampled_tokens": int(tokens),
            "sample_seconds": sample[0], "sample_processor_seconds": sample[1], "update_tokens": batch.num_tokens,
            "update_seconds": update[0], "update_processor_seconds": update[1],
        })  # fmt: skip
        each = [seconds / tokens * 1e6 for seconds in (*sample, *update)]
        print(
            f"  {prompts:4} prompts x {size:2}: {int(tokens):7,} tokens sampled in {sample[0]:6.2f} s, updated in "
            f"{update[0]:6.2f} s; a sampled token: {each[0]:.0f} and {each[2]:.0f} us (of processor time {each[1]:.0f} "
            f"and {each[3]:.0f}), {batch.num_tokens / tokens:.3f} tokens updated"
        )
    return rows


def in_turns(jobs: Sequence[Callable[[], tuple[float, ...]]], repeats: int) -> list[tuple[float, ...]]:
    """Medians of what each job returns over ``repeats`` rounds, after one to warm up: rounds of all jobs, so that a
    machine that grows slower is slower for all of them."""
    rounds = [[job() for job in jobs] for _ in range(repeats + 1)][1:]
    return [tuple(map(statistics.median, zip(*runs, strict=True))) for runs in zip(*rounds, strict=True)]


# -- memory --------------------------------------------------------------------------------------------


def head_memory(options: argparse.Namespace) -> Row:
    shape = {"vocabulary": 8192, "width": 64, "positions": 1024} if options.quick else {
        "vocabulary": 151_936, "width": 896, "positions": 2048}  # fmt: skip
    print("  {vocabulary:,} ids, width {width}, {positions:,} positions, fp32".format(**shape))
    found: Row = dict(shape)
    for trained in (True, False):
        about = "trained head" if trained else "frozen head, as under LoRA"
        ours, naive = (in_child("head", {**shape, "path": path, "trained": trained}) for path in ("ours", "naive"))
        ratio = ours["peak_mb"] / naive["peak_mb"]
        gap = abs(ours["mean_logprob"] - naive["mean_logprob"])
        found[about] = {"ours": ours, "naive": naive, "ratio": ratio}
        print(
            f"  {about}: ours {ours['peak_mb']:,.0f} MB, full logits {naive['peak_mb']:,.0f} MB: {ratio:.3f} of it "
            f"(asked: at most 0.25); {ours['seconds']:.1f} and {naive['seconds']:.1f} s, mean log-probabilities "
            f"{gap:.1e} apart",
            flush=True,
        )
    return found


def measure_head(setting: Row) -> Row:
    """Forward and backward in this process; the gradients count, weights and hidden states do not."""
    import time

    import torch

    from r1kit.fused import chunked_logprobs

    torch.manual_seed(0)
    vocabulary, width, positions = setting["vocabulary"], setting["width"], setting["positions"]
    head = torch.nn.Linear(width, vocabulary, bias=False).requires_grad_(setting["trained"])
    hidden = torch.randn(positions, width, requires_grad=True)
    targets = torch.randint(vocabulary, (positions,))
    chunk = max(64, (1 << 19) // vocabulary)  # as policy.token_logprobs has it on a CPU
    before, started = resident_mb("VmRSS"), time.perf_counter()
    if setting["path"] == "ours":
        logprobs, _ = chunked_logprobs(hidden, head, targets, chunk=chunk)
    else:
        logprobs = torch.log_softmax(head(hidden), dim=-1).gather(1, targets[:, None]).squeeze(1)
    logprobs.mean().backward()
    seconds = time.perf_counter() - started
    return {
        "peak_mb": resident_mb("VmHWM") - before, "before_mb": before, "seconds": seconds,
        "mean_logprob": float(logprobs.detach().mean()),
    }  # fmt: skip


def records_memory(options: argparse.Namespace) -> Row:
    setting = {"completions": 64 if options.quick else 512, "tokens": 4096 if options.quick else 32_768}
    found = in_child("records", setting)
    total = setting["completions"] * setting["tokens"]
    print(f"  {setting['completions']} completions of {setting['tokens']:,} tokens, four characters a token:")
    for name, about in (
        ("records_mb", f"in scored groups (asked: at most 300 MB for 512 of 32k): {found['records_mb']:,.0f} MB"),
        ("batch_mb", f"their training batch beside them: {found['batch_mb']:,.0f} MB"),
        ("peak_mb", f"all of it at the peak, while the batch is built: {found['peak_mb']:,.0f} MB"),
    ):
        print(f"  {about}, {found[name] * 1e6 / total:.1f} bytes a token")
        found[f"{name.removesuffix('_mb')}_bytes_per_token"] = found[name] * 1e6 / total
    return {**setting, **found}


def measure_records(setting: Row) -> Row:
    """Groups of eight as a rollout has them, and the batch that trains on them."""
    from r1kit.batching import build_grpo_batch

    build_grpo_batch([made_group(0, 2, 8)])  # what is imported and allocated once does not count
    before = resident_mb("VmRSS")
    groups = [made_group(number, 8, setting["tokens"]) for number in range(setting["completions"] // 8)]
    held = resident_mb("VmRSS")
    batch = build_grpo_batch(groups)
    after = resident_mb("VmRSS")
    assert batch.num_trained_tokens == setting["completions"] * setting["tokens"]
    return {"records_mb": held - before, "batch_mb": after - held, "peak_mb": resident_mb("VmHWM") - before}


def made_group(number: int, size: int, tokens: int) -> Any:
    from r1kit.types import Completion, DrawKey, Message, Problem, RewardBreakdown, RolloutGroup

    random = np.random.default_rng(number)
    name = f"p{number}"
    prompt = random.integers(0, 151_936, 64).astype(np.int32)
    rows = tuple(
        Completion(
            problem_id=name, prompt_ids=prompt, token_ids=random.integers(0, 151_936, tokens, dtype=np.int32),
            logprobs=-random.random(tokens, dtype=np.float32), text="so, " * tokens, finish_reason="length",
            draw=DrawKey(run_seed=0, stage="s", purpose="b", rollout=0, problem_id=name, sample=sample),
        )
        for sample in range(size)
    )  # fmt: skip
    verdicts = tuple(
        RewardBreakdown(terms={"accuracy": float(sample % 2)}, weights={"accuracy": 1.0}, outcome="scored")
        for sample in range(size)
    )
    problem = Problem(id=name, messages=(Message(role="user", content=name),), kind="general")
    return RolloutGroup(problem=problem, completions=rows, verdicts=verdicts)


def resident_mb(field: str) -> float:
    """This process's resident memory now (VmRSS) or at its highest (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6


def in_child(name: str, setting: Row) -> Row:
    """Measure in a fresh process."""
    command = [sys.executable, __file__, "--child", name, "--setting", json.dumps(setting)]
    found: Row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found


# -- the parent ----------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[argparse.Namespace], Row]] = {
    "update": update_growth,
    "group": group_growth,
    "head": head_memory,
    "records": records_memory,
}
CHILDREN: dict[str, Callable[[Row], Row]] = {"head": measure_head, "records": measure_records}


def keep(out: Path | None, name: str, found: Row) -> None:
    """Put a part into the file, beside what is in it of the others."""
    if out is None:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(out.read_text()) if out.exists() else {}
    out.write_text(json.dumps({**known, name: found}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--lanes", type=int, default=2, help="Threads of an update and of sampling.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="Sizes that only show that it runs.")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    parser.add_argument("--setting", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(CHILDREN[options.child](options.setting)))
        return
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    for name in options.parts or PARTS:
        print(f"{name}:", flush=True)
        keep(options.out, name, PARTS[name](options))


if __name__ == "__main__":
    main()
