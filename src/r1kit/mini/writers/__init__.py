"""Who writes the corpus about the reasoning kinds: a desk for each, by name, and drills that are always right."""

from __future__ import annotations

import random
from collections.abc import Callable

from r1kit.mini.writers import choice, code, equation, general, logic, word
from r1kit.mini.writers.base import Desk

__all__ = ["DESKS", "SOURCES", "solve_rates"]

DESKS: dict[str, Desk] = {desk.name: desk for desk in (word.DESK, equation.DESK, choice.DESK, *logic.DESKS, code.DESK)}

SOURCES: dict[str, Callable[[random.Random], str]] = {
    "signed_drill": equation.signed_drill,
    "letters_drill": logic.letters_drill,
    "claims_drill": logic.claims_drill,
    "clues_drill": logic.clues_drill,
    "steps_drill": code.steps_drill,
    **{name: write for desk in DESKS.values() for name, write in desk.sources().items()},
    **general.SOURCES,
    "facts_drill": general.facts_drill,
}


def solve_rates(n: int = 1000, seed: int = 0) -> dict[str, float]:
    """The share of the problems it writes about that each writer solves by itself: ``kind-level/writer``."""
    rates = {}
    for desk in DESKS.values():
        for writer, habits in desk.writers.items():
            for level in (1, 2, 3):
                rng = random.Random(f"solve|{desk.name}|{writer}|{level}|{seed}")
                solved = sum(desk.write(rng, level, habits, "en").solved for _ in range(n))
                rates[f"{desk.name}-{level}/{writer}"] = solved / n
    return rates
