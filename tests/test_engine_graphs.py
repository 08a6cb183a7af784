"""Recorded decode steps. CUDA's graphs need CUDA (tests/test_cuda.py); here a trace of torch's operations takes their
place, which like a graph knows nothing but the tensors that the recorded step touched."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from r1kit.engines import _graphs
from r1kit.engines._graphs import Step, StepGraphs
from r1kit.engines.native import NativeEngine
from r1kit.types import Completion
from test_engine import PROMPTS, engine_of, model_of, requests_of, run


class Traced:
    """Records by tracing, and counts what was recorded and replayed for how many rows."""

    def __init__(self) -> None:
        self.recorded: Counter[int] = Counter()
        self.replays = 0

    def record(self, step: Step) -> Step:
        graph = make_fx(lambda: step())()  # tracing counts the arguments of a method wrongly
        self.recorded[len(graph().detach())] += 1

        def replay() -> Any:
            self.replays += 1
            return graph()

        return replay


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Traced:
    monkeypatch.setattr(_graphs, "EAGER_STEPS", 2)
    return Traced()


def recording(engine: NativeEngine, traced: Traced) -> NativeEngine:
    engine._decoder.graphs = StepGraphs(traced.record)
    engine._decoder.clear()  # gives the result its place
    return engine


def same(first: dict[Any, Completion], second: dict[Any, Completion]) -> None:
    assert first.keys() == second.keys()
    for key, completion in first.items():
        assert completion.token_ids.tolist() == second[key].token_ids.tolist()
        assert np.abs(completion.logprobs - second[key].logprobs).max(initial=0.0) <= 1e-5


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
def test_recorded_steps_sample_what_plain_ones_do(arch: str, traced: Traced) -> None:
    """Rows of many lengths: they leave, others enter, the cache grows past its blocks of 32 tokens."""
    requests = requests_of(PROMPTS, samples=6, lengths=(70, 9, 33, 58, 21), temperature=0.9, top_p=0.95)
    plain = run(engine_of("fast", model_of(arch), max_batch_size=9), requests)
    engine = recording(engine_of("fast", model_of(arch), max_batch_size=9), traced)
    same(plain, run(engine, requests))
    assert traced.replays > 100
    assert len(traced.recorded) > 2, "several numbers of rows"
    assert max(traced.recorded.values()) > 1, "a cache that moved is recorded again"


def test_a_second_job_and_new_weights_need_no_old_recording(traced: Traced) -> None:
    engine, plain = recording(engine_of("fast"), traced), engine_of("fast")
    requests = requests_of(PROMPTS, samples=2, lengths=(30,))
    for version, seed in enumerate((0, 1, 2)):
        for each in (engine, plain):
            each.load(model_of("qwen3", seed).named_parameters(), version)
        same(run(plain, requests), run(engine, requests))
    assert traced.replays > 60


def test_weights_loaded_in_the_middle_govern_recorded_steps_too(traced: Traced) -> None:
    found = []
    for engine in (engine_of("fast"), recording(engine_of("fast"), traced)):
        engine.submit(requests_of(PROMPTS, samples=2, lengths=(6, 40)))
        early = [next(engine.completions()) for _ in range(2)]
        engine.pause()
        engine.load(model_of("qwen3", 1).named_parameters(), 1)
        engine.resume()
        found.append({(c.problem_id, c.draw.sample): c for c in [*early, *engine.completions()] if c.draw})
    same(*found)
    assert traced.replays > 20


def test_few_steps_are_not_recorded() -> None:
    calls = Counter[str]()

    def step() -> torch.Tensor:
        calls["step"] += 1
        return torch.zeros(1)

    def record(step: Step) -> Step:
        calls["record"] += 1
        return step

    graphs = StepGraphs(record)
    for _ in range(_graphs.EAGER_STEPS):
        graphs.run(4, step)
    assert not calls["record"]
    graphs.run(4, step)
    graphs.run(4, step)
    assert calls["record"] == 1
    graphs.forget()
    graphs.run(4, step)
    assert calls["record"] == 1
