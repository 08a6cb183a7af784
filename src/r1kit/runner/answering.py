"""What the methods that make data share: a model's scored answers chunk by chunk, and whom to ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1kit.config.answerers import AnswererKeys, DataConfig
from r1kit.engines.server import ChatServer, ServerSettings, is_server
from r1kit.policy import Policy, load_policy
from r1kit.progress import counting
from r1kit.rewards.accuracy import AccuracyChecker
from r1kit.rewards.scorer import Group, Scorer, VerifierErrors
from r1kit.rollouts import Draws, PromptEncoder, Transcripts, collect, rows_of_groups
from r1kit.run_directory import InterruptGuard, Run, Stopped
from r1kit.runner.parts import make_engine, make_sampler, make_scorer, resolve_model, training_params
from r1kit.runner.problems import model_hash
from r1kit.stages.asking import Answerer, Answers, LocalChat
from r1kit.stages.cold_start import Sample, samples_of
from r1kit.train import distill
from r1kit.types import Message, Problem, SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class FewShot:
    """A policy that is shown conversations before every question."""

    policy: Policy
    shots: tuple[Message, ...]

    def prompt_ids(self, messages: Sequence[Message]) -> Any:
        return self.policy.prompt_ids([*self.shots, *messages])

    def decode(self, token_ids: Any) -> str:
        return self.policy.decode(token_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shifted:
    """Transcripts from number ``first`` on."""

    run: Run
    first: int

    def save_rollout(self, rollout: int, rows: Sequence[Any]) -> None:
        self.run.save_rollout(self.first + rollout, rows)

    def load_rollout(self, rollout: int) -> list[dict[str, Any]] | None:
        return self.run.load_rollout(self.first + rollout)


@dataclass(slots=True, kw_only=True)
class Answering:
    """Asks models for answers to problems, in a run that may be cut off at any time. ``chunks``: how many are used."""

    config: DataConfig
    run: Run
    guard: InterruptGuard
    accuracy: AccuracyChecker
    chunks: int = 0

    def samples(
        self,
        problems: Sequence[Problem],
        open_policy: Callable[[], Policy],
        *,
        origin: str,
        num_generations: int,
        shots: Sequence[Message] = (),
    ) -> list[Sample]:
        """Scored answers, ``num_generations`` a problem, in order; what is on disk is not sampled again. ``origin``
        names the source of the draws. Raises Stopped where the user asked to stop, all finished chunks kept."""
        config = self.config
        transcripts: Transcripts = _Shifted(run=self.run, first=self.chunks)
        self.chunks += -(-len(problems) // config.problems_per_rollout)

        @contextmanager
        def asking() -> Iterator[distill.Ask]:
            policy = open_policy()
            encoder: PromptEncoder = FewShot(policy=policy, shots=tuple(shots)) if shots else policy
            with ExitStack() as stack:
                scorer = stack.enter_context(make_scorer(config, policy, self.accuracy))
                engine, errors = make_sampler(config, policy), VerifierErrors()

                def ask(chunk: int, asked: Sequence[tuple[Problem, int]]) -> list[dict[str, Any]]:
                    draws, params = Draws(config.seed, config.method, origin, chunk), training_params(config)
                    taken = collect(asked, engine, scorer, encoder, params, num_generations, draws, errors=errors)
                    return rows_of_groups(taken.groups, encoder, set_name=origin, rollout=chunk, step=0, logprobs=False)

                yield ask

        with counting(f"answers ({origin})") as count:
            chunks = distill.teacher_answers(
                problems, config.problems_per_rollout, transcripts, asking, self._told(count)
            )
        return [sample for groups, opened in chunks for sample in samples_of(groups, opened=opened, origin=origin)]

    def _told(self, count: Callable[[int, int], None]) -> Callable[[int, int], None]:
        def told(done: int, total: int) -> None:
            count(done, total)
            if self.guard.stop and done < total:
                raise Stopped(
                    f"stopped after {done:,} of {total:,} parts of the answers, kept in {self.run.directory}: the same "
                    "command goes on from there"
                )

        return told


def checked(scorer: Scorer, answers: Sequence[tuple[Problem, str]]) -> list[bool | None]:
    """Which texts answer their problems rightly by the rules; None where no rule decides."""
    scored = scorer.score_groups(
        [Group(problem=problem, completions=[text], prefilled_think=False) for problem, text in answers]
    )
    values = [verdicts[0].terms.get("accuracy") if verdicts else None for verdicts in scored]
    return [None if value is None else value >= 1.0 for value in values]


def answers_file(run: Run, purpose: str) -> Path:
    """Where the answers to questions of one purpose are kept."""
    return run.directory / "answers" / f"{purpose}.jsonl"


def open_answers(
    name: str, purpose: str, config: AnswererKeys, run: Run, guard: InterruptGuard, count: Callable[[int, int], None]
) -> Answers:
    """The answers of a server (a URL) or of a model in this process (a path or name) to questions of one purpose, in
    ``answers/`` of the run."""
    params = SamplingParams(temperature=config.answer_temperature, max_completion_length=config.answer_length)
    who = (config.server_model or name) if is_server(name) else model_hash(name)

    def opened() -> Answerer:
        if is_server(name):
            return ChatServer(_server_settings(name, config))
        policy = load_policy(resolve_model(name), device=getattr(config, "device", "auto"))
        return LocalChat(make_engine(policy), policy, params, getattr(config, "seed", 0))

    return Answers(
        answers_file(run, purpose),
        f"{who}|{params.temperature}|{params.max_completion_length}",
        opened,
        should_stop=lambda: guard.stop,
        on_progress=count,
    )


def _server_settings(url: str, config: AnswererKeys) -> ServerSettings:
    return ServerSettings(
        url=url,
        model=config.server_model,
        temperature=config.answer_temperature,
        max_completion_length=config.answer_length,
        timeout=config.server_timeout,
        tries=config.server_tries,
        concurrency=config.server_concurrency,
        api_key_env=config.server_api_key_env,
    )
