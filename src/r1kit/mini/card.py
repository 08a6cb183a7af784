"""The model card of a miniature base: what it was fed, what it cost, what it can do before any reinforcement."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1kit.mini import corpus, kinds, world, writers
from r1kit.mini.writers import general
from r1kit.rewards.instructions import check_instructions
from r1kit.rewards.safety import check_safety
from r1kit.rollouts import REFLECTIVE_WORDS
from r1kit.types import DrawKey, InstructionGoal, Request, SafetyGoal, SamplingParams

if TYPE_CHECKING:
    from r1kit.config import PretrainConfig
    from r1kit.policy import Policy

CARD_SEED = 20250122
CARD_SETS = (
    *world.GENERATORS,
    *(f"{kind.name}-{level}" for kind in kinds.KINDS.values() for level in kind.levels),
    *(f"{kind.name}-zh" for kind in kinds.KINDS.values() if "zh" in kind.languages),
)
"""Every kind at every level in English, and every kind that is there in Chinese."""
PART = 4
"""A level of a kind gets one problem in this many of those that a number kind gets."""
LONGEST = 384
ATTEMPTS = 16
"""Problems for each writer's solve rate, and single calculations, in multiples of the problems for a number kind."""
CARD_FILE = "base_card.json"


def corpus_hash() -> str:
    """SHA-256 of the sources that decide the corpus: the same hash means the same documents."""
    total = hashlib.sha256()
    here = Path(__file__).parent
    for path in (
        here / "world.py",
        here / "corpus.py",
        *sorted(here.glob("kinds/*.py")),
        *sorted(here.glob("writers/*.py")),
    ):
        total.update(path.read_bytes())
    return total.hexdigest()


def write_card(
    config: PretrainConfig, policy: Policy, directory: Path, seconds: float, *, tokens: int | None = None
) -> dict[str, Any]:
    """Measure and write ``base_card.json`` and ``README.md`` beside the model. ``tokens``: of a model that was saved
    before the end, so many."""
    card = {
        "name": config.recipe,
        "architecture": policy.model.config.model_type,
        "parameters": sum(p.numel() for p in policy.model.parameters()),
        "tokens": tokens or config.tokens,
        "early": tokens is not None,
        "seconds": round(seconds),
        "seed": config.seed,
        "corpus": corpus_facts(config, policy),
        "calculation_lines_right": calculation_lines_right(policy, ATTEMPTS * config.card_problems),
        "sets": measured(policy, config.card_problems, config.card_samples, config.card_sets or CARD_SETS),
    }
    save_card(card, directory)
    return card


def save_card(card: dict[str, Any], directory: Path) -> None:
    """Write a card as JSON and as Markdown."""
    (directory / CARD_FILE).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    (directory / "README.md").write_text(card_text(card), encoding="utf-8")


def measured(
    policy: Policy,
    problems: int,
    samples: int,
    names: Sequence[str] = CARD_SETS,
    on_set: Callable[[str, Mapping[str, Any]], None] = lambda name, figures: None,
) -> dict[str, dict[str, Any]]:
    """Held-out figures of each set: pass@k, format, lengths. ``problems``: of a number kind; a level of another kind
    gets a quarter of it. ``on_set`` hears of each set as it is done."""
    from r1kit.engines.native import NativeEngine
    from r1kit.evaluation import evaluate_problems
    from r1kit.rewards.scorer import Scorer

    engine = NativeEngine(policy.model, policy.decode, eos_token_ids=policy.eos_token_ids)
    params = SamplingParams(temperature=1.0, top_p=1.0, max_completion_length=LONGEST)
    sets = {}
    with Scorer(("accuracy", "format")) as scorer:
        for name in names:
            count = problems if name in world.GENERATORS else max(1, problems // PART)
            asked = kinds.make_problems(name, count, CARD_SEED, "heldout")
            sets[name] = evaluate_problems(name, asked, engine, scorer, policy, params, k=samples).to_dict()
            on_set(name, sets[name])
    return sets


def writers_solve(n: int) -> dict[str, float]:
    """What each writer of the corpus solves by itself of ``n`` problems (a level of a kind), as its kind's checker
    judges."""
    return corpus.solve_rates(n) | writers.solve_rates(n) | general.solve_rates(_follows, n)


def _follows(goal: InstructionGoal | SafetyGoal, completion: str) -> bool:
    if isinstance(goal, InstructionGoal):
        return check_instructions(completion, goal).value == 1.0
    return check_safety(completion, goal).value == 1.0


def corpus_facts(config: PretrainConfig, policy: Policy) -> dict[str, Any]:
    """What the corpus holds: its mix, its writers' own solve rates, how often it reflects."""
    last = config.phases[-1]
    documents = list(corpus.documents(config.seed, len(config.phases) - 1, -2, last.mix, 2000))
    tokens = sum(len(ids) for ids in policy.tokenizer(documents, add_special_tokens=False)["input_ids"])
    words = sum(len(REFLECTIVE_WORDS.findall(text)) for text in documents)
    return {
        "hash": corpus_hash(),
        "phases": [{"tokens": phase.tokens, "mix": phase.mix} for phase in config.phases],
        "generator_solves": writers_solve(ATTEMPTS * config.card_problems),
        "reflective_per_1k": 1000 * words / tokens,
        "held_out_keys": f"1 in {world.HELD_OUT_SHARE}, by hash of the key (of numbers: their multiset)",
    }


def calculation_lines_right(policy: Policy, n: int = 2000, seed: int = 0) -> float:
    """The share of single calculations right when the model goes on with a page of right ones, at temperature 1.

    The page (a document without a question) is the only place where the corpus never slips, so this measures
    whether the model can calculate, not whether it copies the writers' slips.
    """
    from r1kit.engines.native import NativeEngine

    engine = NativeEngine(policy.model, policy.decode, eos_token_ids=policy.eos_token_ids)
    rng = random.Random(f"lines|{seed}")
    requests, wanted = [], []
    params = SamplingParams(temperature=1.0, top_p=1.0, max_completion_length=6, stop=("\n",))
    for place in range(n):
        page = corpus.SOURCES["drill"](rng).splitlines()
        shown, question = page[:-1], page[-1]
        left, answer = question.split("=")
        ids = policy.encode(corpus.BOS + "\n".join([*shown, f"{left}="]))
        draw = DrawKey(run_seed=seed, stage="card", purpose="lines", rollout=0, problem_id=str(place))
        requests.append(Request(problem_id=str(place), prompt_ids=ids, params=params, draw=draw))
        wanted.append(answer)
    engine.submit(requests)
    right = 0
    for completion in engine.completions():
        right += re.sub(r"\s", "", completion.text) == wanted[int(completion.problem_id)]
    return right / n


def _writer_rows(solves: Mapping[str, float]) -> Iterator[str]:
    found: dict[tuple[str, str], list[float]] = {}
    for name, rate in solves.items():
        kind, writer = name.split("/")
        found.setdefault((kind.partition("-")[0], writer), []).append(100 * rate)
    for (kind, writer), rates in found.items():
        yield f"| {kind} | {writer} | " + " to ".join(f"{r:.1f}" for r in sorted({min(rates), max(rates)})) + " |"


def card_text(card: dict[str, Any]) -> str:
    """The card as Markdown, in the head matter that model hubs read."""
    rows = []
    for name, figures in card["sets"].items():
        ks = sorted(int(key[5:]) for key in figures if re.fullmatch(r"pass@\d+", key))
        cells = " | ".join(f"{100 * figures[f'pass@{k}']:.1f}" for k in ks)
        header = "| held-out set | " + " | ".join(f"pass@{k}" for k in ks) + " | format | mean length |"
        rows.append(f"| {name} | {cells} | {100 * figures['format']:.1f} | {figures['mean_length']:.0f} |")
    solves = card["corpus"]["generator_solves"]
    writer_rows = "\n".join(_writer_rows(solves))
    reflective = card["corpus"]["reflective_per_1k"]
    family = {"qwen2": "Qwen2"}.get(card.get("architecture", ""), "Llama")
    purpose = (
        "It was saved early on, when it knew too little to learn from its own answers, and is kept for that."
        if card.get("early")
        else "It exists so that reinforcement learning can be watched on a laptop."
    )
    return f"""---
license: apache-2.0
library_name: transformers
tags: [r1kit, tiny, reinforcement-learning]
---
# {card["name"]}: the miniature base model of r1kit

A {family}-architecture model of {card["parameters"]:,} parameters, pre-trained from nothing on {card["tokens"]:,}
synthetic tokens in {card["seconds"] / 60:.0f} minutes on a CPU with `r1 run {card["name"]}` (seed {card["seed"]}).
{purpose}
It knows small whole numbers, the puzzles of the miniature world and nothing else.

## What was planted

The corpus imitates careless people working on number puzzles: some give one guess, some try a few times, some search
longer and check themselves. They slip in 3 % of calculations, say a false "yes" on 6 % of wrong lines and a false "no"
on 10 % of right ones, repeat themselves and give up. Two are careful (slips 0.5 %, false "yes" 0.3 %, false "no" 2 %):
one gives up early, the patient one goes on for long, on problems of four numbers only. Most write English, some
Chinese, some mix; a fifth of the answers lack the tags. Reflective words: {reflective:.1f} per 1,000 tokens.

Others write about word problems, equations, multiple choice, logic puzzles and small functions. They have a wrong idea
in about half of their attempts (another operation, a step left out, a clue turned round, a bug), slip, put results in
or try ways until one seems right, judge wrongly now and then, and give up. Pages of single facts (calculations, moved
letters, what a clue or a sentence means) are right throughout. What each writer solves by itself, in percent (least and
most over the levels of a kind):

| kind | writer | solves |
|---|---|---|
{writer_rows}

Held out from everything: {card["corpus"]["held_out_keys"]}.

## Before any reinforcement (temperature 1, top-p 1, percent)

{header}
|{"---|" * (header.count("|") - 1)}
{chr(10).join(rows)}

Single calculations, going on with a page of right ones: {100 * card["calculation_lines_right"]:.1f} % right.
"""
