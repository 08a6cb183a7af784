"""Does r1_mini do what the paper's stages do? The claims of docs/decisions/0009-r1-mini-verdicts.md over seeds.

    for seed in 0 1 2; do r1 run r1_mini seed=$seed output_dir=runs/r1_mini_$seed; done
    python benchmarks/r1_mini_verdicts.py runs/r1_mini_0 runs/r1_mini_1 runs/r1_mini_2 -o verdicts.json

Reads stored completions only; it needs at least 1,500 held-out problems in each run, the same in all of them. Prints
the table of stages too, as means over the runs, with the least and the most of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from r1kit.config import PipelineConfig, config_from_dict
from r1kit.pipeline.evaluation import ASKED, evaluated_values
from r1kit.pipeline.verdicts import CLAIMS, LEAST_PROBLEMS, judge, over_seeds


def print_table(values: Sequence[Mapping[str, Any]]) -> None:
    """Stage by metric in percent: the mean over the runs, and between what it lies."""
    stages = list(values[0])
    print(f"{'percent':24}" + " ".join(f"{stage:>18}" for stage in stages))
    for metric in values[0][stages[0]]:
        if metric.startswith("accuracy/"):  # of single sets
            continue
        cells = []
        for stage in stages:
            unit = 1 if metric == "length" else 100
            found = [unit * fmean(run[stage][metric].values()) for run in values if run[stage].get(metric)]
            cells.append(f"{fmean(found):.1f} ({min(found):.1f}-{max(found):.1f})" if found else "-")
        print(f"{metric:24}" + " ".join(f"{cell:>18}" for cell in cells))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("-o", "--out", type=Path)
    parser.add_argument("--few", action="store_true", help=f"Go on with fewer than {LEAST_PROBLEMS:,} problems.")
    asked = parser.parse_args()
    values, problems = [], []
    for run in asked.runs:
        config = config_from_dict(json.loads((run / "config.json").read_text()), str(run))
        assert isinstance(config, PipelineConfig)
        found = evaluated_values(run, config.readable_paragraph)
        values.append(found)
        problems.append({json.loads((run / "evaluations" / name / ASKED).read_text())["problems"] for name in found})
        count = min(len(stage["truncated"]) for stage in found.values())
        print(f"{run}: seed {config.seed}, {len(found)} models, {count:,} problems")
        if count < LEAST_PROBLEMS and not asked.few:
            print(
                f"{run}: fewer than {LEAST_PROBLEMS:,} held-out problems; raise eval_size (or look anyway with --few)"
            )
            return 2
    if len(set.union(*problems)) != 1:
        print("the runs (or their stages) were not asked the same problems")
        return 2
    rows = []
    for claim in CLAIMS:
        verdicts = [judge(claim, found) for found in values]
        known = [verdict.difference for verdict in verdicts if verdict.difference is not None]
        mean = fmean(known) if len(known) == len(verdicts) else None
        rows.append({"claim": claim.title, "outcome": over_seeds(verdicts), "mean_difference": mean,
                     "seeds": [verdict.to_dict() for verdict in verdicts]})  # fmt: skip
        shown = "" if mean is None else f"{100 * mean:+.1f} points on average; "
        each = ", ".join(
            verdict.outcome
            if verdict.difference is None or verdict.low is None or verdict.high is None
            else f"{100 * verdict.difference:+.1f} ({100 * verdict.low:+.1f} to {100 * verdict.high:+.1f})"
            for verdict in verdicts
        )
        print(f"{rows[-1]['outcome']:>15}  {claim.title}: {shown}{each}")
    print_table(values)
    if asked.out:
        asked.out.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
