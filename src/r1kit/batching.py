# ruff: noqa: N815 - dimension suffixes are part of the names
"""Rollout groups or examples -> ``TrainBatch``: the only place that shifts, pads, packs, masks and weights tokens.

NumPy only, up to the learner. Dimension suffixes: N tokens of a packed stream, S sequences, M predicted tokens,
[B, T] rows and columns of what the model sees; K tokens of a teacher's distribution that are told apart, R = K + 1 with
the rest as one.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from r1kit.losses import LossType, ScaleRewards, group_advantages, token_weights
from r1kit.types import Completion, Float32s, Int32s, RolloutGroup, TopLogprobs

Bools = npt.NDArray[np.bool_]
Int64s = npt.NDArray[np.int64]
Layout = Literal["padded", "packed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpoInputs:
    """Per-token constants of GRPO, aligned with ``tokens_N``; 0 where a token is not trained on.

    ``sampler_logprob_N``: as recorded by the engine. ``old_logprob_N``: by the trainer before the first update (None:
    the policy does not move between sampling and this update). ``ref_logprob_N``: by the reference (None: beta = 0).
    """

    advantage_N: Float32s
    sampler_logprob_N: Float32s
    old_logprob_N: Float32s | None = None
    ref_logprob_N: Float32s | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SftInputs:
    """Cross-entropy needs nothing beside the tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillInputs:
    """A teacher's distribution at each token of the stream: ``teacher_ids_NK``, their log-probabilities and, in the
    last column of ``teacher_logprob_NR``, that of all other ids together; 0 where a token is not trained on.
    """

    teacher_ids_NK: Int32s
    teacher_logprob_NR: Float32s


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreInputs:
    """What a reward model's scores are compared with: ``target_N`` holds it at the token where a score is read (the
    sequence's last, the one that is "trained"), 0 elsewhere. ``pairs``: sequences 2i and 2i + 1 belong together and
    are never parted.
    """

    target_N: Float32s
    pairs: bool


Inputs = GrpoInputs | SftInputs | DistillInputs | ScoreInputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighting:
    """How token weights come about; kept with the batch so that a mini-batch is normalised by its own counts."""

    loss_type: LossType
    max_completion_length: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainBatch:
    """S sequences laid end to end in streams of N tokens.

    ``trained_N[i]``: is the prediction of ``tokens_N[i]`` from the earlier tokens of its sequence trained on?
    ``weight_N[i]``: its weight in the loss of the optimizer step, 0 where not trained. ``positions_N`` restarts at 0
    with each sequence; ``sequence_id_N`` names it (an id survives splitting). ``cu_seqlens`` [S + 1]:
    cumulative lengths.
    """

    tokens_N: Int32s
    positions_N: Int32s
    sequence_id_N: Int32s
    trained_N: Bools
    weight_N: Float32s
    cu_seqlens: Int64s
    weighting: Weighting
    inputs: Inputs

    def __post_init__(self) -> None:
        size = int(self.cu_seqlens[-1])
        streams = [getattr(self, name) for name in _STREAMS] + [array for _, array in _input_arrays(self.inputs)]
        if any(stream.shape[:1] != (size,) for stream in streams):
            raise ValueError(f"every stream must have the shape ({size},), or ({size}, K)")
        if self.trained_N[self.cu_seqlens[:-1]].any():
            raise ValueError("the first token of a sequence has nothing before it that could predict it")

    @property
    def num_sequences(self) -> int:
        return len(self.cu_seqlens) - 1

    @property
    def num_tokens(self) -> int:
        return int(self.cu_seqlens[-1])

    @property
    def num_trained_tokens(self) -> int:
        return int(self.trained_N.sum())

    @property
    def lengths(self) -> Int64s:
        """Tokens of each sequence, prompt included, [S]."""
        return np.diff(self.cu_seqlens)

    @property
    def trained_lengths(self) -> Int64s:
        """Trained tokens of each sequence, [S]."""
        spans = pairwise(self.cu_seqlens.tolist())
        return np.array([np.count_nonzero(self.trained_N[start:stop]) for start, stop in spans], dtype=np.int64)

    def with_inputs(self, **arrays: Float32s | None) -> TrainBatch:
        """The same batch with some of its inputs replaced, for example ``old_logprob_N``."""
        inputs: Any = self.inputs
        return replace(self, inputs=replace(inputs, **arrays))

    def stream_index(self, sequences: Sequence[int] | Int64s) -> Int64s:
        """Where the tokens of these sequences lie in the streams, in this order."""
        spans = [np.arange(self.cu_seqlens[s], self.cu_seqlens[s + 1]) for s in sequences]
        return _concatenate(spans, np.int64)

    def select(self, sequences: Sequence[int] | Int64s) -> TrainBatch:
        """The given sequences in the given order; weights are kept as they are."""
        index_N = self.stream_index(sequences)
        streams: dict[str, Any] = {name: getattr(self, name)[index_N] for name in _STREAMS}
        inputs: Any = self.inputs
        return replace(
            self,
            **streams,
            cu_seqlens=_cumulative(self.lengths[np.asarray(sequences, dtype=np.int64)]),
            inputs=replace(inputs, **{name: array[index_N] for name, array in _input_arrays(inputs)}),
        )

    def reweighted(self) -> TrainBatch:
        """The same sequences with weights normalised over themselves: one optimizer step of their own."""
        weights = token_weights(
            self.trained_lengths,
            loss_type=self.weighting.loss_type,
            max_completion_length=self.weighting.max_completion_length,
        )
        weight_N = np.zeros(self.num_tokens, dtype=np.float32)
        weight_N[self.trained_N] = _concatenate(weights, np.float32)
        return replace(self, weight_N=weight_N)


_STREAMS = ("tokens_N", "positions_N", "sequence_id_N", "trained_N", "weight_N")


def _input_arrays(inputs: Inputs) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    for entry in fields(inputs):
        array = getattr(inputs, entry.name)
        if isinstance(array, np.ndarray):
            yield entry.name, array


def _concatenate(arrays: Sequence[npt.NDArray[Any]], dtype: Any) -> npt.NDArray[Any]:
    return np.concatenate(arrays).astype(dtype, copy=False) if len(arrays) else np.zeros(0, dtype=dtype)


def _cumulative(lengths: Sequence[int] | Int64s) -> Int64s:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _assemble(
    token_ids: Sequence[Int32s], trained: Sequence[Bools], weighting: Weighting, inputs: Inputs
) -> TrainBatch:
    """Lay sequences end to end. The first token of each is never trained on."""
    lengths = [len(ids) for ids in token_ids]
    cu_seqlens = _cumulative(lengths)
    trained_N = _concatenate(trained, np.bool_).copy()
    trained_N[cu_seqlens[:-1][np.asarray(lengths, dtype=np.int64) > 0]] = False
    batch = TrainBatch(
        tokens_N=_concatenate(token_ids, np.int32),
        positions_N=_concatenate([np.arange(length, dtype=np.int32) for length in lengths], np.int32),
        sequence_id_N=np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
        trained_N=trained_N,
        weight_N=np.zeros(int(cu_seqlens[-1]), dtype=np.float32),
        cu_seqlens=cu_seqlens,
        weighting=weighting,
        inputs=inputs,
    )
    return batch.reweighted()


def build_grpo_batch(
    groups: Sequence[RolloutGroup],
    *,
    loss_type: LossType = "dapo",
    scale_rewards: ScaleRewards = "group",
    mask_truncated_completions: bool = False,
    max_completion_length: int | None = None,
    advantages: Sequence[Float32s] | None = None,
) -> TrainBatch:
    """Scored groups as one batch, sequences in the order of the groups.

    Trained tokens: the completion's, or those of its ``trained`` segments where it has segments.
    ``mask_truncated_completions`` trains on nothing of a completion cut off by its length limit (it still takes
    part in its group's mean and deviation; see ``token_weights`` for how denominators count it). An aborted completion
    is treated alike. ``advantages`` [P][G] replaces ``group_advantages`` of the rewards.
    """
    if advantages is None:
        advantages = group_advantages([group.rewards for group in groups], scale_rewards)
    rows = [completion for group in groups for completion in group.completions]
    values = _concatenate(list(advantages), np.float32)
    masks = [_completion_mask(completion, mask_truncated_completions) for completion in rows]
    inputs = GrpoInputs(
        advantage_N=_concatenate(
            [mask * value for mask, value in zip(masks, values, strict=True)],
            np.float32,
        ),
        sampler_logprob_N=_concatenate([_after_prompt(row, row.logprobs) for row in rows], np.float32),
    )
    token_ids = [np.concatenate([row.prompt_ids, row.token_ids]) for row in rows]
    weighting = Weighting(loss_type=loss_type, max_completion_length=max_completion_length)
    return _assemble(token_ids, masks, weighting, inputs)


def _completion_mask(completion: Completion, mask_truncated: bool) -> Bools:
    trained = np.zeros(len(completion.token_ids), dtype=np.bool_)
    if not (mask_truncated and completion.finish_reason != "stop"):
        for segment in completion.segments:
            trained[segment.start : segment.stop] = segment.trained
        if not completion.segments:
            trained[:] = True
    return _after_prompt(completion, trained)


def _after_prompt(completion: Completion, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.concatenate([np.zeros(len(completion.prompt_ids), dtype=values.dtype), values])


def build_sft_batch(
    token_ids: Sequence[npt.ArrayLike], trained: Sequence[npt.ArrayLike] | None = None, *, loss_type: LossType = "dapo"
) -> TrainBatch:
    """Examples of SFT, distillation or pre-training: token ids and, per token, whether its prediction is trained on
    (default: all but each sequence's first). ``loss_type`` "dapo" is the mean over tokens, "grpo" over sequences first.
    """
    ids = [np.asarray(row, dtype=np.int32) for row in token_ids]
    masks = (
        [np.ones(len(row), np.bool_) for row in ids] if trained is None else [np.asarray(m, np.bool_) for m in trained]
    )
    for row, mask in zip(ids, masks, strict=True):
        if row.shape != mask.shape:
            raise ValueError(f"{row.shape[0]} tokens but {mask.shape[0]} flags")
    return _assemble(ids, masks, Weighting(loss_type=loss_type), SftInputs())


def build_distill_batch(
    token_ids: Sequence[npt.ArrayLike],
    trained: Sequence[npt.ArrayLike],
    teacher: Sequence[TopLogprobs],
    *,
    loss_type: LossType = "dapo",
) -> TrainBatch:
    """``build_sft_batch`` with a teacher's distribution at each trained token: of each sequence, as many rows as it has
    trained tokens, in order. Rounded log-probabilities are normalised again, so that no divergence can be negative."""
    batch = build_sft_batch(token_ids, trained, loss_type=loss_type)
    for known, count in zip(teacher, batch.trained_lengths, strict=True):
        if len(known.rest) != count:
            raise ValueError(f"{len(known.rest)} distributions for {count} trained tokens")
    width = teacher[0].ids.shape[1] if teacher else 1
    ids_NK = np.zeros((batch.num_tokens, width), dtype=np.int32)
    logprob_NR = np.zeros((batch.num_tokens, width + 1), dtype=np.float32)
    if teacher:
        logprob_MR = np.concatenate(
            [np.column_stack([known.logprobs.astype(np.float32), known.rest]) for known in teacher]
        )
        ids_NK[batch.trained_N] = np.concatenate([known.ids for known in teacher])
        logprob_NR[batch.trained_N] = logprob_MR - np.logaddexp.reduce(logprob_MR, axis=1, keepdims=True)
    return replace(batch, inputs=DistillInputs(teacher_ids_NK=ids_NK, teacher_logprob_NR=logprob_NR))


def build_score_batch(
    token_ids: Sequence[npt.ArrayLike], targets: Sequence[float] | None = None, *, pairs: bool = False
) -> TrainBatch:
    """Sequences whose last token's score is wanted, each with what it is compared with (default 0); the loss is the
    mean over sequences. ``pairs``: they come as chosen, rejected, chosen, rejected ... ValueError where one has fewer
    than two tokens or a pair is not whole."""
    ids = [np.asarray(row, dtype=np.int32) for row in token_ids]
    if any(len(row) < 2 for row in ids):
        raise ValueError("a sequence that is scored needs two tokens or more")
    if pairs and len(ids) % 2:
        raise ValueError(f"{len(ids)} sequences do not make whole pairs")
    masks = [np.arange(len(row)) == len(row) - 1 for row in ids]
    values = [mask * np.float32(target) for mask, target in zip(masks, targets or [0.0] * len(ids), strict=True)]
    inputs = ScoreInputs(target_N=_concatenate(values, np.float32), pairs=pairs)
    return _assemble(ids, masks, Weighting(loss_type="grpo"), inputs)


def mini_batches(batch: TrainBatch, n: int, seed: int) -> list[TrainBatch]:
    """``batch`` split at random into ``n`` parts of equal size (up to one sequence), each an optimizer step with
    weights of its own (R1 v2 sec. 2.1: 8,192 outputs into 16 mini-batches). With fewer sequences than
    parts some are empty: they are steps all the same, so that steps and rollouts keep their proportion."""
    if n == 1:
        return [batch]
    order = np.random.default_rng(seed).permutation(batch.num_sequences)
    return [batch.select(part).reweighted() for part in np.array_split(order, n)]


def without_idle_sequences(batch: TrainBatch, *, keep_zero_advantage: bool = False) -> TrainBatch:
    """Leave out sequences that cannot move a weight: nothing trained or, unless ``keep_zero_advantage`` (needed with
    a KL or entropy term, or where their metrics are wanted), advantage 0 throughout. Exact: denominators keep
    counting them.
    """
    active_N = batch.weight_N != 0
    if isinstance(batch.inputs, GrpoInputs) and not keep_zero_advantage:
        active_N = active_N & (batch.inputs.advantage_N != 0)
    totals = np.concatenate([[0], np.cumsum(active_N)])[batch.cu_seqlens]
    active = np.flatnonzero(np.diff(totals))
    return batch if active.size == batch.num_sequences else batch.select(active)


def plan_micro_batches(lengths: Int64s, max_tokens: int, layout: Layout = "padded") -> list[list[int]]:
    """Which sequences go through the model together: at most ``max_tokens`` tokens at a time, padding included.

    Sorted by length (longest first, so that memory peaks at once and padding is small); packed ones go where they leave
    the least room (best fit, R1 v2 B.1). A sequence is never cut; one longer than ``max_tokens`` stands alone.
    """
    order = np.argsort(-lengths, kind="stable").tolist()
    return _best_fit(order, lengths, max_tokens) if layout == "packed" else _rows(order, lengths, max_tokens)


def _rows(order: Sequence[int], lengths: Int64s, max_tokens: int) -> list[list[int]]:
    parts: list[list[int]] = []
    room = 0
    for sequence in order:
        cost = int(lengths[parts[-1][0]]) if parts else 0
        if not parts or cost > room:
            parts.append([])
            cost, room = int(lengths[sequence]), max_tokens
        parts[-1].append(sequence)
        room -= cost
    return parts


def _best_fit(order: Sequence[int], lengths: Int64s, max_tokens: int) -> list[list[int]]:
    parts: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (room, part), sorted
    for sequence in order:
        length = int(lengths[sequence])
        place = bisect_left(rooms, (length, 0))
        if place == len(rooms):
            parts.append([])
            room, part = max_tokens, len(parts) - 1
        else:
            room, part = rooms.pop(place)
        parts[part].append(sequence)
        insort(rooms, (room - length, part))
    return parts


def micro_batches(batch: TrainBatch, max_tokens: int, *, layout: Layout = "padded") -> list[TrainBatch]:
    """``batch`` cut as ``plan_micro_batches`` says, pairs kept whole; weights are kept, so that the parts' losses add
    up to the batch's."""
    if isinstance(batch.inputs, ScoreInputs) and batch.inputs.pairs:
        return [batch.select(part) for part in _plan_pairs(batch.lengths, max_tokens, layout)]
    return [batch.select(part) for part in plan_micro_batches(batch.lengths, max_tokens, layout)]


def _plan_pairs(lengths: Int64s, max_tokens: int, layout: Layout) -> list[list[int]]:
    pairs = lengths.reshape(-1, 2)
    cost = pairs.sum(axis=1) if layout == "packed" else 2 * pairs.max(axis=1)
    parts = plan_micro_batches(cost, max_tokens, layout)
    return [[sequence for pair in part for sequence in (2 * pair, 2 * pair + 1)] for part in parts]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelView:
    """What a model is given, and where to read its answer.

    ``tokens_BT``, and ``positions_BT`` where they do not simply count from 0 in each row. ``stream_M``: which tokens of
    the batch's stream are predicted; ``source_M``: the flat index (into B * T) of the hidden state that predicts each;
    ``target_M``: the token. ``cu_seqlens`` [S + 1] is given where several sequences share the one row, ``lengths_B``
    where each has a padded row of its own.
    """

    tokens_BT: Int64s
    positions_BT: Int64s | None
    cu_seqlens: Int64s | None
    lengths_B: Int64s | None
    stream_M: Int64s
    source_M: Int64s
    target_M: Int64s


def padded_view(batch: TrainBatch) -> ModelView:
    """One row per sequence, padded on the right. It needs no mask: attention is causal and nothing follows the padding,
    so no real token ever sees it, and whatever the pad positions compute is never read."""
    lengths = batch.lengths
    width = int(lengths.max(initial=0))
    tokens_BT = np.zeros((batch.num_sequences, width), dtype=np.int64)
    tokens_BT[np.arange(width) < lengths[:, None]] = batch.tokens_N
    stream = np.flatnonzero(batch.trained_N)
    row_N = np.repeat(np.arange(batch.num_sequences), lengths)
    source = row_N[stream] * width + batch.positions_N[stream] - 1
    return ModelView(
        tokens_BT=tokens_BT,
        positions_BT=None,
        cu_seqlens=None,
        lengths_B=lengths,
        stream_M=stream,
        source_M=source,
        target_M=batch.tokens_N[stream].astype(np.int64),
    )


def packed_view(batch: TrainBatch) -> ModelView:
    """All sequences in one row, no padding. Positions restart with each sequence, and attention must stay within
    ``cu_seqlens``: ``policy.token_logprobs`` sees to it."""
    stream = np.flatnonzero(batch.trained_N)
    return ModelView(
        tokens_BT=batch.tokens_N[None].astype(np.int64),
        positions_BT=batch.positions_N[None].astype(np.int64),
        cu_seqlens=batch.cu_seqlens,
        lengths_B=None,
        stream_M=stream,
        source_M=stream - 1,
        target_M=batch.tokens_N[stream].astype(np.int64),
    )


def model_view(batch: TrainBatch, layout: Layout) -> ModelView:
    """``padded_view`` or ``packed_view``."""
    return padded_view(batch) if layout == "padded" else packed_view(batch)
