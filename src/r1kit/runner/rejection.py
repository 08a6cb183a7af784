"""Rejection sampling in one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from r1kit.benchmarks import benchmark_index
from r1kit.config.rejection import RejectionConfig
from r1kit.devices import set_threads
from r1kit.policy import Policy, load_policy
from r1kit.progress import counting
from r1kit.rewards.scorer import Scorer
from r1kit.run_directory import InterruptGuard, Run, hash_path
from r1kit.runner.answering import Answering, answers_file, open_answers
from r1kit.runner.parts import make_eval_scorer, make_run_policy, make_scorer, resolve_model
from r1kit.runner.problems import lineage, model_hash, usable
from r1kit.runner.watching import warn_of_code
from r1kit.stages.cold_start import Sample
from r1kit.stages.data_files import DataRow, Funnel, save_data
from r1kit.stages.judges import SENSELESS, judge_answers
from r1kit.stages.readable import NO_THINKING, Readability
from r1kit.stages.rejection import FUNNEL, NO_FORMAT, NO_VERDICT, UNDECIDED, Judge, Rejection, balanced, mixed
from r1kit.tasks.contamination import NgramIndex
from r1kit.tasks.examples import load_examples
from r1kit.tasks.rows import gold_text
from r1kit.tasks.sets import ProblemSet, TrainingSets, is_built_in, load_set, load_training_sets
from r1kit.types import Example, Problem, UserError

ABOUT = (
    "Rejection sampling after arXiv 2501.12948 v2, B.3.3: of a model's own answers the right and readable ones, with "
    "general examples beside them, without what shares {n} words in a row with an evaluation set."
)


def run(config: RejectionConfig, run: Run, guard: InterruptGuard) -> None:
    threads = set_threads(config.torch_threads)
    policy = make_run_policy(config)
    with ExitStack() as stack:
        scorer = stack.enter_context(make_scorer(config, policy))
        sets = load_training_sets(config)
        eval_scorer = stack.enter_context(make_eval_scorer(config, policy, sets, scorer.accuracy))
        sets, notes = _usable(config, sets, policy, scorer, eval_scorer)
        sets = replace(sets, train=sets.train[: config.num_problems or None])
        run.set_lineage(lineage(config, sets) | _more_lineage(config), threads=threads)
        warn_of_code(config, sets, scorer, run)
        work = _Work(
            config=config,
            run=run,
            guard=guard,
            policy=policy,
            scorer=scorer,
            answering=Answering(config=config, run=run, guard=guard, accuracy=scorer.accuracy),
            index=_evaluation_index(config, sets.held_out),
        )
        reasoning, general, funnels = work.rows(sets.train)
        notes += _mix_notes(config, reasoning, general)
        save_data(
            run,
            [*reasoning, *general],
            title=f"Rejection sampling of {run.directory.name}",
            about=ABOUT.format(n=config.decontaminate_words),
            funnels=funnels,
            tokens_of=lambda text: len(policy.encode(text)),
            notes=notes,
        )


@dataclass(slots=True, kw_only=True)
class _Work:
    """What a run of rejection sampling works with."""

    config: RejectionConfig
    run: Run
    guard: InterruptGuard
    policy: Policy
    scorer: Scorer
    answering: Answering
    index: NgramIndex

    def rows(self, problems: Sequence[Problem]) -> tuple[list[DataRow], list[DataRow], dict[str, Funnel]]:
        """Reasoning and general examples, and what became of the others."""
        config, funnels = self.config, {"reasoning": Funnel(*FUNNEL), "general": Funnel(*FUNNEL)}
        samples = self.answering.samples(
            problems, lambda: self.policy, origin="rejection", num_generations=config.num_generations
        )
        files = [name for name in config.general_data if not is_built_in(name)]
        kinds = [name for name in config.general_data if is_built_in(name)]
        answered = self._general_samples(kinds)
        with counting("judgements") as count:
            stage = self._stage(count)
            right = stage.rows(samples, funnels["reasoning"])
            reasoning = balanced(right, config.max_domain_share, funnels["reasoning"])
            general = stage.rows(answered, funnels["general"])
        general += stage.clean(self._general_rows(files), funnels["general"])
        _refuse_nothing(reasoning, funnels["reasoning"], answers_file(self.run, "judge"))
        general = mixed(reasoning, general, config.general_ratio, funnels["general"])
        return reasoning, general, funnels

    def _stage(self, count: Callable[[int, int], None]) -> Rejection:
        config = self.config
        judge: Judge | None = None
        if config.judge:
            answers = open_answers(config.judge, "judge", config, self.run, self.guard, count)
            judge = partial(judge_answers, answers=answers, tries=config.answer_tries)
        return Rejection(
            readability=Readability(
                max_repetition=config.max_repetition,
                n_grams=config.readable_n_grams,
                min_language=config.min_language,
                max_paragraph=config.max_paragraph,
            ),
            max_per_problem=config.max_per_problem,
            index=self.index,
            judge=judge,
            language=self.scorer.language,
        )

    def _general_samples(self, kinds: Sequence[str]) -> list[Sample]:
        """Answers to built-in general requests."""
        config = self.config
        if not kinds:
            return []
        wanted = config.general_problems or max(1, config.problems_wanted // 3)
        asked = [
            problem
            for name in kinds
            for problem in load_set(name, n=-(-wanted // len(kinds)), seed=config.seed, split="train").problems
        ]
        return self.answering.samples(
            asked, self._general_policy, origin="general", num_generations=config.num_generations
        )

    def _general_policy(self) -> Policy:
        config = self.config
        if not config.general_model:
            return self.policy
        return load_policy(resolve_model(config.general_model), device=config.device, template=config.template)

    def _general_rows(self, files: Sequence[str]) -> list[DataRow]:
        """Examples of files as they are, once each."""
        loaded = load_examples(files).examples if files else ()
        by_place = {f"{example.source}/{example.id}": example for example in loaded}
        return [_row_of_example(name, example) for name, example in by_place.items()]


def _row_of_example(name: str, example: Example) -> DataRow:
    return DataRow(
        id=name,
        messages=example.messages,
        kind="general",
        source=example.source,
        domain="general",
        provenance={"origin": "file"},
    )


def _usable(
    config: RejectionConfig, sets: TrainingSets, policy: Policy, scorer: Scorer, eval_scorer: Scorer
) -> tuple[TrainingSets, list[str]]:
    kept, notes = usable(sets, policy, config, scorer, eval_scorer)
    undecided = sum(problem.kind == "general" for problem in kept.train)
    if undecided and not config.judge:
        notes.append(f"{undecided:,} problems are of kind general, which no rule decides: name a judge to use them")
    return kept, notes


def _evaluation_index(config: RejectionConfig, held_out: Sequence[ProblemSet]) -> NgramIndex:
    """What no example may share words with. Built-in kinds are held out by key, exactly, and their few ways to put a
    question share ten words by themselves: they are looked up only where ``decontaminate`` names them."""
    index = benchmark_index(config.decontaminate, n=config.decontaminate_words)
    for part in held_out:
        if not is_built_in(part.name):
            for problem in part.problems:
                solution = problem.columns.get("solution")
                texts = [problem.text, solution if isinstance(solution, str) else gold_text(problem.gold)]
                index.add(part.name, problem.id, texts)
    return index


def _mix_notes(config: RejectionConfig, reasoning: Sequence[DataRow], general: Sequence[DataRow]) -> list[str]:
    if not config.general_ratio:
        return []
    wanted = round(len(reasoning) / config.general_ratio)
    if len(general) >= wanted:
        return []
    have = f"{len(general):,} general examples for {len(reasoning):,} reasoning ones"
    return [f"{have}, {config.general_ratio:g} : 1 would need {wanted:,}: name more in general_data"]


def _more_lineage(config: RejectionConfig) -> dict[str, str]:
    files = {name: hash_path(name) for name in config.general_data if not is_built_in(name)}
    models = {"judge": config.judge, "general_model": config.general_model}
    return files | {name: model_hash(value) for name, value in models.items() if value}


def _refuse_nothing(rows: Sequence[DataRow], funnel: Funnel, replies: Path) -> None:
    """Raises UserError where no reasoning example came out. ``replies``: the judge's."""
    if rows:
        return
    most = max(funnel.dropped, key=lambda reason: funnel.dropped[reason])
    mends = {
        NO_VERDICT: SENSELESS.format(path=replies),
        UNDECIDED: "no rule decides on these problems; name a judge",
        NO_THINKING: "this model never writes <think> ... </think>; rejection sampling wants one after a cold start",
        NO_FORMAT: "this model does not write thinking and then a summary; it wants a cold start first",
    }
    raise UserError(
        f"no example is left of {funnel.taken_in:,} samples ({funnel.dropped[most]:,} dropped: {most}): "
        f"{mends.get(most, 'look at what the model writes with `r1 chat`, give easier problems or more answers each')}"
    )
