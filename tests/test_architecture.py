"""The house rules that a reader relies on: imports go one way, torch stays out, functions stay short."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import r1kit

ROOT = Path(r1kit.__file__).parent
PACKAGES = ("torch", "transformers")

# A module may import modules of its own layer or of a lower one. "mini.card" and "mini.pairs" are placed apart from
# their package: the miniature world lies under the tasks, the card that measures its base model is an evaluation, and
# pairs are confirmed by the verifiers.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("types", "config", "machine"),
    (
        "statistics",
        "progress",
        "trackers",
        "trl_import",
        "trl_keys",
        "findings",
        "token_values",
        "sandbox",
        "mini",
        "attention",
    ),
    ("tasks", "rewards", "mini.pairs", "losses", "batching", "grading", "figures", "benchmarks"),
    ("devices", "kernels", "fused", "lora", "policy", "learner", "engines", "run_directory", "report"),
    ("rollouts",),
    ("train", "evaluation", "sampling", "mini.card", "stages", "search", "cluster"),
    ("runner", "pipeline"),
    ("api", "check", "doctor", "chat"),
    ("cli", "__init__", "__main__"),
)
NEVER_TOGETHER = (("train", "cluster"),)
TORCH_FREE = (
    "types",
    "config",
    "tasks",
    "rewards",
    "sandbox",
    "report",
    "run_directory",
    "statistics",
    "progress",
    "grading",
    "figures",
    "benchmarks",
)
OPTIONAL = (
    "datasets", "pyarrow", "vllm", "ray", "peft", "openai", "wandb", "tensorboard", "trackio", "playwright",
    "matplotlib", "pandas", "flash_attn", "bitsandbytes",
)  # fmt: skip
TYPING_ONLY = "TYPE_CHECKING"
# The harness inside the jail exists to run a program; it is started behind the walls only.
IN_JAIL = ("sandbox/guest.py",)
MOST_LINES = 60


def sources() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def room(path: Path) -> str:
    """The room a file belongs to: "types", "engines", "mini.card", ..."""
    return room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))


def room_of(module: str) -> str:
    """The room of a module named below r1kit: its first two parts where they have a place of their own, or one."""
    parts = module.split(".")
    two = ".".join(parts[:2])
    return two if layer(two) >= 0 else parts[0]


def layer(name: str) -> int:
    return next((number for number, rooms in enumerate(LAYERS) if name in rooms), -1)


def top_level_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run on import: not inside functions, not under ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and TYPING_ONLY in ast.unparse(node.test):
            continue
        yield node
        yield from top_level_nodes(node)


def names_imported(nodes: Iterator[ast.AST], path: Path) -> Iterator[tuple[str, int]]:
    """(dotted module name, line) of each import; relative imports are resolved."""
    package = ("r1kit", *path.relative_to(ROOT).parts[:-1])
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield module, node.lineno
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names if module.startswith("r1kit"))


def imports(path: Path, *, on_import_only: bool) -> list[tuple[str, int]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return list(names_imported(top_level_nodes(tree) if on_import_only else ast.walk(tree), path))


def rooms_imported(path: Path) -> Iterator[tuple[str, int]]:
    for module, line in imports(path, on_import_only=False):
        target = room_of(module.removeprefix("r1kit."))
        if module.startswith("r1kit.") and layer(target) >= 0:
            yield target, line


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_every_module_has_its_layer() -> None:
    homeless = [shown(path) for path in sources() if layer(room(path)) < 0 and room(path) != "recipes"]
    assert not homeless, f"add {homeless} to LAYERS"


def test_imports_go_one_way() -> None:
    upward = [
        f"{shown(path)}:{line} imports {target}"
        for path in sources()
        for target, line in rooms_imported(path)
        if room(path) != "recipes" and layer(target) > layer(room(path))
    ]
    assert not upward, "\n".join(dict.fromkeys(upward))


def cycle_in(graph: Mapping[str, set[str]]) -> list[str]:
    """A cycle of a directed graph as a path that ends where it begins; [] where there is none."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for target in sorted(graph.get(node, set())):
            if found := visit(target, [*path, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := visit(node, []))), [])


def test_no_import_cycles() -> None:
    def name(path: Path) -> str:
        parts = ("r1kit", *path.relative_to(ROOT).with_suffix("").parts)
        return ".".join(parts).removesuffix(".__init__")

    modules = {name(path): path for path in sources()}
    graph = {
        module: {target for target, _ in imports(path, on_import_only=True) if target in modules and target != module}
        for module, path in modules.items()
    }
    # "from package import module" names the package too, which is loaded first in any case.
    graph = {module: {t for t in targets if not module.startswith(t + ".")} for module, targets in graph.items()}
    assert cycle_in(graph) == []


def test_rooms_that_must_not_know_each_other() -> None:
    for first, second in NEVER_TOGETHER:
        for path in sources():
            others = {first: second, second: first}.get(room(path))
            assert others not in {target for target, _ in rooms_imported(path)}, shown(path)


def test_torch_stays_out_of_the_light_modules() -> None:
    heavy = [
        f"{shown(path)}:{line} imports {module}"
        for path in sources()
        if room(path) in TORCH_FREE
        for module, line in imports(path, on_import_only=False)
        if module.split(".")[0] in PACKAGES
    ]
    assert not heavy, "\n".join(heavy)


@pytest.mark.parametrize(
    "name", ["types", "config", "statistics", "progress", "run_directory", "tasks", "rewards", "report"]
)
def test_torch_is_not_loaded_by_importing(name: str) -> None:
    modules = [name] if (ROOT / f"{name}.py").exists() else submodules(ROOT / name)
    statements = "; ".join(f"import r1kit.{module}" for module in modules)
    code = f"import sys; {statements}; print(*sorted({PACKAGES!r} & sys.modules.keys()))"
    code = code.replace(repr(PACKAGES), repr(set(PACKAGES)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def submodules(package: Path) -> list[str]:
    """Importable modules of a package; names with an underscore may be programs of their own."""
    inside = sorted(path for path in package.glob("*.py") if not path.stem.startswith("_"))
    return [package.name, *(f"{package.name}.{path.stem}" for path in inside)]


def test_optional_dependencies_are_imported_inside_functions_of_one_file() -> None:
    homes: dict[str, set[str]] = {}
    for path in sources():
        at_import = {module.split(".")[0] for module, _ in imports(path, on_import_only=True)}
        assert not at_import & set(OPTIONAL), f"{shown(path)} imports {at_import & set(OPTIONAL)} at the top"
        for module, _ in imports(path, on_import_only=False):
            if module.split(".")[0] in OPTIONAL:
                homes.setdefault(module.split(".")[0], set()).add(shown(path))
    scattered = {name: files for name, files in homes.items() if len(files) > 1}
    assert not scattered, scattered


def test_functions_fit_in_the_head() -> None:
    long = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > MOST_LINES:
                    long.append(f"{shown(path)}:{node.lineno} {node.name} has {lines} lines")
    assert not long, "\n".join(long)


def test_foreign_data_is_never_executed() -> None:
    found = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            call = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if call == "exec" and shown(path) in IN_JAIL:
                continue
            if call in ("eval", "exec", "torch.load") or call.startswith(("pickle.", "marshal.")):
                found.append(f"{shown(path)}:{node.lineno} {call}")
    assert not found, "\n".join(found)


def test_public_modules_have_docstrings_and_postponed_annotations() -> None:
    for path in sources():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if tree.body:
            assert ast.get_docstring(tree), f"{shown(path)} says nothing about itself"
        if any(isinstance(node, ast.FunctionDef) for node in ast.walk(tree)):
            assert "annotations" in {
                alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
            }, f"{shown(path)} lacks from __future__ import annotations"


def test_these_checks_can_fail() -> None:
    guarded = "if TYPE_CHECKING:\n    import ray\ntry:\n    import peft\nfinally:\n    pass\n"
    tree = ast.parse("import torch\ndef f():\n    import vllm\n" + guarded)
    at_import = [name for name, _ in names_imported(top_level_nodes(tree), ROOT / "x.py")]
    assert at_import == ["torch", "peft"]
    relative = ast.parse("from ..types import Problem\nfrom . import b")
    found = [name for name, _ in names_imported(ast.walk(relative), ROOT / "tasks" / "a.py")]
    assert found == ["r1kit.types", "r1kit.types.Problem", "r1kit.tasks", "r1kit.tasks.b"]
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
