"""The learner: one model, its optimizer and, where asked for, a frozen reference, on one device.

Trained weights are fp32 (the master copy); products may run in bf16 under autocast. Of a model with an adapter
(``r1kit.lora``) the adapter alone is trained and saved. An optimizer step is ``forward_backward``
on a batch whose weights are normalised for that step, then ``optim_step``.
"""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from r1kit import losses
from r1kit.batching import (
    DistillInputs,
    GrpoInputs,
    Layout,
    ModelView,
    ScoreInputs,
    TrainBatch,
    micro_batches,
    model_view,
    plan_micro_batches,
)
from r1kit.devices import has_native_bf16, single_threaded_operations
from r1kit.lora import AdapterReference, changes_while_it_runs, dropouts
from r1kit.losses import LossInputs, Metrics, logprobs_and_entropy, topk_logprobs
from r1kit.policy import Policy, named_weights, over_logits, sequence_scores, token_logprobs
from r1kit.types import Float32s, UserError, read_only

Loss = Callable[[Any], tuple[Tensor, Metrics]]
"""``LossInputs`` -> token losses [M] and metric sums: ``cross_entropy``, ``functools.partial(grpo_loss, config=...)``;
of a reward model, ``losses.ScoreInputs`` -> losses per sequence."""

SchedulerType = Literal["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_min_lr"]
OptimizerType = Literal["adamw_torch_fused", "adamw_torch", "adamw_8bit", "paged_adamw_8bit"]


def learning_rate_factor(
    step: int, kind: SchedulerType, *, warmup_steps: int = 0, max_steps: int | None = None, min_lr_rate: float = 0.0
) -> float:
    """What multiplies the learning rate at optimizer step ``step`` (from 0): a linear rise over ``warmup_steps`` that
    ends at 1 (and, unlike transformers', does not begin with a step of 0), then constant, or a linear or cosine fall to
    ``min_lr_rate`` at ``max_steps``. The kinds are transformers' names: "constant" is "constant_with_warmup" here, and
    "cosine_with_min_lr" is "cosine"; what makes the difference is ``warmup_steps`` and ``min_lr_rate``."""
    if kind not in get_args(SchedulerType):
        raise UserError(f'Unknown lr_scheduler_type "{kind}": {", ".join(get_args(SchedulerType))}.')
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if kind in ("constant", "constant_with_warmup"):
        return 1.0
    if not max_steps:
        raise UserError(f'lr_scheduler_type="{kind}" needs max_steps to know where it ends.')
    progress = min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps))
    fall = 1.0 - progress if kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return min_lr_rate + (1.0 - min_lr_rate) * fall


def default_micro_batch_tokens(device: torch.device) -> int:
    """Tokens of one forward pass: on a CPU, what a few sequences compute still fits in cache; a GPU wants more."""
    return 2048 if device.type == "cpu" else 16384


class Learner:
    """Trains ``policy.model`` in place.

    ``autocast``: "bf16", "none", or "auto" (bf16 where the processor multiplies it natively).
    ``micro_batch_tokens``: tokens of one forward pass, padding included (default 2,048 on a CPU, 16,384 on a
    GPU); the result does not depend on it up to rounding. ``use_reference`` keeps a frozen copy for KL (leave it off
    when beta = 0); of a model with an adapter it is the model with the adapter off. ``weight_decay`` spares norms and
    biases. ``optim``: torch's AdamW, or bitsandbytes' with 8-bit states (CUDA). Dropout is switched off, because old
    and new log-probabilities must be of one function; only an adapter's own, where asked for, is on in gradient passes,
    in one lane. ``lanes``: CPU threads that each take whole micro-batches, instead of sharing every
    operation; pays for small models, whose operations are too short to share.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        learning_rate: float,
        weight_decay: float = 0.0,
        adam_betas: tuple[float, float] = (0.9, 0.999),
        adam_eps: float = 1e-8,
        max_grad_norm: float | None = 1.0,
        optim: OptimizerType = "adamw_torch_fused",
        lr_scheduler_type: SchedulerType = "constant",
        warmup_steps: int = 0,
        max_steps: int | None = None,
        min_lr_rate: float = 0.0,
        autocast: Literal["auto", "bf16", "none"] = "auto",
        micro_batch_tokens: int | None = None,
        layout: Layout = "padded",
        gradient_checkpointing: bool = False,
        use_reference: bool = False,
        lanes: int = 1,
    ) -> None:
        self.policy = policy
        self.step = 0
        self.skipped_steps = 0
        self._learning_rate, self._max_grad_norm = learning_rate, max_grad_norm
        self._schedule: dict[str, Any] = {
            "kind": lr_scheduler_type,
            "warmup_steps": warmup_steps,
            "max_steps": max_steps,
            "min_lr_rate": min_lr_rate,
        }
        self._learning_rate_now()
        self._micro_batch_tokens, self._layout = micro_batch_tokens or default_micro_batch_tokens(policy.device), layout
        self._bf16 = autocast == "bf16" or (autocast == "auto" and has_native_bf16(policy.device))
        self._dropouts = dropouts(policy.model)
        _prepare(policy.model, gradient_checkpointing, self._dropouts)
        self._names = {id(p): name for name, p in policy.model.named_parameters() if p.requires_grad}
        self._optimizer = _make_optimizer(policy.model, optim, learning_rate, adam_betas, adam_eps, weight_decay)
        self._trained = [p for p in policy.model.parameters() if p.requires_grad]
        # dropout draws from torch's one generator, which threads would take turns at as they please
        alone = bool(self._dropouts) or changes_while_it_runs(policy.model)
        self._lanes = 1 if alone else max(1, lanes)
        self._reference = self._make_reference() if use_reference else None

    def logprobs(self, batch: TrainBatch, *, temperature: float = 1.0, reference: bool = False) -> Float32s:
        """Log-probabilities of the trained tokens in nats, aligned with ``batch.tokens_N`` (0 elsewhere), by the policy
        or the reference, at the temperature that was sampled with."""
        if reference:
            if self._reference is None:
                raise ValueError("this learner has no reference: make it with use_reference=True")
            with self._reference.model() as model:
                return self._logprobs_of(model, batch, temperature)
        return self._logprobs_of(self.policy.model, batch, temperature)

    def _logprobs_of(self, model: Any, batch: TrainBatch, temperature: float) -> Float32s:
        out_N = np.zeros(batch.num_tokens, dtype=np.float32)
        for part in plan_micro_batches(batch.lengths, self._micro_batch_tokens, self._layout):
            view = model_view(batch.select(part), self._layout)
            with torch.no_grad(), self._autocast():
                logprob_M, _ = token_logprobs(model, view, temperature=temperature)
            out_N[batch.stream_index(part)[view.stream_M]] = logprob_M.float().cpu().numpy()
        return read_only(out_N, np.float32)

    def scores(self, batch: TrainBatch) -> Float32s:
        """A reward model's scores [S] of a batch's sequences."""
        return score_batch(self.policy.model, batch, self._micro_batch_tokens, self._layout, self._autocast)

    def forward_backward(self, batch: TrainBatch, loss: Loss, *, temperature: float = 1.0) -> dict[str, float]:
        """Add the gradient of ``sum(weight_N * token_loss_N)`` to the weights' gradients.

        Returns ``loss`` (that sum) and the loss function's metrics as means over the batch's trained tokens.
        """
        micros = [
            micro
            for micro in micro_batches(batch, self._micro_batch_tokens, layout=self._layout)
            if micro.weight_N.any()
        ]
        shares = _even_shares(micros, self._lanes)

        def work(share: list[TrainBatch]) -> tuple[list[Tensor | None], dict[str, float]]:
            return self._gradients(share, loss, temperature)

        if self._lanes > 1 and len(micros) > 1:
            with single_threaded_operations(), ThreadPoolExecutor(self._lanes) as pool:
                results = list(pool.map(work, shares))
        else:
            with _training(self._dropouts):
                results = [work(micros)]
        sums: dict[str, float] = {}
        # in the order of the lanes, so that the rounding does not depend on which one was faster
        for gradients, part in results:
            for parameter, gradient in zip(self._trained, gradients, strict=True):
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
            for name, value in part.items():
                sums[name] = sums.get(name, 0.0) + value
        count = max(1, batch.num_trained_tokens)
        return {name: value if name == "loss" else value / count for name, value in sums.items()}

    def _gradients(
        self, micros: list[TrainBatch], loss: Loss, temperature: float
    ) -> tuple[list[Tensor | None], dict[str, float]]:
        """Summed gradients (in the order of ``_trained``) and metric sums of some micro-batches."""
        total_gradients: list[Tensor | None] = [None] * len(self._trained)
        sums: dict[str, float] = {}
        for micro in micros:
            view = model_view(micro, self._layout)
            with self._autocast():
                inputs = _loss_inputs(self.policy.model, micro, view, temperature)
            token_loss_M, metrics = loss(inputs)
            weight_M = torch.from_numpy(micro.weight_N[view.stream_M]).to(token_loss_M.device)
            total = (weight_M * token_loss_M).sum()
            gradients = torch.autograd.grad(total, self._trained, allow_unused=True)
            for place, gradient in enumerate(gradients):
                known = total_gradients[place]
                if gradient is not None:
                    total_gradients[place] = gradient if known is None else known.add_(gradient)
            for name, value in {"loss": total.detach(), **metrics}.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        return total_gradients, sums

    def optim_step(self, learning_rate: float | None = None) -> dict[str, float]:
        """One AdamW update (Loshchilov and Hutter, arXiv 1711.05101) with the accumulated gradients, then clear them.
        ``learning_rate`` replaces the schedule's for this step.

        Returns ``grad_norm`` (before clipping) and ``learning_rate``. A gradient that is not finite moves nothing: the
        step is counted in ``step`` and ``skipped_steps`` and reported as ``skipped_steps``.
        """
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self._max_grad_norm or math.inf)
        rate = self._learning_rate_now() if learning_rate is None else learning_rate
        metrics = {"grad_norm": float(norm), "learning_rate": rate}
        if bool(torch.isfinite(norm)):
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            self._optimizer.step()
        else:
            self.skipped_steps += 1
            metrics["skipped_steps"] = float(self.skipped_steps)
        self._optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return metrics

    def publish(self, version: int) -> Iterator[tuple[str, Tensor]]:
        """The weights under their Hugging Face names, by reference (do not change them; copy what must outlive the next
        step), those with an adapter merged. A tensor that is tied to another is given once. ``version`` is the caller's
        name for this state."""
        del version  # one process shares memory: what is handed over is always the newest
        seen: set[int] = set()
        for name, tensor in named_weights(self.policy):
            # tied tensors are parameters, which live as long as the model; a merged one is new and tied to none
            if id(tensor) in seen:
                continue
            if isinstance(tensor, torch.nn.Parameter):
                seen.add(id(tensor))
            yield name, tensor.detach()

    def refresh_reference(self) -> None:
        """Reference := policy (R1 v2 sec. 2.1: every 400 steps). Does nothing where there is no reference."""
        if self._reference is not None:
            self._reference.refresh()

    def _make_reference(self) -> _FrozenCopy | AdapterReference:
        if self.policy.adapter is None:
            return _FrozenCopy(self.policy.model)
        return AdapterReference(self.policy.adapter, self.policy.model, self._trained_by_name())

    def _trained_by_name(self) -> dict[str, torch.nn.Parameter]:
        return {self._names[id(parameter)]: parameter for parameter in self._trained}

    def save(self, directory: str | Path) -> None:
        """Write trained weights, reference, optimizer and random state as safetensors and JSON: ``load`` continues bit
        for bit on the model it began from."""
        directory = Path(directory)
        directory.parent.mkdir(parents=True, exist_ok=True)
        staging = directory.with_name(f".{directory.name}.{os.getpid()}.new")
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        try:
            self._write(staging)
            shutil.rmtree(directory, ignore_errors=True)
            staging.rename(directory)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise

    def _write(self, staging: Path) -> None:
        save_file(_plain(self._trained_by_name()), staging / "weights.safetensors")
        if self._reference is not None:
            self._reference.save(staging)
        save_file(self._optimizer_tensors(), staging / "optimizer.safetensors")
        save_file(_random_state(), staging / "random.safetensors")
        state = {"schema": 1, "step": self.step, "skipped_steps": self.skipped_steps}
        (staging / "learner.json").write_text(json.dumps(state) + "\n", encoding="utf-8")

    def load(self, directory: str | Path) -> None:
        """Take up the state that ``save`` wrote. Raises UserError where it is missing or of another model."""
        directory = Path(directory)
        try:
            state = json.loads((directory / "learner.json").read_text(encoding="utf-8"))
            _load_weights(self._trained_by_name(), load_file(directory / "weights.safetensors"), directory)
            if self._reference is not None:
                self._reference.load(directory)
            self._load_optimizer(load_file(directory / "optimizer.safetensors"), directory)
            _set_random_state(load_file(directory / "random.safetensors"))
        except (OSError, json.JSONDecodeError) as error:
            raise UserError(f"{directory}: this learner checkpoint is incomplete: {error}.") from error
        self.step, self.skipped_steps = int(state["step"]), int(state["skipped_steps"])

    def _learning_rate_now(self) -> float:
        return self._learning_rate * learning_rate_factor(self.step, **self._schedule)

    def _autocast(self) -> Any:
        # the cache of casts is shared by all threads, and gains nothing within one micro-batch
        cache = self._lanes == 1
        return torch.autocast(self.policy.device.type, torch.bfloat16, enabled=self._bf16, cache_enabled=cache)

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        states = self._optimizer.state
        return {
            f"{self._names[id(parameter)]}/{key}": torch.as_tensor(value).contiguous()
            for group in self._optimizer.param_groups
            for parameter in group["params"]
            for key, value in states[parameter].items()
        }

    def _load_optimizer(self, tensors: dict[str, Tensor], directory: Path) -> None:
        self._optimizer.state.clear()
        by_name = {self._names[id(p)]: p for group in self._optimizer.param_groups for p in group["params"]}
        for full_name, value in tensors.items():
            name, _, key = full_name.rpartition("/")
            if name not in by_name:
                raise UserError(f"{directory}: its optimizer state is of another model ({name} is not in this one).")
            parameter = by_name[name]
            # bitsandbytes counts its steps in a Python integer, torch in a tensor
            eight_bit = not isinstance(self._optimizer, torch.optim.AdamW)
            counts = key == "step" and eight_bit
            self._optimizer.state[parameter][key] = int(value) if counts else value.to(parameter.device)


def _even_shares(micros: list[TrainBatch], lanes: int) -> list[list[TrainBatch]]:
    """Micro-batches dealt out, the largest first, each to the lane that has the fewest tokens so far."""
    shares: list[list[TrainBatch]] = [[] for _ in range(lanes)]
    loads = [0] * lanes
    for micro in sorted(micros, key=lambda micro: -micro.num_tokens):
        lane = loads.index(min(loads))
        shares[lane].append(micro)
        loads[lane] += micro.num_tokens
    return shares


class _FrozenCopy:
    """The reference of a model that is trained whole: a copy of it."""

    file = "reference.safetensors"

    def __init__(self, model: Any) -> None:
        self._policy = model
        self._copy = copy.deepcopy(model).requires_grad_(False).eval()

    @contextmanager
    def model(self) -> Iterator[Any]:
        yield self._copy

    def refresh(self) -> None:
        with torch.no_grad():
            for ours, theirs in zip(self._copy.parameters(), self._policy.parameters(), strict=True):
                ours.copy_(theirs)

    def save(self, directory: Path) -> None:
        save_file(_plain(dict(self._copy.named_parameters())), directory / self.file)

    def load(self, directory: Path) -> None:
        _load_weights(dict(self._copy.named_parameters()), load_file(directory / self.file), directory)


@contextmanager
def _training(modules: list[torch.nn.Dropout]) -> Iterator[None]:
    for module in modules:
        module.train()
    try:
        yield
    finally:
        for module in modules:
            module.eval()


def _prepare(model: Any, gradient_checkpointing: bool, own_dropouts: list[torch.nn.Dropout]) -> None:
    if any(p.requires_grad and p.dtype != torch.float32 for p in model.parameters()):
        raise UserError(
            'Training needs fp32 master weights: load the policy with dtype="float32" (autocast does bf16).'
        )
    model.eval()
    if not gradient_checkpointing:
        return
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout) and module not in own_dropouts:
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
    # transformers renames it: the old name warns from 5.23 on, the new one is not in 5.17.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    model.train()  # transformers checkpoints only in training mode
    for module in own_dropouts:
        module.eval()


def _make_optimizer(
    model: Any, optim: OptimizerType, learning_rate: float, betas: tuple[float, float], eps: float, weight_decay: float
) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if optim in ("adamw_torch_fused", "adamw_torch"):
        fused = True if optim == "adamw_torch_fused" else None
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=eps, fused=fused)
    if parameters[0].device.type != "cuda":
        raise UserError(f'optim = "{optim}" needs a CUDA device; use adamw_torch_fused here')
    try:
        import bitsandbytes
    except Exception as error:  # it loads a CUDA library, which can fail in many ways
        raise UserError(f'optim = "{optim}" needs bitsandbytes: pip install bitsandbytes') from error
    paged = optim.startswith("paged")
    eight_bit: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(
        groups, lr=learning_rate, betas=betas, eps=eps, is_paged=paged
    )
    return eight_bit


def score_batch(
    model: Any, batch: TrainBatch, micro_batch_tokens: int, layout: Layout, autocast: Callable[[], Any]
) -> Float32s:
    """A reward model's scores of a batch's sequences, [S], without gradient, so many tokens at a time."""
    scores_S = np.zeros(batch.num_sequences, dtype=np.float32)
    for part in plan_micro_batches(batch.lengths, micro_batch_tokens, layout):
        with torch.no_grad(), autocast():
            found = sequence_scores(model, model_view(batch.select(part), layout))
        scores_S[part] = found.float().cpu().numpy()
    return read_only(scores_S, np.float32)


def _loss_inputs(model: Any, micro: TrainBatch, view: ModelView, temperature: float) -> LossInputs | losses.ScoreInputs:
    """What the model says of a micro-batch (with gradient), and the batch's constants beside it."""

    def at(array: Any) -> Tensor | None:
        return None if array is None else torch.from_numpy(array[view.stream_M]).to(device)

    device = next(model.parameters()).device
    if isinstance(micro.inputs, ScoreInputs):
        target_S = torch.from_numpy(micro.inputs.target_N[view.stream_M]).to(device)
        return losses.ScoreInputs(score_S=sequence_scores(model, view), target_S=target_S)
    more: dict[str, Tensor | None] = {}
    if isinstance(micro.inputs, DistillInputs):
        targets_M = torch.from_numpy(view.target_M).to(device)
        ids_MK = torch.from_numpy(micro.inputs.teacher_ids_NK[view.stream_M].astype(np.int64)).to(device)
        logprob_M, entropy_M, student_MR = over_logits(
            model, view, _with_distribution, targets_M, ids_MK, temperature=temperature
        )
        more = {"student_logprob_NR": student_MR, "teacher_logprob_NR": at(micro.inputs.teacher_logprob_NR)}
    else:
        logprob_M, entropy_M = token_logprobs(model, view, temperature=temperature)
    if isinstance(micro.inputs, GrpoInputs):
        names = ("advantage_N", "sampler_logprob_N", "old_logprob_N", "ref_logprob_N")
        more = {name: at(getattr(micro.inputs, name)) for name in names}
    return LossInputs(
        logprob_N=logprob_M,
        entropy_N=entropy_M,
        sequence_id_N=torch.from_numpy(micro.sequence_id_N[view.stream_M]).to(device),
        position_N=at(micro.positions_N),
        **more,
    )


def _with_distribution(logits_NV: Tensor, targets_N: Tensor, ids_NK: Tensor) -> tuple[Tensor, ...]:
    return *logprobs_and_entropy(logits_NV, targets_N), topk_logprobs(logits_NV, ids_NK)


def _plain(parameters: dict[str, torch.nn.Parameter]) -> dict[str, Tensor]:
    return {name: parameter.detach().contiguous() for name, parameter in parameters.items()}


def _load_weights(parameters: dict[str, torch.nn.Parameter], tensors: dict[str, Tensor], directory: Path) -> None:
    if parameters.keys() != tensors.keys() or any(parameters[n].shape != t.shape for n, t in tensors.items()):
        raise UserError(f"{directory}: its weights are of another model than the one that resumes.")
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)


def _random_state() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_random_state(states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
