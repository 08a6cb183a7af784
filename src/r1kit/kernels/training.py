"""The decoder's forward and backward passes and log-probabilities as functions that torch differentiates."""

from __future__ import annotations

import ctypes
import threading
import weakref
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from r1kit.kernels._build import load_library
from r1kit.kernels.weights import Rope, Weights, named_in_order, why_not

Int32s = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """Sequences in one stream: ``ids`` [N], ``positions`` [N], ``starts`` [S + 1]."""

    ids: Int32s
    positions: Int32s
    starts: Int32s

    @property
    def arguments(self) -> tuple[int, ...]:
        return (len(self.ids), self.ids.ctypes.data, self.positions.ctypes.data, len(self.starts) - 1,
                self.starts.ctypes.data)  # fmt: skip


class Lane:
    """What one pass at a time works in: the library's scratch memory, and a workspace for what backward passes need."""

    def __init__(self) -> None:
        library = load_library()
        self.scratch = library.r1_scratch_new()
        self.head_scratch = library.r1_head_scratch_new()
        weakref.finalize(self, library.r1_scratch_free, self.scratch)
        weakref.finalize(self, library.r1_head_scratch_free, self.head_scratch)
        self._memory = torch.empty(0, dtype=torch.uint8)

    def workspace(self, size: int) -> int:
        """Address of at least ``size`` bytes; what was there is lost where it has to grow."""
        if self._memory.numel() < size + 64:
            self._memory = torch.empty(size + size // 8 + 64, dtype=torch.uint8)
        return -(-self._memory.data_ptr() // 64) * 64


_idle_lanes: list[Lane] = []


class _Borrowed:
    """A lane that goes back to the idle ones when nothing refers to it any more."""

    def __init__(self) -> None:
        try:
            self.lane = _idle_lanes.pop()
        except IndexError:
            self.lane = Lane()
        weakref.finalize(self, _idle_lanes.append, self.lane)


_optimizer_steps = 0


def _count_step(*_: Any) -> None:
    global _optimizer_steps
    _optimizer_steps += 1


register_optimizer_step_post_hook(_count_step)


class TrainedModel:
    """A model that the kernels train: its packed weights follow the parameters."""

    def __init__(self, model: Any) -> None:
        self.weights = Weights(model, backward=True, wide_head=True)
        self.rope = Rope(model)
        self.parameters = [weight for _, weight in named_in_order(model)]
        self._lock = threading.Lock()
        self._known: tuple[Any, ...] = ()

    def refresh(self) -> None:
        """Pack the weights again if they changed: torch counts a tensor's changes in ``_version``, but not those that a
        fused optimizer makes."""
        now = (_optimizer_steps, *((p.data_ptr(), p._version) for p in self.parameters if p is not None))
        with self._lock:
            if now != self._known:
                self.weights.load(self.parameters)
                self._known = now


_trained: WeakKeyDictionary[Any, TrainedModel | None] = WeakKeyDictionary()
_making = threading.Lock()


CHECKPOINTED_BYTES = 1 << 30
"""What a pass of the kernels may keep for its backward pass where gradient checkpointing was asked for."""


def trained_model(model: Any, tokens: int) -> TrainedModel | None:
    """The kernels' side of ``model`` where they can run a pass over so many tokens as things stand: products in
    bfloat16 (autocast on the CPU), float32 weights. Gradient checkpointing is asked for to save memory and costs time:
    passes that keep little are run whole all the same."""
    if not torch.is_autocast_enabled("cpu") or torch.get_autocast_dtype("cpu") != torch.bfloat16:
        return None
    with _making:
        if model not in _trained:
            plain = all(p.dtype == torch.float32 and p.is_contiguous() for p in model.parameters())
            fits = plain and getattr(model.config, "_attn_implementation", "sdpa") == "sdpa"
            _trained[model] = TrainedModel(model) if fits and not why_not(model, training=True) else None
        known = _trained[model]
    if known is not None and _checkpoints(model):
        kept = load_library().r1_workspace_bytes(known.weights.handle, tokens)
        return known if kept <= CHECKPOINTED_BYTES else None
    return known


def _checkpoints(model: Any) -> bool:
    # transformers renames it: the old name warns from 5.23 on, the new one is not in 5.17
    renamed = hasattr(model, "is_activation_checkpointing")
    return model.training and bool(getattr(model, f"is_{'activation' if renamed else 'gradient'}_checkpointing", False))


class _Decode(torch.autograd.Function):
    """Hidden states [N, H] after the last norm, float32."""

    @staticmethod
    def forward(ctx: Any, model: TrainedModel, packed: Packed, *parameters: Tensor) -> Tensor:
        library, borrowed = load_library(), _Borrowed()
        cos, sin = model.rope.table(int(packed.positions.max(initial=0)) + 1)
        count = len(packed.ids)
        out = torch.empty(count, model.parameters[1].shape[0])  # type: ignore[union-attr]
        workspace = borrowed.lane.workspace(library.r1_workspace_bytes(model.weights.handle, count))
        arguments = (model.weights.handle, borrowed.lane.scratch, workspace, *packed.arguments,
                     cos.data_ptr(), sin.data_ptr())  # fmt: skip
        _check(library.r1_train_forward(*arguments, out.data_ptr()))
        # what the arguments point to is held until the backward pass
        ctx.model, ctx.packed, ctx.borrowed, ctx.table, ctx.arguments = model, packed, borrowed, (cos, sin), arguments
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        if ctx.borrowed is None:
            raise RuntimeError(
                "the kernels keep what a backward pass needs for one pass: compute the forward pass again"
            )
        places = [None if p is None else p.shape for i, p in enumerate(ctx.model.parameters) if not _left_out(i)]
        found = [None if shape is None else torch.zeros(shape) for shape in places]
        pointers = (ctypes.c_void_p * len(found))(*(None if g is None else g.data_ptr() for g in found))
        grad = grads[0].contiguous()
        _check(load_library().r1_train_backward(*ctx.arguments, grad.data_ptr(), pointers))
        ctx.borrowed = None
        return None, None, *(g for g in found if g is not None)


def _left_out(place: int) -> bool:
    """Whether the weight at this place of ``named_in_order`` has no gradient in the decoder: the head, and the norms of
    queries and keys, which trained models do not have."""
    return place == 2 or (place > 2 and (place - 3) % 14 >= 12)


def hidden_states(model: TrainedModel, packed: Packed) -> Tensor:
    """The decoder's last hidden states [N, H], float32, differentiable in its parameters."""
    model.refresh()
    parameters = [p for i, p in enumerate(model.parameters) if p is not None and not _left_out(i)]
    return _Decode.apply(model, packed, *parameters)  # type: ignore[no-any-return,no-untyped-call]


class _Logprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, model: TrainedModel, states: Tensor, weight: Tensor, targets: Int32s, temperature: float
    ) -> tuple[Tensor, Tensor]:
        states = states.contiguous()
        logprob, entropy, lse = torch.empty(3, len(targets)).unbind()
        borrowed = _Borrowed()
        arguments = (model.weights.handle, borrowed.lane.head_scratch, states.data_ptr(), len(targets),
                     targets.ctypes.data, temperature)  # fmt: skip
        outputs = (logprob.data_ptr(), entropy.data_ptr(), lse.data_ptr())
        _check(load_library().r1_head_forward(*arguments, *outputs))
        ctx.save_for_backward(states, weight, entropy, lse)
        ctx.model, ctx.targets, ctx.temperature = model, targets, temperature
        ctx.set_materialize_grads(False)
        return logprob, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        states, weight, entropy, lse = ctx.saved_tensors
        by_logprob, by_entropy = (None if g is None else g.float().contiguous() for g in grads)
        grad = torch.empty_like(states)
        grad_weight = torch.zeros(weight.shape) if ctx.needs_input_grad[2] else None
        borrowed = _Borrowed()
        _check(
            load_library().r1_head_backward(
                ctx.model.weights.handle, borrowed.lane.head_scratch, states.data_ptr(), len(ctx.targets),
                ctx.targets.ctypes.data, ctx.temperature, lse.data_ptr(), entropy.data_ptr(), _address(by_logprob),
                _address(by_entropy), grad.data_ptr(), _address(grad_weight),
            )
        )  # fmt: skip
        return None, grad, grad_weight, None, None


def logprobs(
    model: TrainedModel, states: Tensor, head: Tensor, targets: Int32s, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of ``targets`` [M] and entropies, float32 [M] in nats, of softmax(states head^T / temperature);
    the logits are never in memory as a whole. Differentiable in ``states`` [M, H] and ``head`` [V, H]."""
    return _Logprobs.apply(model, states, head, targets, temperature)  # type: ignore[no-any-return,no-untyped-call]


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _check(status: int) -> None:
    if status:
        raise MemoryError("no memory for a training pass: lower micro_batch_tokens")
