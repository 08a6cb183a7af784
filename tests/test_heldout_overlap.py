"""The search for held-out problems: its readers agree with the generators, and it finds what is planted."""

from __future__ import annotations

import gzip
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from r1kit.mini import kinds, world
from r1kit.mini.kinds.code import Function
from r1kit.tasks.making import built_in_name

NAMES = [
    *world.GENERATORS,
    *(
        built_in_name(kind.name, level=level, language=language)
        for kind in kinds.KINDS.values()
        for level in kind.levels
        for language in kind.languages
    ),
]


@pytest.fixture(scope="module")
def overlap() -> ModuleType:
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    try:
        return importlib.import_module("heldout_overlap")
    finally:
        sys.path.pop(0)


def test_the_readers_know_nothing_of_the_package() -> None:
    source = (Path(__file__).parents[1] / "benchmarks" / "heldout_keys.py").read_text(encoding="utf-8")
    assert "import r1kit" not in source
    assert "from r1kit" not in source


@pytest.mark.parametrize("name", NAMES)
def test_a_key_read_off_the_text_is_the_generators_and_so_is_its_split(overlap: ModuleType, name: str) -> None:
    for split in ("train", "heldout"):
        problems = kinds.make_problems(name, 60, 17, split)
        assert problems
        for problem in problems:
            found = overlap.read(problem.text, overlap.inputs)
            assert found is not None, problem.text
            assert found.key == problem.key, problem.text
            assert overlap.held_out(found.key) == (split == "heldout")


@pytest.mark.parametrize(
    "name", ["countdown3", "word-2-zh", "equation-3", "choice-2", "logic-3", "request-2", "safety"]
)
def test_a_held_out_problem_is_found_as_a_question_and_on_a_page(overlap: ModuleType, name: str) -> None:
    trained, held_out = (kinds.make_problems(name, 5, 3, split) for split in ("train", "heldout"))
    search = overlap.Search(frozenset())
    for problem in trained:
        search.document(f"User: {problem.text}\nAssistant: <answer>1</answer>")
    assert search.report("trained") == 0
    search.document(f"User: {held_out[0].text}\nAssistant: I do not know.")
    assert search.report("one planted") >= 1
    page = overlap.Search(frozenset())
    page.document(f"12+5=17\n{held_out[1].text}\n3*4=12\n")
    # a choice stands on several lines, of which none asks anything alone
    assert page.report("a page") >= (name != "choice-2")


def test_what_is_not_of_this_world_is_said_and_a_page_of_comparisons_is_no_problem(overlap: ModuleType) -> None:
    search = overlap.Search(frozenset())
    search.question("Using the numbers, create an equation that equals 51.")
    assert search.report("a page of comparisons") == 0
    search.question("What is the capital of France?")
    assert search.report("something else") == 1


def test_programs_and_expressions_in_answers_are_counted_apart(overlap: ModuleType) -> None:
    problem = next(p for p in kinds.stream("code-1", 1, "heldout"))
    steps = tuple((name, tuple(parameters)) for name, *parameters in problem.columns["steps"])
    numbers = kinds.make_problems("countdown3", 1, 1, "heldout")[0].columns["numbers"]
    search = overlap.Search(frozenset({problem.key}))
    search.completion(f"<answer>\n```python\n{Function(steps).source('f')}```\n</answer>")
    search.completion(f"<answer>{'+'.join(map(str, numbers))}</answer>")
    assert search.report("a policy") == 0
    assert [(kind, tally.held) for kind, tally in search.answers.items()] == [("programs", 1), ("expressions", 1)]
    # nothing of the text is executed, only lines that were put together from the known steps
    assert overlap.program_in("```python\ndef f(xs):\n    v = xs\n    v = __import__('os')\n    return v\n```") is None


def _run(directory: Path, prompt: str, held_out: str) -> Path:
    for name, question in (("rollouts/000000", prompt), ("evals/000000", held_out)):
        path = directory / f"{name}.jsonl.gz"
        path.parent.mkdir(parents=True)
        row = {"prompt": f"User: {question}\nAssistant:", "completion": " <answer>1</answer>"}
        path.write_bytes(gzip.compress(json.dumps(row).encode()))
    return directory


def test_the_script_passes_a_clean_run_and_fails_one_that_trained_on_what_it_asks(
    overlap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = kinds.make_problems("word", 1, 5, "train")[0].text
    asked = kinds.make_problems("word", 1, 5, "heldout")[0].text

    def exit_status(*arguments: Any) -> int:
        monkeypatch.setattr(sys, "argv", ["heldout_overlap", "--no-corpus", "--problems", "8", *map(str, arguments)])
        return int(overlap.main())

    assert exit_status(_run(tmp_path / "clean", trained, asked)) == 0
    assert "no overlap" in capsys.readouterr().out
    assert exit_status(_run(tmp_path / "leaks", asked, asked)) == 1
    assert "1 held out" in capsys.readouterr().out
    assert exit_status(tmp_path / "nothing") == 2
