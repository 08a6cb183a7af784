"""A real server, `transformers serve`, as the one that is asked: its texts, and a judge that makes no sense."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import r1kit
from r1kit.config import load_recipe
from r1kit.engines.native import NativeEngine
from r1kit.engines.server import Ask, ChatServer, ServerSettings
from r1kit.mini import world
from r1kit.policy import load_policy, save_policy
from r1kit.rollouts import Draws, requests_for
from r1kit.run_directory import read_json_lines
from r1kit.runner import run_recipe
from r1kit.types import SamplingParams, UserError

MISSING = [name for name in ("openai", "fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"transformers serve needs {', '.join(MISSING)}")
LENGTH = 48
PATIENCE = 90.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_policy(r1kit.load("mini-base"), tmp_path_factory.mktemp("served") / "model")


@pytest.fixture(scope="module")
def url(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "serve.log"
    command = [sys.executable, "-c", "from transformers.cli.transformers import app; app()", "serve", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, env=quiet)
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(20)


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    last = time.monotonic() + PATIENCE
    while time.monotonic() < last and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"transformers serve does not answer:\n{log.read_text()[-2000:]}")


def test_its_greedy_texts_are_those_of_our_engine(model: Path, url: str) -> None:
    policy = load_policy(model)
    engine = NativeEngine(policy.model, policy.decode, dtype="float32", eos_token_ids=policy.eos_token_ids)
    problems = world.make_problems("countdown3", 4, 3, "heldout")
    greedy = SamplingParams(temperature=0.0, max_completion_length=LENGTH)
    engine.submit(requests_for([(p, 0) for p in problems], policy, greedy, 1, Draws(0, "test", "greedy", 0)))
    ours = {completion.problem_id: completion.text.strip() for completion in engine.completions()}
    names = {problem.text: problem.id for problem in problems}
    asks = [Ask(messages=problem.messages) for problem in problems]
    theirs: dict[str, str] = {}
    client = ChatServer(ServerSettings(url=url, model=str(model), max_completion_length=LENGTH, timeout=60.0))
    client.answer(asks, lambda ask, text: theirs.update({names[ask.messages[0]["content"]]: text.strip()}))
    assert theirs == ours


def test_a_judge_that_makes_no_sense_is_one_sentence(model: Path, url: str, tmp_path: Path) -> None:
    config = load_recipe(
        "preferences",
        [
            "model=mini-world", "problems=request", f"judge={url}", f"server_model={model}", "num_problems=3",
            "num_generations=4", "max_completion_length=96", "max_prompt_length=200", "torch_threads=1",
            "answer_length=24", "num_judgements=2", "answer_tries=1",
            f"output_dir={tmp_path / 'run'}",
        ],
    )  # fmt: skip
    with pytest.raises(UserError, match="no verdict of the judge"):
        run_recipe(config, ["r1", "run", "preferences"])
    assert read_json_lines(tmp_path / "run" / "answers" / "judge.jsonl")
    assert not (tmp_path / "run" / "data").exists()
