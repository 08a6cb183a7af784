"""Runs a pipeline: stage by stage, each resumable, nothing twice, nothing saved ever lost."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from r1kit.config import PipelineConfig
from r1kit.config.pipeline import BASE
from r1kit.pipeline.evaluation import STAGES, evaluate_stage, evaluated_values, held_out_sets
from r1kit.pipeline.graph import MODEL, Graph, Stage, build_graph, preference_reference
from r1kit.pipeline.metrics import figures_of
from r1kit.pipeline.planning import Planned, plan, plan_stage, require_whole
from r1kit.pipeline.preference import win_rates
from r1kit.pipeline.records import Record, aside, begin, finish, move_aside, read_record
from r1kit.pipeline.verdicts import CLAIMS, LEAST_PROBLEMS, Verdict, judge
from r1kit.progress import clean
from r1kit.report.pipeline import build_pipeline_report
from r1kit.report.words import duration
from r1kit.run_directory import DirectoryLock, Stopped, hash_path, read_json_lines, saving, write_atomic
from r1kit.runner import resolve_model, run_recipe
from r1kit.tasks.sets import ProblemSet
from r1kit.types import R1Error, UserError


def run_pipeline(config: PipelineConfig, command: Sequence[str]) -> Path:
    """Run (or go on with) a pipeline; returns the report's path.

    Raises UserError where the recipe is wrong or an artifact was damaged, and Stopped after saving where the user
    interrupts.
    """
    graph = build_graph(config)
    with ExitStack() as stack:
        opened = stack.enter_context(_Opened(graph, command))
        planned = plan(graph)
        for stage in planned:
            require_whole(stage, graph)
        running = _Running(
            graph=graph,
            opened=opened,
            command=command,
            sets=held_out_sets(config),
            clock=_Clock(graph, {stage.stage.name for stage in planned if not stage.is_there}),
        )
        running.all_stages()
    return graph.root / "report.html"


@dataclass(slots=True, kw_only=True)
class _Running:
    """A pipeline on its way. ``made``: the records of the stages that are there; ``table``: rows of ``stages.json``."""

    graph: Graph
    opened: _Opened
    command: Sequence[str]
    sets: tuple[ProblemSet, ...]
    clock: _Clock
    made: dict[str, Record] = field(default_factory=dict)
    table: list[dict[str, Any]] = field(default_factory=list)

    def all_stages(self) -> None:
        config = self.graph.config
        if self.sets and config.evaluate_base:
            folder = Path(resolve_model(config.model))
            found = hash_path(folder) if folder.is_dir() else config.model
            self._evaluate(BASE, config.model, found, self._base_template())
        for number, stage in enumerate(self.graph.stages, start=1):
            planned = plan_stage(self.graph, stage, self.made)
            require_whole(planned, self.graph)
            self._announce(number, planned)
            self.made[stage.name] = self._record_of(planned)
            if self.sets and stage.evaluated:
                artifact = self.made[stage.name].outputs[MODEL]
                place = str(self.graph.directory(stage.name) / artifact.path)
                self._evaluate(stage.name, place, artifact.hash, getattr(stage.config, "template", "auto"))
            self._write()
        if config.preference_model and self.table:
            self._prefer()
            self._write()

    def _prefer(self) -> None:
        """Judge the answers of all models; the judge is only there now."""
        config = self.graph.config
        reference = preference_reference(config)
        judge = str(self.graph.path_of(reference)) if reference else config.preference_model
        place = Path(resolve_model(judge))
        judge_hash = hash_path(place) if place.is_dir() else judge
        names = [row["stage"] for row in self.table]
        found = win_rates(config, judge, judge_hash, names, self.sets)
        for row in self.table:
            if found.get(row["stage"]):
                row["metrics"] |= figures_of({"preference": found[row["stage"]]})

    def _base_template(self) -> str:
        """The base answers in the template in which the first stage that starts from it asks."""
        stages = [stage for stage in self.graph.stages if getattr(stage.config, MODEL, "") == self.graph.config.model]
        return next((str(getattr(stage.config, "template", "auto")) for stage in stages), "auto")

    def _announce(self, number: int, planned: Planned) -> None:
        left = self.clock.left() if planned.stage.name in self.clock.pending else 0.0
        about = f", about {duration(left)} left" if left else ""
        why = f" ({planned.why})" if planned.why else ""
        _say(f"stage {number}/{len(self.graph.stages)} {planned.stage.name}: {planned.state}{why}{about}")

    def _record_of(self, planned: Planned) -> Record:
        """The record of a stage that is done when this returns."""
        stage, record = planned.stage, planned.record
        directory = self.graph.directory(stage.name)
        assert record is not None, "the stages before it are done"
        if planned.state == "done":
            return record
        if planned.place is not None:
            move_aside(directory)
            with saving("the earlier stage", directory.parent):
                os.replace(planned.place, directory)
            return record
        config = self.graph.resolved(stage)
        if planned.state == "run":
            moved = move_aside(directory)
            if moved is not None:
                _say(f"  the earlier {stage.name} is kept in {moved}")
            begin(directory, record)
        elif (directory / "config.json").exists():
            # what it is made from is the same by content; only paths can differ, where the pipeline was moved
            write_atomic(directory / "config.json", (json.dumps(config.to_dict(), indent=1) + "\n").encode())
        started = time.monotonic()
        with _told_of(f"stage {stage.name}"):
            run_recipe(config, self.command)
        done = finish(directory, record, stage.outputs, max(time.monotonic() - started, _trained_seconds(directory)))
        self.clock.pending.discard(stage.name)
        return done

    def _evaluate(self, name: str, model: str, model_hash: str, template: str) -> None:
        started = time.monotonic()
        with _told_of(f"evaluation of {name}"):
            metrics = evaluate_stage(self.graph.config, name, model, model_hash, self.sets, template=template, say=_say)
        self.clock.evaluated(time.monotonic() - started)
        self.table.append({"stage": name, "model": os.path.relpath(model, self.graph.root), "metrics": metrics})
        if name == BASE:
            self.table[-1]["model"] = model
        shown = [f"{metric} {100 * metrics[metric]['mean']:.1f} %" for metric in _HEADLINE if metric in metrics]
        _say(f"  {name}: {', '.join(shown)}" if shown else f"  {name}: evaluated")

    def _write(self) -> None:
        """What the pipeline knows so far: the table, the graph, the verdicts, the page."""
        self.opened.save(STAGES, self.table)
        self.opened.save("graph.json", [self._shown(stage) for stage in self.graph.stages])
        self.opened.save("verdicts.json", [verdict.to_dict() for verdict in self._verdicts()])
        with saving("the report", self.graph.root):
            build_pipeline_report(self.graph.root)

    def _shown(self, stage: Stage) -> dict[str, Any]:
        """A stage as the report draws it."""
        record = self.made.get(stage.name)
        report = f"stages/{stage.name}/report.html"
        return {
            "stage": stage.name,
            "method": stage.config.method,
            "needs": stage.needs,
            "state": "done" if record else "to do",
            "seconds": record.seconds if record else None,
            "report": report if (self.graph.root / report).exists() else None,
        }

    def _verdicts(self) -> list[Verdict]:
        """On the claims about stages that this pipeline has, where it asks problems enough; of one seed."""
        names = {row["stage"] for row in self.table}
        claims = [claim for claim in CLAIMS if {claim.first, claim.second} <= names]
        if not claims or sum(len(held_out.problems) for held_out in self.sets) < LEAST_PROBLEMS:
            return []
        values = evaluated_values(self.graph.root, self.graph.config.readable_paragraph)
        return [judge(claim, values) for claim in claims]


@contextmanager
def _told_of(what: str) -> Iterator[None]:
    """Puts what a pipeline was at before the sentence of an error; a stop on request is none."""
    try:
        yield
    except Stopped:
        raise
    except R1Error as error:
        raise type(error)(f"{what}: {error}") from error


_HEADLINE = ("reasoning", "instruction_following", "safety", "preference", "format", "language", "readability")


def _trained_seconds(directory: Path) -> float:
    """Seconds that a run's steps took, those before it was cut off too."""
    rows = read_json_lines(directory / "metrics.jsonl")
    return float(rows[-1].get("time/elapsed", 0.0)) if rows else 0.0


@dataclass(slots=True)
class _Clock:
    """How long the rest may take: by what stages took before, else by the recipe's ``minutes``. ``pending``: the stages
    that are still to run."""

    graph: Graph
    pending: set[str]
    known: dict[str, float] = field(default_factory=dict)
    evaluations: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        for stage in self.graph.stages:
            directory = self.graph.directory(stage.name)
            record = read_record(directory) or next((record for _, record in aside(directory)), None)
            self.known[stage.name] = record.seconds if record is not None else 60 * stage.minutes

    def evaluated(self, seconds: float) -> None:
        self.evaluations.append(seconds)

    def left(self) -> float:
        """Seconds that the pending stages and their evaluations may take; 0 where nothing is known of them."""
        asked = sum(self.graph.stage(name).evaluated for name in self.pending)
        return sum(self.known[name] for name in self.pending) + asked * max(self.evaluations, default=0.0)


class _Opened:
    """The pipeline's run directory, open in this process and in no other."""

    def __init__(self, graph: Graph, command: Sequence[str]) -> None:
        self.root = graph.root
        with saving("the run directory", self.root):
            self.root.mkdir(parents=True, exist_ok=True)
        _refuse_foreign(self.root)
        self._lock = DirectoryLock(self.root)
        old = _read(self.root / "run.json")
        session = {"started": _now(), "command": shlex.join(command)}
        self._record: dict[str, Any] = {
            "format": 1,
            "recipe": graph.config.recipe,
            "status": "running",
            "started": old.get("started", session["started"]),
            "ended": None,
            "error": None,
            "command": session["command"],
            "sessions": [*old.get("sessions", []), session],
        }
        self.save("config.json", graph.config.to_dict())
        self.save("run.json", self._record)

    def save(self, name: str, value: Any) -> None:
        with saving(name, self.root):
            write_atomic(self.root / name, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        stopped = isinstance(error, KeyboardInterrupt | Stopped)
        status = "finished" if error is None else "stopped" if stopped else "failed"
        reason = None if error is None or stopped else f"{type(error).__name__}: {error}"
        self._record |= {"status": status, "ended": _now(), "error": reason}
        try:
            self.save("run.json", self._record)
            if (self.root / STAGES).exists():
                build_pipeline_report(self.root)
        except UserError:
            # the disk is full or gone: what went wrong first is the better message
            if error is None:
                raise
        finally:
            self._lock.release()


def _refuse_foreign(root: Path) -> None:
    config = _read(root / "config.json")
    if config and config.get("method") != "pipeline":
        raise UserError(f"{root} holds a run of {config.get('method')}, no pipeline; give another output_dir=...")
    others = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    if not config and others:
        raise UserError(f"{root} is not empty and no pipeline (it holds {others[0]}); give another output_dir=...")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _say(text: str) -> None:
    print(clean(text, one_line=True), flush=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
