"""Any other causal model of transformers through its own forward pass, behind the fast path's interface.

Rows are left-padded to one length, so that a step appends one column to every row's cache. Finished rows leave by
row selection, new ones enter by padding the shorter cache on the left; leading columns that no row uses are cut.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from r1kit.engines._fast import ROW_BLOCK
from r1kit.engines._weights import Destinations
from r1kit.types import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowPromptState:
    """P prefilled prompts: the logits after each [P, V] and their left-padded cache."""

    logits: Tensor
    lengths: np.ndarray
    cache: Any


class SlowDecoder:
    """Holds its own copy of the model, so that weights change by ``load`` alone."""

    row_block = ROW_BLOCK

    def __init__(self, model: Any, dtype: torch.dtype, *, cast_lm_head_to_fp32: bool = False) -> None:
        self.device = model.device
        self.dtype = dtype
        self.vocab_size = model.get_input_embeddings().weight.shape[0]
        self.model = copy.deepcopy(model).to(dtype).eval().requires_grad_(False)
        # Converting the model converts its rotary frequencies too, which transformers keeps in float32.
        for name, buffer in model.named_buffers():
            self.model.get_buffer(name).data = buffer.detach().clone()
        if cast_lm_head_to_fp32:
            _widen_head(self.model)
        self.bytes_per_token = self._measure_bytes_per_token()
        self.destinations = Destinations()
        parameters = dict(self.model.named_parameters())
        for name, parameter in parameters.items():
            self.destinations.bind(name, parameter.data)
        buffers = dict(self.model.named_buffers())
        for name in self.model.state_dict():
            if name in buffers:
                self.destinations.bind(name, buffers[name].data, required=False)
            elif name not in parameters:
                self.destinations.ignore(name)
        self.clear()

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Replace all weights, as ``Destinations.load`` does."""
        self.destinations.load(weights)

    @torch.inference_mode()
    def _measure_bytes_per_token(self) -> int:
        cache = self.prefill([np.zeros(1, dtype=np.int64)]).cache
        return sum(t[0].numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))

    # -- cache -----------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Drop every row and the cache's memory."""
        self.lengths = np.zeros(0, dtype=np.int64)
        self._cache: Any = None

    @property
    def rows(self) -> int:
        return len(self.lengths)

    @property
    def _columns(self) -> int:
        return int(self._cache.get_seq_length()) if self._cache is not None else 0

    def append(self, state: SlowPromptState, index: np.ndarray) -> None:
        """Add a row per entry of ``index``, which names the prompt it continues."""
        added = copy.copy(state.cache)
        added.layers = [copy.copy(layer) for layer in state.cache.layers]
        added.batch_select_indices(torch.from_numpy(index).to(self.device))
        if self._cache is None or not self.rows:
            self._cache = added
        else:
            columns = max(self._columns, int(added.get_seq_length()))
            for mine, other in zip(self._cache.layers, added.layers, strict=True):
                mine.keys = torch.cat([_left_pad(mine.keys, columns), _left_pad(other.keys, columns)])
                mine.values = torch.cat([_left_pad(mine.values, columns), _left_pad(other.values, columns)])
        self.lengths = np.concatenate([self.lengths, state.lengths[index]])
        self._cut()

    def retire(self, rows: np.ndarray) -> None:
        """These rows are done. Here they grow on with the others until ``keep`` drops them."""

    def keep(self, order: np.ndarray) -> None:
        """The batch becomes the rows ``order`` (distinct), in that order."""
        self.lengths = self.lengths[order]
        if not len(order):
            self._cache = None
            return
        self._cache.batch_select_indices(torch.from_numpy(order).to(self.device))
        self._cut()

    def _cut(self) -> None:
        spare = self._columns - int(self.lengths.max())
        if spare > 0:
            for layer in self._cache.layers:
                layer.keys, layer.values = layer.keys[:, :, spare:], layer.values[:, :, spare:]

    # -- forward ---------------------------------------------------------------------------------------

    def prefill(self, prompts: Sequence[np.ndarray]) -> SlowPromptState:
        """Run whole prompts, left-padded."""
        from transformers import DynamicCache

        lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
        columns = int(lengths.max())
        padded = np.zeros((len(prompts), columns), dtype=np.int64)
        for row, prompt in enumerate(prompts):
            padded[row, columns - len(prompt) :] = prompt
        # Made without the configuration, every layer keeps all its columns, also under a sliding window
        # (the model's own mask applies it), so that rows can be padded and cut alike.
        cache = DynamicCache()
        logits = self._forward(torch.from_numpy(padded).to(self.device), lengths, cache)
        for layer in cache.layers:
            keys = getattr(layer, "keys", None)
            if keys is None or keys.shape[-2] != columns:
                raise UserError(
                    f"{type(self.model).__name__} does not keep plain keys and values, which the native engine needs: "
                    'use engine = "vllm" for this model'
                )
        return SlowPromptState(logits=logits, lengths=lengths, cache=cache)

    def decode(self, tokens: Tensor) -> Tensor:
        """Feed one token per row ([rows] int64); returns the next logits [rows, V] float32."""
        self.lengths = self.lengths + 1
        return self._forward(tokens.unsqueeze(1), self.lengths, self._cache)

    def _forward(self, tokens: Tensor, lengths: np.ndarray, cache: Any) -> Tensor:
        total = int(cache.get_seq_length()) + tokens.shape[1]
        used = torch.from_numpy(lengths).to(self.device).unsqueeze(1)
        positions = torch.arange(total, device=self.device) - (total - used)
        result = self.model(
            input_ids=tokens,
            attention_mask=(positions >= 0).long(),
            position_ids=positions[:, -tokens.shape[1] :].clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return result.logits[:, -1].float()


def _widen_head(model: Any) -> None:
    """The LM head in float32, and with it the embedding where they are one; all between keeps its type."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    inner = head.weight.dtype
    head.float()
    head.register_forward_pre_hook(lambda _, states: (states[0].float(),))
    if embedding.weight is head.weight:
        embedding.register_forward_hook(lambda module, tokens, states: states.to(inner))


def _left_pad(tensor: Tensor, columns: int) -> Tensor:
    return F.pad(tensor, (0, 0, columns - tensor.shape[-2], 0))
