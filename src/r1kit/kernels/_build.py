"""Compiles the library once a machine, and loads it."""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from ctypes import POINTER, c_float, c_int, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path

SOURCES = ("library.cpp", "sampler.h", "trainer.h", "model.h", "tiles.h", "pool.h")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-pthread", "-fno-math-errno")
NEEDED = ("avx512f", "avx512bw", "avx512vl", "avx512_bf16")
SWITCH = "R1KIT_KERNELS"
"""Environment variable: 0 leaves everything to torch; "avx512" compiles without AMX tiles."""

_array = c_void_p
_SIGNATURES: dict[str, tuple[object, tuple[object, ...]]] = {
    "r1_tiles": (c_int, ()),
    "r1_model_new": (c_void_p, (c_void_p,)),
    "r1_model_free": (None, (c_void_p,)),
    "r1_model_load": (c_int, (c_void_p, POINTER(c_void_p))),
    "r1_sampler_new": (c_void_p, (c_void_p,)),
    "r1_sampler_free": (None, (c_void_p,)),
    "r1_cache_add": (c_int, (c_void_p,)),
    "r1_cache_drop": (None, (c_void_p, c_int)),
    "r1_cache_trim": (None, (c_void_p,)),
    "r1_cache_fork": (c_int, (c_void_p, c_int, c_int)),
    "r1_forward": (c_int, (c_void_p, c_int, c_int, *(_array,) * 3, c_int, *(_array,) * 4)),
    "r1_sample": (c_int, (c_void_p, c_int, c_int, c_int, _array, c_void_p, _array, _array)),
    "r1_draw": (c_int, (c_int, c_int, c_int, *(_array,) * 7)),
    "r1_workspace_bytes": (c_int64, (c_void_p, c_int)),
    "r1_scratch_new": (c_void_p, ()),
    "r1_scratch_free": (None, (c_void_p,)),
    "r1_head_scratch_new": (c_void_p, ()),
    "r1_head_scratch_free": (None, (c_void_p,)),
    "r1_train_forward": (c_int, (c_void_p, c_void_p, _array, c_int, *(_array,) * 2, c_int, *(_array,) * 4)),
    "r1_train_backward": (
        c_int,
        (c_void_p, c_void_p, _array, c_int, *(_array,) * 2, c_int, *(_array,) * 4, POINTER(c_void_p)),
    ),
    "r1_head_forward": (c_int, (c_void_p, c_void_p, _array, c_int, _array, c_float, *(_array,) * 3)),
    "r1_head_backward": (c_int, (c_void_p, c_void_p, _array, c_int, _array, c_float, *(_array,) * 6)),
}


class Batch(ctypes.Structure):
    """``R1Batch`` of sampler.h: addresses of arrays."""

    _fields_ = (
        *((name, c_void_p) for name in ("cache", "lengths", "last", "counts", "slots", "limits")),
        *((name, c_void_p) for name in ("temperature", "top_p", "words", "ended", "tokens", "logprobs")),
        ("width", c_int64),
        ("ends", c_void_p),
    )


class Shape(ctypes.Structure):
    """``R1Shape`` of model.h."""

    _fields_ = (
        *((name, c_int32) for name in ("layers", "hidden", "heads", "kv_heads", "head_dim", "inner", "vocab")),
        *((name, c_int32) for name in ("qkv_bias", "head_norm", "wide_head", "backward")),
        ("eps", c_float),
    )


def unavailable() -> str:
    """Why the kernels cannot be used on this machine; empty if they can. Compiles them where that was not done yet."""
    found = _load()
    return found if isinstance(found, str) else ""


def describe() -> str:
    """What small models on a CPU are computed with, as a run records it."""
    found = _load()
    if isinstance(found, str):
        return f"none ({found})"
    return "AMX tiles" if found.r1_tiles() else "AVX-512 BF16"


def load_library() -> ctypes.CDLL:
    """The compiled library. Raises RuntimeError where it is unavailable."""
    found = _load()
    if isinstance(found, str):
        raise RuntimeError(f"the compiled kernels are not available: {found}")
    return found


@cache
def _load() -> ctypes.CDLL | str:
    wanted = os.environ.get(SWITCH, "")
    if wanted == "0":
        return f"{SWITCH}=0"
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "they are for Linux on x86-64"
    lacking = [name for name in NEEDED if name not in _processor_flags().split()]
    if lacking:
        return f"the processor lacks {', '.join(lacking)}"
    compiler = os.environ.get("CXX") or next(
        (path for name in ("g++", "c++", "clang++") if (path := shutil.which(name))), ""
    )
    if not compiler:
        return "no C++ compiler was found (install g++, or name one with CXX)"
    try:
        return _signed(_compiled(compiler, ("-DR1_NO_AMX",) if wanted == "avx512" else ()))
    except subprocess.CalledProcessError as error:
        last = (error.stderr or "").strip().splitlines()
        return f"{compiler} could not compile them: {last[0] if last else error}"
    except (OSError, subprocess.TimeoutExpired, RuntimeError) as error:
        return str(error)


def _processor_flags() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")


def _compiled(compiler: str, more: tuple[str, ...]) -> Path:
    """The library's file, made where it is missing. Its name holds all that it depends on."""
    here = Path(__file__).parent
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    digest = hashlib.blake2b(digest_size=12)
    for part in (version, _processor_flags(), *FLAGS, *more, *((here / name).read_text("utf-8") for name in SOURCES)):
        digest.update(part.encode() + b"\0")
    folder = _folder()
    target = folder / f"kernels-{digest.hexdigest()}.so"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=folder) as place:
            made = Path(place) / target.name
            command = [compiler, *FLAGS, *more, str(here / SOURCES[0]), "-o", str(made)]
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
            os.replace(made, target)
    return target


def _folder() -> Path:
    """Where compiled libraries are kept: this user's cache, or a folder of this process where that cannot be written.
    Code is run from it, so nobody else may be able to write there."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "r1kit"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.stat()
        if about.st_uid == os.getuid() and not about.st_mode & 0o022 and os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        pass
    folder = Path(tempfile.mkdtemp(prefix="r1kit-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _signed(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    if library.r1_tiles() < 0:
        raise RuntimeError("the system does not let this process use the processor's AMX tiles")
    return library
