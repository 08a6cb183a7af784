"""The run directory: atomic, resumable, locked; killed for real and filled for real."""

from __future__ import annotations

import errno
import gzip
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from r1kit.config import RecipeConfig, load_recipe
from r1kit.run_directory import (
    InterruptGuard,
    Run,
    Stopped,
    hash_path,
    pack_rows,
    read_json_lines,
    saving,
    unpack_rows,
    write_atomic,
)
from r1kit.types import UserError

COMMAND = ("r1", "run", "r1_zero_mini", "note=a b")


def config(*overrides: str) -> RecipeConfig:
    return load_recipe("r1_zero_mini", overrides)


def open_run(directory: Path, *overrides: str) -> Run:
    run = Run.open(directory, config(*overrides), command=COMMAND)
    run.on_warning = lambda text: None
    return run


def write_weights(text: str) -> Any:
    return lambda folder: (folder / "weights.bin").write_text(text)


def status(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "run.json").read_text())


def warnings_of(directory: Path, but: str = "not_bit_identical") -> list[dict[str, Any]]:
    """Warnings, without the one that says that somebody edited the package while the tests ran."""
    return [row for row in read_json_lines(directory / "warnings.jsonl") if row["code"] != but]


def test_new_finished_and_other_configuration(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "run"
    with open_run(directory) as run:
        assert run.opening == "new"
        assert status(directory)["status"] == "running"
        run.set_lineage({"model": "abc", "problems": "def"}, threads=1)
        run.finish()
    record = status(directory)
    assert record["status"] == "finished"
    assert record["ended"] >= record["started"]
    assert record["command"] == "r1 run r1_zero_mini 'note=a b'"
    assert record["lineage"] == {"model": "abc", "problems": "def"}
    assert record["threads"] == 1
    assert {"python", "numpy", "r1kit"} <= set(record["versions"])
    again = open_run(directory, "sample_every=3")
    assert again.finished
    with pytest.raises(
        UserError, match=r"another configuration: learning_rate \(0\.0003 there, 0\.5 now\), seed .*give"
    ):
        open_run(directory, "learning_rate=0.5", "seed=7")
    assert json.loads((directory / "config.json").read_text())["learning_rate"] == 3e-4


def test_resume_drops_metrics_beyond_the_checkpoint_and_a_torn_line(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        for step in range(4):
            run.record({"step": step, "reward": step / 10})
            if step == 2:
                run.checkpoint(step, write_weights("two"), {"rollout": 2})
    path = tmp_path / "run" / "metrics.jsonl"
    with open(path, "a") as file:
        file.write('{"step": 4, "rew')
    assert status(tmp_path / "run")["status"] == "stopped"
    with open_run(tmp_path / "run") as run:
        assert run.opening == "resumed"
        found = run.latest_checkpoint()
        assert found is not None
        assert (found.step, found.state) == (2, {"rollout": 2})
        assert (found.path / "weights.bin").read_text() == "two"
        assert path.read_text() == "".join(json.dumps({"step": step, "reward": step / 10}) + "\n" for step in range(3))
        with pytest.raises(ValueError, match="step 2 after those of step 2"):
            run.record({"step": 2})
        run.record({"step": 3, "reward": 1.0})
        assert [row["step"] for row in run.metrics()] == [0, 1, 2, 3]
    assert [session["from_step"] for session in status(tmp_path / "run")["sessions"]] == [0, 2]


def test_resume_without_checkpoint_starts_over_but_keeps_completions(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.record({"step": 0})
        run.save_rollout(0, [{"sample": 0}])
        run.save_eval(0, [{"sample": 1}])
    with open_run(tmp_path) as run:
        assert run.latest_checkpoint() is None
        assert run.metrics() == []
        assert run.load_rollout(0) == [{"sample": 0}]
        assert run.load_eval(0) == [{"sample": 1}]
        assert run.load_rollout(1) is None


def test_checkpoints_keep_the_last_n(tmp_path: Path) -> None:
    with open_run(tmp_path, "keep_checkpoints=2") as run:
        for step in range(5):
            run.record({"step": step})
            run.checkpoint(step, write_weights(str(step)), {})
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["000003", "000004"]


@pytest.mark.parametrize("damage", ["content", "size", "missing", "manifest", "state"])
def test_damaged_checkpoint_is_skipped_with_a_warning(tmp_path: Path, damage: str) -> None:
    with open_run(tmp_path, "keep_checkpoints=1") as run:
        run.record({"step": 1})
        run.checkpoint(1, write_weights("first"), {"rollout": 1})
    with open_run(tmp_path, "keep_checkpoints=2") as run:
        run.record({"step": 2})
        run.checkpoint(2, write_weights("second"), {"rollout": 2})
    newest = tmp_path / "checkpoints" / "000002"
    weights = newest / "weights.bin"
    if damage == "content":
        weights.write_text("secone")
    elif damage == "size":
        weights.write_text("sec")
    elif damage == "missing":
        weights.unlink()
    elif damage == "manifest":
        (newest / "manifest.json").write_text("[")
    else:
        (newest / "state.json").write_text("{}")
    with open_run(tmp_path, "keep_checkpoints=1") as run:
        found = run.latest_checkpoint()
        assert found is not None
        assert found.state == {"rollout": 1}
        assert [row["step"] for row in run.metrics()] == [1]
        (warning,) = warnings_of(tmp_path)
        assert warning["code"] == "damaged_checkpoint"
        assert warning["step"] == 2
        run.record({"step": 2})
        run.checkpoint(2, write_weights("second"), {"rollout": 2})
    with open_run(tmp_path) as run:
        again = run.latest_checkpoint()
        assert again is not None
        assert again.step == 2


def test_failed_checkpoint_leaves_the_earlier_one(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("boom")

    with open_run(tmp_path) as run:
        run.record({"step": 1})
        run.checkpoint(1, write_weights("one"), {})
        run.record({"step": 2})
        with pytest.raises(RuntimeError, match="boom"):
            run.checkpoint(2, fail, {})
        with pytest.raises(ValueError, match="step 2 was recorded already"):
            run.checkpoint(1, write_weights("one"), {})
        run.checkpoint(4, write_weights("four"), {})
        with pytest.raises(ValueError, match="metrics of step 3 after its checkpoint"):
            run.record({"step": 3})
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["000001", "000004"]


def test_float32_log_probabilities_round_trip_exactly_with_shortest_decimals() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, size=100_000, dtype=np.uint32).view(np.float32)
    values = np.concatenate([bits[np.isfinite(bits)], np.float32([0, -0.0, 1e-45, 3.4028235e38, -1 / 3])])
    packed = pack_rows([{"logprobs": values, "token_ids": np.arange(3, dtype=np.int32)}])
    (row,) = unpack_rows(packed)
    assert row["logprobs"].dtype == np.float32
    assert np.array_equal(row["logprobs"].view(np.uint32), values.view(np.uint32))
    assert row["token_ids"].dtype == np.int32
    assert not row["token_ids"].flags.writeable
    text = gzip.decompress(pack_rows([{"logprobs": np.float32([0.1, -2.3])}]))
    assert text == b'{"logprobs": [0.1, -2.3]}\n'


def test_rows_have_reproducible_bytes_whatever_the_key_order(tmp_path: Path) -> None:
    rows = [{"b": 1, "a": "Ünï 中\u2028\ud800", "reward": np.float32(0.1)}]
    swapped = [dict(reversed(rows[0].items()))]
    with open_run(tmp_path / "one") as run, open_run(tmp_path / "two") as other:
        run.save_rollout(3, rows)
        time.sleep(0.01)
        other.save_rollout(3, swapped)
        first, second = (tmp_path / name / "rollouts" / "000003.jsonl.gz" for name in ("one", "two"))
        assert first.read_bytes() == second.read_bytes()
        assert run.load_rollout(3) == [{"a": rows[0]["a"], "b": 1, "reward": 0.1}]
        with pytest.raises(ValueError, match="not JSON compliant"):
            run.save_rollout(4, [{"logprobs": np.float32([np.nan])}])


def test_damaged_rollout_counts_as_absent(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.save_rollout(0, [{"completion": "x" * 500}])
        path = tmp_path / "rollouts" / "000000.jsonl.gz"
        whole = path.read_bytes()
        for broken in (
            whole[:-5],
            whole[:10],
            b"",
            whole[:-8] + b"\0" * 8,
            whole[:12] + b"\xff" * 9 + whole[21:],
            b"junk",
        ):
            path.write_bytes(broken)
            assert run.load_rollout(0) is None
    assert {row["code"] for row in warnings_of(tmp_path)} == {"damaged_completions"}


def test_metrics_take_numpy_and_leave_out_what_is_not_finite(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.record(
            {"step": np.int64(1), "reward": np.float32(0.1), "kl": float("nan"), "loss": None, "n": np.float64(2)}
        )
        assert run.metrics() == [{"step": 1, "reward": 0.1, "n": 2.0}]
    (warning,) = warnings_of(tmp_path)
    assert (warning["code"], warning["step"]) == ("non_finite_metric", 1)


def test_warnings_are_written_each_and_shown_once(tmp_path: Path) -> None:
    shown: list[str] = []
    with open_run(tmp_path) as run:
        run.on_warning = shown.append
        run.record({"step": 0})
        run.warn("truncated", "all truncated", 1)
        run.warn("truncated", "all truncated", 2)
        run.warn("truncated", "all truncated", 2)
        run.warn("constant", "constant reward", 2)
    assert shown == ["step 1: all truncated", "step 2: constant reward"]
    assert [row["step"] for row in warnings_of(tmp_path)] == [1, 2, 2]
    with open_run(tmp_path) as run:
        run.warn("truncated", "all truncated", 2)
    assert len(warnings_of(tmp_path)) == 3


def test_changed_model_is_refused_on_resume_and_other_threads_warn(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.set_lineage({"model": "abc"}, threads=1)
        run.record({"step": 0})
    with open_run(tmp_path) as run:
        with pytest.raises(UserError, match="model changed since this run began"):
            run.set_lineage({"model": "xyz"}, threads=1)
        run.set_lineage({"model": "abc", "problems": "p"}, threads=2)
    assert status(tmp_path)["lineage"] == {"model": "abc", "problems": "p"}
    inexact = warnings_of(tmp_path, but="")
    assert {row["code"] for row in inexact} == {"not_bit_identical"}
    assert "torch threads 1 -> 2" in inexact[-1]["message"]


def test_a_mended_reward_function_is_warned_of_and_the_run_goes_on(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.set_lineage({"model": "abc", "mine.py": "1"}, threads=1, mendable=["mine.py"])
        run.record({"step": 0})
    with open_run(tmp_path) as run:
        with pytest.raises(UserError, match=r"mine\.py changed since this run began"):
            run.set_lineage({"model": "abc", "mine.py": "2"}, threads=1)
        run.set_lineage({"model": "abc", "mine.py": "2"}, threads=1, mendable=["mine.py"])
    assert status(tmp_path)["lineage"] == {"model": "abc", "mine.py": "2"}
    assert [row["message"] for row in warnings_of(tmp_path) if row["code"] == "mended"] == [
        "mine.py changed since this run began; what it graded before stays"
    ]


def test_status_says_how_the_run_ended(tmp_path: Path) -> None:
    for name, error, expected in (
        ("failed", RuntimeError("boom"), "failed"),
        ("stopped", Stopped("bye"), "stopped"),
        ("interrupted", KeyboardInterrupt(), "stopped"),
    ):
        with pytest.raises(type(error)), open_run(tmp_path / name):
            raise error
        assert status(tmp_path / name)["status"] == expected
    assert status(tmp_path / "failed")["error"] == "RuntimeError: boom"
    assert Stopped.exit_status == 130


def test_foreign_directories_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"not empty and not a run directory \(it holds thesis\.tex\)"):
        open_run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError, match="cannot save the run directory"):
        open_run(tmp_path / "thesis.tex" / "run")


def test_a_place_that_cannot_be_written_is_named_with_both_ways_to_name_another(tmp_path: Path) -> None:
    said = r"cannot write the pairs in .*output_dir=\.\.\. of a run, -o of a command"
    with pytest.raises(UserError, match=said), saving("the pairs", tmp_path):
        raise OSError(errno.EROFS, "Read-only file system")


def test_unreadable_config_is_one_sentence(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.record({"step": 0})
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot read .*config\.json"):
        open_run(tmp_path)


def start(code: str, *arguments: Path) -> subprocess.Popen[str]:
    preamble = """
    import resource, signal, sys, time
    from pathlib import Path
    from r1kit.config import load_recipe
    from r1kit.run_directory import InterruptGuard, Run
    run = lambda: Run.open(Path(sys.argv[1]), load_recipe("r1_zero_mini", []), command=["x"])
    """
    program = textwrap.dedent(preamble) + textwrap.dedent(code)
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_line(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def test_lock_holds_between_processes_and_dies_with_its_owner(tmp_path: Path) -> None:
    process = start("r = run(); r.record({'step': 0}); print('ready', flush=True); time.sleep(60)", tmp_path)
    try:
        wait_for_line(process)
        with pytest.raises(UserError, match=rf"in use by process {process.pid} .*output_dir="):
            open_run(tmp_path)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with open_run(tmp_path) as run:
        assert run.opening == "resumed"


def test_killed_anywhere_the_directory_stays_whole(tmp_path: Path) -> None:
    loop = """
    with run() as r:
        found = r.latest_checkpoint()
        first = found.state["next"] if found else 0
        for step in range(first, 10**9):
            rows = r.load_rollout(step) or [{"token_ids": [step] * 50}]
            r.save_rollout(step, rows)
            r.record({"step": step, "x": "y" * 50})
            r.checkpoint(step, lambda d: (d / "w").write_text(str(step) * 2000), {"next": step + 1})
            if step == first:
                print("ready", flush=True)
            r.save_eval(step, rows)
    """
    last = -1
    for delay in (0.0, 0.03, 0.07, 0.11):
        process = start(loop, tmp_path)
        wait_for_line(process)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with open_run(tmp_path) as run:
            found = run.latest_checkpoint()
            assert found is not None
            assert found.step > last
            last = found.step
            assert (found.path / "w").read_text() == str(last) * 2000
            assert [row["step"] for row in run.metrics()] == list(range(last + 1))
            rows = [run.load_rollout(step) for step in range(last + 1)]
            assert all(row is not None and row[0]["token_ids"][0] == step for step, row in enumerate(rows))
        assert not list(tmp_path.rglob(".tmp-*"))
        assert warnings_of(tmp_path) == []


def test_no_space_left_is_one_sentence_and_loses_nothing(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.record({"step": 1})
        run.checkpoint(1, write_weights("one"), {})
    # A file-size limit is the kernel refusing to write, as a full disk does.
    code = """
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))
    with run() as r:
        r.record({"step": 2})
        for job in (lambda: r.checkpoint(2, lambda d: (d / "w").write_text("z" * 9000), {}),
                    lambda: r.record({"step": 3, "x": "y" * 9000})):
            try:
                job()
            except Exception as error:
                print(type(error).__name__, error)
        print(r.metrics()[-1]["step"])
    """
    process = start(code, tmp_path)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    lines = out.splitlines()
    assert lines[0].startswith("UserError no space left for the checkpoint of step 2 in ")
    assert "free some space and run the same command again" in lines[0]
    assert lines[1].startswith("UserError no space left for the metrics of step 3")
    assert lines[2] == "2"
    with open_run(tmp_path) as run:
        found = run.latest_checkpoint()
        assert found is not None
        assert found.step == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_full_device_is_named(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
        with pytest.raises(UserError, match="no space left for the metrics of step 1"):
            run.record({"step": 1})
        (tmp_path / "metrics.jsonl").unlink()
        run.record({"step": 1})
        assert run.metrics() == [{"step": 1}]


def test_atomic_write_keeps_the_old_content_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    with pytest.raises(TypeError):
        write_atomic(path, "text")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_hash_of_a_directory_sees_names_and_contents(tmp_path: Path) -> None:
    for name, files in {"a": {"x": "1"}, "b": {"x": "1", ".hidden": "z"}, "c": {"x": "2"}, "d": {"y": "1"}}.items():
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
    hashes = {name: hash_path(tmp_path / name) for name in "abcd"}
    assert hashes["a"] == hashes["b"]
    assert len({hashes["a"], hashes["c"], hashes["d"]}) == 3
    assert hash_path(tmp_path / "a" / "x") == hash_path(tmp_path / "d" / "y")


def test_first_signal_asks_second_interrupts() -> None:
    said: list[str] = []
    before = signal.getsignal(signal.SIGINT)
    with InterruptGuard(said.append) as guard:
        assert not guard.stop
        os.kill(os.getpid(), signal.SIGTERM)
        assert guard.stop
        assert len(said) == 1
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
