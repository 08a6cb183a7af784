"""Pipelines: the graph, what is done of it and why, artifacts that are damaged, runs that are killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import fails, metrics, needs_mini, status
from r1kit.config import METHODS, PipelineConfig, load_recipe
from r1kit.pipeline.graph import OUTPUTS, Graph, build_graph
from r1kit.pipeline.lineage import trace
from r1kit.pipeline.planning import plan, sentences
from r1kit.pipeline.records import read_record
from r1kit.run_directory import write_atomic
from r1kit.runner import run_recipe
from r1kit.types import UserError

SFT = """method = "sft"
model = "{model}"
data = ["{data}"]
max_steps = 2
batch_size = 2
eval_size = 0
save_every = 1
"""
EVALUATED = 'eval_problems = ["countdown3"]\neval_size = 6\neval_max_completion_length = 24\n'


def recipe(folder: Path, stages: str, top: str = "") -> Path:
    """A recipe file with the given stages, and a file of examples beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"prompt": f"What is {i}+{i}?", "completion": f"<think>{i}+{i}={2 * i}</think>{2 * i}"} for i in range(6)]
    (folder / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "mine.toml"
    path.write_text(f'method = "pipeline"\nmodel = "mini-base"\ntorch_threads = 1\n{top}\n{stages}')
    return path


def three(folder: Path, top: str = "") -> Path:
    """a -> b -> c, and d beside b: all fine-tuned for two steps."""
    data = str(folder / "examples.jsonl")
    stages = "".join(
        f'[[stages]]\nname = "{name}"\nminutes = 1\n{SFT.format(model=model, data=data)}'
        for name, model in (("c", "@b"), ("a", "@base"), ("b", "@a"), ("d", "@a"))
    )
    return recipe(folder, stages, top)


def config_of(path: Path, out: Path, *settings: str) -> PipelineConfig:
    config = load_recipe(path, [f"output_dir={out}", *settings])
    assert isinstance(config, PipelineConfig)
    return config


def graph_of(path: Path, out: Path, *settings: str) -> Graph:
    return build_graph(config_of(path, out, *settings))


def states(graph: Graph) -> dict[str, str]:
    return {item.stage.name: item.state for item in plan(graph)}


def run(path: Path, out: Path, *settings: str) -> Path:
    run_recipe(config_of(path, out, *settings), ["r1", "run", str(path)])
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(recipe, finished directory) of a small pipeline. Tests copy it before they change it."""
    folder = tmp_path_factory.mktemp("pipeline")
    path = three(folder, EVALUATED)
    return path, run(path, folder / "run")


@pytest.fixture
def done(whole: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    return whole[0], shutil.copytree(whole[1], tmp_path / "run")


# ------------------------------------------------------------------------------------------------- the graph


def test_every_method_has_a_place_in_a_pipeline() -> None:
    assert set(METHODS) - set(OUTPUTS) == {"pipeline"}


def test_stages_come_after_what_they_need_whatever_their_order(tmp_path: Path) -> None:
    graph = graph_of(three(tmp_path), tmp_path / "run")
    assert [stage.name for stage in graph.stages] == ["a", "b", "c", "d"]
    assert graph.after("a") == ["b", "c", "d"]
    assert graph.after("b") == ["c"]
    assert graph.resolved(graph.stage("b")).to_dict()["model"] == str(tmp_path / "run/stages/a/model")
    seeds = {stage.config.seed for stage in graph.stages}
    assert len(seeds) == 4, "stages must not share their draws"


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("a.model=@c", "stages wait for each other: c needs b needs a needs c; break the circle in the recipe"),
        ("b.model=@aa", r"stage b: model = '@aa': there is no stage 'aa'; did you mean '@a'\?"),
        ("b.model=@a.data", r"stage b: model = '@a.data': a \(sft\) makes no data; use '@a.model'"),
        ("b.learning_rat=1", r"stage b: unknown key 'learning_rat'; did you mean 'learning_rate'\?"),
        ("b.learning_rate=-1", "stage b: learning_rate = -1: expected a value greater than 0"),
        ("b.data=nowhere.jsonl", "stage b: data = 'nowhere.jsonl': there is no such file; mend the path"),
        ("b.model=./nowhere", "stage b: model = './nowhere': there is no such file"),
        ("b.data=@problems", "stage b: @problems is asked for, but the pipeline has no problems; say problems="),
        ("x.model=@a", "command line: x.model = '@a': there is no stage 'x'; the stages are c, a, b, d"),
        ("b.name=e", "command line: b.name: a stage cannot be renamed there"),
        ("b.method=pipeline", r"stage b: .*"),
        ("b.minutes=-1", "stage b: minutes = -1: expected a number of minutes"),
        ("autocast=none", r"autocast has no effect in a pipeline; set it for its stages, as c\.autocast"),
        ("preference_against=x", "preference_against = 'x': there is no such stage"),
    ],
)
def test_a_wrong_recipe_gets_one_sentence_with_place_and_mend(tmp_path: Path, setting: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        graph_of(three(tmp_path), tmp_path / "run", setting)


def test_names_of_stages(tmp_path: Path) -> None:
    stage = '[[stages]]\nname = "{}"\nrecipe = "r1_zero_mini"\n'
    for names, sentence in (
        (("a", "a"), r"stages\[1\].name = 'a': another stage has this name"),
        (("base",), "@base stands for the pipeline's own key"),
        (("A B",), "expected a name of small letters"),
    ):
        with pytest.raises(UserError, match=sentence):
            load_recipe(recipe(tmp_path, "".join(stage.format(name) for name in names)))
    with pytest.raises(UserError, match="stage a: it has neither a method nor a recipe"):
        graph_of(recipe(tmp_path, '[[stages]]\nname = "a"\n'), tmp_path / "run")


def test_a_stage_lies_over_its_recipe_and_problems_of_the_pipeline_reach_it(tmp_path: Path) -> None:
    stage = '[[stages]]\nname = "z"\nrecipe = "r1_zero_mini"\nproblems = ["@problems", "arithmetic"]\nmax_steps = 3\n'
    graph = graph_of(
        recipe(tmp_path, stage), tmp_path / "run", 'problems=["countdown3", "word"]', "z.beta=0.5", "seed=3"
    )
    values = graph.stages[0].config.to_dict()
    assert values["problems"] == ["countdown3", "word", "arithmetic"]
    assert (values["max_steps"], values["beta"], values["learning_rate"]) == (3, 0.5, 3e-4)
    assert values["torch_threads"] == 1, "the pipeline's own key holds for its stages"
    assert values["output_dir"] == str(tmp_path / "run/stages/z")


# ------------------------------------------------------------------------------------------------- what would run


@needs_mini
def test_what_is_done_is_not_run_again_and_an_edit_runs_what_follows(done: tuple[Path, Path]) -> None:
    path, out = done
    assert set(states(graph_of(path, out)).values()) == {"done"}
    edited = graph_of(path, out, "b.learning_rate=1e-3")
    assert states(edited) == {"a": "done", "b": "run", "c": "run", "d": "done"}
    lines = sentences(edited, plan(edited))
    assert lines[-1] == "would run: b, c"
    assert any(line.startswith("b ") and "learning_rate 5e-05 -> 0.001" in line for line in lines)
    assert states(graph_of(path, out, "a.seed=1")) == {"a": "run", "b": "run", "c": "run", "d": "run"}
    assert states(graph_of(path, out, "c.keep_checkpoints=1"))["c"] == "done", "that key changes nothing"


@needs_mini
def test_an_edit_moves_the_old_stage_aside_and_taking_it_back_costs_nothing(done: tuple[Path, Path]) -> None:
    path, out = done
    before = {name: (out / "stages" / name / "model" / "model.safetensors").read_bytes() for name in "abcd"}
    stamps = {name: (out / "stages" / name / "stage.json").stat().st_mtime_ns for name in "abcd"}
    run(path, out, "b.learning_rate=1e-3")
    assert {name for name in "abcd" if (out / "stages" / name / "stage.json").stat().st_mtime_ns != stamps[name]} == {
        "b",
        "c",
    }
    old = read_record(next(out.glob("stages/b.*")))
    assert old is not None
    assert (out / "stages" / f"b.{old.key[:12]}" / "model" / "model.safetensors").read_bytes() == before["b"]
    assert (out / "stages/b/model/model.safetensors").read_bytes() != before["b"]
    assert states(graph_of(path, out)) == {"a": "done", "b": "restore", "c": "restore", "d": "done"}
    run(path, out)
    assert {name: (out / "stages" / name / "model" / "model.safetensors").read_bytes() for name in "abcd"} == before
    for kind in ("stages", "evaluations"):
        assert len(list(out.glob(f"{kind}/b.*"))) == 1, "what the edit made is kept too"


@needs_mini
def test_an_input_file_that_changes_runs_its_readers(done: tuple[Path, Path], tmp_path: Path) -> None:
    path, out = done
    moved = tmp_path / "moved.toml"
    data = tmp_path / "other.jsonl"
    shutil.copy2(path.parent / "examples.jsonl", data)
    moved.write_text(path.read_text())
    assert states(graph_of(moved, out, f'd.data=["{data}"]'))["d"] == "run", "another name is another configuration"
    original = (path.parent / "examples.jsonl").read_bytes()
    try:
        (path.parent / "examples.jsonl").write_bytes(original + original.splitlines(keepends=True)[0])
        graph = graph_of(path, out)
        assert set(states(graph).values()) == {"run"}
        assert "the content of data changed" in "\n".join(sentences(graph, plan(graph)))
    finally:
        (path.parent / "examples.jsonl").write_bytes(original)


@needs_mini
@pytest.mark.parametrize("harm", ["flip", "lose", "add"])
def test_a_damaged_artifact_is_named(done: tuple[Path, Path], harm: str) -> None:
    path, out = done
    weights = out / "stages/a/model/model.safetensors"
    if harm == "flip":
        content = bytearray(weights.read_bytes())
        content[len(content) // 2] ^= 1
        stamp = weights.stat()
        weights.write_bytes(content)
        os.utime(weights, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    elif harm == "lose":
        weights.unlink()
    else:
        (weights.parent / "more.bin").write_text("x")
    words = {"flip": "is not what a wrote", "lose": "is gone", "add": "was not there when a made model"}[harm]
    file = "more.bin" if harm == "add" else "model.safetensors"
    with pytest.raises(
        UserError, match=rf"stage a: .*stages/a/model/{file} {words}.*; put the old file back, or remove"
    ):
        run(path, out)
    graph = graph_of(path, out)
    assert states(graph)["a"] == "damaged"
    assert sentences(graph, plan(graph))[-1].startswith("nothing would run: a was changed since; put the old file back")


@needs_mini
def test_a_stage_without_its_record_is_never_taken_for_whole(done: tuple[Path, Path]) -> None:
    path, out = done
    before = (out / "stages/d/model/model.safetensors").read_bytes()
    (out / "stages/d/stage.json").unlink()
    assert states(graph_of(path, out))["d"] == "resume"
    (out / "stages/c/stage.json").write_text('{"format": 1, "stage"')
    assert states(graph_of(path, out))["c"] == "resume"
    (out / "stages/b/stage.json").unlink()
    (out / "stages/b/.begun.json").unlink()
    assert states(graph_of(path, out)) == {"a": "done", "b": "run", "c": "run", "d": "resume"}
    run(path, out)
    assert (out / "stages/d/model/model.safetensors").read_bytes() == before
    assert list(out.glob("stages/b.old")), "a directory nobody knows is moved aside, not overwritten"


@needs_mini
def test_a_pipeline_may_be_moved_also_half_done(done: tuple[Path, Path], tmp_path: Path) -> None:
    path, out = done
    (out / "stages/c/stage.json").unlink()
    moved = tmp_path / "elsewhere"
    out.rename(moved)
    before = (moved / "stages/c/model/model.safetensors").read_bytes()
    assert states(graph_of(path, moved)) == {"a": "done", "b": "done", "c": "resume", "d": "done"}
    run(path, moved)
    assert (moved / "stages/c/model/model.safetensors").read_bytes() == before


# ------------------------------------------------------------------------------------------------- running


@needs_mini
def test_each_stage_is_evaluated_on_the_same_problems(whole: tuple[Path, Path]) -> None:
    out = whole[1]
    rows = json.loads((out / "stages.json").read_text())
    assert [row["stage"] for row in rows] == ["base", "a", "b", "c", "d"]
    for row in rows:
        assert {"reasoning", "math", "format", "language", "readability", "truncated", "length"} <= set(row["metrics"])
        for figure in row["metrics"].values():
            assert figure["ci95"][0] <= figure["mean"] <= figure["ci95"][1]
            assert figure["problems"] == 6
    asked = [
        [json.loads(line)["id"] for line in (out / "evaluations" / name / "countdown3/completions.jsonl").open()]
        for name in ("base", "a", "d")
    ]
    assert asked[0] == asked[1] == asked[2]
    assert json.loads((out / "run.json").read_text())["status"] == "finished"
    page = (out / "report.html").read_text()
    assert 'href="stages/b/report.html"' in page
    assert (out / "stages/b/report.html").exists()


@needs_mini
def test_an_evaluation_of_other_weights_is_kept_aside(done: tuple[Path, Path]) -> None:
    path, out = done
    stored = (out / "evaluations/d/countdown3/completions.jsonl").read_bytes()
    run(path, out, "eval_size=4")
    assert len(list(out.glob("evaluations/d.*"))) == 1
    assert len((out / "evaluations/d/countdown3/completions.jsonl").read_text().splitlines()) == 4
    run(path, out)
    assert (out / "evaluations/d/countdown3/completions.jsonl").read_bytes() == stored


@needs_mini
def test_lineage_goes_back_to_the_base(
    done: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = done
    assert status("lineage", out / "stages/c/model") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.strip("`|- ").split(": ")[0] for line in lines[1:4]] == ["model", "model", "model"]
    assert "mini-base" in lines[3]
    run(path, out, "a.seed=5")
    aside = next(out.glob("stages/c.*"))
    old = trace(aside / "model")
    chain = dict(old.inputs)["model"]
    assert Path(chain.path).parent.name.startswith("b."), "the b that it was made from, not the one that is there now"
    assert chain.hash == dict(trace(aside).inputs)["model"].hash
    shutil.rmtree(next(out.glob("stages/b.*")))
    assert dict(trace(aside / "model").inputs)["model"].note == "no longer there"
    capsys.readouterr()
    assert status("lineage", out / "stages/c/model/model.safetensors", "--json") == 0
    assert json.loads(capsys.readouterr().out)["stage"] == "c"
    assert "lies in no run directory" in fails(capsys, "lineage", tmp_path)


@needs_mini
def test_from_the_command_line(done: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    path, out = done
    assert status("run", path, f"output_dir={out}", "--dry-run", "d.learning_rate=1e-3") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "would run: d"
    assert "--dry-run is for pipelines" in fails(capsys, "run", "r1_zero_mini", "--dry-run")
    assert status("report", out) == 0
    other = out / "stages/a"
    assert "holds a run of sft, no pipeline" in fails(capsys, "run", path, f"output_dir={other}")


@needs_mini
def test_a_full_disk_costs_nothing_that_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = three(tmp_path), tmp_path / "run"

    def full(target: Path, content: bytes) -> None:
        if target.name == "stage.json" and target.parent.name == "b":
            raise OSError(28, "No space left on device")
        write_atomic(target, content)

    with monkeypatch.context() as patched:
        patched.setattr("r1kit.pipeline.records.write_atomic", full)
        with pytest.raises(UserError, match=r"no space left for the stage's record .* run the same command again"):
            run(path, out)
    assert json.loads((out / "run.json").read_text())["status"] == "failed"
    assert states(graph_of(path, out)) == {"a": "done", "b": "resume", "c": "run", "d": "run"}
    run(path, out)
    assert set(states(graph_of(path, out)).values()) == {"done"}


@needs_mini
def test_what_goes_wrong_in_a_stage_names_the_stage(tmp_path: Path) -> None:
    stages = '[[stages]]\nname = "cold"\nmethod = "cold_start"\nmodel = "@base"\ntemplate = "chat"\n'
    stages += 'problems = ["countdown3"]\nnum_problems = 2\nnum_generations = 1\nmax_completion_length = 4\n'
    path = recipe(tmp_path, stages)
    with pytest.raises(UserError, match=r"^stage cold: no example is left of 2 samples \(2 dropped: cut off\)"):
        run(path, tmp_path / "run")
    assert states(graph_of(path, tmp_path / "run")) == {"cold": "resume"}
    assert not (tmp_path / "run/stages/cold/data").exists()


@needs_mini
def test_two_processes_do_not_run_one_pipeline(done: tuple[Path, Path]) -> None:
    from r1kit.run_directory import DirectoryLock

    path, out = done
    lock = DirectoryLock(out)
    try:
        with pytest.raises(UserError, match="is in use by process"):
            run(path, out)
    finally:
        lock.release()


@needs_mini
def test_killed_at_random_moments_it_ends_bit_identical(whole: tuple[Path, Path], tmp_path: Path) -> None:
    path, alone = whole
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "r1kit.cli", "run", str(path), f"output_dir={out}"]
    rng = random.Random(7)
    moments = (".begun.json", "model", "evaluations/b/countdown3")
    for name, number in zip(moments, (signal.SIGKILL, signal.SIGINT, signal.SIGKILL), strict=True):
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
        place = out / name if "/" in name else out / "stages" / "a" / name
        end = time.monotonic() + 240
        while time.monotonic() < end and process.poll() is None and not place.exists():
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        process.send_signal(number)
        assert process.wait(120) in (-number, 130, 0)
    run(path, out)
    for name in "abcd":
        mine, theirs = out / "stages" / name, alone / "stages" / name
        assert (mine / "model/model.safetensors").read_bytes() == (theirs / "model/model.safetensors").read_bytes()
        assert metrics(mine) == metrics(theirs)
        ours, others = (read_record(place) for place in (mine, theirs))
        assert ours is not None
        assert others is not None
        assert ours.outputs == others.outputs
        stored = f"evaluations/{name}/countdown3/completions.jsonl"
        assert (out / stored).read_bytes() == (alone / stored).read_bytes()
    assert (out / "stages.json").read_bytes() == (alone / "stages.json").read_bytes()
