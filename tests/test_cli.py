"""The command line as a user meets it: real checkpoints, real files, wrong input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import fails, status
from r1kit.run_directory import read_json_lines
from tiny_models import make_tiny_checkpoint

TINY = [
    "max_steps=2",
    "problems_per_rollout=2",
    "num_generations=2",
    "max_prompt_length=600",
    "max_completion_length=8",
    "eval_size=2",
    "eval_every=0",
    "micro_batch_tokens=4096",
    "gradient_checkpointing=false",
    "autocast=none",
    "learning_rate=1e-4",
    "warmup_steps=0",
    "torch_threads=1",
]
PROBLEMS = [
    {"question": f"What is {a} + {b}?", "answer": f"They make {a + b}.\n#### {a + b}"}
    for a in range(5)
    for b in range(5)
]


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PROBLEMS))
    return path


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3", "deepseek_v3"])
def test_r1_zero_on_a_real_architecture(arch: str, tmp_path: Path, problems: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = make_tiny_checkpoint(tmp_path / "model", arch=arch)
    out = tmp_path / "run"
    assert status("run", "r1_zero", f"model={model}", f"problems={problems}", f"output_dir={out}", *TINY) == 0
    rows = read_json_lines(out / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert "eval/accuracy" in rows[0]
    assert "eval/accuracy" in rows[-1]
    assert (out / "report.html").stat().st_size > 10_000
    # what was saved loads in transformers, with its template
    AutoModelForCausalLM.from_pretrained(out / "model")
    assert AutoTokenizer.from_pretrained(out / "model").chat_template


def test_sample_grade_eval_report(tmp_path: Path, problems: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(make_tiny_checkpoint(tmp_path / "model", arch="qwen3"))
    samples, graded = tmp_path / "samples.jsonl", tmp_path / "graded.jsonl"
    limits = ["--max-completion-length", "8"]
    assert status("sample", model, str(problems), "-n", "3", "-k", "2", "-o", str(samples), *limits) == 0
    assert status("grade", str(samples), "-o", str(graded)) == 0
    rows = read_json_lines(graded)
    assert len(rows) == 6
    assert all({"reward", "rewards", "outcome"} <= set(row) for row in rows)
    out = tmp_path / "eval"
    assert status("eval", model, "--bench", str(problems), "-k", "4", "-n", "5", "-o", str(out), *limits) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["problems"] == 5
    assert {"pass@1", "pass@1_se", "pass@2", "pass@4"} <= set(summary)
    assert "pass@4" in capsys.readouterr().out


def test_the_same_seed_samples_the_same(tmp_path: Path, problems: Path) -> None:
    model = str(make_tiny_checkpoint(tmp_path / "model", arch="llama"))
    texts = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        out = tmp_path / name
        arguments = ["sample", model, str(problems), "-n", "3", "--seed", seed, "-o", str(out)]
        assert status(*arguments, "--max-completion-length", "8") == 0
        texts.append(out.read_bytes())
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_wrong_names_are_answered_with_a_mend(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "r1_zero_mini" in fails(capsys, "run", "r1_zero_mni")
    assert "learning_rate" in fails(capsys, "run", "r1_zero_mini", "lerning_rate=1e-4")
    assert "top_p" in fails(capsys, "run", "r1_zero_mini", "top_p=0.9")
    assert "countdown3" in fails(capsys, "run", "r1_zero_mini", "problems=nowhere", f"output_dir={tmp_path / 'x'}")
    assert "not a run directory" in fails(capsys, "report", str(tmp_path))
    assert "no such model" in fails(capsys, "eval", str(tmp_path / "nothing"), "--bench", "countdown3")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "problems.jsonl"),
        ('{"question": "1+1?", "answer": "2"}\n{"question": \n', "problems.jsonl:2"),
        ('{"text": "1+1?", "answer": "2"}\n', "problems.jsonl:1"),
    ],
)
def test_broken_problem_files(content: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(content)
    model = make_tiny_checkpoint(tmp_path / "model", arch="llama")
    arguments = ["run", "r1_zero", f"model={model}", f"problems={path}", f"output_dir={tmp_path / 'run'}", *TINY]
    assert said in fails(capsys, *arguments)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise RuntimeError('ouch')", "ouch"),
        ("return [0.0]", "1"),
        ("return [float('nan')] * len(completions)", "nan"),
    ],
)
def test_broken_reward_functions(
    body: str, said: str, tmp_path: Path, problems: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f"def reward(prompts, completions, **columns):\n    {body}\n")
    model = make_tiny_checkpoint(tmp_path / "model", arch="llama")
    out = tmp_path / "run"
    sentence = fails(
        capsys,
        "run",
        "r1_zero",
        f"model={model}",
        f"problems={problems}",
        f"output_dir={out}",
        *TINY,
        f'reward_funcs=["{file}:reward"]',
        "reward_weights=[1.0]",
    )
    assert said in sentence.lower()
    assert "mine.py" in sentence
    assert json.loads((out / "run.json").read_text())["status"] == "failed"
    # mended, the same command goes on
    file.write_text("def reward(prompts, completions, **columns):\n    return [float(len(c)) for c in completions]\n")
    more = [f"model={model}", f"problems={problems}", f"output_dir={out}", *TINY, "reward_weights=[1.0]"]
    assert status("run", "r1_zero", *more, f'reward_funcs=["{file}:reward"]') == 0
    assert "mine.py changed since this run began" in capsys.readouterr().err
    assert json.loads((out / "run.json").read_text())["status"] == "finished"


def test_a_checkpoint_without_tokenizer(tmp_path: Path, problems: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_tiny_checkpoint(tmp_path / "model", arch="llama")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).unlink()
    arguments = ["run", "r1_zero", f"model={model}", f"problems={problems}", f"output_dir={tmp_path / 'run'}", *TINY]
    assert "tokenizer" in fails(capsys, *arguments)


def test_prompts_longer_than_the_limit(tmp_path: Path, problems: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_tiny_checkpoint(tmp_path / "model", arch="llama")
    arguments = ["run", "r1_zero", f"model={model}", f"problems={problems}", f"output_dir={tmp_path / 'run'}", *TINY]
    assert "max_prompt_length" in fails(capsys, *arguments, "max_prompt_length=3")


def test_interrupted_it_saves_and_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = ["max_steps=40", "eval_size=8", "eval_problems=countdown3", "problems_per_rollout=4", "save_every=0"]
    settings += ["max_completion_length=64", "torch_threads=1", f"output_dir={out}"]
    command = [sys.executable, "-m", "r1kit.cli", "run", "r1_zero_mini", *settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while time.monotonic() < end and len(read_json_lines(out / "metrics.jsonl")) < 3:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "the same command goes on" in errors
    saved = [int(path.name) for path in (out / "checkpoints").iterdir()]
    assert saved
    assert saved == [read_json_lines(out / "metrics.jsonl")[-1]["step"]]


def _names_of_commands() -> list[str]:
    from typer.main import get_command

    from r1kit.cli import app

    return sorted(getattr(get_command(app), "commands"))  # noqa: B009 - typer's base type does not know of it


def test_help_is_quick_and_free_of_heavy_libraries() -> None:
    code = (
        "import sys, time; from r1kit.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(sorted({'torch', 'transformers', 'numpy', 'pydantic', 'sympy'} & set(sys.modules)))\n"
        "print(time.process_time())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *_, loaded, seconds = done.stdout.splitlines()
    assert loaded == "[]"
    # processor time: a busy machine must not fail this; 0.1 s on a quiet core
    assert float(seconds) < 0.3
    for command in _names_of_commands():
        assert f"  {command} " in done.stdout


def test_every_command_has_help_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"run", "check", "doctor", "sandbox", "chat", "eval", "sample", "grade", "report"} <= set(
        _names_of_commands()
    )
    for command in _names_of_commands():
        assert status(command, "--help") == 0
        shown = capsys.readouterr().out
        assert f"Examples:\n    r1 {command}" in shown, command


def test_every_command_is_in_the_documentation() -> None:
    text = (Path(__file__).parents[1] / "docs" / "commands.md").read_text(encoding="utf-8")
    for command in _names_of_commands():
        assert f"r1 {command}" in text, command


def test_check_prints_a_line_a_check_and_exits_by_them(
    tmp_path: Path, problems: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_tiny_checkpoint(tmp_path / "model", arch="llama")
    arguments = ["check", "r1_zero", f"model={model}", f"problems={problems}", f"output_dir={tmp_path / 'run'}", *TINY]
    assert status(*arguments, "template=plain", "--seconds", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.split()[0] in ("ok", "warning") for line in lines[:-1])
    assert lines[-1].split()[1].startswith("ok")
    assert status(*arguments, "template=plain", "problems=nowhere.jsonl") == 2
    assert "1 failure" in capsys.readouterr().out
    assert "did you mean" in fails(capsys, "check", "r1_zero", "lerning_rate=1")


def test_chat_answers_lines_of_standard_input(tmp_path: Path) -> None:
    model = str(make_tiny_checkpoint(tmp_path / "model", arch="llama"))
    command = [sys.executable, "-m", "r1kit.cli", "chat", model, "--template", "plain", "--max-completion-length", "5"]
    done = subprocess.run(command, input="hello\n/problem\n", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("5 tokens, ") == 2
    assert "wrong" in done.stdout
    assert done.stderr == ""


def test_wrong_names_in_chat(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such model" in fails(capsys, "chat", str(tmp_path / "nothing"))
    assert "countdown3" in fails(capsys, "chat", "mini-base", "--problems", "nowhere")


def test_the_python_api(tmp_path: Path) -> None:
    from r1kit import Problem, evaluate, grade, load, sample
    from r1kit.types import TextAnswer

    policy = load(str(make_tiny_checkpoint(tmp_path / "model", arch="qwen2")))
    problem = Problem(id="one", messages=({"role": "user", "content": "1+1?"},), kind="math", gold=TextAnswer(text="2"))
    [completions] = sample(policy, [problem], n=3, max_completion_length=5)
    assert len(completions) == 3
    verdicts = grade(problem, ["<think>1+1</think><answer>2</answer>", "three"])
    assert [verdict.terms["accuracy"] for verdict in verdicts if verdict] == [1.0, 0.0]
    result = evaluate(policy, [problem], k=2, max_completion_length=5)
    assert result.problems == 1
