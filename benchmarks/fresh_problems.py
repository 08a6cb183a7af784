"""Does a reported accuracy hold on problems nobody has looked at? Fresh held-out problems of every kind.

    python benchmarks/fresh_problems.py mini-world
    python benchmarks/fresh_problems.py runs/r1_zero_world/model --problems 200 --seed 31337 -o fresh.json

Every kind is asked twice, on the problems its model card asks and on as many fresh ones from another seed, neither seen
in training. Prints both accuracies and their difference in standard errors; exit status 1 where it is beyond 3.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

from r1kit import load
from r1kit.engines.native import NativeEngine
from r1kit.evaluation import evaluate_problems
from r1kit.mini import kinds
from r1kit.mini.card import CARD_SEED, LONGEST
from r1kit.rewards.scorer import Scorer
from r1kit.types import Problem, SamplingParams

MOST_ERRORS = 3.0


def problems_of(name: str, n: int, seed: int, without: frozenset[str] = frozenset()) -> tuple[Problem, ...]:
    """``n`` held-out problems, none of whose prompts is in ``without``, where the kind has so many."""
    found = kinds.make_problems(name, n + len(without), seed, "heldout")
    return tuple(problem for problem in found if problem.text not in without)[:n]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--samples", type=int, default=4, help="of each problem")
    parser.add_argument("--seed", type=int, default=31_337, help="of the fresh problems")
    parser.add_argument("--sets", nargs="+", default=list(kinds.names()))
    parser.add_argument("-o", "--out", type=Path)
    asked = parser.parse_args()
    policy = load(asked.model)
    engine = NativeEngine(policy.model, policy.decode, eos_token_ids=policy.eos_token_ids)
    params = SamplingParams(temperature=1.0, top_p=1.0, max_completion_length=LONGEST)
    rows = []
    with Scorer(("accuracy", "format")) as scorer:
        for name in asked.sets:
            known = problems_of(name, asked.problems, CARD_SEED)
            fresh = problems_of(name, asked.problems, asked.seed, frozenset(p.text for p in known))
            both = [
                evaluate_problems(name, problems, engine, scorer, policy, params, k=asked.samples)
                for problems in (known, fresh)
            ]
            (one, one_se), (two, two_se) = [(e.mean, e.standard_error) for e in (r.pass_at[1] for r in both)]
            errors = math.hypot(one_se, two_se)
            distance = abs(two - one) / errors if errors else 0.0
            rows.append(
                {"kind": name, "problems": [len(known), len(fresh)], "pass@1": [one, two], "standard_errors": distance}
            )  # fmt: skip
            print(
                f"{name:12} known {one:.3f} (se {one_se:.3f})  fresh {two:.3f} (se {two_se:.3f}, {len(fresh)} "
                f"problems)  {distance:.1f} standard errors apart",
                flush=True,
            )
    if asked.out:
        asked.out.write_text(json.dumps(rows, indent=1) + "\n")
    return int(any(row["standard_errors"] > MOST_ERRORS for row in rows))


if __name__ == "__main__":
    sys.exit(main())
