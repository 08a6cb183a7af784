"""A model's weights as the kernels read them, and which models they can run."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from r1kit.kernels._build import Shape, load_library, unavailable

ARCHITECTURES = ("Llama", "Qwen2", "Qwen3")
ROPE_TYPES = ("default", "linear", "yarn", "llama3")
LARGEST = 1 << 26
"""Weights of the largest model the kernels take: each thread reads all of them, which must not be slow."""
WIDE_HEAD_WEIGHTS = 1 << 22
"""Up to so many weights, and where asked for, the sampler's logits are as good as float32's: bfloat16 ones are off by
up to 0.06 around 16, which shows in the log-probabilities, and a small head costs little."""


def why_not(model: Any, *, training: bool = False) -> str:
    """Why the kernels cannot run this model (a causal language model or sequence classifier of transformers); empty if
    they can. ``training``: whether they can train it, too."""
    decoder, config = getattr(model, "model", None), model.config
    family = type(decoder).__name__.removesuffix("Model")
    heads = (f"{family}ForCausalLM", f"{family}ForSequenceClassification")
    if family not in ARCHITECTURES or type(model).__name__ not in heads:
        return f"architecture {type(model).__name__}"
    if next(model.parameters()).device.type != "cpu":
        return "the model is not on a CPU"
    return _unfit_settings(config) or _unfit_modules(decoder, config, training) or unavailable()


def _unfit_settings(config: Any) -> str:
    if getattr(config, "hidden_act", "silu") not in ("silu", "swish"):
        return f"activation {config.hidden_act}"
    sliding = any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ())
    if sliding or getattr(config, "use_sliding_window", False):
        return "sliding-window attention"
    if getattr(config, "attention_dropout", 0.0):
        return "attention dropout"
    return ""


def _unfit_modules(decoder: Any, config: Any, training: bool) -> str:
    layer, attention = decoder.layers[0], decoder.layers[0].self_attn
    rope = getattr(decoder.rotary_emb, "rope_type", "?")
    if rope not in ROPE_TYPES:
        return f"rope type {rope}"
    projections = [module for name, module in decoder.named_modules() if name.endswith("_proj")]
    if any(type(module) is not nn.Linear for module in projections):
        return "linear layers that are not torch.nn.Linear (adapters or quantisation)"
    if any(module.bias is not None for module in (attention.o_proj, layer.mlp.gate_proj, layer.mlp.down_proj)):
        return "biases other than those of queries, keys and values"
    multiples = (config.hidden_size, attention.head_dim, layer.mlp.gate_proj.out_features)
    if any(size % 32 for size in multiples):
        return "widths that are not multiples of 32"
    if decoder.rotary_emb.inv_freq.shape[0] * 2 != attention.head_dim:
        return "partial rotary embedding"
    if sum(parameter.numel() for parameter in decoder.parameters()) > LARGEST:
        return f"more than {LARGEST:,} weights"
    if training and hasattr(attention, "q_norm"):
        return "norms of queries and keys, which the kernels do not train"
    return ""


def named_in_order(model: Any) -> Iterator[tuple[str, Tensor | None]]:
    """A model's weights in the order the library takes them, under their names in ``model``; None for absent ones."""
    decoder = model.model
    head = getattr(model, "lm_head", None)
    yield "model.embed_tokens.weight", decoder.embed_tokens.weight
    yield "model.norm.weight", decoder.norm.weight
    yield "lm_head.weight", decoder.embed_tokens.weight if head is None else head.weight
    for i, layer in enumerate(decoder.layers):
        attention, mlp, name = layer.self_attn, layer.mlp, f"model.layers.{i}."
        yield name + "input_layernorm.weight", layer.input_layernorm.weight
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"{name}self_attn.{part}.weight", getattr(attention, part).weight
        yield name + "post_attention_layernorm.weight", layer.post_attention_layernorm.weight
        for part in ("gate_proj", "up_proj", "down_proj"):
            yield f"{name}mlp.{part}.weight", getattr(mlp, part).weight
        for part in ("q_proj", "k_proj", "v_proj"):
            yield f"{name}self_attn.{part}.bias", getattr(attention, part).bias
        for part in ("q_norm", "k_norm"):
            yield f"{name}self_attn.{part}.weight", getattr(getattr(attention, part, None), "weight", None)


class Weights:
    """The library's copy of a model's weights; ``backward`` keeps what gradients need too, ``wide_head`` gives logits
    as good as float32's."""

    def __init__(self, model: Any, *, backward: bool, wide_head: bool) -> None:
        config, attention = model.config, model.model.layers[0].self_attn
        self._library = load_library()
        self.vocab_size = model.model.embed_tokens.weight.shape[0]
        self.head_dim: int = attention.head_dim
        shape = Shape(
            layers=config.num_hidden_layers, hidden=config.hidden_size, heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads, head_dim=attention.head_dim,
            inner=model.model.layers[0].mlp.gate_proj.out_features, vocab=self.vocab_size,
            qkv_bias=attention.q_proj.bias is not None, head_norm=hasattr(attention, "q_norm"),
            wide_head=wide_head, backward=backward, eps=config.rms_norm_eps,
        )  # fmt: skip
        self.handle = self._library.r1_model_new(ctypes.byref(shape))
        if not self.handle:
            raise MemoryError("no memory for the kernels' copy of the weights")
        weakref.finalize(self, self._library.r1_model_free, self.handle)

    def load(self, weights: Sequence[Tensor | None]) -> None:
        """Take these weights, in the order of ``named_in_order``."""
        # held until the library has copied them
        held = [None if weight is None else weight.detach().float().contiguous() for weight in weights]
        pointers = (ctypes.c_void_p * len(held))(*(None if weight is None else weight.data_ptr() for weight in held))
        if self._library.r1_model_load(self.handle, pointers):
            raise MemoryError("no memory to pack the weights")


class Rope:
    """cos and sin of a model's rotary embedding, [T, D / 2] float32 each, from its own rotary module."""

    def __init__(self, model: Any) -> None:
        self._rotary = model.model.rotary_emb
        self._table = (torch.empty(0), torch.empty(0))

    def table(self, length: int) -> tuple[Tensor, Tensor]:
        """Both for at least ``length`` positions. Hold on to them while the library reads them: a longer table takes
        their place, and lanes ask for theirs at the same time."""
        known = self._table
        if known[0].shape[0] >= length:
            return known
        positions = torch.arange(-(-length // 512) * 512).unsqueeze(0)
        with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
            cos, sin = self._rotary(torch.zeros(1, dtype=torch.float32), positions)
        half = cos.shape[-1] // 2
        made = (cos[0, :, :half].float().contiguous(), sin[0, :, :half].float().contiguous())
        self._table = made
        return made
