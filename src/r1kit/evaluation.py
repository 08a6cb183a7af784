"""Evaluation of a model on a set of problems: k samples each, stored as they come, graded, summed up with errors.

pass@1 is the mean over k samples (R1, arXiv 2501.12948 v2, section D.1), pass@k the unbiased estimate; errors and
intervals are over problems. The default sampling is the paper's: temperature 0.6, top-p 0.95.

A directory of an evaluation holds ``evaluation.json`` (what is asked, of which weights, how), ``completions.jsonl`` (a
row per completion, appended as it is sampled; with verdicts once all are there), ``summary.json`` and the same figures
for readers of lm-evaluation-harness (``results.json``) and lighteval (``results_lighteval.json``). Killed and started
again, it samples nothing twice.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from r1kit.engines.base import Engine
from r1kit.figures import Answered, Comparison, Figures, answered_of_rows, compare
from r1kit.grading import SOURCE_ROW, GradeSummary, grade_file
from r1kit.rewards import general
from r1kit.rewards.scorer import Scorer
from r1kit.rollouts import REFLECTIVE_WORDS, Draws, PromptEncoder, hash_of_prompts, requests_for
from r1kit.run_directory import DirectoryLock, read_json_lines, saving, write_atomic
from r1kit.statistics import Estimate, mean_and_se
from r1kit.tasks.loaders import read_rows
from r1kit.tasks.rows import gold_text
from r1kit.types import CodeGoal, Completion, Problem, Request, SamplingParams, UserError

COMPLETIONS, SETTINGS, SUMMARY = "completions.jsonl", "evaluation.json", "summary.json"
PARTIAL = "mean_accuracy"
LM_EVAL, LIGHTEVAL = "results.json", "results_lighteval.json"
LARGEST_ROW = 1 << 20
"""Characters of a problem's own row that are stored beside its completions. Those of a larger one are graded again by
evaluating again, which samples nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalResult:
    """Figures of one model on one set. ``accuracy_by_length`` has rows of {from, to, n, accuracy} over completion
    lengths in tokens; ``left_out`` says of each problem that could not be graded why; ``known``: completions that
    were there from before, ``sampled``: those that were not; ``metrics``: of general requests (`rewards.general`), and
    ``mean_accuracy`` over problems where answers can be right in part (DROP's F1); ``asked_ks``: the k of the pass@k to
    show, else 1, 2, 4 ... and the samples of a problem."""

    name: str
    figures: Figures
    outcomes: Mapping[str, int]
    left_out: tuple[str, ...]
    known: int
    sampled: int
    reflective_per_1k: float
    accuracy_by_length: list[dict[str, float]]
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    asked_ks: tuple[int, ...] = ()

    @property
    def problems(self) -> int:
        return self.figures.problems

    @property
    def samples(self) -> int:
        return self.figures.samples

    @property
    def pass_at(self) -> dict[int, Estimate]:
        """pass@k for the k to show."""
        return {k: self.figures.pass_at[k] for k in self.shown_ks}

    @property
    def shown_ks(self) -> list[int]:
        """Those of ``asked_ks`` that the problem with the fewest samples allows, or the usual ones."""
        return [k for k in self.asked_ks if k <= self.figures.fewest] or self.figures.powers()

    @property
    def format(self) -> float | None:
        """Share of completions that keep the format; None where it was not asked for."""
        return self.figures.format

    @property
    def mean_length(self) -> float:
        """Tokens."""
        return self.figures.mean_length or 0.0

    @property
    def clipped_ratio(self) -> float:
        """Share of completions that ran into the length limit."""
        return self.figures.truncated

    def to_dict(self, *, every_k: bool = False) -> dict[str, Any]:
        """JSON-ready: `Figures.to_dict`, for every k or for 1, 2, 4 ..., and what else there is."""
        found = {"name": self.name} | self.figures.to_dict(None if every_k else self.shown_ks)
        return found | {
            **self.metrics,
            "outcomes": dict(self.outcomes),
            "left_out": len(self.left_out),
            "reflective_per_1k": self.reflective_per_1k,
            "accuracy_by_length": self.accuracy_by_length,
            "seconds": self.seconds,
        }

    def sentences(self) -> list[str]:
        """For people."""
        found = self.figures
        said = [f"{self.name}: {found.problems:,} problems, {found.samples:,} samples"]
        if self.known:
            said.append(f"  {self.known:,} of {self.known + self.sampled:,} completions were there from before")
        said += [f"  {line}" for line in found.sentences(self.shown_ks)]
        if found.format is not None:
            said.append(f"  format   {100 * found.format:6.2f} %")
        said += [f"  {line}" for line in general.sentences(dict(self.metrics))]
        if PARTIAL in self.metrics:
            said.append(f"  partly right answers counted in part: {100 * self.metrics[PARTIAL]:.2f} %")
        sides = (("right", found.right_mean_length), ("wrong", found.wrong_mean_length))
        by_side = ", ".join(f"{name} {length:.1f}" for name, length in sides if length is not None)
        said.append(
            f"  length   {found.mean_length or 0:.1f} tokens ({by_side}), {100 * found.truncated:.1f} % truncated"
        )
        failed = self.outcomes.get("verifier_error", 0)
        if failed:
            said.append(f"  {failed:,} completions are not counted: our verifier failed on them")
        if self.left_out:
            said.append(f"  {len(self.left_out):,} problems were left out; the first: {self.left_out[0]}")
        return said


def evaluate_problems(
    name: str,
    problems: Sequence[Problem],
    engine: Engine,
    scorer: Scorer,
    encoder: PromptEncoder,
    params: SamplingParams,
    *,
    k: int,
    pass_at: Sequence[int] = (),
    seed: int = 0,
    out: Path | None = None,
    about: Mapping[str, Any] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> EvalResult:
    """Sample ``k`` completions of each problem, grade them and sum up; with ``out``, in that directory.

    What ``out`` holds of the same evaluation is not sampled again; ``k`` may grow. ``pass_at``: the k of the pass@k to
    show, none above the samples. ``about``: what else makes it the
    same (the model, say), JSON values. Raises UserError where no problem can be graded, where a prompt leaves no room
    for an answer (before anything is written), and where ``out`` holds another evaluation or is in use.
    """
    refuse_too_few_samples(k, pass_at)
    started = time.perf_counter()
    asked, left_out = _askable(name, problems, scorer)
    items = [(problem, 0) for problem in asked]
    requests = requests_for(items, encoder, params, k, Draws(seed, "eval", name, 0))
    settings = _settings(name, requests, params, k, seed, about or {})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory())) if out is None else out
        store = _Store(folder, settings)
        missing = [r for r in requests if (r.problem_id, r.draw.sample) not in store.known]
        if missing:
            engine.submit(missing)
        stack.enter_context(store.begun())
        found = _completions(engine, len(missing), len(requests) - len(missing), on_progress)
        store.sample(found, {problem.id: problem for problem in asked}, encoder, name, scorer.prefilled_think, k)
        store.finish(asked)
        by_id = {problem.id: problem for problem in asked}
        graded = grade_file(store.path, store.path, scorer=scorer, problems=by_id)
        rows = read_json_lines(store.path)
        result = _result(name, graded, rows, left_out, len(missing), time.perf_counter() - started)
        result = replace(result, asked_ks=tuple(sorted(set(pass_at))))
        if out is not None:
            _write(out, result, settings)
    return result


def refuse_too_few_samples(k: int, pass_at: Sequence[int]) -> None:
    """UserError where pass@k is asked for beyond the ``k`` samples of a problem: no estimate of it exists."""
    if pass_at and max(pass_at) > k:
        raise UserError(
            f"pass@{max(pass_at)} needs at least {max(pass_at)} samples of each problem, and there are {k}: "
            f"ask for more with -k {max(pass_at)}, or for a smaller --pass-at"
        )


def _askable(name: str, problems: Sequence[Problem], scorer: Scorer) -> tuple[list[Problem], tuple[str, ...]]:
    """The problems whose answers can be checked, and why the others cannot."""
    repeated = [problem_id for problem_id, count in Counter(p.id for p in problems).items() if count > 1]
    if repeated:
        raise UserError(f"{name}: {len(repeated)} ids stand for several problems, the first {repeated[0]!r}; mend them")
    reasons = {problem.id: reason for problem in problems if (reason := scorer.gold_problem(problem)) is not None}
    asked = [problem for problem in problems if problem.id not in reasons]
    if not asked:
        reason = next(iter(reasons.values()), "no problems")
        raise UserError(f"{name}: none of the {len(problems)} problems could be graded ({reason})")
    return asked, tuple(f"{problem_id}: {reason}" for problem_id, reason in reasons.items())


def _settings(
    name: str, requests: Sequence[Request], params: SamplingParams, k: int, seed: int, about: Mapping[str, Any]
) -> dict[str, Any]:
    """What makes an evaluation the same one, as JSON."""
    return {
        "name": name,
        "problems": len(requests) // k,
        "prompts": hash_of_prompts(requests),
        "k": k,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "max_completion_length": params.max_completion_length,
        "stop": list(params.stop),
        "seed": seed,
        **about,
    }


def _completions(
    engine: Engine, missing: int, known: int, on_progress: Callable[[int, int], None] | None
) -> Iterable[Completion]:
    if on_progress and known:
        on_progress(known, known + missing)
    for done, completion in enumerate(engine.completions() if missing else (), start=known + 1):
        yield completion
        if on_progress:
            on_progress(done, known + missing)


class _Store:
    """The completions of an evaluation in its directory. ``known``: (problem id, sample) of those that are there."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.path, self.settings = folder, folder / COMPLETIONS, settings
        _refuse_another(folder, settings)
        self.known = {(str(row.get("id")), row.get("sample")) for row in read_json_lines(self.path)}

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Make the directory and keep others out of it; write down what is evaluated, and cut off a line that a kill
        tore. Raises UserError where another process evaluates there."""
        with saving("the evaluation", self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        lock = DirectoryLock(self.folder, "-o")
        try:
            _refuse_another(self.folder, self.settings)  # who had the lock may have begun since the first look
            self._write_down()
            yield
        finally:
            lock.release()

    def _write_down(self) -> None:
        with saving("the evaluation", self.folder):
            write_atomic(self.folder / SETTINGS, (json.dumps(self.settings, indent=1) + "\n").encode())
            if self.path.exists():
                whole = self.path.read_bytes().rfind(b"\n") + 1
                os.truncate(self.path, whole)

    def sample(
        self,
        completions: Iterable[Completion],
        problems: Mapping[str, Problem],
        encoder: PromptEncoder,
        name: str,
        prefilled_think: bool,
        k: int,
    ) -> None:
        """Append each completion as it comes; what a problem's last one completes is on the disk before the next."""
        counts = Counter(problem_id for problem_id, _ in self.known)
        with saving("the completions", self.folder), self.path.open("ab") as stream:
            for completion in completions:
                problem = problems[completion.problem_id]
                row = _row(problem, completion, encoder.decode(completion.prompt_ids), name, prefilled_think)
                stream.write((json.dumps(row) + "\n").encode())
                stream.flush()
                counts[problem.id] += 1
                if counts[problem.id] >= k:
                    os.fsync(stream.fileno())
            os.fsync(stream.fileno())

    def finish(self, problems: Sequence[Problem]) -> None:
        """Sort the rows by problem and sample, and give the first of each problem the problem's own row."""
        order = {problem.id: place for place, problem in enumerate(problems)}
        rows = {(order[row["id"]], row["sample"]): row for row in read_json_lines(self.path) if row["id"] in order}
        lines, seen = [], set()
        for place, sample in sorted(rows):
            row = rows[place, sample]
            if place not in seen:
                seen.add(place)
                row |= _with_source(problems[place])
            lines.append(json.dumps(row, default=str) + "\n")
        with saving("the completions", self.folder):
            write_atomic(self.path, "".join(lines).encode())


def _refuse_another(folder: Path, settings: Mapping[str, Any]) -> None:
    if not (folder / SETTINGS).exists():
        if (folder / COMPLETIONS).exists():
            raise UserError(f"{folder} holds completions of something else; give another directory with -o")
        return
    try:
        old = json.loads((folder / SETTINGS).read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {folder / SETTINGS}: {error}; give another directory with -o") from error
    old = old if isinstance(old, dict) else {}
    if isinstance(old.get("k"), int) and old["k"] <= settings["k"]:
        old["k"] = settings["k"]
    different = [key for key in {**old, **settings} if old.get(key) != settings.get(key)]
    if different:
        shown = ", ".join(f"{key} ({old.get(key)!r} there, {settings.get(key)!r} now)" for key in different[:4])
        raise UserError(f"{folder} holds an evaluation that differs in {shown}; give another directory with -o")


def _row(problem: Problem, completion: Completion, prompt: str, name: str, prefilled_think: bool) -> dict[str, Any]:
    assert completion.draw is not None
    return {
        "id": problem.id,
        "sample": completion.draw.sample,
        "set": name,
        "kind": problem.kind,
        "prompt": prompt,
        "gold": gold_text(problem.gold),
        "completion": completion.text,
        "finish_reason": completion.finish_reason,
        "completion_length": completion.token_ids.size,
        "prefilled_think": prefilled_think,
    }


def _with_source(problem: Problem) -> dict[str, Any]:
    """The problem's own row as a column; nothing where it is very large, as LiveCodeBench's tests are."""
    own = json.dumps(_source_row(problem), default=str)
    return {SOURCE_ROW: json.loads(own)} if len(own) <= LARGEST_ROW else {}


def _source_row(problem: Problem) -> dict[str, Any]:
    """A row that `r1kit.tasks.rows` makes this problem of again, as far as its answers' checker needs it."""
    head = problem.gold.prompt if isinstance(problem.gold, CodeGoal) else ""
    gold = {} if isinstance(problem.gold, CodeGoal) else {"gold": gold_text(problem.gold)}
    return gold | dict(problem.columns) | {"prompt": head or problem.text}


def _result(
    name: str,
    graded: GradeSummary,
    rows: Sequence[Mapping[str, Any]],
    left_out: tuple[str, ...],
    sampled: int,
    seconds: float,
) -> EvalResult:
    if graded.figures is None:
        reason = graded.skipped[0] if graded.skipped else "every check failed"
        raise UserError(f"{name}: none of the {len(rows)} completions could be graded ({reason})")
    tokens = sum(row["completion_length"] for row in rows)
    words = sum(len(REFLECTIVE_WORDS.findall(row["completion"])) for row in rows)
    lengths, right = [], []
    for row in rows:
        terms = row.get("rewards")
        if terms is not None and row["outcome"] != "verifier_error":
            lengths.append(row["completion_length"])
            right.append((terms.get("accuracy") or 0.0) >= 1.0 if "accuracy" in terms else row["reward"] > 0)
    return EvalResult(
        name=name,
        figures=graded.figures,
        outcomes=graded.outcomes,
        left_out=left_out,
        known=len(rows) - sampled,
        sampled=sampled,
        reflective_per_1k=1000 * words / max(1, tokens),
        accuracy_by_length=accuracy_by_length(lengths, right),
        seconds=seconds,
        metrics={**graded.metrics, **_partial(rows)},
    )


def _partial(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean accuracy over problems and its standard error; nothing where every answer is right or wrong."""
    by_problem: dict[str, list[float]] = {}
    for row in rows:
        value = (row.get("rewards") or {}).get("accuracy")
        if value is not None:
            by_problem.setdefault(row["id"], []).append(float(value))
    if all(value in (0.0, 1.0) for values in by_problem.values() for value in values):
        return {}
    found = mean_and_se([float(np.mean(values)) for values in by_problem.values()])
    return {PARTIAL: found.mean} | ({} if math.isnan(found.standard_error) else {f"{PARTIAL}_se": found.standard_error})


def accuracy_by_length(lengths: Sequence[int], right: Sequence[bool], bins: int = 8) -> list[dict[str, float]]:
    """Accuracy over completions of similar length: ``bins`` bins with about as many completions each."""
    sizes, hits = np.asarray(lengths), np.asarray(right, dtype=np.float64)
    edges: Sequence[int] = (
        np.unique(np.quantile(sizes, np.linspace(0, 1, bins + 1)).round().astype(int)).tolist() if sizes.size else []
    )
    rows = []
    for i, (low, high) in enumerate(pairwise(edges)):
        last = i == len(edges) - 2
        inside = (sizes >= low) & ((sizes <= high) if last else (sizes < high))
        if inside.any():
            rows.append(
                {"from": int(low), "to": int(high), "n": int(inside.sum()), "accuracy": float(hits[inside].mean())}
            )
    return rows


def _write(out: Path, result: EvalResult, settings: Mapping[str, Any]) -> None:
    files = {
        SUMMARY: result.to_dict(every_k=True),
        LM_EVAL: lm_eval_results(result, settings),
        LIGHTEVAL: lighteval_results(result, settings),
    }
    with saving("the evaluation", out):
        for name, content in files.items():
            write_atomic(out / name, (json.dumps(content, indent=1) + "\n").encode())


def lm_eval_results(result: EvalResult, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The results file of lm-evaluation-harness 0.4: task -> ``metric,filter`` and ``metric_stderr,filter``."""
    metrics: dict[str, Any] = {"alias": result.name}
    for metric, (mean, error) in _metrics(result).items():
        metrics |= {f"{metric},none": mean, f"{metric}_stderr,none": "N/A" if error is None else error}
    task = {
        "task": result.name,
        "repeats": settings["k"],
        "num_fewshot": 0,
        "output_type": "generate_until",
        "generation_kwargs": _generation(settings),
    }
    model = str(settings.get("model", ""))
    return {
        "results": {result.name: metrics},
        "group_subtasks": {result.name: []},
        "configs": {result.name: task},
        "versions": {result.name: 1},
        "n-shot": {result.name: 0},
        "higher_is_better": {result.name: dict.fromkeys(_metrics(result), True)},
        "n-samples": {result.name: {"original": settings["problems"], "effective": result.problems}},
        "config": {"model": "r1kit", "model_args": f"pretrained={model}", "random_seed": settings["seed"]},
        "model_source": "r1kit",
        "model_name": model,
        "total_evaluation_time_seconds": str(result.seconds),
    }


def lighteval_results(result: EvalResult, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The results file of lighteval: ``task|few-shot examples`` -> ``metric`` and ``metric_stderr``, and ``all``."""
    metrics: dict[str, float] = {}
    for metric, (mean, error) in _metrics(result).items():
        metrics |= {metric: mean} | ({} if error is None else {f"{metric}_stderr": error})
    task = f"{result.name}|0"
    return {
        "config_general": {
            "model_name": str(settings.get("model", "")),
            "generation_parameters": _generation(settings),
            "total_evaluation_time_secondes": str(result.seconds),
        },
        "results": {task: metrics, "all": metrics},
        "versions": {task: 1},
        "config_tasks": {task: {"name": result.name, "num_samples": settings["k"]}},
    }


def _metrics(result: EvalResult) -> dict[str, tuple[float, float | None]]:
    """Metric -> (mean, standard error or None)."""
    found = dict(result.pass_at.items())
    named = {f"pass@{k}": estimate for k, estimate in found.items()}
    if result.figures.cons is not None:
        named[f"cons@{result.figures.fewest}"] = result.figures.cons
    figures = {name: (e.mean, None if np.isnan(e.standard_error) else e.standard_error) for name, e in named.items()}
    others = {name: (value, result.metrics.get(f"{name}_se")) for name, value in result.metrics.items()}
    return figures | {name: pair for name, pair in others.items() if not name.endswith("_se")}


def _generation(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "do_sample": settings["temperature"] > 0,
        "temperature": settings["temperature"],
        "top_p": settings["top_p"],
        "max_gen_toks": settings["max_completion_length"],
    }


def compare_evaluations(first: Path, second: Path) -> Comparison:
    """The paired comparison of two stored evaluations, each a directory or a graded file of completions.

    Raises UserError where one cannot be read or is not graded, and where they share no problem.
    """
    one, two = _stored(first), _stored(second)
    return compare(one, two)


def _stored(place: Path) -> list[Answered]:
    file = place / COMPLETIONS if place.is_dir() else place
    if not file.is_file():
        raise UserError(f"{place} holds no evaluation: it has no {COMPLETIONS}; run r1 eval with -o {place}")
    return answered_of_rows((row for _, row in read_rows(file)), str(file))
