"""``r1 doctor`` and ``r1 sandbox``: what this machine has, found out by trying it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from r1kit.findings import Finding, absent, duration, failure, file_size, ok, warning
from r1kit.machine import usable_cores

PACKAGE = "r1kit"
OPTIONAL_PARTS = {
    "peft": ("LoRA", "pip install peft"),
    "datasets": ("data sets from the hub", "pip install datasets"),
    "pyarrow": ("Parquet files", "pip install pyarrow"),
    "vllm": ("rollouts by vLLM", "pip install vllm"),
    "ray": ("clusters", "pip install ray"),
    "tensorboard": ("tracking with TensorBoard", "pip install tensorboard"),
    "wandb": ("tracking with Weights & Biases", "pip install wandb"),
    "trackio": ("tracking with Trackio", "pip install trackio"),
    "openai": ("teacher and judge servers", "pip install openai"),
}
"""Packages that only some recipes need: what for, and how to get them."""
IMPORT_SECONDS = 120
TIERS = ("namespaces", "no-namespaces")
"""Isolation of the sandbox, strongest first. Anything less isolates nothing."""
_CPP = (
    '#include <vector>\n#include <cstdio>\nint main() { std::vector<int> v{1, 2}; std::printf("%d", v[0] + v[1]); }\n'
)


def examine() -> Iterator[Finding]:
    """Everything ``r1 doctor`` looks at, in the order in which it is printed."""
    yield ok("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield from versions()
    yield from machine()
    yield math_worker()
    yield from sandbox_layers(short=True)
    yield from sandbox_backends(short=True)
    yield base_model()
    yield from optional_parts()
    yield chromium()
    yield compiler()


# ------------------------------------------------------------------------------------------ versions and machine


def versions() -> Iterator[Finding]:
    """Each required package against the range that r1kit declares."""
    from packaging.requirements import Requirement

    try:
        declared = [Requirement(text) for text in metadata.requires(PACKAGE) or ()]
    except metadata.PackageNotFoundError:
        yield warning("versions", "r1kit is not installed, so what it needs is not known", "pip install -e .")
        return
    wrong, shown = [], []
    for requirement in declared:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement} is missing")
            continue
        shown.append(f"{requirement.name} {version}")
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} is installed, {requirement.specifier} needed")
    if wrong:
        yield failure("versions", "; ".join(wrong), "pip install -U r1kit")
    else:
        yield ok("versions", ", ".join(shown))


def machine() -> Iterator[Finding]:
    """Device, number type, cores and threads, memory."""
    import torch

    from r1kit.devices import free_memory, has_native_bf16, resolve_device, set_threads

    device = resolve_device("auto")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    yield ok("device", f"{device} ({name})" + ("" if device.type == "cuda" else "; torch sees no CUDA device"))
    bf16 = has_native_bf16(device)
    yield ok("bfloat16", "multiplied in hardware" if bf16 else "would be emulated: float32 is used instead")
    usable = usable_cores()
    threads = set_threads("auto")
    yield ok("cores", f"{usable} of {os.cpu_count()} usable, {threads} threads for torch")
    yield kernels(device.type)
    yield from load()
    free, total = free_memory(device)
    yield ok("memory", f"{file_size(free)} free of {file_size(total)}") if total else warning("memory", "unknown here")


def kernels(device: str) -> Finding:
    """What computes small models on a CPU."""
    from r1kit.kernels import describe, unavailable

    reason = unavailable()
    if not reason:
        return ok("kernels", f"compiled, with {describe()}: small models on the CPU are computed by them")
    if device == "cuda":
        return absent("kernels", f"small models on the CPU are computed by torch alone: {reason}")
    mend = "apt-get install g++" if "compiler" in reason else "nothing to mend: torch does the same, three times slower"
    return warning("kernels", f"small models are computed by torch alone: {reason}", mend)


def load() -> Iterator[Finding]:
    """A warning where more processes want the cores than there are, over the last minute."""
    wanted = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    cores = os.cpu_count() or 1
    if wanted > cores:
        yield warning(
            "load",
            f"{wanted:.1f} processes want {cores} cores: what is timed now is too slow",
            "threads that share cores can be many times slower: wait, or set torch_threads lower",
        )


def math_worker() -> Finding:
    """A comparison that needs sympy, in a worker process."""
    from r1kit.rewards.math import MathVerifier

    started = time.perf_counter()
    with MathVerifier(workers=1) as verifier:
        verdict = verifier.check(r"\sqrt{8}", r"2\sqrt{2}")
    if verdict.value == 1.0:
        return ok("math worker", f"compares with sympy; started in {duration(time.perf_counter() - started)}")
    return failure("math worker", f"gives {verdict.outcome} where it should say equal: {verdict.note}", "see the note")


def base_model() -> Finding:
    """The shipped base loads and answers a problem."""
    try:
        from r1kit import api
        from r1kit.tasks.sets import EVAL_SEED, load_set

        started = time.perf_counter()
        problems = load_set("countdown3", n=8, seed=EVAL_SEED, split="heldout").problems
        policy = api.load("mini-base")
        loaded = time.perf_counter()
        found = api.sample(policy, list(problems), n=1)
    except Exception as error:  # whatever is wrong with this installation shows here
        return failure("base model", f"mini-base does not run: {_one_line(error)}", "reinstall r1kit")
    tokens = sum(completion.token_ids.size for row in found for completion in row)
    spent = time.perf_counter() - loaded
    return ok(
        "base model",
        f"mini-base loads in {duration(loaded - started)} and samples {tokens / spent:,.0f} tokens/s, 8 at a time",
    )


# ------------------------------------------------------------------------------------------ the sandbox


def sandbox_layers(*, short: bool = False) -> Iterator[Finding]:
    """Each isolation layer by trying it, and the tier this machine can have. ``short``: one finding for all."""
    probe = _probe()
    if probe is None:
        yield absent("sandbox", "code problems cannot be run: the sandbox is not part of this installation")
        return
    for tier in TIERS:
        try:
            layers = list(probe(tier))
        except Exception as error:  # a tier this system cannot even try
            yield warning("sandbox", f"{tier}: cannot be tried here: {_one_line(error)}")
            continue
        broken = [layer for layer in layers if not layer.holds]
        if not short:
            for layer in layers:
                yield (ok if layer.holds else failure)(layer.name, f"{tier}: {layer.detail}")
        if layers and not broken:
            yield ok("sandbox", f"{len(layers)} isolation layers hold: {_recipe_key(tier)}")
            return
        names = ", ".join(layer.name for layer in broken) or "no layer was found"
        yield warning("sandbox", f"{tier}: {len(broken)} of {len(layers)} layers do not hold here ({names})")
    # a machine that runs no foreign programs is still good for everything else
    yield (warning if short else failure)(
        "sandbox",
        "no isolation holds on this machine",
        f"run code problems elsewhere, or accept programs that can do whatever you can: {_recipe_key('unsafe')}",
    )


def sandbox_backends(*, short: bool = False) -> Iterator[Finding]:
    """Other backends that can run programs, each tried with every layer where its tool is there."""
    from r1kit.sandbox import backends, probe
    from r1kit.sandbox.backends.process import missing

    for name in backends.TOOLS:
        if words := missing(backends.tool(name)):
            yield absent(name, f"{words} (optional; another way to run programs)")
            continue
        layers = probe(name)
        for layer in layers if not short else ():
            yield (ok if layer.holds else warning)(layer.name, f"{name}: {_one_line_of(layer.detail)}")
        broken = [layer for layer in layers if not layer.holds]
        if broken:
            said = "; ".join(f"{layer.name}: {_one_line_of(layer.detail)}" for layer in broken)
            yield warning(name, f"found, but does not work here: {said}")
        else:
            yield ok(name, f"works, {len(layers)} layers hold: {_recipe_key(name)}")
    if not short:
        key = _recipe_key("sandbox-fusion")
        yield absent("sandbox-fusion", f"a server of yours, tried when a recipe names it: {key}, code_server=URL")


def _one_line_of(text: str) -> str:
    return " ".join(text.split())[:200]


def _recipe_key(tier: str) -> str:
    """How a recipe asks for a tier."""
    from r1kit.config import GRPOConfig

    key = next((name for name in GRPOConfig.model_fields if "isolation" in name), None)
    return f'{key}="{tier}"' if key else f'isolation "{tier}"'


def _probe() -> Callable[[str], Any] | None:
    if importlib.util.find_spec("r1kit.sandbox") is None:
        return None
    from r1kit import sandbox

    return getattr(sandbox, "probe", None)


# ------------------------------------------------------------------------------------------ optional parts


def optional_parts() -> Iterator[Finding]:
    """Each optional package imported in a process of its own: a broken one must not take us down."""
    for name, (purpose, mend) in OPTIONAL_PARTS.items():
        yield optional_part(name, purpose, mend)


def optional_part(name: str, purpose: str, mend: str) -> Finding:
    """ok where the package imports, absent where it is not installed, a warning where it is and does not import."""
    try:
        if importlib.util.find_spec(name) is None:
            return absent(name, f"not installed; for {purpose}: {mend}")
        version = metadata.version(name)
    except (ImportError, ValueError, metadata.PackageNotFoundError):
        version = "of unknown version"
    command = [sys.executable, "-c", f"import {name}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return warning(name, f"{version} is installed, but its import takes longer than {IMPORT_SECONDS} s", mend)
    if done.returncode == 0:
        return ok(name, f"{version}, for {purpose}")
    reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return warning(name, f"{version} is installed, but does not import: {reason}", mend)


def chromium() -> Finding:
    """A browser that opens a page; only the tests of the report need it."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        return absent("chromium", "not installed; only the tests of the report need it")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    with tempfile.TemporaryDirectory() as folder:
        command = [found, *flags, f"--user-data-dir={folder}", "data:text/html,<p>opened</p>"]
        done = _run(command, 60)
    if done is not None and "opened" in done.stdout:
        return ok("chromium", f"{found} opens a page")
    return warning("chromium", f"{found} does not open a page", "reinstall it; only the tests of the report need it")


def compiler() -> Finding:
    """A C++ compiler that makes a program which runs; only C++ problems need it."""
    found = shutil.which("g++") or shutil.which("clang++")
    if found is None:
        return absent("C++", "no compiler (g++ or clang++); only C++ problems need it")
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder) / "a.cpp", Path(folder) / "a.out"
        source.write_text(_CPP, encoding="ascii")
        done = _run([found, "-O1", "-o", str(program), str(source)], 60)
        ran = _run([str(program)], 10) if done is not None and done.returncode == 0 else None
    if ran is not None and ran.stdout == "3":
        return ok("C++", f"{found} compiles, and its program runs")
    return warning("C++", f"{found} does not make a program that runs", "reinstall it; only C++ problems need it")


def _run(command: list[str], seconds: float) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}".rstrip(": ")
