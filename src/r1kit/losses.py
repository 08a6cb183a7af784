# ruff: noqa: N815 - dimension suffixes are part of the names
"""All the maths of the losses, as pure functions of tensors; no model, no batch, no device in sight.

Sources: R1 = "DeepSeek-R1", arXiv 2501.12948 v2; DSM = "DeepSeekMath", arXiv 2402.03300; DAPO = arXiv 2503.14476;
Dr. GRPO = arXiv 2503.20783; GSPO = arXiv 2507.18071; V3.2 = "DeepSeek-V3.2", arXiv 2512.02556; GKD = "On-Policy
Distillation of Language Models", arXiv 2306.13649; Hinton = "Distilling the Knowledge in a Neural Network",
arXiv 1503.02531; InstructGPT = arXiv 2203.02155; Llama 2 = arXiv 2307.09288; Eisenstein = "Helping or Herding?",
arXiv 2312.09244. Dimension suffixes: N tokens of a packed stream, S sequences, P problems or pairs, G completions of a
group, V vocabulary, K tokens of a teacher's distribution that are told apart, R = K + 1 with the rest as one.

A loss is two things kept apart: a value per token (here), and a weight per token (``token_weights``). The loss of an
optimizer step is exactly ``sum(weight_N * token_loss_N)``, so how the step is cut into micro-batches cannot matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from r1kit.types import Float32s, UserError

LossType = Literal["grpo", "bnpo", "dapo", "dr_grpo"]
ScaleRewards = Literal["group", "batch", "none"]
ImportanceSamplingLevel = Literal["token", "sequence", "sequence_product"]
Divergence = Literal["forward_kl", "reverse_kl", "jsd"]

STD_EPSILON = 1e-4
"""Added to the standard deviation that divides advantages, as TRL does."""

_MAX_LOG_RATIO = 20.0  # exp(20) = 4.9e8: a drifted token must not become inf, and inf * 0 must not become nan
_LOWEST_LOGPROB = -100.0

Metrics = dict[str, Tensor]
"""Sums over tokens, detached; whoever adds them up divides by the number of tokens."""


def group_advantages(
    rewards: Sequence[npt.ArrayLike] | Tensor, scale_rewards: ScaleRewards = "group"
) -> list[Float32s]:
    """Advantages ``A_i = (r_i - mean(r)) / (std(r) + 1e-4)`` within each group (R1 v2 eq. 3; DSM sec. 4.1.2).

    ``rewards`` is P groups of G rewards, ragged or not; the result has the same shape. ``scale_rewards="batch"``
    divides by the deviation of all rewards together, ``"none"`` by nothing (Dr. GRPO sec. 3.1).

    The paper does not say which deviation. We take the sample deviation (G - 1), as TRL does; against the population
    deviation it only scales a group by sqrt((G - 1) / G), 3 % at G = 16. A group whose rewards are all equal,
    or of one sample, says nothing and gets exactly 0. Raises UserError for a reward that is not finite.
    """
    groups = [np.asarray(group, dtype=np.float64) for group in rewards]
    everything = np.concatenate(groups) if groups else np.zeros(0)
    if not np.isfinite(everything).all():
        raise UserError("A reward is NaN or infinite: a reward function must return finite numbers, or None.")
    batch_std = everything.std(ddof=1) if everything.size > 1 else 0.0
    return [_advantages_of_group(group, scale_rewards, float(batch_std)) for group in groups]


def _advantages_of_group(rewards: npt.NDArray[np.float64], scale_rewards: ScaleRewards, batch_std: float) -> Float32s:
    if rewards.size < 2 or rewards.min() == rewards.max():
        return np.zeros(rewards.size, dtype=np.float32)
    centred = rewards - rewards.mean()
    if scale_rewards == "none":
        return centred.astype(np.float32)
    std = batch_std if scale_rewards == "batch" else rewards.std(ddof=1)
    return (centred / (std + STD_EPSILON)).astype(np.float32)


def token_weights(
    lengths: npt.ArrayLike,
    *,
    loss_type: LossType,
    max_completion_length: int | None = None,
    group_sizes: npt.ArrayLike | None = None,
) -> list[Float32s]:
    """The weight of each token in the loss of one optimizer step; one array of ``lengths[s]`` weights per sequence.

    ``lengths`` [S] counts the trained tokens of each sequence; 0 marks a sequence that is masked out.

    - ``"grpo"``: 1 / (S |o_s|), DSM eq. 3: the mean over sequences of the mean over tokens. With ``group_sizes`` [P]
      (consecutive groups, adding up to S): 1 / (P G_p |o_s|), the mean over groups first; the same if all are equal.
    - ``"dapo"``: 1 / (all tokens of the step), DAPO eq. 8. ``"bnpo"`` is the same here: in TRL it divides by the
      tokens of the local micro-batch, and here a result never depends on how a step is cut.
    - ``"dr_grpo"``: 1 / (S max_completion_length), Dr. GRPO sec. 3.2: a constant divisor.

    A masked sequence counts as a sequence (grpo, dr_grpo) and its tokens do not count (dapo, bnpo), as in TRL.
    """
    counts = np.asarray(lengths, dtype=np.int64)
    per_sequence = _sequence_weights(counts, loss_type, max_completion_length, group_sizes)
    return [np.full(count, weight, dtype=np.float32) for count, weight in zip(counts, per_sequence, strict=True)]


def _sequence_weights(
    lengths: npt.NDArray[np.int64],
    loss_type: LossType,
    max_completion_length: int | None,
    group_sizes: npt.ArrayLike | None,
) -> npt.NDArray[np.float64]:
    ones = np.ones(lengths.size)
    if loss_type in ("dapo", "bnpo"):
        return ones / max(1, int(lengths.sum()))
    if loss_type == "dr_grpo":
        if not max_completion_length:
            raise UserError('loss_type="dr_grpo" divides by max_completion_length: set it to a positive number.')
        return ones / (max(1, lengths.size) * max_completion_length)
    if loss_type != "grpo":
        raise UserError(f'Unknown loss_type "{loss_type}": choose grpo, dapo, dr_grpo or bnpo.')
    if group_sizes is None:
        return ones / (max(1, lengths.size) * np.maximum(1, lengths))
    sizes = np.asarray(group_sizes, dtype=np.int64)
    if int(sizes.sum()) != lengths.size:
        raise ValueError(f"groups of {sizes.sum()} sequences in all, but {lengths.size} lengths")
    return ones / (sizes.size * np.repeat(sizes, sizes) * np.maximum(1, lengths))


def importance_ratio(
    logprob_N: Tensor,
    old_logprob_N: Tensor,
    sequence_id_N: Tensor,
    level: ImportanceSamplingLevel = "token",
) -> Tensor:
    """Policy over old policy, per token of the stream, shape [N].

    - ``"token"``: pi(o_t) / pi_old(o_t), DSM eq. 3; what nearly everyone runs.
    - ``"sequence"``: (pi(o) / pi_old(o))^(1/|o|), the same for all tokens of a sequence: GSPO eq. 7, TRL's
      ``importance_sampling_level="sequence"``. Its derivative reaches every token of the sequence.
    - ``"sequence_product"``: pi(o) / pi_old(o), as R1 eq. 1 prints it; its spread grows with length.

    A sequence must be whole: its log ratio is summed over all the tokens given here.
    """
    log_ratio = logprob_N - old_logprob_N
    if level == "token":
        return torch.exp(log_ratio.clamp(max=_MAX_LOG_RATIO))
    if level not in ("sequence", "sequence_product"):
        raise UserError(f'Unknown importance_sampling_level "{level}": token, sequence or sequence_product.')
    _, index_N, count_S = torch.unique(sequence_id_N, return_inverse=True, return_counts=True)
    total_S = torch.zeros(count_S.shape[0], dtype=log_ratio.dtype, device=log_ratio.device)
    total_S = total_S.index_add(0, index_N, log_ratio)
    if level == "sequence":
        total_S = total_S / count_S
    return torch.exp(total_S.clamp(max=_MAX_LOG_RATIO))[index_N]


def clipped_surrogate(
    ratio_N: Tensor,
    advantage_N: Tensor,
    epsilon: float,
    epsilon_high: float | None = None,
    delta: float | None = None,
) -> Tensor:
    """``min(ratio A, clip(ratio, 1 - epsilon, 1 + epsilon_high) A)`` (R1 v2 eq. 1), to be maximised, shape [N].

    ``epsilon_high`` defaults to ``epsilon``; larger is DAPO's clip-higher (DAPO eq. 10). R1's first RL stage uses
    epsilon = 10 (R1 v2 sec. 3.2.1): the interval is (-9, 11), so only ratios above 11 with A > 0 are ever cut.
    ``delta`` > 1 caps the ratio of the unclipped term from above, which bounds the loss where A < 0 (two-sided
    clipping, TRL's ``delta``).
    """
    high = epsilon if epsilon_high is None else epsilon_high
    clipped = ratio_N.clamp(1.0 - epsilon, 1.0 + high)
    free = ratio_N if delta is None else ratio_N.clamp(max=delta)
    return torch.minimum(free * advantage_N, clipped * advantage_N)


def k3_kl(logprob_N: Tensor, ref_logprob_N: Tensor) -> Tensor:
    """``pi_ref/pi - log(pi_ref/pi) - 1``, an unbiased and never negative estimate of KL(pi || pi_ref) under samples
    of pi (R1 v2 eq. 2; DSM eq. 4), in nats, shape [N]."""
    log_ratio = (ref_logprob_N - logprob_N).clamp(max=_MAX_LOG_RATIO)
    # expm1 keeps the digits where the policies are close; exp(x) - 1 - x cancels and can come out below 0.
    return torch.expm1(log_ratio) - log_ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class LossInputs:
    """What a loss may look at: whole sequences' trained tokens, N of them in a stream.

    ``logprob_N`` carries the gradient, ``entropy_N`` too; the others are constants. ``old_logprob_N`` None means that
    the policy has not moved since sampling (one update a rollout): the ratio is 1 and its derivative is right.
    ``position_N``: places in the sequences that ``sequence_id_N`` names. ``student_logprob_NR`` (with gradient) and
    ``teacher_logprob_NR``: two distributions over the same K tokens and the rest, as ``topk_logprobs`` gives them.
    """

    logprob_N: Tensor
    entropy_N: Tensor
    sequence_id_N: Tensor
    position_N: Tensor | None = None
    advantage_N: Tensor | None = None
    sampler_logprob_N: Tensor | None = None
    old_logprob_N: Tensor | None = None
    ref_logprob_N: Tensor | None = None
    student_logprob_NR: Tensor | None = None
    teacher_logprob_NR: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpoLossConfig:
    """Settings of ``grpo_loss``; names and defaults as in TRL's GRPOConfig where it has them.

    ``use_bias_correction_kl`` multiplies the KL term by the importance ratio (V3.2 eq. 7), which makes its
    estimate unbiased off-policy. ``sampler_ratio_cap`` C multiplies the surrogate by min(pi_old / pi_sampler, C):
    truncated importance sampling against a sampler that computes in another precision (TRL's
    ``vllm_importance_sampling_cap``). ``entropy_coef`` subtracts an entropy bonus.
    """

    epsilon: float = 0.2
    epsilon_high: float | None = None
    delta: float | None = None
    beta: float = 0.0
    importance_sampling_level: ImportanceSamplingLevel = "token"
    use_bias_correction_kl: bool = False
    sampler_ratio_cap: float | None = None
    entropy_coef: float = 0.0


def grpo_loss(inputs: LossInputs, config: GrpoLossConfig) -> tuple[Tensor, Metrics]:
    """GRPO's loss per token (DSM eq. 3 with eq. 4, negated), shape [N], and metric sums over tokens.

    Weigh it with ``token_weights``. Metrics: ``kl``, ``entropy``, ``clip_ratio/low_mean`` (cut from below, A < 0),
    ``clip_ratio/high_mean`` (cut from above, A > 0), ``clip_ratio/region_mean`` (either).
    """
    if inputs.advantage_N is None:
        raise ValueError("grpo_loss needs advantage_N")
    logprob, advantage = inputs.logprob_N, inputs.advantage_N
    old = logprob.detach() if inputs.old_logprob_N is None else inputs.old_logprob_N
    ratio = importance_ratio(logprob, old, inputs.sequence_id_N, config.importance_sampling_level)
    objective = clipped_surrogate(ratio, advantage, config.epsilon, config.epsilon_high, config.delta)
    if config.sampler_ratio_cap is not None and inputs.sampler_logprob_N is not None:
        objective = objective * torch.exp(old - inputs.sampler_logprob_N).clamp(max=config.sampler_ratio_cap)
    loss = -objective
    metrics = _clip_metrics(ratio.detach(), advantage, config)
    metrics["entropy"] = inputs.entropy_N.detach().sum()
    if inputs.ref_logprob_N is not None:
        kl = k3_kl(logprob, inputs.ref_logprob_N)
        metrics["kl"] = kl.detach().sum()
        if config.beta:
            loss = loss + config.beta * (kl * ratio if config.use_bias_correction_kl else kl)
    elif config.beta:
        raise ValueError("beta > 0 needs ref_logprob_N")
    if config.entropy_coef:
        loss = loss - config.entropy_coef * inputs.entropy_N
    return loss, metrics


def _clip_metrics(ratio_N: Tensor, advantage_N: Tensor, config: GrpoLossConfig) -> Metrics:
    high_bound = config.epsilon if config.epsilon_high is None else config.epsilon_high
    low = (ratio_N < 1.0 - config.epsilon) & (advantage_N < 0)
    high = (ratio_N > 1.0 + high_bound) & (advantage_N > 0)
    named = {"low": low, "high": high, "region": low | high}
    return {f"clip_ratio/{name}_mean": cut.sum().to(ratio_N.dtype) for name, cut in named.items()}


def cross_entropy(inputs: LossInputs) -> tuple[Tensor, Metrics]:
    """Negative log-likelihood per token in nats, shape [N]: pre-training, SFT and distillation (R1 v2 B.4)."""
    return -inputs.logprob_N, {"entropy": inputs.entropy_N.detach().sum()}


# ------------------------------------------------------------------------------------------ distillation


def topk_logprobs(logits_NV: Tensor, ids_NK: Tensor) -> Tensor:
    """Log-probabilities, in nats, of the K tokens ``ids_NK`` (distinct in a row) and, in the last column, of all other
    tokens together, [N, R = K + 1], from logits already divided by the temperature.

    The rest is summed token by token: 1 minus the others would lose all its digits where a distribution is sharp. With
    K = V there is no rest, and its log-probability is -inf.
    """
    log_z_N1 = torch.logsumexp(logits_NV, dim=-1, keepdim=True)
    chosen_NK = logits_NV.gather(-1, ids_NK) - log_z_N1
    if ids_NK.shape[-1] == logits_NV.shape[-1]:
        return torch.cat([chosen_NK, torch.full_like(log_z_N1, -torch.inf)], dim=-1)
    others_NV = logits_NV.scatter(-1, ids_NK, -torch.inf)
    return torch.cat([chosen_NK, torch.logsumexp(others_NV, dim=-1, keepdim=True) - log_z_N1], dim=-1)


def top_k_of(logits_NV: Tensor, k: int, vocabulary: int) -> tuple[Tensor, Tensor]:
    """The ``k`` likeliest of the first ``vocabulary`` tokens, [N, K], likeliest first, and their ``topk_logprobs``
    [N, K + 1]. Embedding rows beyond the tokenizer's (padding) belong to the rest."""
    ids_NK = logits_NV[:, :vocabulary].topk(min(k, vocabulary), dim=-1).indices
    return ids_NK, topk_logprobs(logits_NV, ids_NK)


def forward_kl(teacher_NR: Tensor, student_NR: Tensor) -> Tensor:
    """``KL(teacher || student) = sum_r p_r (log p_r - log q_r)`` of log-probabilities, in nats, [N]: the divergence of
    supervised distillation (GKD sec. 2; up to the teacher's entropy, Hinton sec. 2's cross-entropy)."""
    teacher, student = _floored(teacher_NR), _floored(student_NR)
    return (teacher.exp() * (teacher - student)).sum(-1)


def reverse_kl(teacher_NR: Tensor, student_NR: Tensor) -> Tensor:
    """``KL(student || teacher)``, in nats, [N]: seeks a mode of the teacher instead of covering all (GKD sec. 2)."""
    return forward_kl(student_NR, teacher_NR)


def generalized_jsd(teacher_NR: Tensor, student_NR: Tensor, beta: float) -> Tensor:
    """``beta KL(P || M) + (1 - beta) KL(Q || M)``, ``M = beta P + (1 - beta) Q`` the mixture of teacher P and student
    Q (GKD sec. 2, the generalized Jensen-Shannon divergence), in nats, [N], at most log 2. Divided by beta it tends to
    the forward KL for beta -> 0, divided by 1 - beta to the reverse KL for beta -> 1."""
    teacher, student = _floored(teacher_NR), _floored(student_NR)
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    return beta * forward_kl(teacher, mixture) + (1.0 - beta) * forward_kl(student, mixture)


def _floored(logprobs: Tensor) -> Tensor:
    # exp(-100) is 0 beside any probability that fp32 can add it to; -inf would make 0 * inf and a gradient of nan
    return logprobs.clamp(min=_LOWEST_LOGPROB)


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillLossConfig:
    """Settings of ``distill_loss``. ``jsd_beta`` is GKD's beta, the teacher's weight in the mixture of "jsd"."""

    divergence: Divergence = "forward_kl"
    jsd_beta: float = 0.5


def distill_loss(inputs: LossInputs, config: DistillLossConfig) -> tuple[Tensor, Metrics]:
    """Divergence between teacher and student at each token, in nats, [N], and metric sums over tokens.

    Both distributions are over K tokens and the rest as one event. Merging events can only lower a divergence, so this
    is a lower bound of the one over the whole vocabulary, tight where the rest is small, and equal for K = V. It is
    not multiplied by the square of the temperature (Hinton sec. 2 does so to mix it with another loss; here is none).
    Metrics: ``entropy`` (the student's), ``nll`` of the tokens themselves, ``teacher_rest``, the teacher's mean
    probability of the rest.
    """
    teacher, student = inputs.teacher_logprob_NR, inputs.student_logprob_NR
    if teacher is None or student is None:
        raise ValueError("distill_loss needs teacher_logprob_NR and student_logprob_NR")
    metrics = {
        "entropy": inputs.entropy_N.detach().sum(),
        "nll": -inputs.logprob_N.detach().sum(),
        "teacher_rest": teacher[:, -1].exp().sum(),
    }
    if config.divergence == "jsd":
        return generalized_jsd(teacher, student, config.jsd_beta), metrics
    if config.divergence == "reverse_kl":
        return reverse_kl(teacher, student), metrics
    if config.divergence == "forward_kl":
        return forward_kl(teacher, student), metrics
    raise UserError(f'Unknown divergence "{config.divergence}": choose forward_kl, reverse_kl or jsd.')


# ------------------------------------------------------------------------------------------ reward models


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreInputs:
    """What a reward model's loss may look at: a score per sequence, [S], with gradient, and constants beside it.

    Of pairs, sequences 2i and 2i + 1 are the chosen and the rejected answer to one prompt; ``target_S`` is the pair's
    margin on both. Of labelled answers ``target_S`` is the probability that the answer is the good one (safe).
    """

    score_S: Tensor
    target_S: Tensor


def pairwise_loss(
    chosen_P: Tensor, rejected_P: Tensor, margin_P: Tensor | None = None, center_rewards_coefficient: float = 0.0
) -> Tensor:
    """``-log sigmoid(r_chosen - r_rejected - margin) + c (r_chosen + r_rejected)^2`` per pair, in nats, shape [P].

    The first term is that of the helpful reward model (R1 v2 sec. 3.1; InstructGPT eq. 1, the likelihood of
    Bradley and Terry 1952), with Llama 2's margin (eq. 2); the second holds the mean of the scores at 0, which the
    first leaves open (Eisenstein eq. 2; TRL's ``center_rewards_coefficient``).
    """
    difference = chosen_P - rejected_P
    loss = -torch.nn.functional.logsigmoid(difference if margin_P is None else difference - margin_P)
    if center_rewards_coefficient:
        loss = loss + center_rewards_coefficient * (chosen_P + rejected_P) ** 2
    return loss


def pointwise_loss(score_S: Tensor, target_S: Tensor) -> Tensor:
    """``-y log sigmoid(r) - (1 - y) log sigmoid(-r)`` per answer, in nats, shape [S]: the safety reward model (R1 v2
    sec. 3.1, "point-wise"; the paper gives no formula, and binary cross-entropy is our reading)."""
    return torch.nn.functional.binary_cross_entropy_with_logits(score_S, target_S, reduction="none")


def pairwise_reward_loss(inputs: ScoreInputs, center_rewards_coefficient: float = 0.0) -> tuple[Tensor, Metrics]:
    """``pairwise_loss`` of whole pairs, on both sequences of each (weights of 1 / S make it the mean over pairs), [S].
    Metrics, as sums over sequences: ``accuracy`` (chosen scores higher), ``margin`` (by how much), ``score``."""
    chosen_P, rejected_P = inputs.score_S[0::2], inputs.score_S[1::2]
    loss_P = pairwise_loss(chosen_P, rejected_P, inputs.target_S[0::2], center_rewards_coefficient)
    difference_P = (chosen_P - rejected_P).detach()
    metrics = {
        "accuracy": 2 * (difference_P > 0).to(difference_P.dtype).sum(),
        "margin": 2 * difference_P.sum(),
        "score": inputs.score_S.detach().sum(),
    }
    return loss_P.repeat_interleave(2), metrics


def pointwise_reward_loss(inputs: ScoreInputs) -> tuple[Tensor, Metrics]:
    """``pointwise_loss``, [S]. Metrics, as sums: ``accuracy`` (the score has the label's sign) and ``score``."""
    score_S = inputs.score_S.detach()
    right_S = (score_S > 0) == (inputs.target_S > 0.5)
    metrics = {"accuracy": right_S.to(score_S.dtype).sum(), "score": score_S.sum()}
    return pointwise_loss(inputs.score_S, inputs.target_S), metrics


def logprobs_and_entropy(logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of each distribution, in nats, both [N], from logits already
    divided by the temperature."""
    log_z_N = torch.logsumexp(logits_NV, dim=-1)
    logprob_N = logits_NV.gather(-1, targets_N[:, None]).squeeze(-1) - log_z_N
    probability_NV = torch.exp(logits_NV - log_z_N[:, None])
    return logprob_N, log_z_N - (probability_NV * logits_NV).sum(-1)
