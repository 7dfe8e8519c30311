"""The optimum of a run's own objective over the answers to a prompt, beside where the run is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..mara import anchor_reference, augment_reward, reaches
from ..stats import effective_modes, effective_sample_size
from ..targets import forward_crossover_beta, forward_kl_target, reverse_crossover_beta, reverse_kl_target
from .samples import Bin, Sample

SCORED, WEIGHTED, FIRST = "scored", "weighted", "first steps"  # how the reference's masses are known
LEAST_EFFECTIVE = 0.3  # of importance weights: effective samples in each sample
EQUAL_REWARD = 1e-6  # relative: rewards that differ by less are equal


@dataclass(frozen=True)
class ReferenceMass:
    """The reference's distribution over completions of a prompt, as weighted completions.

    Attributes:
        answers: [A] names.
        index: [N] answer of each completion.
        log_weight: [N] log of its share of the reference's mass, nats.
        reward: [N].
        source: scored: log-probabilities under the reference of the distinct completions that were seen; weighted:
            importance weights reference / policy of sampled completions; first steps: completions that were sampled
            before the policy had moved, each with the same weight.
    """

    answers: tuple[str, ...]
    index: Tensor
    log_weight: Tensor
    reward: Tensor
    source: str

    def by_answer(self, log_value: Tensor) -> Tensor:
        """Sum exp(log_value) over the completions of each answer, [N] -> [A], in logs."""
        largest = log_value.new_full((len(self.answers),), -torch.inf)
        largest = largest.scatter_reduce(0, self.index, log_value, "amax")
        shift = largest.nan_to_num(neginf=0.0)
        return self._sum((log_value - shift[self.index]).exp()).log() + shift

    def _sum(self, value: Tensor) -> Tensor:
        """Sum over the completions of each answer, [N] -> [A]."""
        return value.new_zeros(len(self.answers)).index_add(0, self.index, value)

    def log_mass(self) -> Tensor:
        """[A] log of the reference's mass of each answer, nats."""
        return self.by_answer(self.log_weight)

    def mass_error(self) -> Tensor:
        """[A] standard error of `log_mass`, nats: 0 if the completions are scored, else from their number."""
        if self.source == SCORED:
            return torch.zeros(len(self.answers), dtype=torch.float64)
        return (self.by_answer(2 * self.log_weight) / 2 - self.log_mass()).exp()

    def mean_reward(self) -> Tensor:
        """[A] mean reward of each answer under the reference."""
        shares = (self.log_weight - self.log_mass()[self.index]).exp()
        return self._sum(shares * self.reward)

    def target(self, beta: float, direction: str = "reverse") -> Tensor:
        """[A] log-probability of each answer at the optimum, among these completions."""
        function = {"reverse": reverse_kl_target, "forward": forward_kl_target}[direction]
        return self.by_answer(function(self.log_weight, self.reward, beta))

    def mara_target(self, beta: float, threshold: float, direction: str = "reverse") -> Tensor:
        """[A] the same after MARA over answers: Algorithm 1 under reverse KL, Algorithm 2 under forward KL."""
        level = torch.tensor(threshold, dtype=torch.float64)  # two float64 tensors are compared in float64
        good = reaches(self.reward, level)
        mass = self.by_answer(self.log_weight.masked_fill(~good, -torch.inf))[self.index]
        if direction == "forward":
            reward, anchored = anchor_reference(self.reward, self.log_weight, threshold=level, mass_logp=mass)
            return self.by_answer(forward_kl_target(anchored, reward, beta))
        reward = augment_reward(self.reward, self.log_weight, beta=beta, threshold=level, mass_logp=mass)
        return self.by_answer(reverse_kl_target(self.log_weight, reward, beta))

    def tie_beta(self, a: int, b: int, direction: str = "reverse") -> float:
        """The beta at which answers a and b are equally likely at the optimum, from their masses and mean rewards."""
        mass, reward = self.log_mass(), self.mean_reward()
        if equal_rewards(float(reward[a]), float(reward[b])):
            return 0.0
        if direction == "forward":
            return float(forward_crossover_beta(mass, reward, a, b))
        return float(reverse_crossover_beta(mass[a], mass[b], reward[a], reward[b]))


def reference_mass(bins: Sequence[Bin], prompt: str, edge: int, *, lists_once: bool = False) -> ReferenceMass | None:
    """The best knowledge of the reference's distribution over the completions of a prompt; None if there is none.

    With log-probabilities under the reference, and one spelling for each answer: those. With several spellings and
    log-probabilities under the policy too: importance weights, of the bins in which the policy is near the reference;
    if the files list each completion once, so that they are no samples of the policy, again those log-probabilities.
    Without any: the completions of the first `edge` bins, if the policy started from the reference.
    """
    groups = [[s for s in part.groups.get(prompt, []) if s.reward is not None] for part in bins]
    everything = [sample for group in groups for sample in group]
    scored = [sample for sample in everything if sample.ref_logp is not None]
    if scored:
        distinct = {sample.text: sample for sample in scored}
        weighted = [sample for sample in scored if sample.policy_logp is not None]
        if lists_once or len(distinct) == len({sample.answer for sample in scored}) or not weighted:
            return _weighted(list(distinct.values()), [ref_logp(sample) for sample in distinct.values()], SCORED)
        near = [[s for s in group if s.ref_logp is not None and s.policy_logp is not None] for group in groups]
        kept = [sample for group in near if group and _is_near(group) for sample in group] or weighted
        shift = math.log(len(kept))
        return _weighted(kept, [ref_logp(s) - (s.policy_logp or 0.0) - shift for s in kept], WEIGHTED)
    first = [sample for group in groups[:edge] for sample in group]
    return _weighted(first, [-math.log(len(first))] * len(first), FIRST) if first else None


def ref_logp(sample: Sample) -> float:
    """The log-probability of a sample under the reference, which is known."""
    assert sample.ref_logp is not None
    return sample.ref_logp


def _is_near(group: Sequence[Sample]) -> bool:
    """Whether importance weights of a group can be trusted."""
    weights = torch.tensor([ref_logp(s) - (s.policy_logp or 0.0) for s in group], dtype=torch.float64)
    return float(effective_sample_size(weights)) >= LEAST_EFFECTIVE * len(group)


def _weighted(samples: Sequence[Sample], log_weights: Sequence[float], source: str) -> ReferenceMass:
    answers = {answer: number for number, answer in enumerate(dict.fromkeys(s.answer for s in samples))}
    return ReferenceMass(
        tuple(answers),
        torch.tensor([answers[sample.answer] for sample in samples]),
        torch.tensor(log_weights, dtype=torch.float64),
        torch.tensor([sample.reward for sample in samples], dtype=torch.float64),
        source,
    )


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt: their ratio now, at the optimum, and after MARA. Ratios are a to b, logs in nats.

    Attributes:
        prompt: the prompt.
        a: the answer with the larger share now.
        b: the other.
        ref_gap: log ref(a) / ref(b).
        ref_error: its standard error.
        reward_a: mean reward of a.
        reward_b: the same of b.
        now: log of the ratio of their numbers in the last bins; inf if b was not sampled there, None if the files do
            not show repeated samples.
        now_error: its standard error; NaN if b was not sampled, or nothing is known.
        counts: their numbers in the last bins; (0, 0) if nothing is known.
        good: whether the rewards of both reach the threshold.
        optimum: log ratio at the optimum; None where it depends on a beta that is not known.
        tie_beta: beta at which the optimum has them equally often; 0: rewards are equal, and no beta does unless
            ref_gap is 0; inf: no beta does.
        mara: log ratio at the optimum with MARA over answers; None if one of them is not good, or beta is not known.
    """

    prompt: str
    a: str
    b: str
    ref_gap: float
    ref_error: float
    reward_a: float
    reward_b: float
    now: float | None
    now_error: float
    counts: tuple[int, int]
    good: bool
    optimum: float | None
    tie_beta: float
    mara: float | None

    @property
    def equal(self) -> bool:
        """Whether both have the same reward, so that their ratio at the optimum is the reference's at any beta."""
        return equal_rewards(self.reward_a, self.reward_b)

    @property
    def excess(self) -> float | None:
        """How far the ratio is beyond that of the optimum, nats; None if that is not known."""
        return None if self.optimum is None or self.now is None else self.now - self.optimum

    @property
    def excess_error(self) -> float:
        """Standard error of `excess`."""
        return math.hypot(self.now_error, self.ref_error)


def equal_rewards(a: float, b: float) -> bool:
    """Whether two rewards are the same but for rounding."""
    return abs(a - b) <= EQUAL_REWARD * max(abs(a), abs(b), 1.0)


def compare_pair(
    mass: ReferenceMass,
    prompt: str,
    answers: tuple[str, str],
    counts: tuple[int, int] | None,
    beta: float | None,
    threshold: float,
    direction: str = "reverse",
) -> Pair:
    """Compare two answers.

    Args:
        mass: the reference's distribution.
        prompt: the prompt.
        answers: two of `mass.answers`.
        counts: how often each was sampled in the last bins, the first at least once; None: not known.
        beta: reward units per nat; None or 0: not known, or no KL term.
        threshold: lowest good reward.
        direction: of the KL, reverse or forward.
    """
    a, b = (mass.answers.index(answer) for answer in answers)
    log_mass, errors, reward = mass.log_mass(), mass.mass_error(), mass.mean_reward()
    reward_a, reward_b = float(reward[a]), float(reward[b])
    optimum, mara = None, None
    equal = equal_rewards(reward_a, reward_b)
    good = min(reward_a, reward_b) >= threshold - EQUAL_REWARD
    if beta:
        target = mass.target(beta, direction)
        optimum = float(target[a] - target[b])
        tied = mass.mara_target(beta, threshold, direction)
        mara = float(tied[a] - tied[b]) if good else None
    elif equal:
        optimum, mara = float(log_mass[a] - log_mass[b]), 0.0 if good else None
    now, now_error = (None, math.nan) if counts is None else _log_ratio(*counts)
    return Pair(
        prompt,
        *answers,
        ref_gap=float(log_mass[a] - log_mass[b]),
        ref_error=math.hypot(float(errors[a]), float(errors[b])),
        reward_a=reward_a,
        reward_b=reward_b,
        now=now,
        now_error=now_error,
        counts=counts or (0, 0),
        good=good,
        optimum=optimum,
        tie_beta=mass.tie_beta(a, b, direction),
        mara=mara,
    )


def _log_ratio(a: int, b: int) -> tuple[float, float]:
    """log(a / b) of two counts and its standard error; infinity and NaN if b is 0."""
    return (math.log(a / b), math.sqrt(1 / a + 1 / b)) if b else (math.inf, math.nan)


@dataclass(frozen=True)
class EffectiveNumbers:
    """Effective numbers of good answers to a prompt: exp(entropy) of their shares among each other.

    Attributes:
        good: how many good answers there are.
        reference: under the reference.
        optimum: at the optimum; None where it depends on a beta that is not known, or there is no KL term.
        now: in the last bins; NaN if none was sampled there; None if the files do not show repeated samples.
        mara: at the optimum with MARA over answers; None as for `optimum`.
    """

    good: int
    reference: float
    optimum: float | None
    now: float | None
    mara: float | None


def effective_numbers(
    mass: ReferenceMass,
    counts: Mapping[str, int] | None,
    beta: float | None,
    threshold: float,
    direction: str = "reverse",
) -> EffectiveNumbers | None:
    """The effective numbers of good answers; None if there are none.

    Args:
        mass: the reference's distribution.
        counts: how often answers were sampled in the last bins; None: not known.
        beta: reward units per nat; None: not known; 0: no KL term.
        threshold: lowest good reward.
        direction: of the KL, reverse or forward.
    """
    reward = mass.mean_reward()
    good = reward >= threshold - EQUAL_REWARD
    if not bool(good.any()):
        return None

    def effective(log_share: Tensor) -> float:
        return float(effective_modes(log_share[good].softmax(-1)))

    optimum, mara = None, None
    if beta:
        optimum = effective(mass.target(beta, direction))
        mara = effective(mass.mara_target(beta, threshold, direction))
    elif beta is None and equal_rewards(float(reward[good].min()), float(reward[good].max())):
        optimum, mara = effective(mass.log_mass()), float(good.sum())
    now = None
    if counts is not None:
        sampled = [
            counts.get(answer, 0) for answer, is_kept in zip(mass.answers, good.tolist(), strict=True) if is_kept
        ]
        now = float(effective_modes(torch.tensor(sampled))) if any(sampled) else math.nan
    return EffectiveNumbers(int(good.sum()), effective(mass.log_mass()), optimum, now, mara)


def implied_beta(samples: Sequence[Sample]) -> tuple[float, float] | None:
    """The beta at which the policy would be the optimum under reverse KL, and its standard error.

    At the optimum log pi - log ref = R / beta + constant for each prompt (eq. 2). The slope is fitted over the
    samples, with a constant for each prompt. None without log-probabilities, without different rewards of one
    prompt, or where the slope is not positive.
    """
    rows: dict[str, list[tuple[float, float]]] = {}
    for sample in samples:
        if sample.reward is not None and sample.policy_logp is not None and sample.ref_logp is not None:
            rows.setdefault(sample.prompt, []).append((sample.reward, sample.policy_logp - sample.ref_logp))
    centred = [torch.tensor(row, dtype=torch.float64) for row in rows.values()]
    pairs = torch.cat([row - row.mean(0) for row in centred]) if centred else torch.zeros(0, 2)
    variance = float(pairs[:, 0].square().sum())
    degrees = len(pairs) - len(centred) - 1
    if variance <= 1e-12 or degrees < 1:
        return None
    slope = float((pairs[:, 0] * pairs[:, 1]).sum()) / variance
    if slope <= 0:
        return None
    residual = float((pairs[:, 1] - slope * pairs[:, 0]).square().sum())
    return 1 / slope, math.sqrt(residual / degrees / variance) / slope**2
