"""Faster and leaner pieces of a causal language model, equal to what they replace up to rounding.

- ``chunked_logprobs``: log-probabilities and entropies through the LM head without ever holding [N, V] logits.
- ``make_lean``: replaces, in loaded Llama, Qwen2 and Qwen3 models, the norms and the attention that transformers
  composes of many small operations; the weights stay where they are, and so does decoding with a cache.

Dimension suffixes: B rows, T time, H query heads, K key heads, D head width, N tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from r1kit.losses import logprobs_and_entropy

SHORT_ATTENTION = 1024
"""On a CPU in bf16, up to this many keys attention runs as plain matrix products that keep the probabilities: measured
2 to 3 times faster, forward and backward, than the flash kernel, which is made for lengths where [T, T] does not
fit."""

QUERY_BLOCK = 64
"""Queries that share one stretch of keys in that attention: measured 1.25 times faster at 256 tokens and 1.4 times at
512 than one square for all of them."""

_CACHE_BYTES = 1 << 20  # scores of so many bytes at a time stay in a core's second-level cache


# ---------------------------------------------------------------------------------------------- LM head


class _ChunkedLogprobs(torch.autograd.Function):
    """Recomputes each chunk's logits in the backward pass: two more products instead of [N, V] in memory."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        to_logits: Callable[[Tensor], Tensor],
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.to_logits, ctx.chunk = to_logits, chunk
        ctx.set_materialize_grads(False)
        weight = weight.float()
        parts = [
            logprobs_and_entropy(to_logits(F.linear(rows.float(), weight, bias)), wanted)
            for rows, wanted in zip(hidden.split(chunk), targets.split(chunk), strict=True)
        ]
        logprobs, entropies = zip(*parts, strict=True)
        return torch.cat(logprobs), torch.cat(entropies)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        hidden, weight, bias, targets = ctx.saved_tensors
        grad_logprob, grad_entropy = grads
        # under an adapter the head is frozen, and its gradient is a third of this pass's work and V x D of memory
        for_hidden, for_weight, for_bias, *_ = ctx.needs_input_grad
        grad_hidden = torch.empty_like(hidden) if for_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if for_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if for_bias else None
        master = weight.float()
        for start in range(0, hidden.shape[0], ctx.chunk):
            part = slice(start, start + ctx.chunk)
            rows = hidden[part].float()
            raw = F.linear(rows, master, bias)
            grad_raw = _grad_of_logits(raw, targets[part], _at(grad_logprob, part), _at(grad_entropy, part), ctx)
            if grad_hidden is not None:
                grad_hidden[part] = grad_raw @ master
            if grad_weight is not None:
                grad_weight.addmm_(grad_raw.T, rows)
            if grad_bias is not None:
                grad_bias += grad_raw.sum(0)
        return grad_hidden, _as(weight, grad_weight), _as(bias, grad_bias), None, None, None


def _as(value: Tensor | None, grad: Tensor | None) -> Tensor | None:
    return None if value is None or grad is None else grad.to(value.dtype)


def _at(values: Tensor | None, part: slice) -> Tensor | None:
    return None if values is None else values[part]


def _grad_of_logits(
    raw: Tensor, targets: Tensor, by_logprob: Tensor | None, by_entropy: Tensor | None, ctx: Any
) -> Tensor:
    """d log p(y) / d z_j = [j = y] - p_j and d H / d z_j = -p_j (log p_j + H), then through ``to_logits``."""
    with torch.enable_grad():
        source = raw.detach().requires_grad_()
        logits = ctx.to_logits(source)
    log_p = torch.log_softmax(logits.detach(), dim=-1)
    p = log_p.exp()
    if by_entropy is None:
        grad = p.mul(-1.0 if by_logprob is None else -by_logprob[:, None])
    else:
        entropy = -(p * log_p).sum(-1, keepdim=True)
        grad = -(p * (log_p + entropy)) * by_entropy[:, None]
        if by_logprob is not None:
            grad -= p * by_logprob[:, None]
    if by_logprob is not None:
        grad.scatter_add_(1, targets[:, None], by_logprob[:, None].to(grad.dtype))
    if logits is source:
        return grad
    return torch.autograd.grad(logits, source, grad)[0]


def chunked_logprobs(
    hidden: Tensor,
    head: nn.Module,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    chunk: int = 1024,
    scale: float = 1.0,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probability of ``targets`` [N] and entropy, both fp32 [N] and in nats, from hidden states [N, D] of the LM
    head's input: softmax(softcap(scale * head(h)) / temperature), in fp32 whatever autocast says, at most
    ``chunk`` x V logits alive in either pass. Differentiable in both outputs, for hidden states, weight and bias.
    """
    weight: Tensor = head.weight  # type: ignore[assignment]
    bias: Tensor | None = getattr(head, "bias", None)

    def to_logits(raw: Tensor) -> Tensor:
        return _final_logits(raw, temperature, scale, softcap)

    with torch.autocast(hidden.device.type, enabled=False):
        return _ChunkedLogprobs.apply(hidden, weight, bias, targets, to_logits, chunk)  # type: ignore[no-any-return,no-untyped-call]


def head_logits(
    head: nn.Linear, *, temperature: float = 1.0, scale: float = 1.0, softcap: float | None = None
) -> Callable[[Tensor], Tensor]:
    """A function from hidden states [N, D] to the fp32 logits [N, V] that ``chunked_logprobs`` describes; the head's
    weight is cast once."""
    weight, bias = head.weight.float(), None if head.bias is None else head.bias.float()
    return lambda hidden: _final_logits(F.linear(hidden.float(), weight, bias), temperature, scale, softcap)


def _final_logits(raw: Tensor, temperature: float, scale: float, softcap: float | None) -> Tensor:
    logits = raw if scale == 1.0 else raw * scale
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    return logits if temperature == 1.0 else logits / temperature


# ---------------------------------------------------------------------------------------------- norms


def _compute_dtype(x: Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


class _RmsNorm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * w (arXiv 1910.07467 eq. 4) in fp32, in half the passes that autograd would make."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        unit = x * inverse
        ctx.save_for_backward(unit, inverse, weight)
        return (unit * weight).to(dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        unit, inverse, weight = ctx.saved_tensors
        grad = grads[0].float()
        along = grad * unit
        grad_weight = along.flatten(0, -2).sum(0)
        mean = (along * weight).mean(-1, keepdim=True)
        grad_x = torch.addcmul(grad.mul_(weight) if grad is not grads[0] else grad * weight, unit, mean, value=-1)
        return grad_x.mul_(inverse), grad_weight, None, None


def _lean_norm(self: Any, hidden_states: Tensor) -> Tensor:
    """RMSNorm in fp32; under autocast the result is in the dtype that the next product would cast it to, once instead
    of once per product."""
    dtype = torch.float32 if getattr(self, "keeps_fp32", False) else _compute_dtype(hidden_states)
    with torch.autocast(hidden_states.device.type, enabled=False):
        weight = self.weight.float()
        return _RmsNorm.apply(hidden_states.float(), weight, self.variance_epsilon, dtype)  # type: ignore[no-any-return,no-untyped-call]


# ---------------------------------------------------------------------------------------------- attention


def _rotate(x_BHTD: Tensor, cos: Tensor, sin: Tensor, out_dtype: torch.dtype) -> Tensor:
    half = x_BHTD.shape[-1] // 2
    x = x_BHTD.float()
    out = torch.empty(x.shape, dtype=out_dtype, device=x.device)
    left, right = x[..., :half], x[..., half:]
    out[..., :half] = torch.addcmul(left * cos[..., :half], right, sin[..., :half], value=-1)
    out[..., half:] = torch.addcmul(right * cos[..., half:], left, sin[..., half:])
    return out


class _Rope(torch.autograd.Function):
    """Rotary embedding in fp32, rounded once; its derivative is the opposite rotation, so nothing is saved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.dtype = x.dtype
        return _rotate(x, cos, sin, dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        cos, sin = ctx.saved_tensors
        return _rotate(grads[0], cos, -sin, ctx.dtype), None, None, None


class _ShortAttention(torch.autograd.Function):
    """Causal attention of G query heads per key head over T tokens, for X = B x K pairs: scores and softmax in fp32,
    probabilities kept in the inputs' dtype. A block of queries at a time, against the keys up to its end, so that half
    of the square above the diagonal is never computed; a few pairs at a time, so that scores stay in cache."""

    @staticmethod
    def forward(ctx: Any, q_XGTD: Tensor, k_XTD: Tensor, v_XTD: Tensor, scaling: float) -> Tensor:
        pairs, heads, length, width = q_XGTD.shape
        future = torch.full((QUERY_BLOCK, QUERY_BLOCK), float("-inf")).triu(1)
        k_XDT = k_XTD.float().mT
        out = torch.empty_like(q_XGTD)
        kept = []
        for start, stop in _query_blocks(length):
            size = stop - start
            mask = F.pad(future[:size, :size], (start, 0)).repeat(heads, 1)
            q = q_XGTD[:, :, start:stop].reshape(pairs, heads * size, width)
            p = q.new_empty(pairs, heads * size, stop)
            for part in _cache_sized(pairs, heads * size * stop):
                scores = torch.baddbmm(mask, q[part].float(), k_XDT[part, :, :stop], alpha=scaling)
                p[part] = torch.softmax(scores, dim=-1)
                out[part, :, start:stop] = torch.bmm(p[part], v_XTD[part, :stop]).view(-1, heads, size, width)
            kept.append(p)
        ctx.save_for_backward(q_XGTD, k_XTD, v_XTD, out, *kept)
        ctx.scaling = scaling
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        q_XGTD, k, v, out, *kept = ctx.saved_tensors
        pairs, heads, length, width = q_XGTD.shape
        grad_out = grads[0]
        delta_XGT1 = (grad_out.float() * out.float()).sum(-1, keepdim=True)
        grad_q, grad_k, grad_v = torch.empty_like(q_XGTD), torch.zeros(k.shape), torch.zeros(v.shape)
        for (start, stop), p in zip(_query_blocks(length), kept, strict=True):
            size = stop - start
            q, g, delta = (x[:, :, start:stop].reshape(pairs, heads * size, -1) for x in (q_XGTD, grad_out, delta_XGT1))
            for part in _cache_sized(pairs, heads * size * stop):
                grad_v[part, :stop] += torch.bmm(p[part].mT, g[part])
                grad_s = torch.bmm(g[part], v[part, :stop].mT).float().sub_(delta[part])
                grad_s = grad_s.mul_(p[part]).mul_(ctx.scaling).to(q.dtype)
                grad_q[part, :, start:stop] = torch.bmm(grad_s, k[part, :stop]).view(-1, heads, size, width)
                grad_k[part, :stop] += torch.bmm(grad_s.mT, q[part])
        return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype), None


def _query_blocks(length: int) -> list[tuple[int, int]]:
    return [(start, min(start + QUERY_BLOCK, length)) for start in range(0, length, QUERY_BLOCK)]


def _cache_sized(pairs: int, scores: int) -> list[slice]:
    step = max(1, _CACHE_BYTES // (4 * scores))
    return [slice(start, min(start + step, pairs)) for start in range(0, pairs, step)]


def causal_attention(q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, scaling: float) -> Tensor:
    """Causal attention with grouped queries, [B, H, T, D]."""
    B, H, T, D = q_BHTD.shape
    K = k_BKTD.shape[1]
    if q_BHTD.device.type == "cpu" and q_BHTD.dtype == torch.bfloat16 and T <= SHORT_ATTENTION:
        k_XTD, v_XTD = k_BKTD.reshape(B * K, T, D), v_BKTD.reshape(B * K, T, D)
        q_XGTD = q_BHTD.reshape(B * K, H // K, T, D)
        # Autocast would turn the fp32 scores back into bf16.
        with torch.autocast("cpu", enabled=False):
            out = _ShortAttention.apply(q_XGTD, k_XTD, v_XTD, scaling)  # type: ignore[no-untyped-call]
        return out.view(B, H, T, D)  # type: ignore[no-any-return]
    return F.scaled_dot_product_attention(q_BHTD, k_BKTD, v_BKTD, is_causal=True, scale=scaling, enable_gqa=H != K)


@dataclass(frozen=True, slots=True)
class Packing:
    """How sequences lie end to end in one row: their lengths, and where each starts, [S + 1] int32 on the device."""

    lengths: list[int]
    starts: Tensor

    @classmethod
    def of(cls, cu_seqlens: npt.NDArray[np.int64], device: torch.device) -> Packing:
        starts = torch.from_numpy(cu_seqlens.astype(np.int32)).to(device)
        return cls(np.diff(cu_seqlens).tolist(), starts)


def packed_attention(q_1HND: Tensor, k_1KND: Tensor, v_1KND: Tensor, scaling: float, packing: Packing) -> Tensor:
    """Causal attention within each of the sequences that share one row, [1, H, N, D]: on CUDA in one call of torch's
    variable-length attention, elsewhere sequence by sequence."""
    if q_1HND.is_cuda and q_1HND.dtype in (torch.bfloat16, torch.float16):
        return _varlen_attention(q_1HND, k_1KND, v_1KND, scaling, packing)
    streams = (x.split(packing.lengths, dim=2) for x in (q_1HND, k_1KND, v_1KND))
    parts = [causal_attention(q, k, v, scaling) for q, k, v in zip(*streams, strict=True)]
    return torch.cat(parts, dim=2)


def _varlen_attention(q_1HND: Tensor, k_1KND: Tensor, v_1KND: Tensor, scaling: float, packing: Packing) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    groups = q_1HND.shape[1] // k_1KND.shape[1]
    options: dict[str, Any] = {"scale": scaling, "window_size": (-1, 0)}  # torch's way to say "causal"
    if groups > 1 and "enable_gqa" in inspect.signature(varlen_attn).parameters:
        options["enable_gqa"] = True
    elif groups > 1:  # not every torch that we support can
        k_1KND, v_1KND = (x.repeat_interleave(groups, dim=1) for x in (k_1KND, v_1KND))
    q_NHD, k_NKD, v_NKD = (x[0].transpose(0, 1) for x in (q_1HND, k_1KND, v_1KND))
    starts, longest = packing.starts, max(packing.lengths)
    out_NHD: Any = varlen_attn(q_NHD, k_NKD, v_NKD, starts, starts, longest, longest, **options)
    return out_NHD.transpose(0, 1)[None]  # type: ignore[no-any-return]


def _lean_attention(self: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
    packing = kwargs.pop("packing", None)
    mask = kwargs.get("attention_mask")
    plain = not args and kwargs.get("past_key_values") is None and (mask is None or packing is not None)
    if not plain or self.config._attn_implementation != "sdpa":
        return type(self).forward(self, hidden_states, *args, **kwargs)  # type: ignore[no-any-return]
    cos, sin = (x.float().unsqueeze(1) for x in kwargs["position_embeddings"])
    shape = (*hidden_states.shape[:-1], -1, self.head_dim)
    q, k = (self.q_proj(hidden_states).view(shape), self.k_proj(hidden_states).view(shape))
    if hasattr(self, "q_norm"):
        q, k = self.q_norm(q), self.k_norm(k)
    v = self.v_proj(hidden_states).view(shape).transpose(1, 2)
    dtype = v.dtype
    q, k = (_Rope.apply(x.transpose(1, 2), cos, sin, dtype) for x in (q, k))  # type: ignore[no-untyped-call]
    out = (
        causal_attention(q, k, v, self.scaling) if packing is None else packed_attention(q, k, v, self.scaling, packing)
    )
    return self.o_proj(out.transpose(1, 2).flatten(2)), None


_NORMS = ("LlamaRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")
_ATTENTIONS = ("LlamaAttention", "Qwen2Attention", "Qwen3Attention")


def make_lean(model: nn.Module) -> bool:
    """Replace norms and attention of a Llama, Qwen2 or Qwen3 model by the lean forms above, in place; False (and
    nothing done) for another architecture, and where sliding windows or attention dropout are on. Weights, names and
    ``save_pretrained`` are untouched; calls with a cache or a mask still run the original code.
    """
    attentions = [module for module in model.modules() if type(module).__name__ in _ATTENTIONS]
    if not attentions or any(getattr(m, "sliding_window", None) or m.attention_dropout for m in attentions):
        return False
    for module in model.modules():
        if type(module).__name__ in _NORMS:
            module.forward = MethodType(_lean_norm, module)  # type: ignore[method-assign]
    for module in attentions:
        module.forward = MethodType(_lean_attention, module)  # type: ignore[method-assign]
    return True


def keep_last_norm_fp32(model: Any) -> None:
    """Under autocast, hand the LM head the last norm's fp32 states instead of rounded ones: its product is in fp32 in
    any case. Nothing to do in a model that ``make_lean`` left alone, which does so with fp32 weights."""
    norm: Any = getattr(model.get_decoder(), "norm", None)
    if getattr(getattr(norm, "forward", None), "__func__", None) is _lean_norm:
        norm.keeps_fp32 = True


def is_lean(model: nn.Module) -> bool:
    """Has ``make_lean`` replaced this model's attention, and will it run?"""
    lean = any(getattr(getattr(m, "forward", None), "__func__", None) is _lean_attention for m in model.modules())
    return lean and model.config._attn_implementation == "sdpa"  # type: ignore[union-attr]
