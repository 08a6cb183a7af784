"""Our own forward pass for Llama, Qwen2 and Qwen3: the native sampler's hot loop.

What makes it fast on a CPU, each measured: query/key/value and gate/up projections in one product each;
key and value caches kept contiguous at the live length (a strided slice makes the batched products up to
three times slower), so they grow in blocks; a key-value head's queries are the rows of one product, so
nothing is repeated; rotary embedding as one complex product (rotated pairs are interleaved in the weights,
which leaves every dot product as it was); the attention scale is folded into the query weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from r1kit.engines._graphs import CudaRecorder, StepGraphs
from r1kit.engines._weights import Destinations
from r1kit.kernels import weights

ARCHITECTURES = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "llama3")
CACHE_BLOCK = 32
# A batch size or cache length not seen before costs the CPU's matrix library about 2 ms of code generation a
# step, and moving rows costs time too: rows leave in blocks of up to this many.
ROW_BLOCK = 16

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def why_not(model: Any) -> str:
    """Why this model cannot take the fast path; empty if it can."""
    config = model.config
    if type(model).__name__ not in ARCHITECTURES:
        return f"architecture {type(model).__name__}"
    if getattr(config, "hidden_act", "silu") not in ("silu", "swish"):
        return f"activation {config.hidden_act}"
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
        return "sliding-window attention"
    if getattr(config, "use_sliding_window", False):
        return "sliding-window attention"
    rotary = model.model.rotary_emb
    if getattr(rotary, "rope_type", "?") not in ROPE_TYPES:
        return f"rope type {getattr(rotary, 'rope_type', '?')}"
    if rotary.inv_freq.shape[0] * 2 != model.model.layers[0].self_attn.head_dim:
        return "partial rotary embedding"
    plain = all(type(module) is torch.nn.Linear for name, module in model.named_modules() if name.endswith("_proj"))
    return "" if plain else "linear layers that are not torch.nn.Linear (adapters or quantisation)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One decoder layer's weights, fused. ``head_norm`` [Hq + Hkv, D] is Qwen3's query and key norm."""

    input_norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    head_norm: Tensor | None
    out: Tensor
    out_bias: Tensor | None
    mlp_norm: Tensor
    gate_up: Tensor
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptState:
    """P prefilled prompts: the logits after each [P, V], and keys and values [P, Hkv, T, D] per layer."""

    logits: Tensor
    lengths: np.ndarray
    keys: list[Tensor]
    values: list[Tensor]


class FastDecoder:
    """Weights, key-value cache and forward passes. Rows are appended at the end and dropped by ``keep``."""

    row_block = ROW_BLOCK

    def __init__(self, model: Any, dtype: torch.dtype, *, cast_lm_head_to_fp32: bool = False) -> None:
        config, attention = model.config, model.model.layers[0].self_attn
        self.device = model.device
        self.dtype = dtype
        self.head_dim = attention.head_dim
        self.kv_heads = config.num_key_value_heads
        self.query_heads = config.num_attention_heads
        self.eps = config.rms_norm_eps
        # Not the configuration's: resizing the embedding may leave that behind.
        self.vocab_size = model.model.embed_tokens.weight.shape[0]
        self.bytes_per_token = 2 * config.num_hidden_layers * self.kv_heads * self.head_dim * dtype.itemsize
        self.destinations = Destinations()
        self._rotary = model.model.rotary_emb
        sizes = {config.hidden_size, self.head_dim}
        self._floors = {n: torch.tensor(math.sqrt(n * self.eps), device=self.device) for n in sizes}
        self._frequencies = torch.empty(0, self.head_dim // 2, dtype=torch.complex64, device=self.device)
        self.graphs = StepGraphs(CudaRecorder()) if self.device.type == "cuda" else None
        with torch.inference_mode():
            self._allocate(model, cast_lm_head_to_fp32)
            self.load(model.named_parameters())
        self.clear()

    # -- weights ---------------------------------------------------------------------------------------

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Replace all weights, as ``Destinations.load`` does."""
        self.destinations.load(weights)

    def _allocate(self, model: Any, wide_head: bool) -> None:
        config = model.config
        vocab, hidden = self.vocab_size, config.hidden_size
        small, tied = vocab * hidden <= weights.WIDE_HEAD_WEIGHTS, config.tie_word_embeddings
        wide = {True: torch.float32, False: self.dtype}
        self.embedding = self._empty(vocab, hidden, dtype=wide[small or (wide_head and tied)])
        self.destinations.bind("model.embed_tokens.weight", self.embedding)
        self.head = self.embedding
        if tied:
            self.destinations.ignore("lm_head.weight")
        else:
            self.head = self._empty(vocab, hidden, dtype=wide[small or wide_head])
            self.destinations.bind("lm_head.weight", self.head)
        self.final_norm = self._empty(hidden, dtype=torch.float32)
        self.destinations.bind("model.norm.weight", self.final_norm, scale=math.sqrt(hidden))
        self.layers = [self._allocate_layer(f"model.layers.{i}.", layer) for i, layer in enumerate(model.model.layers)]

    def _empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.zeros(shape, dtype=dtype or self.dtype, device=self.device)

    def _allocate_layer(self, name: str, layer: Any) -> Layer:
        hidden = self.embedding.shape[1]
        inner = layer.mlp.gate_proj.weight.shape[0]
        attention = layer.self_attn
        rows = (self.query_heads + 2 * self.kv_heads) * self.head_dim
        has_head_norm = hasattr(attention, "q_norm")

        def bias(projection: Any, size: int) -> Tensor | None:
            return None if projection.bias is None else self._empty(size)

        result = Layer(
            input_norm=self._empty(hidden, dtype=torch.float32),
            qkv=self._empty(rows, hidden),
            qkv_bias=bias(attention.q_proj, rows),
            head_norm=self._empty(self.query_heads + self.kv_heads, self.head_dim, dtype=torch.float32)
            if has_head_norm
            else None,
            out=self._empty(hidden, self.query_heads * self.head_dim),
            out_bias=bias(attention.o_proj, hidden),
            mlp_norm=self._empty(hidden, dtype=torch.float32),
            gate_up=self._empty(2 * inner, hidden),
            gate_up_bias=bias(layer.mlp.gate_proj, 2 * inner),
            down=self._empty(hidden, inner),
            down_bias=bias(layer.mlp.down_proj, hidden),
        )
        self._bind_attention(name + "self_attn.", result)
        bind = self.destinations.bind
        bind(name + "input_layernorm.weight", result.input_norm, scale=math.sqrt(hidden))
        bind(name + "post_attention_layernorm.weight", result.mlp_norm, scale=math.sqrt(hidden))
        for tensor, part in ((result.gate_up, "weight"), (result.gate_up_bias, "bias")):
            if tensor is not None:
                bind(f"{name}mlp.gate_proj.{part}", tensor[:inner])
                bind(f"{name}mlp.up_proj.{part}", tensor[inner:])
        for tensor, part in ((result.down, "weight"), (result.down_bias, "bias")):
            if tensor is not None:
                bind(f"{name}mlp.down_proj.{part}", tensor)
        return result

    def _bind_attention(self, name: str, layer: Layer) -> None:
        bind, dim = self.destinations.bind, self.head_dim
        scale = 1.0 / math.sqrt(dim)
        # A norm on the queries undoes any scale of their weights, so there the scale goes into the norm.
        projection_scale = 1.0 if layer.head_norm is not None else scale
        queries, keys = self.query_heads, self.kv_heads
        for tensor, part in ((layer.qkv, "weight"), (layer.qkv_bias, "bias")):
            if tensor is None:
                continue
            heads = tensor.view(queries + 2 * keys, dim, *tensor.shape[1:])
            bind(f"{name}q_proj.{part}", *_interleaved(heads[:queries]), scale=projection_scale)
            bind(f"{name}k_proj.{part}", *_interleaved(heads[queries : queries + keys]))
            bind(f"{name}v_proj.{part}", tensor[(queries + keys) * dim :])
        if layer.head_norm is not None:
            # The norm's own factor sqrt(D) cancels the attention scale of the queries.
            parts = (("q_norm", slice(0, queries), 1.0), ("k_norm", slice(queries, None), math.sqrt(dim)))
            for part, rows, factor in parts:
                view, shape = _interleaved(layer.head_norm[rows])
                bind(f"{name}{part}.weight", view, shape[1:], scale=factor)
        bind(name + "o_proj.weight", layer.out)
        if layer.out_bias is not None:
            bind(name + "o_proj.bias", layer.out_bias)

    # -- cache -----------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Drop every row and the cache's memory."""
        self.rows = 0
        self.lengths = np.zeros(0, dtype=np.int64)
        self._moving = np.zeros(0, dtype=np.int64)
        self._capacity = (0, 0)
        self._keys: list[Tensor] = [torch.empty(0) for _ in self.layers]
        self._values: list[Tensor] = [torch.empty(0) for _ in self.layers]
        self._place_inputs(0)

    def _ensure(self, rows: int, length: int, *, shrink: bool = False) -> None:
        """Room for ``rows`` rows of ``length`` tokens; contiguous, so changing it copies the live part."""
        had_rows, had_length = self._capacity
        block = CACHE_BLOCK if self.device.type == "cpu" else 8 * CACHE_BLOCK
        length = -(-length // block) * block
        if not (shrink and 4 * length <= 3 * had_length):
            length = max(length, had_length)
        if rows <= had_rows and length == had_length:
            return
        rows = max(rows, had_rows if length == had_length else self.rows)
        copied = min(length, had_length)
        shape = (rows, self.kv_heads, length, self.head_dim)
        for cache in (self._keys, self._values):
            for i, old in enumerate(cache):
                new = torch.zeros(shape, dtype=self.dtype, device=self.device)
                if self.rows:
                    new[: self.rows, :, :copied] = old[: self.rows, :, :copied]
                cache[i] = new
        self._capacity = (rows, length)
        self._place_inputs(rows)

    def _place_inputs(self, rows: int) -> None:
        """What a step reads besides weights and cache gets a place of its own, where recorded steps find it."""
        nothing = torch.zeros(rows, dtype=torch.int64, device=self.device)
        self._device_tokens, self._device_lengths, self._device_moving = nothing, nothing.clone(), nothing.clone()
        if self.graphs is not None:
            self._device_logits = torch.empty(rows, self.vocab_size, device=self.device)
        self._forget_recorded()
        self._sync_lengths()

    def _forget_recorded(self) -> None:
        if self.graphs is not None:
            self.graphs.forget()

    def append(self, state: PromptState, index: np.ndarray) -> None:
        """Add a row per entry of ``index``, which names the prompt it continues."""
        start, stop = self.rows, self.rows + len(index)
        longest = int(state.lengths[index].max())
        needed = max(longest, int(self.lengths.max(initial=0))) + 1
        self._ensure(stop, needed, shrink=True)
        chosen = torch.from_numpy(index).to(self.device)
        for cache, source in ((self._keys, state.keys), (self._values, state.values)):
            for mine, prompt in zip(cache, source, strict=True):
                mine[start:stop, :, :longest] = prompt[:, :, :longest].index_select(0, chosen)
        self.lengths = np.concatenate([self.lengths, state.lengths[index]])
        self._moving = np.concatenate([self._moving, np.ones(len(index), dtype=np.int64)])
        self.rows = stop
        self._sync_lengths()

    def retire(self, rows: np.ndarray) -> None:
        """These rows are done: they stay in the batch until ``keep`` drops them, but grow no more."""
        self._moving[rows] = 0
        self._sync_lengths()

    def keep(self, order: np.ndarray) -> None:
        """The batch becomes the rows ``order`` (distinct), in that order; copies only rows that move."""
        moved = np.flatnonzero(order != np.arange(len(order)))
        if len(moved):
            source = torch.from_numpy(order[moved]).to(self.device)
            target = torch.from_numpy(moved).to(self.device)
            for cache in (*self._keys, *self._values):
                cache.index_copy_(0, target, cache.index_select(0, source))
        self.lengths, self._moving = self.lengths[order], self._moving[order]
        self.rows = len(order)
        self._sync_lengths()

    def _sync_lengths(self) -> None:
        self._device_lengths[: self.rows] = torch.from_numpy(self.lengths)
        self._device_moving[: self.rows] = torch.from_numpy(self._moving)

    # -- forward ---------------------------------------------------------------------------------------

    def prefill(self, prompts: Sequence[np.ndarray]) -> PromptState:
        """Run whole prompts (right-padded: causal attention never looks at the padding)."""
        lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
        count, longest = len(prompts), int(lengths.max())
        padded = np.zeros((count, longest), dtype=np.int64)
        for row, prompt in enumerate(prompts):
            padded[row, : len(prompt)] = prompt
        keys: list[Tensor] = []
        values: list[Tensor] = []

        def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (part.view(count, longest, -1, self.head_dim).transpose(1, 2) for part in (q, k, v))
            keys.append(k)
            values.append(v)
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0, enable_gqa=True)
            return out.transpose(1, 2).reshape(count * longest, -1)

        tokens = torch.from_numpy(padded).to(self.device).view(-1)
        frequencies = self._rope(longest)[:longest].repeat(count, 1)
        hidden = self._forward(tokens, frequencies, attend)
        last = torch.from_numpy(np.arange(count) * longest + lengths - 1).to(self.device)
        return PromptState(logits=self._logits(hidden[last]), lengths=lengths, keys=keys, values=values)

    def decode(self, tokens: Tensor) -> Tensor:
        """Feed one token per row ([rows] int64); returns the next logits [rows, V] float32, which the next call may
        overwrite."""
        needed = int(self.lengths.max()) + 1
        self._ensure(self.rows, needed)
        self._rope(needed)
        self._device_tokens[: self.rows] = tokens
        logits = self._step() if self.graphs is None else self.graphs.run(self.rows, self._step)
        self.lengths = self.lengths + self._moving
        self._device_lengths += self._device_moving
        return logits

    def _step(self) -> Tensor:
        """The logits after the tokens, lengths and cache that are on the device: it looks at nothing else that changes
        from step to step, because it may be recorded and replayed."""
        rows, length = self.rows, self._capacity[1]
        tokens, position = self._device_tokens[:rows], self._device_lengths[:rows]
        steps = torch.arange(length, device=self.device)
        mask = torch.zeros(rows, 1, length, dtype=self.dtype, device=self.device)
        mask.masked_fill_((steps > position.unsqueeze(1)).unsqueeze(1), float("-inf"))
        heads = torch.arange(rows * self.kv_heads, device=self.device).view(rows, -1)
        slots = (heads * length + position.unsqueeze(1)).view(-1)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            dim = self.head_dim
            keys, values = (
                self._keys[layer][:rows].view(-1, length, dim),
                self._values[layer][:rows].view(-1, length, dim),
            )
            keys.view(-1, dim).index_copy_(0, slots, k.reshape(-1, dim))
            values.view(-1, dim).index_copy_(0, slots, v.reshape(-1, dim))
            scores = torch.bmm(q.reshape(rows * self.kv_heads, -1, dim), keys.transpose(1, 2))
            scores.view(rows, self.query_heads, length).add_(mask)
            return torch.bmm(torch.softmax(scores, dim=-1), values).view(rows, -1)

        logits = self._logits(self._forward(tokens, self._frequencies[position], attend))
        # recorded steps share their memory, so the result needs a place of its own
        return logits if self.graphs is None else self._device_logits[:rows].copy_(logits)

    def _forward(self, tokens: Tensor, frequencies: Tensor, attend: Attend) -> Tensor:
        """Hidden states [N, H] float32 before the final norm; ``tokens`` [N], ``frequencies`` [N, D / 2] complex.

        The residual stream is float32 whatever the weights are, the products' inputs are in their dtype.
        """
        x = F.embedding(tokens, self.embedding).float()
        frequencies = frequencies.unsqueeze(1)
        for i, layer in enumerate(self.layers):
            normed = self._norm(x, layer.input_norm).to(self.dtype)
            mixed = attend(i, *self._qkv(normed, layer, frequencies))
            x = x.add_(F.linear(mixed, layer.out, layer.out_bias))
            normed = self._norm(x, layer.mlp_norm).to(self.dtype)
            gate, up = F.linear(normed, layer.gate_up, layer.gate_up_bias).chunk(2, dim=-1)
            x = x.add_(F.linear(F.silu(gate).mul_(up), layer.down, layer.down_bias))
        return x

    def _qkv(self, x: Tensor, layer: Layer, frequencies: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries [N, Hq, D] and keys [N, Hkv, D], and values [N, Hkv, D], in the weights' dtype."""
        projected = F.linear(x, layer.qkv, layer.qkv_bias).view(x.shape[0], -1, self.head_dim)
        turning, values = projected[:, : -self.kv_heads], projected[:, -self.kv_heads :]
        turning = turning.float()
        if layer.head_norm is not None:
            turning = self._norm(turning, layer.head_norm)
        pairs = torch.view_as_complex(turning.unflatten(-1, (-1, 2)))
        turned = torch.view_as_real(pairs * frequencies).flatten(-2).to(self.dtype)
        return turned[:, : self.query_heads], turned[:, self.query_heads :], values

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMS norm over the last axis; ``weight`` already holds the factor sqrt(n).

        x / sqrt(mean(x^2) + eps) = sqrt(n) x / hypot(|x|, sqrt(n eps)): torch's own is made of twice the operations.
        """
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return (x / torch.hypot(length, self._floors[x.shape[-1]])).mul_(weight)

    def _logits(self, hidden: Tensor) -> Tensor:
        normed = self._norm(hidden, self.final_norm)
        return F.linear(normed.to(self.head.dtype), self.head).float()

    def _rope(self, length: int) -> Tensor:
        """cos + i sin of every position up to ``length``, [T, D / 2], from the model's own rotary module."""
        if self._frequencies.shape[0] < length:
            size = -(-length // 512) * 512
            positions = torch.arange(size, device=self.device).unsqueeze(0)
            limit = getattr(self._rotary, "original_max_seq_len", None)
            if self._rotary.rope_type == "dynamic" and limit:
                # Past that length "dynamic" would turn all positions by the longest one asked for.
                positions = positions.clamp(max=max(limit, length) - 1)
            cos, sin = self._rotary(torch.zeros(1, dtype=torch.float32, device=self.device), positions)
            half = self.head_dim // 2
            self._frequencies = torch.complex(cos[0, :, :half].float(), sin[0, :, :half].float())
            self._forget_recorded()
        return self._frequencies


def _interleaved(heads: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """A view of ``heads`` [H, D, ...] in which Hugging Face's order of a head's rows (first halves of all rotated
    pairs, then second halves) lands interleaved, and the shape to give the source before copying into it."""
    count, dim, *rest = heads.shape
    view = heads.view(count, dim // 2, 2, *rest).transpose(1, 2)
    return view, tuple(view.shape)
