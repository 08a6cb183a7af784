"""The sampler's forward pass in the compiled kernels (``r1kit.kernels``), behind the interface of the other decoders.

Keys and values lie in pages of 64 tokens, a list of pages a row: rows enter and leave without anything being copied but
a prompt's pages, and attention reads each row's own length. A row's logits depend on nothing but the row.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from r1kit.engines.base import EngineError
from r1kit.kernels import Batch, load_library
from r1kit.kernels import weights as kernel_weights
from r1kit.kernels.weights import Rope, Weights, named_in_order


class CompiledPromptState:
    """P prefilled prompts: the logits after each [P, V], and a row of the cache that holds each."""

    def __init__(self, decoder: CompiledDecoder, logits: Tensor, lengths: np.ndarray, rows: list[int]) -> None:
        self.logits, self.lengths, self.rows = logits, lengths, rows
        self._decoder = decoder  # whose cache must outlive this
        weakref.finalize(self, decoder.drop, rows)


class CompiledDecoder:
    """Weights, paged cache and forward passes."""

    row_block = 1

    def __init__(self, model: Any, dtype: torch.dtype, *, cast_lm_head_to_fp32: bool = False) -> None:
        assert dtype == torch.bfloat16
        config = model.config
        self.device, self.dtype = model.device, dtype
        small = model.get_input_embeddings().weight.numel() <= kernel_weights.WIDE_HEAD_WEIGHTS
        self._weights = Weights(model, backward=False, wide_head=small or cast_lm_head_to_fp32)
        self.vocab_size = self._weights.vocab_size
        self.bytes_per_token = 4 * config.num_hidden_layers * config.num_key_value_heads * self._weights.head_dim
        named = [(name, weight) for name, weight in named_in_order(model)]
        self._shapes = {name: None if weight is None else weight.shape for name, weight in named}
        self._tied = model.lm_head.weight is model.model.embed_tokens.weight
        self._rope = Rope(model)
        self._library = load_library()
        self._sampler = self._library.r1_sampler_new(self._weights.handle)
        # the sampler reads the weights, so they must outlive it
        weakref.finalize(self, _free, self._library, self._sampler, self._weights)
        self.load(model.named_parameters())
        self._rows: list[int] = []
        self.lengths = np.zeros(0, dtype=np.int32)
        self._moving = np.zeros(0, dtype=np.int32)

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Replace all weights. Raises ``EngineError`` for an unknown name, a wrong shape, or missing weights."""
        found: dict[str, Tensor] = {}
        for name, weight in weights:
            if name == "lm_head.weight" and self._tied:
                continue
            wanted = self._shapes.get(name)
            if wanted is None:
                raise EngineError(
                    f"weight {name!r} has no place in the sampler's model: load weights of the same model"
                )
            if weight.shape != wanted:
                raise EngineError(f"weight {name!r} has shape {tuple(weight.shape)}, which does not fit")
            found[name] = weight
        if self._tied and "model.embed_tokens.weight" in found:
            found["lm_head.weight"] = found["model.embed_tokens.weight"]
        missing = [name for name, shape in self._shapes.items() if shape is not None and name not in found]
        if missing:
            raise EngineError(
                f"{len(missing)} weights were not given ({', '.join(missing[:3])}, ...): load all weights of the model"
            )
        self._weights.load([found.get(name) for name in self._shapes])

    def clear(self) -> None:
        """Drop every row and the cache's memory."""
        self.drop(self._rows)
        self._rows = []
        self.lengths = self._moving = np.zeros(0, dtype=np.int32)
        self._library.r1_cache_trim(self._sampler)

    def drop(self, rows: Iterable[int]) -> None:
        """Give rows of the cache back."""
        for row in rows:
            self._library.r1_cache_drop(self._sampler, row)

    def append(self, state: CompiledPromptState, index: np.ndarray) -> None:
        """Add a row per entry of ``index``, which names the prompt it continues."""
        for place in index:
            row = self._library.r1_cache_fork(self._sampler, state.rows[place], int(state.lengths[place]))
            if row < 0:
                raise MemoryError("no memory for the key-value cache: lower max_tokens_in_cache")
            self._rows.append(row)
        self.lengths = np.concatenate([self.lengths, state.lengths[index]]).astype(np.int32)
        self._moving = np.concatenate([self._moving, np.ones(len(index), dtype=np.int32)])

    def retire(self, rows: np.ndarray) -> None:
        """These rows are done: they stay in the batch until ``keep`` drops them, but grow no more."""
        self._moving[rows] = 0

    def keep(self, order: np.ndarray) -> None:
        """The batch becomes the rows ``order`` (distinct), in that order."""
        kept = [self._rows[place] for place in order]
        self.drop(set(self._rows) - set(kept))
        self._rows = kept
        self.lengths, self._moving = self.lengths[order], self._moving[order]

    def prefill(self, prompts: Sequence[np.ndarray]) -> CompiledPromptState:
        """Run whole prompts."""
        lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int32)
        rows = [self._library.r1_cache_add(self._sampler) for _ in prompts]
        positions = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
        logits = self._forward(
            np.concatenate(prompts), positions, np.repeat(rows, lengths), np.cumsum(lengths, dtype=np.int32) - 1
        )
        return CompiledPromptState(self, logits, lengths, rows)

    def decode(self, tokens: Tensor) -> Tensor:
        """Feed one token per row ([rows] int64); returns the next logits [rows, V] float32."""
        count = len(self._rows)
        logits = self._forward(tokens.numpy(), self.lengths, self._rows, np.arange(count, dtype=np.int32))
        self.lengths = self.lengths + self._moving
        return logits

    def sample(
        self, live: np.ndarray, steps: int, answers: tuple[np.ndarray, np.ndarray], ends: np.ndarray, **rows: np.ndarray
    ) -> np.ndarray:
        """Draw up to ``steps`` more tokens of each row that is ``live`` [rows], by the draws of ``draws.uniforms``,
        until it ends: by a token of ``ends`` [V] or by its limit. Returns the step, from 1, at which each row ended: 0
        where it did not, -1 where its logits are not finite.

        ``rows``, [rows] each: ``last`` token and ``counts`` of tokens, which go on in place, ``slots`` in ``answers``
        (tokens int32 and log-probabilities float32, [slots, width]), ``limits``, ``temperature``, ``top_p``, ``words``.
        """
        places = np.flatnonzero(live).astype(np.int32)
        ended, lengths = np.zeros(len(live), dtype=np.int32), np.ascontiguousarray(self.lengths, dtype=np.int32)
        more = np.minimum(steps, rows["limits"] - rows["counts"])[places]
        cos, sin = self._rope.table(int((lengths[places] + more).max(initial=0)))
        cache = np.array(self._rows, dtype=np.int32)
        arrays = {
            **rows, "cache": cache, "lengths": lengths, "ended": ended, "ends": ends, "tokens": answers[0],
            "logprobs": answers[1],
        }  # fmt: skip
        assert all(array.flags.c_contiguous for array in arrays.values())
        batch = Batch(width=answers[0].shape[1], **{name: array.ctypes.data for name, array in arrays.items()})
        status = self._library.r1_sample(
            self._sampler, torch.get_num_threads(), steps, len(places), places.ctypes.data, ctypes.addressof(batch),
            cos.data_ptr(), sin.data_ptr(),
        )  # fmt: skip
        if status:
            raise MemoryError("no memory for the key-value cache: lower max_tokens_in_cache")
        self.lengths = lengths
        return ended

    def _forward(self, tokens: Any, positions: Any, rows: Any, asked: Any) -> Tensor:
        tokens, positions, rows, asked = (
            np.ascontiguousarray(x, dtype=np.int32) for x in (tokens, positions, rows, asked)
        )
        cos, sin = self._rope.table(int(positions.max(initial=0)) + 1)
        logits = torch.empty(len(asked), self.vocab_size)
        status = self._library.r1_forward(
            self._sampler, torch.get_num_threads(), len(tokens), tokens.ctypes.data, positions.ctypes.data,
            rows.ctypes.data, len(asked), asked.ctypes.data, cos.data_ptr(), sin.data_ptr(),
            logits.data_ptr(),
        )  # fmt: skip
        if status:
            raise MemoryError("no memory for the key-value cache: lower max_tokens_in_cache")
        return logits


def _free(library: Any, sampler: int, weights: Weights) -> None:
    del weights  # held until here
    library.r1_sampler_free(sampler)


def draw(
    logits: Tensor, temperature: np.ndarray, top_p: np.ndarray, words: np.ndarray, counts: np.ndarray
) -> tuple[Tensor, np.ndarray]:
    """As ``_sampling.sample`` at the draws of ``draws.uniforms``: tokens [B] (int64) and their log-probabilities [B]
    (float32, nats). The settings are float64, the words uint64 and the counts int64, [B] each."""
    rows, vocab = logits.shape
    tokens, logprobs = torch.empty(rows, dtype=torch.int64), np.empty(rows, dtype=np.float32)
    settings = [np.ascontiguousarray(values) for values in (temperature, top_p, words, counts)]
    status = load_library().r1_draw(
        torch.get_num_threads(), rows, vocab, logits.data_ptr(), *(values.ctypes.data for values in settings),
        tokens.data_ptr(), logprobs.ctypes.data,
    )  # fmt: skip
    if status:
        raise MemoryError("no memory to draw tokens")
    return tokens, logprobs
