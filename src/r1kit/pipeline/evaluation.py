"""The fixed held-out sets that every stage's model is asked, stored completion by completion.

``evaluations/<stage>/`` holds a directory per set (`r1kit.evaluation`), ``asked.json`` (what was asked of which
weights, written first) and ``metrics.json`` (written last). With other weights or settings the old one is moved aside.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from r1kit.config import PipelineConfig
from r1kit.devices import set_threads
from r1kit.evaluation import COMPLETIONS, evaluate_problems
from r1kit.pipeline.metrics import Values, figures_of, values_of_rows
from r1kit.pipeline.records import digest, free_name
from r1kit.policy import load_policy
from r1kit.rewards.scorer import Scorer
from r1kit.rewards.text_terms import TermSettings
from r1kit.run_directory import InterruptGuard, Stopped, read_json_lines, saving, write_atomic
from r1kit.runner import make_engine, resolve_model
from r1kit.tasks.rows import gold_text
from r1kit.tasks.sets import EVAL_SEED, ProblemSet, load_set
from r1kit.types import SamplingParams, UserError

STAGES = "stages.json"
"""In a pipeline's directory: the evaluated models with their figures, in order."""
ASKED, METRICS, PREFERENCE = "asked.json", "metrics.json", "preference.json"
REWARDS = ("accuracy", "format_r1", "language")
"""``format_r1`` is what all stages have in common: R1-Zero's answers in tags keep it as R1's summaries do."""
FORMAT = 1
"""Number of the form of ``metrics.json``: a new one has the stored completions counted again."""


def held_out_sets(config: PipelineConfig) -> tuple[ProblemSet, ...]:
    """The held-out sets, the same for every stage and every seed. Raises UserError where there is none of a name."""
    names = dict.fromkeys(config.eval_problems)
    return tuple(load_set(name, n=config.eval_size, seed=EVAL_SEED, split="heldout") for name in names)


def asked_of(config: PipelineConfig, sets: Sequence[ProblemSet], model_hash: str) -> dict[str, Any]:
    """What makes an evaluation the same one."""
    problems = [[s.name, p.id, p.kind, [*p.messages], gold_text(p.gold)] for s in sets for p in s.problems]
    return {
        "model": model_hash,
        "problems": digest(problems),
        "samples": config.eval_samples,
        "temperature": config.eval_temperature,
        "top_p": config.eval_top_p,
        "seed": config.eval_seed,
        "max_completion_length": config.eval_max_completion_length,
        "rewards": list(REWARDS),
    }


def evaluate_stage(
    config: PipelineConfig,
    name: str,
    model: str,
    model_hash: str,
    sets: Sequence[ProblemSet],
    *,
    template: str,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Figures of a stage's model on the held-out sets; what was sampled before is not sampled again.

    Raises Stopped where the user interrupts: the completions so far are kept.
    """
    directory = Path(config.output_dir) / "evaluations" / name
    asked = asked_of(config, sets, model_hash)
    _make_way(directory, asked)
    with saving("the evaluation", directory):
        directory.mkdir(parents=True, exist_ok=True)
        write_atomic(directory / ASKED, (json.dumps(asked, indent=1) + "\n").encode())
    known = read_json(directory / METRICS)
    counted = {"format": FORMAT, "paragraph": config.readable_paragraph}
    if known is None or not known["complete"]:
        _sample(config, directory, name, model, sets, template, say)
    elif known["counted"] == counted:
        return dict(known["metrics"])
    metrics = figures_of(stored_values(directory, config.readable_paragraph))
    with saving("the evaluation", directory):
        found = {"complete": True, "counted": counted, "metrics": metrics}
        write_atomic(directory / METRICS, (json.dumps(found, indent=1) + "\n").encode())
    return metrics


def stored_values(directory: Path, paragraph: int) -> Values:
    """Values by problem of an evaluation's stored completions."""
    files = sorted(directory.glob(f"*/{COMPLETIONS}"))
    return values_of_rows((row for file in files for row in read_json_lines(file)), paragraph)


def evaluated_values(root: Path, paragraph: int) -> dict[str, Values]:
    """Evaluated model -> its values by problem, of a pipeline's directory; preference where ``stages.json`` has it."""
    found = {}
    for row in json.loads((root / STAGES).read_bytes()):
        directory = root / "evaluations" / row["stage"]
        found[row["stage"]] = stored_values(directory, paragraph)
        if "preference" in row["metrics"]:
            found[row["stage"]]["preference"] = (read_json(directory / PREFERENCE) or {}).get("values", {})
    return found


def _make_way(directory: Path, asked: Mapping[str, Any]) -> None:
    """Move an evaluation of something else aside, and take back the one that was asked for, if there is one."""
    old = read_json(directory / ASKED)
    if old == asked:
        return
    with saving("the earlier evaluation", directory.parent):
        if directory.exists():
            os.replace(directory, free_name(directory.with_name(f"{directory.name}.{digest(old)[:12]}")))
        for place in sorted(directory.parent.glob(f"{directory.name}.*")):
            if read_json(place / ASKED) == asked:
                os.replace(place, directory)
                return


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _sample(
    config: PipelineConfig,
    directory: Path,
    name: str,
    model: str,
    sets: Sequence[ProblemSet],
    template: str,
    say: Callable[[str], None],
) -> None:
    set_threads(config.torch_threads)
    policy = load_policy(resolve_model(model), device=config.device, template=template)
    params = SamplingParams(
        temperature=config.eval_temperature,
        top_p=config.eval_top_p,
        max_completion_length=config.eval_max_completion_length,
    )
    settings = TermSettings(max_completion_length=config.eval_max_completion_length)
    with InterruptGuard() as guard, Scorer(REWARDS, settings=settings, prefilled_think=policy.prefill_think) as scorer:

        def told(done: int, total: int) -> None:
            if guard.stop and done < total:
                raise Stopped(
                    f"stopped while {name} was evaluated, its completions are kept in {directory}: the same command "
                    "goes on from there"
                )

        engine = make_engine(policy)
        for held_out in sets:
            reason = next((scorer.gold_problem(problem) for problem in held_out.problems), "no problems")
            try:
                evaluate_problems(
                    held_out.name,
                    held_out.problems,
                    engine,
                    scorer,
                    policy,
                    params,
                    k=config.eval_samples,
                    seed=config.eval_seed,
                    out=directory / held_out.name,
                    on_progress=told,
                )
            except UserError as error:
                if reason is None or "could be graded" not in str(error):
                    raise
                say(f"evaluation of {name}: {held_out.name} is left out: {reason}")
            if guard.stop:
                raise Stopped(f"stopped while {name} was evaluated: the same command goes on from there")
