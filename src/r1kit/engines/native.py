"""The native engine: our own sampler, over weights that sit in the same process.

Continuous batching: finished rows leave, waiting requests enter; a prompt shared by a group is prefilled once.
The forward passes are in ``_compiled`` (small Llama, Qwen2 and Qwen3 models in bfloat16 on a CPU), ``_fast`` (Llama,
Qwen2, Qwen3) and ``_slow`` (any other causal model of transformers).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from r1kit.devices import free_memory, has_native_bf16
from r1kit.engines import _fast, _slow
from r1kit.engines._compiled import CompiledDecoder, draw
from r1kit.engines._sampling import RowParams, sample
from r1kit.engines._stops import StopStrings
from r1kit.engines.base import EngineError
from r1kit.engines.draws import uniforms
from r1kit.kernels.weights import why_not as why_not_compiled
from r1kit.types import Completion, DrawKey, FinishReason, Request, Segment, UserError

PREFILL_TOKENS = 1 << 14
CPU_CACHE_BYTES = 2 << 30
GPU_CACHE_SHARE = 0.7
"""The rest is for prefill, logits and one layer's cache twice while it grows."""

STEPS_AT_ONCE = 32
"""Of compiled rows, between two looks at which of them ended. More would be a little faster, but graders wait."""

ENDED, FULL = 1, 2


@dataclass(slots=True)
class _Answer:
    """A completion in the making. ``starts``: (token index, policy version) of each segment."""

    request: Request
    slot: int
    starts: list[tuple[int, int]] = field(default_factory=list)


@dataclass(slots=True)
class _Rows:
    """The batch's state in row order, one entry per row; a dead row waits to be dropped."""

    slot: np.ndarray
    count: np.ndarray
    limit: np.ndarray
    temperature: np.ndarray
    top_p: np.ndarray
    word: np.ndarray
    watch: np.ndarray
    live: np.ndarray
    last: Tensor

    @classmethod
    def empty(cls, device: torch.device) -> _Rows:
        integers, floats = np.zeros(0, dtype=np.int64), np.zeros(0)
        words, nothing = np.zeros(0, dtype=np.uint64), torch.zeros(0, dtype=torch.int64, device=device)
        return cls(
            slot=integers, count=integers, limit=integers, temperature=floats, top_p=floats,
            word=words, watch=integers, live=integers.astype(bool), last=nothing,
        )  # fmt: skip

    def arrays(self) -> tuple[str, ...]:
        return ("slot", "count", "limit", "temperature", "top_p", "word", "watch", "live")

    def take(self, order: np.ndarray) -> None:
        for name in self.arrays():
            setattr(self, name, getattr(self, name)[order])
        self.last = self.last[torch.from_numpy(order).to(self.last.device)]

    def extend(self, other: dict[str, np.ndarray], last: Tensor) -> None:
        for name in self.arrays():
            setattr(self, name, np.concatenate([getattr(self, name), other[name]]))
        self.last = torch.cat([self.last, last])


class NativeEngine:
    """Samples from ``model`` (a transformers causal language model), of which it keeps its own copy of the weights,
    allocated once and refreshed in place by ``load``. Contract: ``r1kit.engines.base.Engine``.

    ``tokenizer``: a tokenizer, or a function from token ids to text. ``dtype``: "auto" takes bfloat16 where the
    processor multiplies it natively (CUDA, AMX, AVX512-BF16) and float32 elsewhere. ``max_batch_size``: rows sampled
    at once. ``max_tokens_in_cache``: bounds rows x tokens of the key-value cache. Default: what fits in 2 GiB on a CPU;
    on a GPU in ``GPU_CACHE_SHARE`` of what is free whenever an idle engine gets work. An idle engine holds no cache, so
    that training has all of that memory in between. ``eos_token_ids``: default, those of the generation configuration,
    the model's configuration or the tokenizer. ``path``: "auto" takes the fastest forward pass there is.
    ``cast_lm_head_to_fp32``: logits come of float32 products, whatever ``dtype`` is (small heads do in any case).
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        dtype: Literal["auto", "bfloat16", "float32"] | torch.dtype = "auto",
        max_batch_size: int = 256,
        max_tokens_in_cache: int | None = None,
        eos_token_ids: Iterable[int] | None = None,
        path: Literal["auto", "compiled", "fast", "slow"] = "auto",
        cast_lm_head_to_fp32: bool = False,
    ) -> None:
        self.dtype = _resolve_dtype(dtype, model.device)
        self.path, self.why_slow = _choose_path(model, self.dtype, path)
        kind: Any = {"compiled": CompiledDecoder, "fast": _fast.FastDecoder, "slow": _slow.SlowDecoder}[self.path]
        self._decoder: Any = kind(model, self.dtype, cast_lm_head_to_fp32=cast_lm_head_to_fp32)
        self._device = model.device
        self._decode = _decoder_of_text(tokenizer)
        self._context = getattr(model.config, "max_position_embeddings", None) or math.inf
        self._rows_at_most = max_batch_size
        self._cache_tokens_asked = max_tokens_in_cache
        self._plan_cache()
        self._eos = _token_table(_eos_ids(model, tokenizer, eos_token_ids), self._decoder.vocab_size)
        self._silent = self._eos | _token_table([getattr(tokenizer, "pad_token_id", None)], self._decoder.vocab_size)
        self._stops: dict[tuple[str, ...], int] = {}
        self._watches: list[StopStrings] = []
        self.version = 0
        self.prefilled_prompts = 0
        self.steps_at_once = STEPS_AT_ONCE
        self._paused = False
        self._forget()

    def _plan_cache(self) -> None:
        self._cache_tokens = self._cache_tokens_asked or _cache_tokens(self._device, self._decoder.bytes_per_token)

    def _forget(self) -> None:
        """The state of an idle engine."""
        self._waiting: dict[bytes, deque[Request]] = {}
        self._held: tuple[bytes, Any, int] | None = None
        self._stale = False
        self._finished: deque[Completion] = deque()
        self._answers: dict[int, _Answer] = {}
        self._free: list[int] = []
        self._tokens = np.zeros((0, 0), dtype=np.int32)
        self._logprobs = np.zeros((0, 0), dtype=np.float32)
        self._rows = _Rows.empty(self._device)
        self._params = RowParams(temperature=None, top_p=None, greedy=None)
        self._longest = 0
        self._decoder.clear()

    # -- the contract ----------------------------------------------------------------------------------

    def submit(self, requests: Sequence[Request]) -> None:
        """See ``Engine.submit``."""
        if not self._answers and not self._waiting:
            self._plan_cache()
        self.check(requests)
        for request in requests:
            key = np.ascontiguousarray(request.prompt_ids, dtype=np.int32).tobytes()
            self._waiting.setdefault(key, deque()).append(request)
            self._longest = max(self._longest, len(request.prompt_ids) + self._limit(request))

    def completions(self) -> Iterator[Completion]:
        """See ``Engine.completions``."""
        while True:
            while self._finished:
                yield self._finished.popleft()
            if self._paused or not (self._answers or self._waiting):
                break
            self._step()
        if not self._answers and not self._waiting:
            self._forget()

    def stream(self) -> Iterator[tuple[DrawKey, int]]:
        """See ``StreamingEngine.stream``."""
        shown = {slot: int(self._rows.count[self._rows.slot == slot][0]) for slot in self._answers}
        while not self._paused and (self._answers or self._waiting):
            self._step(one=True)
            for row in np.flatnonzero(self._rows.live):
                slot, count = int(self._rows.slot[row]), int(self._rows.count[row])
                for token in self._tokens[slot, shown.get(slot, 0) : count]:
                    yield self._answers[slot].request.draw, int(token)
                shown[slot] = count
            shown = {slot: count for slot, count in shown.items() if slot in self._answers}

    def pause(self) -> None:
        """See ``Engine.pause``."""
        self._paused = True

    def resume(self) -> None:
        """See ``Engine.resume``."""
        self._paused = False

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """See ``Engine.load``. Raises ``EngineError`` when called while sampling, or for weights that do not fit."""
        if self._answers and not self._paused:
            raise EngineError("weights were loaded while completions are being sampled: call pause() first")
        self._decoder.load(weights)
        self.version = version
        self._held = None
        self._stale = bool(self._answers)
        for answer in self._answers.values():
            count = int(self._rows.count[self._rows.slot == answer.slot][0])
            if answer.starts[-1][0] == count:
                answer.starts.pop()
            answer.starts.append((count, version))

    def abort(self) -> list[Completion]:
        """See ``Engine.abort``."""
        results = list(self._finished)
        for row in np.flatnonzero(self._rows.live):
            results.append(self._complete(int(row), "abort"))
        for queue in self._waiting.values():
            results += [_empty_completion(request) for request in queue]
        self._forget()
        return results

    def cache_bytes(self, longest: int) -> int:
        """Bytes the key-value cache may take where prompt and completion together have up to ``longest`` tokens."""
        return int(min(self._rows_at_most * longest, self._cache_tokens) * self._decoder.bytes_per_token)

    # -- requests --------------------------------------------------------------------------------------

    def check(self, requests: Sequence[Request]) -> None:
        """Raise ``UserError`` for the first request that cannot be sampled."""
        for request in requests:
            self._check(request)

    def _check(self, request: Request) -> None:
        length, params = len(request.prompt_ids), request.params
        where = f"problem {request.problem_id!r}"
        if length == 0:
            raise UserError(f"{where}: the prompt has no tokens: give it a text or a beginning-of-sequence token")
        if length >= self._context:
            raise UserError(
                f"{where}: the prompt has {length} tokens and the model's context {self._context}, which leaves no "
                "room for a completion: shorten the prompt"
            )
        if length + self._limit(request) > self._cache_tokens:
            raise UserError(
                f"{where}: {length} prompt tokens and up to {self._limit(request)} new ones do not fit in a cache of "
                f"{self._cache_tokens} tokens: raise max_tokens_in_cache or lower max_completion_length"
            )
        if params.max_completion_length < 1:
            raise UserError(f"{where}: max_completion_length is {params.max_completion_length}: it must be at least 1")
        if not (params.temperature >= 0 and 0 < params.top_p <= 1):
            raise UserError(
                f"{where}: temperature {params.temperature} and top_p {params.top_p}: "
                "temperature must be at least 0, top_p above 0 and at most 1"
            )

    def _limit(self, request: Request) -> int:
        """Tokens this completion may have."""
        return int(min(request.params.max_completion_length, self._context - len(request.prompt_ids)))

    def _watch(self, stop: Sequence[str]) -> int:
        """Index of the detector of these stop strings, -1 for none."""
        strings = tuple(text for text in stop if text)
        if not strings:
            return -1
        if strings not in self._stops:
            self._stops[strings] = len(self._watches)
            self._watches.append(StopStrings(strings, self._decode, self._decoder.vocab_size))
        return self._stops[strings]

    # -- one step --------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _step(self, *, one: bool = False) -> None:
        """Let rows in, then advance every live row by ``one`` token, or by several where that is faster."""
        if self._stale:
            self._refill_cache()
        self._drop_dead()
        self._admit()
        if not self._rows.live.any():
            return
        # stop strings are looked for after every token
        if self.path == "compiled" and not one and self.steps_at_once > 1 and (self._rows.watch < 0).all():
            # where others wait for its place, a row that ended should not keep it for long
            self._advance_by(max(1, self.steps_at_once // 4) if self._waiting else self.steps_at_once)
        else:
            self._advance(self._decoder.decode(self._rows.last), 0)

    def _capacity(self) -> int:
        return max(1, min(self._rows_at_most, self._cache_tokens // self._longest))

    def _drop_dead(self) -> None:
        """Drop dead rows once they fill a block, or sooner where few rows are left or requests wait."""
        rows = self._rows
        total, live = len(rows.live), int(rows.live.sum())
        dead = total - live
        if not dead:
            return
        target = live if self._waiting and self._worth_admitting(live) else _padded(live, self._decoder.row_block)
        if target >= total:
            return
        self._keep(target)

    def _worth_admitting(self, live: int) -> bool:
        capacity = self._capacity()
        return live == 0 or capacity - live >= max(1, capacity // 8)

    def _keep(self, target: int) -> None:
        """Shrink the batch to ``target`` rows (all live ones, then dead ones); rows from its end fill the holes."""
        live = self._rows.live
        leavers = np.flatnonzero(~live)[: len(live) - target]
        leaving = np.zeros(len(live), dtype=bool)
        leaving[leavers] = True
        order = np.arange(target)
        holes = np.flatnonzero(leaving[:target])
        order[holes] = target + np.flatnonzero(~leaving[target:])
        self._decoder.keep(order)
        self._rows.take(order)
        self._set_params()

    def _admit(self) -> None:
        """Fill free rows with waiting requests, whole groups together as far as they fit."""
        live = int(self._rows.live.sum())
        if not self._waiting or not self._worth_admitting(live):
            return
        while self._waiting and len(self._rows.live) < self._capacity():
            state, chosen, index = self._prefill_next(self._capacity() - len(self._rows.live))
            start = len(self._rows.live)
            self._decoder.append(state, index)
            self._extend(chosen)
            self._advance(state.logits[torch.from_numpy(index).to(self._device)], start)

    def _prefill_next(self, free: int) -> tuple[Any, list[Request], np.ndarray]:
        """The next requests (at most ``free``), prefilled prompts, and the prompt that each request starts from."""
        if self._held is not None:
            key, state, at = self._held
            self._held = None
            if key in self._waiting:
                chosen = self._pop(key, free)
                if key in self._waiting:
                    self._held = (key, state, at)
                return state, chosen, np.full(len(chosen), at, dtype=np.int64)
        keys: list[bytes] = []
        chosen, index, longest = [], [], 0
        for key in list(self._waiting):
            longest = max(longest, len(key) // 4)
            if len(chosen) == free or (keys and longest * (len(keys) + 1) > PREFILL_TOKENS):
                break
            popped = self._pop(key, free - len(chosen))
            chosen += popped
            index += [len(keys)] * len(popped)
            keys.append(key)
        state = self._decoder.prefill([np.frombuffer(key, dtype=np.int32) for key in keys])
        self.prefilled_prompts += len(keys)
        if keys[-1] in self._waiting:
            self._held = (keys[-1], state, len(keys) - 1)
        return state, chosen, np.array(index, dtype=np.int64)

    def _pop(self, key: bytes, count: int) -> list[Request]:
        queue = self._waiting[key]
        popped = [queue.popleft() for _ in range(min(count, len(queue)))]
        if not queue:
            del self._waiting[key]
        return popped

    def _extend(self, requests: list[Request]) -> None:
        """State for new rows; their first token comes from the prefill's logits."""
        limits = [self._limit(request) for request in requests]
        slots = self._take_slots(len(requests), max(limits))
        for request, slot in zip(requests, slots, strict=True):
            self._answers[slot] = _Answer(request, slot, [(0, self.version)])
        count = len(requests)
        new = {
            "slot": np.array(slots, dtype=np.int64),
            "count": np.zeros(count, dtype=np.int64),
            "limit": np.array(limits, dtype=np.int64),
            "temperature": np.array([request.params.temperature for request in requests], dtype=np.float64),
            "top_p": np.array([request.params.top_p for request in requests], dtype=np.float64),
            "word": np.array([request.draw.word() for request in requests], dtype=np.uint64),
            "watch": np.array([self._watch(request.params.stop) for request in requests], dtype=np.int64),
            "live": np.ones(count, dtype=bool),
        }
        self._rows.extend(new, torch.zeros(count, dtype=torch.int64, device=self._device))
        self._set_params()

    def _take_slots(self, count: int, limit: int) -> list[int]:
        """Places in the token buffers for ``count`` completions of up to ``limit`` tokens."""
        slots, width = self._tokens.shape
        more = max(0, count - len(self._free))
        if more or limit > width:
            grow = ((0, more), (0, max(0, limit - width)))
            self._tokens, self._logprobs = np.pad(self._tokens, grow), np.pad(self._logprobs, grow)
            self._free += range(slots, slots + more)
        return [self._free.pop() for _ in range(count)]

    def _set_params(self) -> None:
        self._params = RowParams.of(self._rows.temperature, self._rows.top_p, self._device)

    def _advance(self, logits: Tensor, start: int) -> None:
        """Draw the next token of the rows from ``start`` on, whose logits are given, and finish what is finished."""
        rows = self._rows
        drawn, logprobs = self._draw(logits, start)
        rows.last[start:] = drawn
        tokens = drawn.cpu().numpy()
        live = np.flatnonzero(rows.live[start:])
        at, picked = live + start, tokens[live]
        if not np.isfinite(logprobs[live]).all():
            raise self._diverged(at[~np.isfinite(logprobs[live])][0])
        self._tokens[rows.slot[at], rows.count[at]] = picked
        self._logprobs[rows.slot[at], rows.count[at]] = logprobs[live]
        rows.count[at] += 1
        self._finish(at, picked)

    def _diverged(self, row: int) -> EngineError:
        bad = self._answers[int(self._rows.slot[row])].request
        return EngineError(f"problem {bad.problem_id!r}: the policy's logits are not finite: its weights diverged")

    def _advance_by(self, steps: int) -> None:
        """Draw up to ``steps`` tokens of every live row, and finish what is finished."""
        rows = self._rows
        ended = self._decoder.sample(
            rows.live, steps, (self._tokens, self._logprobs), self._eos, last=rows.last.numpy(), counts=rows.count,
            slots=rows.slot, limits=rows.limit, temperature=rows.temperature, top_p=rows.top_p, words=rows.word,
        )  # fmt: skip
        if (ended < 0).any():
            raise self._diverged(np.flatnonzero(ended < 0)[0])
        done = np.flatnonzero(ended)
        done = done[np.argsort(ended[done], kind="stable")]
        self._end(done, np.where(self._eos[rows.last.numpy()[done]], ENDED, FULL))

    def _draw(self, logits: Tensor, start: int) -> tuple[Tensor, np.ndarray]:
        """Tokens of the rows from ``start`` on and their log-probabilities."""
        rows = self._rows
        settings = (rows.temperature[start:], rows.top_p[start:], rows.word[start:], rows.count[start:])
        if self.path == "compiled":
            return draw(logits, *settings)
        draws = uniforms(*settings[2:])
        params = self._params.rows(start, len(rows.live)) if start else self._params
        drawn, logprobs = sample(logits, torch.from_numpy(draws).to(self._device), params)
        return drawn, logprobs.cpu().numpy()

    def _finish(self, at: np.ndarray, tokens: np.ndarray) -> None:
        """Complete those of the rows ``at`` that end with the token just drawn."""
        rows = self._rows
        state = np.where(self._eos[tokens], ENDED, np.where(rows.count[at] >= rows.limit[at], FULL, 0))
        for watch in np.unique(rows.watch[at]) if self._watches else ():
            if watch < 0:
                continue
            stops = self._watches[watch]
            for i in np.flatnonzero((rows.watch[at] == watch) & stops.suspicious[tokens] & (state != ENDED)):
                row = at[i]
                if stops.ends(self._tokens[rows.slot[row], : rows.count[row]]):
                    state[i] = ENDED
        done = np.flatnonzero(state)
        self._end(at[done], state[done])

    def _end(self, at: np.ndarray, state: np.ndarray) -> None:
        """Complete the rows ``at``, in this order, each of which is ``ENDED`` or ``FULL``."""
        if not len(at):
            return
        for row, how in zip(at, state, strict=True):
            self._finished.append(self._complete(int(row), "stop" if how == ENDED else "length"))
        self._rows.live[at] = False
        self._decoder.retire(at)

    def _complete(self, row: int, reason: FinishReason) -> Completion:
        """The record of a row, whose slot becomes free."""
        slot, count = int(self._rows.slot[row]), int(self._rows.count[row])
        answer = self._answers.pop(slot)
        self._free.append(slot)
        tokens = self._tokens[slot, :count].copy()
        stops = [start for start, _ in answer.starts[1:]] + [count]
        segments = tuple(
            Segment(role="assistant", start=start, stop=stop, trained=True, policy_version=version)
            for (start, version), stop in zip(answer.starts, stops, strict=True)
            if stop > start
        )
        return Completion(
            problem_id=answer.request.problem_id,
            prompt_ids=answer.request.prompt_ids,
            token_ids=tokens,
            logprobs=self._logprobs[slot, :count].copy(),
            text=self._decode(tokens[~self._silent[tokens]].tolist()),
            finish_reason=reason,
            draw=answer.request.draw,
            segments=segments,
        )

    def _refill_cache(self) -> None:
        """Run the unfinished rows' tokens through new weights, all but the last one, which is yet to be fed."""
        rows = self._rows
        live = np.flatnonzero(rows.live)
        rows.take(live)
        self._set_params()
        self._decoder.clear()
        self._stale = False
        histories = []
        for slot, count in zip(rows.slot, rows.count, strict=True):
            prompt = self._answers[int(slot)].request.prompt_ids
            histories.append(np.concatenate([prompt, self._tokens[slot, : count - 1]]))
        longest = max(map(len, histories))
        block = max(1, PREFILL_TOKENS // longest)
        for i in range(0, len(histories), block):
            part = histories[i : i + block]
            self._decoder.append(self._decoder.prefill(part), np.arange(len(part)))


def _choose_path(model: Any, dtype: torch.dtype, wanted: str) -> tuple[str, str]:
    """Which forward pass to take, and why not a faster one. Raises UserError where the one asked for cannot run it."""
    if wanted == "slow":
        return "slow", "path='slow' was asked for"
    uncompiled = "it computes in bfloat16 only" if dtype != torch.bfloat16 else why_not_compiled(model)
    if wanted in ("auto", "compiled") and not uncompiled:
        return "compiled", ""
    reason = uncompiled if wanted == "compiled" else _fast.why_not(model)
    if reason and wanted != "auto":
        raise UserError(f"the native engine's {wanted} path does not cover this model ({reason}): use path='auto'")
    return ("slow", reason) if reason else ("fast", uncompiled)


def _padded(live: int, most: int) -> int:
    """Rows to keep for ``live`` live ones: a whole number of blocks of ``most``, smaller ones for smaller batches."""
    block = most if live > 2 * most else max(1, most // 4) if live > most // 2 else 1
    return -(-live // block) * block


def _resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype != "auto":
        names = {"bfloat16": torch.bfloat16, "float32": torch.float32}
        if dtype not in names:
            raise UserError(f"sampler dtype {dtype!r} is unknown: use auto, bfloat16 or float32")
        return names[dtype]
    return torch.bfloat16 if has_native_bf16(device) else torch.float32


def _cache_tokens(device: torch.device, bytes_per_token: int) -> int:
    memory = int(GPU_CACHE_SHARE * free_memory(device)[0]) if device.type == "cuda" else CPU_CACHE_BYTES
    return memory // bytes_per_token


def _decoder_of_text(tokenizer: Any) -> Callable[[list[int]], str]:
    if not hasattr(tokenizer, "decode"):
        return tokenizer
    # Tags such as <think> may be special tokens in foreign tokenizers; a grader must see them.
    return lambda ids: tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _eos_ids(model: Any, tokenizer: Any, given: Iterable[int] | None) -> list[int | None]:
    if given is not None:
        return list(given)
    for source in (getattr(model, "generation_config", None), model.config, tokenizer):
        ids = getattr(source, "eos_token_id", None)
        if ids is not None:
            return list(ids) if isinstance(ids, (list, tuple)) else [ids]
    return []


def _token_table(ids: Iterable[int | None], vocab_size: int) -> np.ndarray:
    table = np.zeros(vocab_size, dtype=bool)
    table[[token for token in ids if token is not None and 0 <= token < vocab_size]] = True
    return table


def _empty_completion(request: Request) -> Completion:
    return Completion(
        problem_id=request.problem_id,
        prompt_ids=request.prompt_ids,
        token_ids=np.zeros(0, dtype=np.int32),
        logprobs=np.zeros(0, dtype=np.float32),
        text="",
        finish_reason="abort",
        draw=request.draw,
    )
