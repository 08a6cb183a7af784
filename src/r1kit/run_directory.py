"""The run directory: what a run did, written so that being killed at any instant loses nothing.

Layout: ``config.json``, ``run.json``, ``metrics.jsonl``, ``warnings.jsonl``, ``rollouts/<rollout>.jsonl.gz``,
``evals/<step>.jsonl.gz``, ``checkpoints/<step>/``, ``model/``, ``report.html``. Every file appears complete
or not at all (temporary name, fsync, rename), except the two ``.jsonl`` logs, which are appended to line by
line and mended when the run is opened again. JSON is plain ASCII, so a line is a line to every reader.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import io
import itertools
import json
import math
import os
import platform
import shlex
import shutil
import signal
import sys
import threading
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal

import numpy as np

from r1kit import kernels
from r1kit.config import RecipeConfig, differences
from r1kit.types import R1Error, UserError, read_only

Opening = Literal["new", "resumed", "finished"]
Status = Literal["running", "finished", "stopped", "failed"]

_VERSIONED = ("r1kit", "torch", "transformers", "tokenizers", "safetensors", "numpy", "math-verify")
_ARRAYS = {"prompt_ids": np.int32, "token_ids": np.int32, "logprobs": np.float32}
_OUT_OF_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}
_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


class Stopped(R1Error):  # noqa: N818 - an answer to a request, not an error
    """The user asked to stop, and the run was saved; exit status 130."""

    exit_status = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint: ``path`` holds what the caller wrote, ``state`` what it gave as JSON."""

    step: int
    path: Path
    state: Mapping[str, Any]


class Run:
    """One run directory, open in this process (and in no other). Made by ``Run.open``.

    ``opening`` says how it was found: "new", "resumed", or "finished" (same configuration, nothing left to
    do; such a run is not locked and must not be written to). Use as a context manager: leaving it records
    how the run ended and gives the lock back.
    """

    def __init__(self, directory: Path, config: RecipeConfig, opening: Opening, lock: DirectoryLock | None) -> None:
        self.directory = directory
        self.config = config
        self.opening = opening
        self.on_warning: Callable[[str], None] = _print_warning
        self._lock = lock
        self._last_step = -1
        self._shown: set[str] = set()
        self._latest: Checkpoint | None = None
        self._record_of_run: dict[str, Any] = {}
        self._warnings = {_warning_key(row) for row in read_json_lines(directory / "warnings.jsonl")}

    @classmethod
    def open(cls, output_dir: str | Path, config: RecipeConfig, *, command: Sequence[str]) -> Run:
        """Open ``output_dir`` for ``config``: new, resumed at its latest checkpoint, or finished already.

        Raises UserError where the directory holds a run of another configuration (naming the keys),
        something that is not a run, or a run that another process has open, and where it cannot be
        written. ``command`` is the command line, kept in ``run.json``.
        """
        directory = Path(output_dir)
        with saving("the run directory", directory):
            directory.mkdir(parents=True, exist_ok=True)
        _refuse_foreign_directory(directory)
        lock = DirectoryLock(directory)
        try:
            if not _holds_work(directory):
                _clear(directory)
            old = _read_json(directory / "config.json")
            _refuse_other_configuration(directory, old, config)
            if old is not None and (_read_json(directory / "run.json") or {}).get("status") == "finished":
                lock.release()
                return cls(directory, config, "finished", None)
            run = cls(directory, config, "new" if old is None else "resumed", lock)
            run._start(command)
        except BaseException:
            lock.release()
            raise
        return run

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._lock is None:
            return
        try:
            if self._record_of_run["status"] == "running":
                stopped = error is None or isinstance(error, KeyboardInterrupt | Stopped)
                reason = None if stopped else f"{type(error).__name__}: {error}"
                self._end("stopped" if stopped else "failed", error=reason)
        except UserError:
            # The disk is full or gone: what went wrong first is the better message.
            if error is None:
                raise
        finally:
            self.close()

    # --- status ------------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """True where there is nothing left to do."""
        return self.opening == "finished"

    @property
    def model_directory(self) -> Path:
        """Where the trained model goes (Hugging Face format)."""
        return self.directory / "model"

    def set_lineage(self, lineage: Mapping[str, str], *, threads: int, mendable: Collection[str] = ()) -> None:
        """Write down what the run is made from: name -> hash (of the model, of the problems), and torch's threads.

        On a resumed run raises UserError where a hash differs, and warns where threads, versions or
        machine do, because the run is then no longer bit-identical to an uninterrupted one. It warns, too, of what is
        ``mendable`` (a user's code that failed, say): what is done stays, and the rest goes by the new content.
        """
        old = self._record_of_run.get("lineage") or {}
        changed = sorted(name for name in lineage if name in old and old[name] != lineage[name])
        for name in [name for name in changed if name in mendable]:
            self.warn(
                "mended", f"{name} changed since this run began; what it graded before stays", max(self._last_step, 0)
            )
            changed.remove(name)
        if changed:
            raise UserError(
                f"{self.directory}: {' and '.join(changed)} changed since this run began; put the old content back, or "
                "start another run with output_dir=..."
            )
        old_threads = self._record_of_run.get("threads")
        if old_threads not in (None, threads):
            self._warn_inexact(f"torch threads {old_threads} -> {threads}")
        self._save_record(lineage={**old, **lineage}, threads=threads)

    def finish(self) -> None:
        """Mark the run finished: opening it again with the same configuration does nothing."""
        self._end("finished")

    def close(self) -> None:
        """Give the lock back. Happens by itself when the process dies."""
        if self._lock is not None:
            self._lock.release()

    def _start(self, command: Sequence[str]) -> None:
        _remove_leftovers(self.directory)
        self.save_json("config.json", self.config.to_dict())
        self._latest = self._find_latest_checkpoint()
        _keep_complete_lines(self.directory / "warnings.jsonl", lambda row: True)
        frontier = -1 if self._latest is None else self._latest.step
        kept = _keep_complete_lines(self.directory / "metrics.jsonl", lambda row: row.get("step", math.inf) <= frontier)
        self._last_step = max((row["step"] for row in kept), default=-1)
        self._record_of_run = _read_json(self.directory / "run.json") or {}
        past = list(self._record_of_run.get("sessions", []))
        session = {
            "started": _now(),
            "command": shlex.join(command),
            "versions": _versions(),
            "machine": _machine(),
            "code": _code_hash(),
            "from_step": max(frontier, 0),
        }
        self._save_record(
            status="running",
            started=self._record_of_run.get("started", session["started"]),
            ended=None,
            error=None,
            sessions=[*past, session],
            **{key: session[key] for key in ("command", "versions", "machine", "code")},
        )
        if past:
            changed = [key for key in ("versions", "machine", "code") if past[-1].get(key) != session[key]]
            if changed:
                self._warn_inexact(" and ".join(changed) + " changed")

    def _warn_inexact(self, what: str) -> None:
        step = max(self._last_step, 0)
        self.warn("not_bit_identical", f"resumed with other conditions ({what}): results may differ in rounding", step)

    def _end(self, status: Status, error: str | None = None) -> None:
        self._save_record(status=status, ended=_now(), error=error)

    def _save_record(self, **changes: Any) -> None:
        self._record_of_run = {**self._record_of_run, "format": 1, "recipe": self.config.recipe, **changes}
        self.save_json("run.json", self._record_of_run)

    # --- metrics and warnings ----------------------------------------------------------------------------

    def record(self, row: Mapping[str, Any]) -> None:
        """Append a row to ``metrics.jsonl``. ``row["step"]`` must grow; NumPy scalars are fine.

        A value that is not finite is left out, with a warning: JSON has no NaN.
        """
        step = int(row["step"])
        if step <= self._last_step:
            raise ValueError(f"metrics of step {step} after those of step {self._last_step}")
        if self._latest is not None and step <= self._latest.step:
            raise ValueError(f"metrics of step {step} after its checkpoint: a kill in between would lose them")
        values = {key: _plain(value) for key, value in row.items() if value is not None}
        broken = [key for key, value in values.items() if isinstance(value, float) and not math.isfinite(value)]
        for key in broken:
            self.warn("non_finite_metric", f"{key} was {values.pop(key)} at step {step}", step)
        self._append("metrics.jsonl", values, f"the metrics of step {step}")
        self._last_step = step

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of ``metrics.jsonl`` so far."""
        return read_json_lines(self.directory / "metrics.jsonl")

    def warn(self, code: str, message: str, step: int) -> None:
        """Write a warning down and show it, the first time its ``code`` comes up, through ``on_warning``."""
        row = {"step": int(step), "code": code, "message": message}
        if _warning_key(row) not in self._warnings:
            self._append("warnings.jsonl", row, "a warning")
            self._warnings.add(_warning_key(row))
        if code not in self._shown:
            self._shown.add(code)
            self.on_warning(f"step {step}: {message}")

    def _append(self, name: str, row: Mapping[str, Any], what: str) -> None:
        line = (json.dumps(row, allow_nan=False) + "\n").encode()
        with saving(what, self.directory):
            _append_whole(self.directory / name, line)

    # --- completions -------------------------------------------------------------------------------------

    def save_rollout(self, rollout: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write every graded completion of a rollout, complete or not at all, before it is trained on.

        The bytes depend on ``rows`` only. Log-probabilities (float32) come back exactly.
        """
        self._save_rows(f"rollouts/{rollout:06d}.jsonl.gz", rows, f"rollout {rollout}")

    def load_rollout(self, rollout: int) -> list[dict[str, Any]] | None:
        """The rows of a rollout (ids as int32 and log-probabilities as float32 arrays); None where not complete."""
        return self._load_rows(f"rollouts/{rollout:06d}.jsonl.gz")

    def save_token_values(self, rollout: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write what the trainer found at the tokens of a rollout (``r1kit.token_values``), after learning from it."""
        self._save_rows(f"token_values/{rollout:06d}.jsonl.gz", rows, f"the token values of rollout {rollout}")

    def save_eval(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the graded completions of the evaluation at ``step``, all held-out sets together."""
        self._save_rows(f"evals/{step:06d}.jsonl.gz", rows, f"the evaluation at step {step}")

    def load_eval(self, step: int) -> list[dict[str, Any]] | None:
        """The rows of the evaluation at ``step``; None where not complete."""
        return self._load_rows(f"evals/{step:06d}.jsonl.gz")

    def save_json(self, name: str, value: Any) -> None:
        """Write a small JSON file into the run directory, complete or not at all."""
        with saving(name, self.directory):
            write_atomic(self.directory / name, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())

    def _save_rows(self, name: str, rows: Sequence[Mapping[str, Any]], what: str) -> None:
        with saving(what, self.directory):
            path = self.directory / name
            path.parent.mkdir(exist_ok=True)
            write_atomic(path, pack_rows(rows))

    def _load_rows(self, name: str) -> list[dict[str, Any]] | None:
        try:
            return unpack_rows((self.directory / name).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self.warn("damaged_completions", f"{name} is damaged ({error}) and is made again", max(self._last_step, 0))
            return None

    # --- checkpoints -------------------------------------------------------------------------------------

    def checkpoint(self, step: int, write: Callable[[Path], object], state: Mapping[str, Any]) -> Path:
        """Save a checkpoint: ``write(directory)`` puts its files there, ``state`` is JSON kept beside them.

        It appears under ``checkpoints/<step>`` complete or not at all; then the oldest beyond
        ``keep_checkpoints`` go. Where the disk is full the earlier checkpoints are untouched. Rows up to
        ``step`` must have been recorded before: a resumed run keeps the metrics up to its checkpoint.
        """
        if step < self._last_step:
            raise ValueError(f"checkpoint of step {step}, but step {self._last_step} was recorded already")
        folder = self.directory / "checkpoints"
        if self._latest is not None and self._latest.step == step:
            return self._latest.path
        temporary, final = folder / f".tmp-{step:06d}", folder / f"{step:06d}"
        try:
            with saving(f"the checkpoint of step {step}", self.directory):
                temporary.mkdir(parents=True)
                write(temporary)
                (temporary / "state.json").write_text(json.dumps(dict(state), allow_nan=False) + "\n")
                manifest = {"step": step, "files": manifest_of(temporary)}
                write_atomic(temporary / "manifest.json", json.dumps(manifest, indent=1).encode())
                _sync_log(self.directory / "metrics.jsonl")
                os.replace(temporary, final)
                _sync(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        self._latest = Checkpoint(step=step, path=final, state=dict(state))
        for old in _checkpoint_directories(folder)[self.config.keep_checkpoints :]:
            shutil.rmtree(old, ignore_errors=True)
        return final

    def latest_checkpoint(self) -> Checkpoint | None:
        """The newest complete checkpoint, its files checked against their hashes; None where there is none."""
        return self._latest

    def _find_latest_checkpoint(self) -> Checkpoint | None:
        for path in _checkpoint_directories(self.directory / "checkpoints"):
            try:
                return _verified(path)
            except (OSError, ValueError, KeyError, TypeError) as error:
                message = f"the checkpoint {path.name} is damaged ({error}); going back to the one before it"
                self.warn("damaged_checkpoint", message, int(path.name))
                # Out of the way, so that it does not count among those to keep.
                with saving("the checkpoints", self.directory):
                    os.replace(path, _free_name(path.with_name(f"damaged-{path.name}")))
        return None


class InterruptGuard:
    """Turns the first Ctrl-C (or SIGTERM) into a request to stop at the next safe point.

    ``with InterruptGuard() as guard:`` and in the loop ``if guard.stop: save and raise Stopped``. The
    second signal raises KeyboardInterrupt at once. Outside the main thread it does nothing, since signals
    arrive only there. ``on_request(text)`` shows the user what happens (default: standard error).
    """

    def __init__(self, on_request: Callable[[str], None] | None = None) -> None:
        self.stop = False
        self._on_request = on_request or (lambda text: print(text, file=sys.stderr, flush=True))
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> InterruptGuard:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.stop:
            raise KeyboardInterrupt
        self.stop = True
        # A print interrupted by this very signal may not be re-entered.
        with contextlib.suppress(RuntimeError):
            self._on_request("stopping after this step and saving; once more to stop at once")


# --- files -------------------------------------------------------------------------------------------


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that ``path`` holds its old content or all of the new, whatever happens meanwhile."""
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, one a line; a last line torn by a kill is left out. [] where there is none."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    rows = []
    for line in lines[:-1]:
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict):
                rows.append(row)
    return rows


def pack_rows(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Gzipped JSON lines whose bytes depend on ``rows`` only. float32 values get their shortest decimal."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, compresslevel=6, mtime=0) as file:
        for row in rows:
            file.write((json.dumps(row, sort_keys=True, allow_nan=False, default=_plain) + "\n").encode())
    return buffer.getvalue()


def unpack_rows(content: bytes) -> list[dict[str, Any]]:
    """The rows of ``pack_rows``; ids as read-only int32 arrays, log-probabilities as float32 arrays.

    ValueError where ``content`` is not complete or was altered.
    """
    if not content:
        raise ValueError("the file is empty")
    try:
        lines = gzip.decompress(content).split(b"\n")[:-1]
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(str(error)) from error
    rows = [json.loads(line) for line in lines]
    for row in rows:
        for key, dtype in _ARRAYS.items():
            if row.get(key) is not None:
                row[key] = read_only(row[key], dtype)
    return rows


def hash_path(path: str | Path) -> str:
    """SHA-256 of a file, or of a directory's relative names and contents (hidden files left out)."""
    root = Path(path)
    if root.is_file():
        return _hash_file(root)
    total = hashlib.sha256()
    for name, facts in sorted(manifest_of(root).items()):
        if not any(part.startswith(".") for part in Path(name).parts):
            total.update(f"{name}\x00{facts['sha256']}\n".encode())
    return total.hexdigest()


class DirectoryLock:
    """An exclusive flock on ``.lock``; the kernel drops it when the process dies, so none is ever stale.

    ``option``: how a user names another directory."""

    def __init__(self, directory: Path, option: str = "output_dir=...") -> None:
        path = directory / ".lock"
        with saving("the lock file", directory):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._take()
        except BlockingIOError as error:
            holder = os.read(self._file, 100).decode(errors="replace").strip() or "another process"
            os.close(self._file)
            raise UserError(
                f"{directory} is in use by {holder}; wait for it or stop it, or give another directory with {option}"
            ) from error
        os.ftruncate(self._file, 0)
        os.write(self._file, f"process {os.getpid()} on {platform.node()}\n".encode())

    def _take(self) -> None:
        try:
            import fcntl

            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            return
        except OSError as error:
            if error.errno not in _NO_LOCKS_HERE:
                raise

    def release(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


@contextlib.contextmanager
def saving(what: str, directory: Path) -> Iterator[None]:
    """Turns a disk that is full or cannot be written into one clear sentence."""
    try:
        yield
    except R1Error:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        # safetensors and torch wrap the system's error in their own.
        if number in _OUT_OF_SPACE or "No space left" in str(error):
            raise UserError(
                f"no space left for {what} in {directory}; what was saved before is safe: free some space and run the "
                "same command again to go on"
            ) from error
        if number in _FORBIDDEN:
            raise UserError(
                f"cannot write {what} in {directory} ({os.strerror(number)}); make it writable or name another place "
                "(output_dir=... of a run, -o of a command)"
            ) from error
        if isinstance(error, OSError):
            raise UserError(f"cannot save {what} in {directory}: {error.strerror or error}") from error
        raise


def _append_whole(path: Path, line: bytes) -> None:
    """Append ``line`` whole, or leave the file as it was."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        before = os.fstat(file).st_size
        try:
            written = os.write(file, line)
            if written < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(file, before)
            raise
    finally:
        os.close(file)


def _keep_complete_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Drop torn lines and rows that ``keep`` refuses, atomically, without touching a good file."""
    if not path.exists():
        return []
    kept = [row for row in read_json_lines(path) if keep(row)]
    content = "".join(json.dumps(row) + "\n" for row in kept).encode()
    with saving(path.name, path.parent):
        if content != path.read_bytes():
            write_atomic(path, content)
    return kept


def _refuse_foreign_directory(directory: Path) -> None:
    if (directory / "config.json").exists():
        return
    foreign = sorted(entry.name for entry in directory.iterdir() if not entry.name.startswith("."))
    if foreign:
        raise UserError(
            f"{directory} is not empty and not a run directory (it holds {foreign[0]}); give another one with "
            "output_dir=..."
        )


def _holds_work(directory: Path) -> bool:
    """Whether anything was sampled, trained or finished here. A run that failed at its start (a wrong path, say) holds
    none, and must not stand in the way of the mended one."""
    made = any(any((directory / name).glob("*")) for name in ("checkpoints", "rollouts", "evals", "answers", "model"))
    finished = (_read_json(directory / "run.json") or {}).get("status") == "finished"
    return made or finished or bool(read_json_lines(directory / "metrics.jsonl"))


def _clear(directory: Path) -> None:
    for name in ("config.json", "run.json", "metrics.jsonl", "warnings.jsonl", "base_card.json"):
        (directory / name).unlink(missing_ok=True)


def _refuse_other_configuration(directory: Path, old: Mapping[str, Any] | None, config: RecipeConfig) -> None:
    changed = differences(old, config.to_dict()) if old is not None else []
    if old is None or not changed:
        return
    new = config.to_dict()
    shown = ", ".join(f"{key} ({old.get(key)!r} there, {new.get(key)!r} now)" for key in changed[:5])
    more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
    raise UserError(
        f"{directory} holds a run of another configuration: {shown}{more}; give another directory with "
        "output_dir=..., or the old values to go on with that run"
    )


def _remove_leftovers(directory: Path) -> None:
    """Temporary files of a process that was killed. Called under the lock."""
    for folder in (directory, *(directory / name for name in ("rollouts", "token_values", "evals", "checkpoints"))):
        for leftover in (*folder.glob(".tmp-*"), *folder.glob("*.new"), *folder.glob(".*.old")):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def _checkpoint_directories(folder: Path) -> list[Path]:
    """Newest first."""
    found = [path for path in folder.glob("*") if path.is_dir() and path.name.isdigit()]
    return sorted(found, key=lambda path: int(path.name), reverse=True)


def _free_name(path: Path) -> Path:
    numbered = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(candidate for candidate in itertools.chain([path], numbered) if not candidate.exists())


def _verified(path: Path) -> Checkpoint:
    """The checkpoint in ``path``; ValueError saying what is damaged."""
    manifest = json.loads((path / "manifest.json").read_bytes())
    for name, facts in manifest["files"].items():
        file = path / name
        if not file.is_file():
            raise ValueError(f"{name} is missing")
        if file.stat().st_size != facts["size"]:
            raise ValueError(f"{name} has {file.stat().st_size:,} of {facts['size']:,} bytes")
        if _hash_file(file) != facts["sha256"]:
            raise ValueError(f"the content of {name} does not match its hash")
    return Checkpoint(step=int(manifest["step"]), path=path, state=json.loads((path / "state.json").read_bytes()))


def manifest_of(root: Path) -> dict[str, dict[str, Any]]:
    """Relative name -> size and SHA-256 of every file below ``root``; makes them durable."""
    files = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            with contextlib.suppress(PermissionError):
                _sync(path)
            files[path.relative_to(root).as_posix()] = {"size": path.stat().st_size, "sha256": _hash_file(path)}
    return files


def _hash_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        # Some file systems cannot sync a directory.
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise
    finally:
        os.close(file)


def _sync_log(path: Path) -> None:
    if path.exists():
        _sync(path)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; remove or rename the run directory to start anew") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} does not hold a JSON object; remove or rename the run directory to start anew")
    return value


def _plain(value: Any) -> Any:
    """NumPy values as JSON ones; a float32 becomes the double with its shortest decimal."""
    if isinstance(value, np.ndarray):
        return list(map(float, value.astype(str).tolist())) if value.dtype == np.float32 else value.tolist()
    if isinstance(value, np.float32):
        return float(str(value))
    if isinstance(value, np.generic):
        return value.item()
    return value


def _warning_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row.get("step"), row.get("code"), row.get("message")


def _print_warning(text: str) -> None:
    print(f"WARNING: {text}", file=sys.stderr, flush=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _machine() -> dict[str, Any]:
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "kernels": kernels.describe(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _code_hash() -> str:
    """SHA-256 of this package's sources: tells two builds of one version apart."""
    root = Path(__file__).parent
    total = hashlib.sha256()
    for path in sorted(path for kind in ("py", "cpp", "h") for path in root.rglob(f"*.{kind}")):
        total.update(path.relative_to(root).as_posix().encode() + b"\x00" + path.read_bytes())
    return total.hexdigest()
