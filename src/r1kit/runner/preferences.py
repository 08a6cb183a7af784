"""Preference pairs and safety labels in one process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from r1kit.config.preferences import PreferencesConfig
from r1kit.devices import set_threads
from r1kit.policy import Policy, load_policy
from r1kit.progress import counting
from r1kit.rewards.learned import readable
from r1kit.run_directory import InterruptGuard, Run, hash_path, saving, write_atomic
from r1kit.runner.answering import Answering, answers_file, open_answers
from r1kit.runner.parts import make_eval_scorer, make_run_policy, make_scorer, resolve_model
from r1kit.runner.problems import lineage, model_hash, usable
from r1kit.runner.watching import warn_of_code
from r1kit.stages import preferences as stage
from r1kit.stages.cold_start import Sample
from r1kit.stages.data_files import Funnel
from r1kit.stages.judges import SENSELESS
from r1kit.tasks.preferences import load_preferences
from r1kit.tasks.sets import TrainingSets, load_training_sets
from r1kit.types import Message, Preference, Problem, UserError

PAIRS, LABELS = "preferences.jsonl", "safety.jsonl"
ABOUT = (
    "Preference pairs after arXiv 2501.12948 v2, 3.1: answers of models, each pair judged {judgements} times by "
    "{judge} with the answers in either order; kept where the mean verdict (-2 to 2) is further from 0 than "
    "{difference:g}."
)


def run(config: PreferencesConfig, run: Run, guard: InterruptGuard) -> None:
    threads = set_threads(config.torch_threads)
    policy = make_run_policy(config)
    if config.judge != "rules":  # nothing else asks whether an answer is right
        config = config.model_copy(update={"reward_funcs": ("format",)})
    with ExitStack() as stack:
        scorer = stack.enter_context(make_scorer(config, policy))

        def usable_sets(names: Sequence[str]) -> tuple[TrainingSets, list[str]]:
            sets = load_training_sets(config.model_copy(update={"problems": tuple(names)}))
            eval_scorer = stack.enter_context(make_eval_scorer(config, policy, sets, scorer.accuracy))
            return usable(sets, policy, config, scorer, eval_scorer)

        sets, notes = usable_sets(config.problems)
        unsafe, more = usable_sets(config.safety_problems) if config.safety_problems else (None, [])
        known = lineage(config, sets) | _more_lineage(config)
        if unsafe is not None:
            known["safety_problems"] = lineage(config, unsafe)["problems"]
        run.set_lineage(known, threads=threads)
        warn_of_code(config, sets, scorer, run)
        answering = Answering(config=config, run=run, guard=guard, accuracy=scorer.accuracy)
        funnels: dict[str, Funnel] = {}
        samples = _answers(config, answering, policy, sets.train)
        risky = _answers(config, answering, policy, unsafe.train) if unsafe is not None else []
        judge = _judge(config, run, guard)
        rows, lengths = _pairs(config, samples, judge, policy, funnels)
        labels = _labels(config, risky, judge, funnels) if risky else []
        _refuse_nothing(rows, funnels, answers_file(run, "judge"))
        _save(config, run, rows, labels, funnels, lengths, [*notes, *more])


def _answers(
    config: PreferencesConfig, answering: Answering, policy: Policy, problems: Sequence[Problem]
) -> list[Sample]:
    asked = problems[: config.num_problems or None]
    found = answering.samples(asked, lambda: policy, origin="model", num_generations=config.num_generations)
    for number, name in enumerate(config.more_models, start=2):

        def opened(name: str = name) -> Policy:
            return load_policy(resolve_model(name), device=config.device, template=config.template)

        found += answering.samples(asked, opened, origin=f"model_{number}", num_generations=config.num_generations)
    return found


def _judge(config: PreferencesConfig, run: Run, guard: InterruptGuard) -> stage.Judge:
    if config.judge == "rules":
        return stage.RuleJudge(noise=config.judge_noise, seed=config.seed)
    with counting("judgements") as count:
        answers = open_answers(config.judge, "judge", config, run, guard, count)
    return stage.ModelJudge(answers=answers, tries=config.answer_tries)


def _pairs(
    config: PreferencesConfig,
    samples: Sequence[Sample],
    judge: stage.Judge,
    policy: Policy,
    funnels: dict[str, Funnel],
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(rows of pairs, figures of lengths before and after the balance)."""
    funnels["answers"] = Funnel(stage.CUT_OFF, stage.UNREADABLE, stage.SAME)
    contests = stage.contests_of(samples, config.max_per_problem, config.seed, funnels["answers"])
    funnel = funnels["pairs"] = Funnel(*stage.PAIR_FUNNEL)
    judged = stage.judge_contests(contests, judge, config.num_judgements, config.min_difference, config.seed, funnel)
    pairs = [stage.preference_of(entry) for entry in judged]
    about = {pair.id: _provenance(entry) for pair, entry in zip(pairs, judged, strict=True)}
    if config.human_pairs:
        human = load_preferences(config.human_pairs).rows
        funnel.enter(len(human))
        pairs += human
    length = _length_by(policy)
    before = stage.length_figures(pairs, length)
    if config.length_balance == "matched":
        pairs = stage.balance_lengths(pairs, length, config.seed, funnel)
    rows = [_pair_row(pair, about.get(pair.id, {"judge": "people"})) for pair in pairs]
    return rows, {"before": before, "after": stage.length_figures(pairs, length)}


def _length_by(policy: Policy) -> Callable[[str], int]:
    """Tokens of an answer's summary: what a helpful reward model reads."""
    return lambda text: len(policy.encode(readable(text, "summary") or ""))


def _provenance(judged: stage.Judged) -> dict[str, Any]:
    contest = judged.contest
    origins = [contest.first.origin, contest.second.origin]
    return {"verdicts": list(judged.verdicts), "mean": judged.mean, "origins": origins, "kind": contest.problem.kind}


def _pair_row(pair: Preference, provenance: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": pair.id,
        "prompt": [dict(message) for message in pair.prompt],
        "chosen": [Message(role="assistant", content=pair.chosen)],
        "rejected": [Message(role="assistant", content=pair.rejected)],
        "kind": provenance.get("kind", "general"),
        "source": pair.source,
        "domain": "general",
        "provenance": {key: value for key, value in provenance.items() if key != "kind"},
    }


def _labels(
    config: PreferencesConfig, samples: Sequence[Sample], judge: stage.Judge, funnels: dict[str, Funnel]
) -> list[dict[str, Any]]:
    funnel = funnels["labels"] = Funnel(*stage.LABEL_FUNNEL)
    return [
        {
            "id": sample.id,
            "prompt": [dict(message) for message in sample.problem.messages],
            "completion": [Message(role="assistant", content=sample.text)],
            "label": safe,
            "kind": sample.problem.kind,
            "source": sample.problem.source,
            "domain": "general",
            "provenance": {"origin": sample.origin},
        }
        for sample, safe in stage.labelled(samples, judge, config.num_judgements, funnel)
    ]


def _refuse_nothing(rows: Sequence[Any], funnels: Mapping[str, Funnel], replies: Path) -> None:
    """Raises UserError where no pair came out. ``replies``: the judge's."""
    if rows:
        return
    said = "; ".join(f"{name}: {funnel.sentence()}" for name, funnel in funnels.items())
    pairs = funnels["pairs"]
    if 0 < pairs.taken_in == pairs.dropped[stage.NO_VERDICT]:
        mend = SENSELESS.format(path=replies)
    elif pairs.dropped[stage.UNBALANCED]:
        mend = "ask more problems, or take length_balance = none and look at the lengths in the card"
    else:
        mend = "ask more problems or more answers each (num_generations)"
    raise UserError(f"no pair is left ({said}): {mend}")


def _save(
    config: PreferencesConfig,
    run: Run,
    pairs: Sequence[Mapping[str, Any]],
    labels: Sequence[Mapping[str, Any]],
    funnels: Mapping[str, Funnel],
    lengths: Mapping[str, Any],
    notes: Sequence[str],
) -> None:
    judge = "rules" if config.judge == "rules" else "a model"
    if config.judge_noise:
        judge += f" ({config.judge_noise:.0%} of the verdicts wrong on purpose)"
    about = ABOUT.format(judgements=config.num_judgements, judge=judge, difference=config.min_difference)
    card = {
        "title": f"Preferences of {run.directory.name}",
        "about": about,
        "pairs": len(pairs),
        "labels": {"safe": sum(row["label"] for row in labels), "unsafe": sum(not row["label"] for row in labels)},
        "summary_tokens": lengths,
        "filters": {name: funnel.to_dict() for name, funnel in funnels.items()},
        "notes": list(notes),
    }
    folder = run.directory / "data"
    with saving("the pairs", run.directory):
        folder.mkdir(exist_ok=True)
        write_atomic(folder / PAIRS, _lines(pairs))
        if labels:
            write_atomic(folder / LABELS, _lines(labels))
        write_atomic(folder / "README.md", _readme(card).encode(errors="replace"))
        write_atomic(folder / "card.json", (json.dumps(card, indent=1) + "\n").encode())


def _lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(errors="replace")


def _readme(card: Mapping[str, Any]) -> str:
    lines = [f"# {card['title']}", "", str(card["about"]), "", "| | pairs | chosen | rejected | longer chosen |"]
    lines.append("|---|---:|---:|---:|---:|")
    for name, row in card["summary_tokens"].items():
        shown = [f"{row.get(key, 0):,.1f}" for key in ("chosen", "rejected")]
        lines.append(
            f"| {name} the balance | {row['pairs']:,} | {' | '.join(shown)} | {row.get('longer_chosen', 0):.0%} |"
        )
    lines += ["", "Lengths are mean tokens of the summaries.", ""]
    labels = card["labels"]
    if sum(labels.values()):
        lines += [f"Labelled answers: {labels['safe']:,} safe, {labels['unsafe']:,} unsafe.", ""]
    for name, funnel in card["filters"].items():
        lines += [f"## Filters: {name}", "", "| | |", "|---|---:|", f"| in | {funnel['samples']:,} |"]
        lines += [f"| {reason} | -{count:,} |" for reason, count in funnel["dropped"].items()]
        lines += [f"| kept | {funnel['kept']:,} |", ""]
    if card["notes"]:
        lines += ["## Notes", "", *(f"- {note}" for note in card["notes"]), ""]
    lines += ["Read by `r1 run reward_model data=...`; TRL's preference and unpaired formats.", ""]
    return "\n".join(lines)


def _more_lineage(config: PreferencesConfig) -> dict[str, str]:
    found = {f"more_models.{number}": model_hash(name) for number, name in enumerate(config.more_models)}
    for number, name in enumerate(config.human_pairs):
        found[f"human_pairs.{number}"] = hash_path(name) if Path(name).is_file() else name
    if config.judge != "rules":
        found["judge"] = model_hash(config.judge)
    return found
