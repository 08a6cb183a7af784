"""The growth benchmark: its arithmetic, its file, and one measurement of memory in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def growth() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "growth.py"
    spec = importlib.util.spec_from_file_location("growth", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_exponent_is_that_of_the_power_law(growth: ModuleType) -> None:
    sizes = [10.0, 20.0, 40.0]
    assert growth.exponent(sizes, [3 * size**1.5 for size in sizes]) == pytest.approx(1.5)


def test_jobs_take_turns_and_the_first_round_does_not_count(growth: ModuleType) -> None:
    called: list[str] = []
    answers = {"a": iter([100.0, 1.0, 5.0, 2.0]), "b": iter([100.0, 7.0, 7.0, 8.0])}

    def job(name: str) -> tuple[float, float]:
        called.append(name)
        return next(answers[name]), 0.5

    assert growth.in_turns([lambda: job("a"), lambda: job("b")], 3) == [(2.0, 0.5), (7.0, 0.5)]
    assert called == ["a", "b"] * 4


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_records_are_measured_and_kept_beside_other_parts(
    growth: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "growth.json"
    out.write_text('{"update": {"lanes": 2}}')
    monkeypatch.setattr(sys, "argv", ["growth.py", "records", "--quick", "--out", str(out)])
    growth.main()
    found = json.loads(out.read_text())
    assert found["update"] == {"lanes": 2}
    # 4 bytes for an id, 4 for its log-probability, 4 for its text; some pages were there before
    assert found["records"]["records_bytes_per_token"] == pytest.approx(12, abs=3)
    assert found["records"]["peak_mb"] >= found["records"]["records_mb"]
