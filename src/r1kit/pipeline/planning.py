"""What a pipeline would do: stage by stage, whether it is done, goes on, or runs, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from r1kit.pipeline.graph import Graph, Stage
from r1kit.pipeline.records import BEGUN, Record, aside, damage, read_record, wanted_record
from r1kit.types import UserError

State = Literal["done", "restore", "resume", "run", "damaged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A stage, its state, and why. ``record``: of what is there (done), or of what would be made, where that is known.
    ``place``: the directory that would be taken back (restore)."""

    stage: Stage
    state: State
    why: str
    record: Record | None
    place: Path | None = None

    @property
    def is_there(self) -> bool:
        """Whether its artifacts need not be made."""
        return self.state in ("done", "restore")


def plan(graph: Graph) -> list[Planned]:
    """Every stage in order. Reads and hashes what is there; changes nothing."""
    found: list[Planned] = []
    made: dict[str, Record] = {}
    for stage in graph.stages:
        planned = plan_stage(graph, stage, made)
        found.append(planned)
        if planned.is_there and planned.record is not None:
            made[stage.name] = planned.record
    return found


def plan_stage(graph: Graph, stage: Stage, made: Mapping[str, Record]) -> Planned:
    """The state of one stage, given the records of the stages that are there."""
    directory = graph.directory(stage.name)
    missing = [name for name in stage.needs if name not in made]
    old, begun = read_record(directory), read_record(directory, BEGUN)
    if missing:
        return Planned(stage=stage, state="run", why=f"after {', '.join(missing)}", record=None)
    wanted = wanted_record(graph, stage, made)
    if old is not None and not (changes := old.changes_to(wanted)):
        broken = damage(directory, old)
        return Planned(stage=stage, state="damaged" if broken else "done", why=broken or "", record=old)
    for place, record in aside(directory):
        if not record.changes_to(wanted) and damage(place, record) is None:
            return Planned(stage=stage, state="restore", why=f"{place.name} is this", record=record, place=place)
    if old is not None:
        return Planned(stage=stage, state="run", why=_shortened(changes), record=wanted)
    if begun is not None and not (changes := begun.changes_to(wanted)):
        return Planned(stage=stage, state="resume", why="it was cut off", record=wanted)
    why = f"not finished, and {_shortened(changes)}" if begun is not None else "new"
    return Planned(stage=stage, state="run", why=why, record=wanted)


def _shortened(changes: Sequence[str]) -> str:
    more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
    return "; ".join(changes[:3]) + more


def require_whole(planned: Planned, graph: Graph) -> None:
    """Raises UserError for a stage whose artifacts were changed or lost since it made them."""
    if planned.state == "damaged":
        raise UserError(
            f"stage {planned.stage.name}: {planned.why}; put the old file back, or remove "
            f"{graph.directory(planned.stage.name)} to make it again"
        )


def sentences(graph: Graph, planned: Sequence[Planned]) -> list[str]:
    """The graph and what would run, for people: a line a stage, then a sum."""
    rows = [("stage", "method", "reads", "state", "why")]
    for item in planned:
        reads = ", ".join(dict.fromkeys(r.text for r in item.stage.references)) or "-"
        rows.append((item.stage.name, item.stage.config.method, reads, item.state, item.why))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[4]]).rstrip() for row in rows
    ]
    todo = [item.stage.name for item in planned if item.state in ("run", "resume")]
    back = [item.stage.name for item in planned if item.state == "restore"]
    broken = [item.stage.name for item in planned if item.state == "damaged"]
    if broken:
        lines.append(
            f"nothing would run: {', '.join(broken)} was changed since; put the old file back, or remove "
            f"{graph.directory(broken[0])} to make it again"
        )
    else:
        lines.append(f"would run: {', '.join(todo)}" if todo else "nothing would run: every stage is done")
    if back:
        lines.append(f"would be taken back: {', '.join(back)}")
    return lines
