"""Does a held-out problem occur anywhere it must not? Reads every key off the texts, on its own.

    python benchmarks/heldout_overlap.py --recipe pretrain_mini --recipe pretrain_mini_numbers     # their whole corpora
    python benchmarks/heldout_overlap.py --no-corpus runs/r1_zero_mini runs/r1_mini
    python benchmarks/heldout_overlap.py --phase 3      # one stretch of a corpus: it may be read in pieces

Looked at are (1) every document of the pre-training corpus of each recipe: what it asks, every expression of three or
more numbers anywhere in it, and, where a page asks nothing, every line; (2) as many
training prompts of every kind, level and language as ``--problems`` says, and preference pairs; (3) of the run
directories that are named (pipelines too) the prompts of all rollouts and of all data that stages made, and what is
quoted in completions.

A key is read off the text by `heldout_keys`, which knows nothing of r1kit, for every kind: countdown, arithmetic, word,
equation, choice, knights, zebra, order, cipher, code, request and safety, in English and Chinese. It is looked for
twice: by the rule (one key in eight, by its hash, which that module works out too, so that every held-out problem there
could be is covered), and in the set of keys read off held-out prompts (of every kind and of the runs' evaluations; each
must be held out by the rule, else reader and rule disagree and this says so). The one thing taken from the generators
is the list of inputs on which small functions are compared.

What stands in an answer to another question is counted apart, as it is no problem: an expression that a policy wrote
with a number that its prompt does not have, a program with a bug that makes it do what a held-out function does. Exit
status 1 where a held-out problem is found, or a prompt that no reader can read.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from heldout_keys import HAN, Found, Inputs, expressions, held_out, program_in, read, results_of

from r1kit.config import PretrainConfig, load_recipe
from r1kit.mini import kinds, pairs, world
from r1kit.mini.card import CARD_SEED
from r1kit.mini.corpus import documents
from r1kit.mini.data import PARTS
from r1kit.mini.kinds.code import PROBES
from r1kit.tasks.sets import EVAL_SEED

PORTIONS = 3
"""Portions of documents that cover a step of 4,096 tokens; the later documents of a step are never read."""
SHOWN = 3
WITHOUT_NUMBERS = "Using the numbers, create an equation"
"""Pages of comparisons begin like a problem and have no numbers to use."""
QUESTION = re.compile(r"User: (.*?)\nAssistant:", re.DOTALL)


def inputs() -> Inputs:
    return PROBES


@dataclass(slots=True)
class Tally:
    """What was found of one kind: texts, different keys, and those that are held out with an example of each."""

    texts: int = 0
    keys: set[str] = field(default_factory=set)
    held: int = 0
    examples: dict[str, str] = field(default_factory=dict)


class Search:
    """Counts keys by kind and remembers what is held out. ``asked``: keys of held-out prompts."""

    def __init__(self, asked: frozenset[str]) -> None:
        self.asked = asked
        self.problems: dict[str, Tally] = {}
        self.answers: dict[str, Tally] = {}
        """What stands in answers to other questions: no problem, and counted apart."""
        self.unread: list[str] = []

    def add(self, tallies: dict[str, Tally], kind: str, key: str, text: str) -> None:
        tally = tallies.setdefault(kind, Tally())
        tally.texts += 1
        tally.keys.add(key)
        if held_out(key) or key in self.asked:
            tally.held += 1
            tally.examples.setdefault(key, text)

    def question(self, text: str) -> None:
        """A text that is a question of the miniature world and nothing else."""
        if found := read(text, inputs):
            self.add(self.problems, found.kind + language_of(text), found.key, text)
        elif not text.startswith(WITHOUT_NUMBERS):
            self.unread.append(text)

    def document(self, text: str) -> None:
        """A document of the corpus."""
        _, asked, rest = text.partition("User: ")
        if asked:
            self.question(rest.partition("\nAssistant:")[0])
        else:
            self.page(text)
        for key in expressions(text):
            self.add(self.problems, "expressions", key, text)
        self.program(text)

    def completion(self, said: str | list[dict[str, str]]) -> None:
        """What a policy wrote: does it put a question, and what does it hit upon? Told apart: nobody gave it that."""
        text = said if isinstance(said, str) else "\n".join(message["content"] for message in said)
        self.page(text, self.answers)
        for key in expressions(text):
            self.add(self.answers, "expressions", key, text)
        self.program(text)

    def page(self, text: str, to: dict[str, Tally] | None = None) -> None:
        """A text that asks nothing as a whole: does a line of it?"""
        for line in text.splitlines():
            if found := read(line, inputs):
                self.add(self.problems if to is None else to, f"lines of pages: {found.kind}", found.key, line)

    def program(self, text: str) -> None:
        """A program in an answer, if there is one that does something: what else does the same?"""
        if "```python" in text and (program := program_in(text)):
            sort, lines = program
            if results := results_of(lines, sort, inputs):
                self.add(self.answers, "programs", f"code:{sort}:{results}", text)

    def report(self, what: str) -> int:
        """Prints the counts of each kind, and examples; returns how many are held out or could not be read."""
        held = sum(tally.held for tally in self.problems.values())
        texts = sum(tally.texts for tally in self.problems.values())
        print(f"\n{what}: {texts:,} keys read, {held} held out, {len(self.unread)} questions not read")
        self.table(self.problems)
        for text in self.unread[:SHOWN]:
            print(f"    not read: {text!r}")
        if self.answers:
            print("  apart, in answers to other questions:")
            self.table(self.answers)
        return held + len(self.unread)

    def table(self, tallies: dict[str, Tally]) -> None:
        for kind, tally in sorted(tallies.items()):
            asked = f" ({len(self.asked & {*tally.examples})} keys that are asked)" if tally.held else ""
            print(f"  {kind:<28}{tally.texts:>9,} texts{len(tally.keys):>9,} keys{tally.held:>7,} held out{asked}")
            for key, text in [*tally.examples.items()][:SHOWN]:
                print(f"    {key} in {text[-200:]!r}")


def language_of(text: str) -> str:
    # a request may quote Chinese words in an English question
    return "-zh" if HAN.search(re.sub('"[^"]*"', "", text)) else ""


# -- what is held out


def names() -> list[str]:
    """Every kind at every level in every language."""
    levels = (
        f"{kind.name}-{level}{'' if language == 'en' else f'-{language}'}"
        for kind in kinds.KINDS.values()
        for level in kind.levels
        for language in kind.languages
    )
    return [*world.GENERATORS, *levels]


def held_out_prompts(problems: int) -> Iterator[str]:
    """Of every kind, as evaluations and the card ask them, and of preference pairs."""
    for name in names():
        for seed in (EVAL_SEED, CARD_SEED):
            yield from (problem.text for problem in kinds.make_problems(name, problems, seed, "heldout"))
    yield from (pair.prompt for pair in islice(pairs.stream(0, "heldout"), problems))


def training_prompts(problems: int) -> Iterator[str]:
    """Of every kind, as training asks them with seeds 0 to 2, and of preference pairs."""
    for name in names():
        for seed in range(3):
            yield from (problem.text for problem in kinds.make_problems(name, problems, seed, "train"))
    yield from (pair.prompt for pair in islice(pairs.stream(0, "train"), problems))


def asked_keys(prompts: Iterable[str]) -> tuple[frozenset[str], int]:
    """The keys of held-out prompts, and how many of the prompts are not held out by the rule or cannot be read."""
    found: dict[str, Found | None] = {prompt: read(prompt, inputs) for prompt in prompts}
    wrong = [prompt for prompt, problem in found.items() if problem is None or not held_out(problem.key)]
    keys = frozenset(problem.key for problem in found.values() if problem)
    print(f"{len(found):,} held-out prompts have {len(keys):,} keys; {len(wrong)} are not held out by the rule")
    for prompt in wrong[:SHOWN]:
        print(f"    {found[prompt]} {prompt!r}")
    return keys, len(wrong)


# -- where they are looked for


def corpus_texts(config: PretrainConfig, index: int) -> Iterator[str]:
    """The documents of a phase as pre-training reads them, step by step, and some more of each step."""
    phase = config.phases[index]
    per_step = config.batch_tokens // phase.sequence_length * phase.sequence_length
    for step in range(phase.tokens // per_step + 1):
        for part in range(PORTIONS):
            yield from documents(config.seed, index, step * PARTS + part, phase.mix, 24)


def check_corpus(recipe: str, only: list[int], asked: frozenset[str]) -> int:
    config = load_recipe(recipe)
    assert isinstance(config, PretrainConfig)
    phases = [index for index in range(len(config.phases)) if not only or index + 1 in only]
    search, texts = Search(asked), 0
    for index in phases:
        for text in corpus_texts(config, index):
            texts += 1
            search.document(text)
    tokens = sum(config.phases[index].tokens for index in phases)
    return search.report(f"corpus of {recipe}, {len(phases)} stretches, {tokens:,} tokens, {texts:,} documents")


def rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def questions_in(row: dict[str, Any]) -> Iterator[str]:
    """The questions of a row of rollouts, examples or pairs."""
    prompt = row.get("prompt")
    if isinstance(prompt, str):
        yield from QUESTION.findall(prompt) or [prompt]
    for messages in (prompt, row.get("messages")):
        if isinstance(messages, list):
            yield from (message["content"] for message in messages if message["role"] == "user")


def evaluated_prompts(runs: list[Path]) -> Iterator[str]:
    for run in runs:
        for path in (*run.glob("**/evals/*.jsonl.gz"), *run.glob("**/evaluations/**/completions.jsonl")):
            for row in rows(path):
                yield from questions_in(row)


def check_run(run: Path, asked: frozenset[str]) -> int:
    search = Search(asked)
    files = sorted((*run.glob("**/rollouts/*.jsonl.gz"), *run.glob("**/data/*.jsonl")))
    for path in files:
        for row in rows(path):
            for question in questions_in(row):
                search.question(question)
            search.completion(row.get("completion", ""))
    return search.report(f"{run}, {len(files)} files of rollouts and data")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--recipe", action="append", help="whose corpus (repeatable; default: pretrain_mini)")
    parser.add_argument("--phase", action="append", type=int, default=[], help="a stretch of it, from 1 (repeatable)")
    parser.add_argument("--no-corpus", action="store_true", help="only the training prompts and the runs")
    parser.add_argument("--problems", type=int, default=512, help="prompts of a kind, level, language and seed")
    arguments = parser.parse_args()
    evaluated = set(evaluated_prompts(arguments.runs))
    if arguments.runs and not evaluated:
        print("no evaluation found in these run directories", file=sys.stderr)
        return 2
    asked, bad = asked_keys({*held_out_prompts(arguments.problems), *evaluated})
    for recipe in [] if arguments.no_corpus else arguments.recipe or ["pretrain_mini"]:
        bad += check_corpus(recipe, arguments.phase, asked)
    search = Search(asked)
    for prompt in dict.fromkeys(training_prompts(arguments.problems)):
        search.question(prompt)
    bad += search.report("training prompts")
    for run in arguments.runs:
        bad += check_run(run, asked)
    print("\nno overlap" if not bad else f"\n{bad} overlaps or questions not read")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
