"""Batches: shifting, masks, weights, splitting and views, against what a reader would write down by hand."""

from __future__ import annotations

import numpy as np
import pytest

from r1kit.batching import (
    GrpoInputs,
    TrainBatch,
    build_grpo_batch,
    build_sft_batch,
    micro_batches,
    mini_batches,
    packed_view,
    padded_view,
    plan_micro_batches,
    without_idle_sequences,
)
from r1kit.types import Completion, Problem, RewardBreakdown, RolloutGroup, Segment


def completion(
    prompt: list[int], tokens: list[int], finish: str = "stop", segments: tuple[Segment, ...] = ()
) -> Completion:
    return Completion(
        problem_id="p",
        prompt_ids=prompt,
        token_ids=tokens,
        logprobs=[-0.1 * (i + 1) for i in range(len(tokens))],
        text="",
        finish_reason=finish,  # type: ignore[arg-type]
        draw=None,
        segments=segments,
    )


def group(completions: list[Completion], rewards: list[float]) -> RolloutGroup:
    verdicts = tuple(
        RewardBreakdown(terms={"accuracy": r}, weights={"accuracy": 1.0}, outcome="scored") for r in rewards
    )
    problem = Problem(id="p", messages=({"role": "user", "content": "?"},), kind="exact")
    return RolloutGroup(problem=problem, completions=tuple(completions), verdicts=verdicts)


def two_groups() -> list[RolloutGroup]:
    return [
        group([completion([1, 2], [11, 12, 13]), completion([1, 2], [21], "length")], [1.0, 0.0]),
        group([completion([3], [31, 32]), completion([3], [41, 42, 43, 44])], [1.0, 1.0]),
    ]


def many(seed: int = 0, groups: int = 6) -> TrainBatch:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(groups):
        prompt = rng.integers(0, 99, rng.integers(1, 6)).tolist()
        rows = [completion(prompt, rng.integers(0, 99, rng.integers(1, 20)).tolist()) for _ in range(4)]
        made.append(group(rows, rng.integers(0, 2, 4).astype(float).tolist()))
    return build_grpo_batch(made, loss_type="dapo")


def inputs_of(batch: TrainBatch) -> GrpoInputs:
    assert isinstance(batch.inputs, GrpoInputs)
    return batch.inputs


def test_a_batch_by_hand() -> None:
    batch = build_grpo_batch(two_groups(), loss_type="dapo", scale_rewards="none")
    assert batch.tokens_N.tolist() == [1, 2, 11, 12, 13, 1, 2, 21, 3, 31, 32, 3, 41, 42, 43, 44]
    assert batch.positions_N.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 4]
    assert batch.sequence_id_N.tolist() == [0] * 5 + [1] * 3 + [2] * 3 + [3] * 5
    assert batch.cu_seqlens.tolist() == [0, 5, 8, 11, 16]
    assert batch.trained_N.tolist() == [bool(x) for x in (0, 0, 1, 1, 1, 0, 0, 1, 0, 1, 1, 0, 1, 1, 1, 1)]
    assert batch.weight_N == pytest.approx(batch.trained_N * 0.1)
    inputs = inputs_of(batch)
    assert inputs.advantage_N.tolist() == [0, 0, 0.5, 0.5, 0.5, 0, 0, -0.5] + [0] * 8
    assert inputs.sampler_logprob_N[:8] == pytest.approx([0, 0, -0.1, -0.2, -0.3, 0, 0, -0.1])


def test_masked_truncation_counts_the_sequence_but_not_its_tokens() -> None:
    dapo = build_grpo_batch(two_groups(), loss_type="dapo", mask_truncated_completions=True)
    assert dapo.weight_N[5:8].tolist() == [0, 0, 0]
    assert dapo.weight_N[2] == pytest.approx(1 / 9)
    grpo = build_grpo_batch(two_groups(), loss_type="grpo", mask_truncated_completions=True)
    assert grpo.weight_N[2] == pytest.approx(1 / 4 / 3)
    assert grpo.weight_N.sum() == pytest.approx(3 / 4)
    # It still takes part in its group's mean.
    assert inputs_of(dapo).advantage_N[2] > 0


def test_only_trained_segments_count() -> None:
    segments = (
        Segment(role="assistant", start=0, stop=2, trained=True, policy_version=0),
        Segment(role="tool", start=2, stop=3, trained=False, policy_version=0),
        Segment(role="assistant", start=3, stop=4, trained=True, policy_version=1),
    )
    groups = [group([completion([1], [5, 6, 7, 8], segments=segments), completion([1], [9])], [1.0, 0.0])]
    batch = build_grpo_batch(groups, loss_type="grpo")
    assert batch.trained_N.tolist() == [False, True, True, False, True, False, True]
    assert batch.weight_N[[1, 2, 4]] == pytest.approx([1 / 6] * 3)


def test_given_advantages_replace_those_of_the_rewards() -> None:
    given = [np.array([2.0, 3.0], np.float32), np.array([4.0, 5.0], np.float32)]
    batch = build_grpo_batch(two_groups(), advantages=given)
    assert inputs_of(batch).advantage_N[[2, 7, 9, 12]].tolist() == [2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_each_mini_batch_is_normalised_by_its_own_counts(loss_type: str) -> None:
    batch = build_grpo_batch(two_groups(), loss_type=loss_type, max_completion_length=8)  # type: ignore[arg-type]
    parts = mini_batches(batch, 2, seed=1)
    assert sorted(s for p in parts for s in np.unique(p.sequence_id_N).tolist()) == [0, 1, 2, 3]
    for part in parts:
        expected = {"grpo": 1.0, "dapo": 1.0, "dr_grpo": part.num_trained_tokens / (2 * 8)}
        assert part.weight_N.sum() == pytest.approx(expected[loss_type])
        assert not part.weight_N[~part.trained_N].any()


def test_mini_batches_depend_on_the_seed_alone() -> None:
    batch = many()
    orders = [[p.sequence_id_N.tolist() for p in mini_batches(batch, 5, seed)] for seed in (4, 4, 5)]
    assert orders[0] == orders[1] != orders[2]
    sizes = [p.num_sequences for p in mini_batches(batch, 5, 4)]
    assert sum(sizes) == batch.num_sequences
    assert max(sizes) - min(sizes) <= 1
    assert mini_batches(batch, 1, 0) == [batch]
    assert len(mini_batches(batch, 1000, 0)) == 1000, "an empty part is a step all the same"


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("limit", [1, 20, 50, 10_000])
def test_micro_batches_keep_sequences_whole_weights_and_the_limit(layout: str, limit: int) -> None:
    batch = many()
    parts = micro_batches(batch, limit, layout=layout)  # type: ignore[arg-type]
    ids = [np.unique(p.sequence_id_N).tolist() for p in parts]
    assert sorted(s for part in ids for s in part) == list(range(batch.num_sequences))
    assert sum(float(p.weight_N.sum()) for p in parts) == pytest.approx(float(batch.weight_N.sum()))
    for part in parts:
        size = padded_view(part).tokens_BT.size if layout == "padded" else part.num_tokens
        assert size <= limit or part.num_sequences == 1
        for sequence in range(part.num_sequences):
            here = slice(part.cu_seqlens[sequence], part.cu_seqlens[sequence + 1])
            there = batch.sequence_id_N == part.sequence_id_N[here.start]
            assert part.tokens_N[here].tolist() == batch.tokens_N[there].tolist()
            assert part.weight_N[here].tolist() == batch.weight_N[there].tolist()


def test_the_plan_by_hand() -> None:
    lengths = np.array([3, 9, 4, 8])
    assert plan_micro_batches(lengths, 18, "padded") == [[1, 3], [2, 0]]
    assert plan_micro_batches(lengths, 18, "packed") == [[1, 3], [2, 0]]
    assert plan_micro_batches(lengths, 21, "packed") == [[1, 3, 2], [0]]
    assert plan_micro_batches(lengths, 26, "padded") == [[1, 3], [2, 0]]


def test_dropping_idle_sequences_keeps_denominators() -> None:
    batch = build_grpo_batch(two_groups(), loss_type="dapo")
    kept = without_idle_sequences(batch)
    assert np.unique(kept.sequence_id_N).tolist() == [0, 1]  # the second group's rewards are all equal
    assert kept.weight_N[2] == pytest.approx(0.1)
    assert without_idle_sequences(batch, keep_zero_advantage=True) is batch


def test_views_point_each_target_at_the_state_before_it() -> None:
    batch = many(seed=2)
    for view in (padded_view(batch), packed_view(batch)):
        flat = view.tokens_BT.ravel()
        assert view.stream_M.tolist() == np.flatnonzero(batch.trained_N).tolist()
        assert view.target_M.tolist() == batch.tokens_N[view.stream_M].tolist()
        assert flat[view.source_M].tolist() == batch.tokens_N[view.stream_M - 1].tolist()
        assert flat[view.source_M + 1].tolist() == view.target_M.tolist()
    rows = padded_view(batch).tokens_BT
    for s in range(batch.num_sequences):
        own = batch.tokens_N[batch.cu_seqlens[s] : batch.cu_seqlens[s + 1]]
        assert rows[s, : len(own)].tolist() == own.tolist()


def test_sft_batches_train_on_all_but_each_first_token() -> None:
    batch = build_sft_batch([[1, 2, 3], [4, 5]])
    assert batch.trained_N.tolist() == [False, True, True, False, True]
    assert batch.weight_N == pytest.approx([0, 1 / 3, 1 / 3, 0, 1 / 3])
    masked = build_sft_batch([[1, 2, 3], [4, 5]], [[1, 0, 1], [0, 0]], loss_type="grpo")
    assert masked.trained_N.tolist() == [False, False, True, False, False]
    assert masked.weight_N[2] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="3 tokens but 2 flags"):
        build_sft_batch([[1, 2, 3]], [[1, 0]])


def test_inputs_of_a_wrong_length_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        many().with_inputs(old_logprob_N=np.zeros(3, np.float32))


def test_an_empty_batch_is_a_batch() -> None:
    batch = build_grpo_batch([])
    assert (batch.num_sequences, batch.num_tokens) == (0, 0)
    assert micro_batches(batch, 100) == []
