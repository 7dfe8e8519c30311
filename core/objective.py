"""The middle of a training step, the same for all packages: transform -> KL term -> advantage -> loss."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import divergences, losses
from .advantages import (
    ADVANTAGES,
    BONUSES,
    BY_CLASS,
    UNBIASED,
    batch_normalised,
    leave_one_out,
    subtracts_baseline,
    tied_groups,
)
from .classes import GroupFacts, Masses
from .divergences import Divergence, find_divergence, from_both
from .extension import find_part
from .mara import quantile_threshold, select_anchor
from .rules import AUTO, BY_ANSWER_COUNT, Choices, biased_correction, check_choices
from .sequence import check_group, masked_sum
from .stats import effective_sample_size, mean_or_nan
from .transforms import INPUT_NAMES, INPUTS, TRANSFORMS, Threshold, Transformed, class_sizes, identity, mara
from .weights import log_weight_cap, reward_spread, sampler_mismatch, sampler_weight

TARGET_INPUTS = {"threshold", "masses"}  # inputs with which a transform's R' and ref' are functions of R and ref
ADVANTAGE_INPUTS = {"max_at_k": "reward", "mean_normalised": "reward", "pass_at_k": "good"}  # others: shaped


class Group(NamedTuple):
    """A batch of groups, one per row: tensors are [..., G], or [..., G, T] per token.

    Log-probabilities are those of `Objective.loss`, set to 0 for invalid samples.

    Attributes:
        old_seq_logp: [..., G] under the policy that sampled the completions.
        valid: [..., G] bool; None: all samples are valid.
        trained: [..., G] bool, valid samples that the loss is computed from: without skipped groups. None: all.
        measured: [..., G] bool, valid samples that the metrics describe; None: all.
        may_be_good: [..., G] bool, samples that are valid and complete; None: all.
        good: [..., G] bool; None without a threshold.
        transformed: the reward and reference log-probabilities that the transform returned.
        class_count: [..., G] what `Objective.by_class` counts; None without it.
        max_log_weight: cap on the log weights of the divergence, [..., 1] or a number; infinity: no cap.
        generator: of random choices.
        sampler_weight: [..., G] weights of completions that another program sampled; None: 1.
    """

    reward: Tensor
    policy_logp: Tensor
    ref_logp: Tensor
    behaviour_logp: Tensor | None
    mask: Tensor
    policy_seq_logp: Tensor
    ref_seq_logp: Tensor
    old_seq_logp: Tensor
    valid: Tensor | None
    trained: Tensor | None
    measured: Tensor | None
    may_be_good: Tensor | None
    good: Tensor | None
    transformed: Transformed
    class_count: Tensor | None
    max_log_weight: Tensor | float
    generator: torch.Generator | None
    sampler_weight: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Objective:
    """E_pi[R'] - beta D(pi, ref') + entropy_coef H(pi), and how its gradient is estimated from samples.

    Attributes:
        direction: the divergence D, a name in `core.divergences.DIVERGENCES` or an import path.
        direction_options: options of a divergence given by import path.
        transform: (reward, ref_seq_logp, *, beta, valid) -> R' and ref' of a group.
        transform_inputs: further keyword arguments of the transform, from `core.transforms.INPUTS`.
        advantage: (reward, valid) -> advantages of a group.
        advantage_input: the reward that `advantage` gets. "shaped": R' plus the entropy term and, at
            placement=reward, the KL term. "reward": R' only. "good": 1 for good samples, 0 for the others. The last
            two are for advantages that are not linear in the reward; the entropy and KL terms then get a
            leave-one-out baseline of their own.
        bonus: (policy_seq_logp, good, valid) -> values that are added to the advantages; None: no bonus.
        by_class: (advantage, count, valid) -> the advantages that are used, before the bonus; None: the same.
        by_class_count: what its count is, for each sample. class_size: the samples of the group in its class;
            answer_count: the samples of earlier steps with its answer.
        level: of the divergence, see `core.divergences`.
        placement: of the divergence, see `core.divergences`.
        entropy_coef: reward units per nat of sequence entropy.
        alpha: of the alpha divergence.
        max_log_weight: cap on the log weights of forward KL and alpha divergences (see `core.divergences`), nats.
            auto: the cap of `log_weight_cap`, which leaves the optimum where it is; None: no cap.
        reward_range: highest minus lowest reward, for max_log_weight=auto. A group whose rewards spread wider counts
            with its own range.
        gamma: discount, see `core.losses.token_policy_gradient`.
        length_normalised: divide the terms of each completion, a penalty at placement=loss included, by its number
            of tokens, see `core.losses.length_normalised_policy_gradient`.
        skip_tied_groups: leave out groups whose raw rewards are all equal. Otherwise the KL term moves them.
        threshold: defines the good samples, for metrics, `bonus` and advantage_input="good"; None: none are defined.
        clip_low: of updates on completions of an earlier policy, see `core.losses.clipped_policy_gradient`.
        clip_high: likewise.
        ratio: likewise, the `level` of the clipped ratio.
        mara_anchor: how MARA's anchor is chosen. cross_fitted: the baselines are those of each half of a group.
        policy_loss: policy_gradient (clipped where a batch is used more than once), cispo, clip_cov, kl_cov or
            flowrl, see `core.losses`.
        policy_loss_options: its keyword arguments besides the clipping range.
        token_mean: divide the loss by the mean number of tokens of the batch's completions, a penalty at
            placement=loss included: the mean over all tokens, as in DAPO (arXiv:2503.14476).
        match_coef: of `core.losses.distribution_matching`, which is added to the loss; 0: it is not.
        match_temperature: of the same, reward units.
        sampler_correction: of completions that another program sampled, see `core.weights.sampler_weight`; None: the
            policy samples them.
        sampler_bound: the largest weight of that correction; None: there is no bound.
    """

    direction: str
    direction_options: Mapping[str, Any] = field(default_factory=dict)
    transform: Callable[..., Transformed] = identity
    transform_inputs: tuple[str, ...] = ()
    advantage: Callable[..., Tensor] = leave_one_out
    advantage_input: str = "shaped"
    bonus: Callable[..., Tensor] | None = None
    by_class: Callable[..., Tensor] | None = None
    by_class_count: str = "class_size"
    level: str = "sequence"
    placement: str = "reward"
    entropy_coef: float = 0.0
    alpha: float | None = None
    max_log_weight: float | str | None = AUTO
    reward_range: float = 1.0
    gamma: float = 1.0
    length_normalised: bool = False
    skip_tied_groups: bool = False
    threshold: Threshold | None = None
    clip_low: float = 1.0
    clip_high: float = math.inf
    ratio: str = "token"
    mara_anchor: str = "group"
    policy_loss: str = "policy_gradient"
    policy_loss_options: Mapping[str, Any] = field(default_factory=dict)
    token_mean: bool = False
    match_coef: float = 0.0
    match_temperature: float = 1.0
    sampler_correction: str | None = None
    sampler_bound: float | None = None

    def __post_init__(self) -> None:
        choices = {name: getattr(self, name) for name in SHARED_CHOICES}
        check_choices(Choices(direction=self.direction, loss=self.policy_loss, **choices))
        self.divergence.form(self.placement)  # raises if the divergence cannot be used there
        if self.threshold is None and (self.advantage_input == "good" or self.bonus is not None):
            raise ValueError(
                "threshold: must be given, since the advantage or the bonus depends on which samples are good"
            )

    @property
    def divergence(self) -> Divergence:
        """The divergence D with its functions."""
        return find_divergence(self.direction, self.direction_options)

    @property
    def divergence_metric(self) -> str:
        """The metric that holds the value of the divergence, in nats."""
        return f"kl/{self.divergence.name}_nats"

    @property
    def needs_diversity(self) -> bool:
        """Whether `loss` needs the diversity of each sample."""
        compares = self.by_class is not None and self.by_class_count == "class_size"
        return compares or bool({"diversity", "class_size"} & set(self.transform_inputs))

    @property
    def needs_answer_count(self) -> bool:
        """Whether `loss` needs to know how often each sample's answer was sampled in earlier steps."""
        return self.by_class is not None and self.by_class_count == "answer_count"

    @property
    def is_expected_reward(self) -> bool:
        """Whether what is maximised is E_pi[R'] besides D and H, with R' a function of R and ref only."""
        plain = self.bonus is None and self.by_class is None
        return plain and self.advantage_input == "shaped" and set(self.transform_inputs) <= TARGET_INPUTS

    @property
    def reference_metric(self) -> str:
        """The metric that holds the divergence measured with completions of the reference, in nats."""
        return f"kl/{self.divergence.name}_from_reference_nats"

    def kl_metric(self, measured: bool) -> str:
        """Return the metric that is right at any distance of the policy from the reference, if there is one.

        Args:
            measured: whether the metrics of `measure_divergence` are computed.
        """
        fresh = (self.direction, self.placement) == ("forward", "reference")  # `reference_loss` measures it
        if fresh or (measured and self.direction != "reverse" and self.divergence.reference is not None):
            return self.reference_metric
        return self.divergence_metric

    @property
    def has_weights(self) -> bool:
        """Whether the gradient holds weights that `max_log_weight` caps."""
        return self.placement != "reference" and self.divergence.weight_power is not None

    @property
    def has_target(self) -> bool:
        """Whether training settles at the optimum of E_pi[R'] - beta D + entropy_coef H, as in eq. 2 and 5.

        D is then per sequence, and one of two things holds. Either R', D and H together are what a baseline is
        subtracted from: they are the same for all samples at the optimum, so that every advantage is 0, whatever its
        scale, discount or group. Or the expected gradient is exactly that of the objective. A transform other than
        identity depends on the group (MARA on its anchor, unless that is remembered), which only a baseline within
        every group cancels. Forward KL in the loss (k3) has a coefficient whose mean is 0, so that it needs no
        baseline and each completion may be divided by its length.

        A cap that applies at the optimum under forward KL (`core.divergences.forward_kl_reward`) is not considered.
        """
        own_optimum = self.policy_loss == "flowrl" or self.match_coef != 0 or self.advantage is batch_normalised
        if self.level == "token" or own_optimum or not self.is_expected_reward:
            return False
        per_group = getattr(self.transform, "func", self.transform) is not identity  # `func` of a partial
        per_group = per_group and self.mara_anchor != "remembered"
        baseline = subtracts_baseline(self.advantage)
        if per_group and (self.skip_tied_groups or not baseline):
            return False
        if self.placement == "reward" and baseline:
            return True
        mean_is_zero = (self.direction, self.placement) == ("forward", "loss") and self.advantage is leave_one_out
        length_normalised = self.length_normalised and not mean_is_zero
        reweighted = self.gamma != 1 or length_normalised or self.skip_tied_groups or self.token_mean
        reweighted = reweighted or biased_correction(self.sampler_correction, self.sampler_bound)
        reweighted = reweighted or self.policy_loss != "policy_gradient"
        return self.advantage in UNBIASED and not reweighted

    def loss(
        self,
        reward: Tensor,
        policy_logp: Tensor,
        ref_logp: Tensor,
        mask: Tensor,
        *,
        beta: float,
        valid: Tensor | None = None,
        complete: Tensor | None = None,
        measured: Tensor | None = None,
        diversity: Tensor | None = None,
        answer_count: Tensor | None = None,
        behaviour_logp: Tensor | None = None,
        sampler_logp: Tensor | None = None,
        masses: Callable[[GroupFacts], Masses] | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a loss whose expected gradient is minus that of the objective, and metrics.

        Args:
            reward: [..., G] raw rewards, one group per row.
            policy_logp: [..., G, T] per token, nats, with gradient, of completions sampled from the policy.
            ref_logp: [..., G, T] the same tokens under the reference.
            mask: [..., G, T] bool, True on completion tokens including EOS.
            beta: the current coefficient of the divergence, reward units per nat.
            valid: [..., G] bool, False for samples to ignore.
            complete: [..., G] bool, False for truncated completions. They keep their raw reward, count in the
                baseline, and are never good.
            measured: [..., G] bool, False for samples that are trained on but left out of the metrics, such as
                replayed ones; None: the metrics describe all valid samples.
            diversity: [..., G], for transforms that need it.
            answer_count: [..., G] samples of earlier steps with each sample's answer, for transforms that need it.
            behaviour_logp: [..., G, T] under the policy that sampled the completions, or that had them sampled; None:
                it is the current policy.
                The KL and entropy terms are those of the current policy, with importance weights. With
                ratio=sequence and no clipping, the expected gradient is exact for the identity transform and
                advantages that are linear up to a baseline. It is an approximation with clipping, ratio=token,
                other advantages, and transforms that compare the samples of a group (mara, unlikely, ucpo,
                darling): the ratio of a sample does not correct for how the others were sampled.
            sampler_logp: [..., G, T] under the program that sampled the completions, where its probabilities are not
                exactly those of the policy of `behaviour_logp`. The terms of each completion are multiplied by the
                weight of `sampler_correction`. Without a bound the expected gradient is that of completions of that
                policy, under the same conditions.
            masses: the class masses and anchors of the groups, for transforms that need them.
            generator: of random choices, for policy_loss=clip_cov.

        Returns:
            The scalar loss, and detached scalar metrics by name.

        Raises:
            ValueError: shapes differ, a valid entry is NaN, the divergence of a valid sample is infinite or its ratio
                to `behaviour_logp` overflows, `diversity`, `answer_count` or `masses` is missing, or a discount is
                used off-policy.

        A metric that no sample defines is NaN.
        """
        policy_logp, ref_logp = _zero_invalid(policy_logp, valid), _zero_invalid(ref_logp, valid)
        behaviour_logp = None if behaviour_logp is None else _zero_invalid(behaviour_logp, valid)
        sampler_logp = None if sampler_logp is None else _zero_invalid(sampler_logp, valid)
        policy_seq_logp, ref_seq_logp = masked_sum(policy_logp, mask), masked_sum(ref_logp.detach(), mask)
        check_group(valid, reward=reward, policy_logp=policy_seq_logp, ref_logp=ref_seq_logp)
        may_be_good = valid if complete is None else complete if valid is None else valid & complete
        good = self.good(reward, ref_seq_logp, may_be_good)
        old_seq_logp = policy_seq_logp.detach() if behaviour_logp is None else masked_sum(behaviour_logp, mask)
        sampler_seq_logp = old_seq_logp if sampler_logp is None else masked_sum(sampler_logp, mask)
        available: dict[str, Any] = {
            "policy_mean_logp": old_seq_logp / mask.sum(-1).clamp_min(1),
            "counted": valid,
            "diversity": diversity,
            "answer_count": answer_count,
        }
        if self.needs_diversity:
            if diversity is None:
                raise ValueError("the transform needs the diversity of each sample, but diversity is None")
            available["class_size"] = class_sizes(diversity, valid)
        if self.needs_answer_count and answer_count is None:
            raise ValueError("the transform needs the earlier samples of each answer, but answer_count is None")
        if "masses" in self.transform_inputs:
            if masses is None or good is None:
                raise ValueError("the transform needs the class masses of each sample, but masses is None")
            log_weight = ref_seq_logp - sampler_seq_logp
            available["masses"] = masses(GroupFacts(reward, ref_seq_logp, log_weight, good, _both(valid, measured)))
        inputs = {name: available[name] for name in self.transform_inputs if name != "threshold"}
        transformed = self.apply_transform(reward, ref_seq_logp, beta=beta, valid=may_be_good, **inputs)
        trained = valid
        if self.skip_tied_groups:
            trained = _both(valid, ~tied_groups(reward, valid).expand_as(reward))
        group = Group(
            reward=reward,
            policy_logp=policy_logp,
            ref_logp=ref_logp,
            behaviour_logp=behaviour_logp,
            mask=mask,
            policy_seq_logp=policy_seq_logp,
            ref_seq_logp=ref_seq_logp,
            old_seq_logp=old_seq_logp,
            valid=valid,
            trained=trained,
            measured=_both(valid, measured),
            may_be_good=may_be_good,
            good=good,
            transformed=transformed,
            class_count=None if self.by_class is None else available[self.by_class_count],
            max_log_weight=self._max_log_weight(policy_seq_logp.detach(), ref_seq_logp, transformed, valid, beta),
            generator=generator,
            sampler_weight=None
            if sampler_logp is None
            else self._sampler_weight(old_seq_logp, sampler_seq_logp, valid),
        )
        loss, metrics = self._estimate(group, beta)
        if sampler_logp is not None and group.sampler_weight is not None:
            at_sampling = policy_logp if behaviour_logp is None else behaviour_logp
            metrics |= sampler_mismatch(at_sampling, sampler_logp, mask, group.sampler_weight, group.measured)
        return loss, self._metrics(group) | metrics

    def _sampler_weight(self, old_seq_logp: Tensor, sampler_seq_logp: Tensor, valid: Tensor | None) -> Tensor:
        """The weights of completions that another program sampled, [..., G]."""
        if self.sampler_correction is None:
            raise ValueError("sampler_logp: sampler_correction must be set if another program samples")
        check_group(valid, sampler_logp=sampler_seq_logp)
        return sampler_weight(
            old_seq_logp, sampler_seq_logp, correction=self.sampler_correction, bound=self.sampler_bound
        )

    def apply_transform(
        self, reward: Tensor, ref_seq_logp: Tensor, *, beta: float, valid: Tensor | None = None, **inputs: Any
    ) -> Transformed:
        """Return R' and ref' of the groups, [..., G]; `inputs` are those of `transform_inputs` but the threshold."""
        if "threshold" in self.transform_inputs:
            inputs["threshold"] = self.threshold
        return self.transform(reward, ref_seq_logp, beta=beta, valid=valid, **inputs)

    def with_thresholds(self, thresholds: Tensor | None) -> "Objective":
        """Return the objective with the threshold of each group, [..., 1]; None: with its own."""
        return self if thresholds is None else replace(self, threshold=lambda reward, valid: thresholds)

    def _estimate(self, group: Group, beta: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and the metrics of the estimator. A subclass may estimate the gradient in another way."""
        reward_term, token_reward, penalty = self._regularisation(group, beta)
        advantage = self._advantage(group.transformed.reward, reward_term, group.good, group.trained)
        if self.by_class is not None:
            advantage = self.by_class(advantage, group.class_count, group.trained)
        if self.bonus is not None:
            advantage = advantage + self.bonus(group.old_seq_logp, group.good, group.trained)
        metrics: dict[str, Tensor] = {}
        if group.behaviour_logp is not None:
            metrics = self._off_policy_metrics(group, group.behaviour_logp)
        counted = _both(group.trained, group.measured)
        metrics["advantage/std"] = mean_or_nan(advantage.square(), counted).sqrt()
        advantage, token_reward, penalty = _weighted(group.sampler_weight, advantage, token_reward, penalty)
        if self.policy_loss == "flowrl":
            advantage = self.advantage(group.transformed.reward, group.trained)
            loss = self._flowrl(group, advantage, beta)
        elif group.behaviour_logp is None and self.policy_loss == "policy_gradient":
            loss = self._policy_gradient(group, advantage, token_reward)
        else:
            loss = self._surrogate(group, advantage, token_reward)
        if penalty is not None:
            if self.length_normalised:
                penalty = penalty / group.mask.sum(-1).clamp_min(1)
            loss = loss + beta * losses.mean_valid(penalty, group.trained)
        if self.token_mean:
            loss = loss / losses.mean_valid(group.mask.sum(-1).to(loss.dtype), group.trained).clamp_min(1)
        if self.match_coef:
            loss = loss + self.match_coef * losses.distribution_matching(
                group.policy_logp,
                group.transformed.reward,
                group.mask,
                temperature=self.match_temperature,
                valid=group.trained,
            )
        return loss, metrics

    def _regularisation(self, group: Group, beta: float) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the entropy and KL terms, each where the placement and the level put it.

        Returns:
            reward_term: [..., G], to be added to the reward of each sequence.
            token_reward: [..., G, T], to be added to the reward of each token.
            penalty: [..., G], to be added, times beta, to the loss.
        """
        reward_term = torch.zeros_like(group.reward)
        if self.entropy_coef:
            reward_term = reward_term + self.entropy_coef * divergences.entropy_reward(group.policy_seq_logp)
        token_reward = penalty = None
        if self.placement == "reference":
            term = torch.zeros_like(group.reward)  # the KL term is in `reference_loss`
        elif self.level != "sequence":
            term = self._term(group.max_log_weight)(
                group.policy_logp, group.ref_logp, behaviour_logp=group.behaviour_logp, mask=group.mask
            )
            if self.placement == "reward":
                token_reward = -beta * term
                if self.level == "reward_to_go":
                    token_reward = token_reward.flip(-1).cumsum(-1).flip(-1)
            else:
                penalty = term.sum(-1)
        else:
            weight_logp = None  # in the reward, the surrogate's ratio is the importance weight
            if self.placement == "loss" and group.behaviour_logp is not None:
                weight_logp = group.old_seq_logp
            term = self._term(group.max_log_weight)(
                group.policy_seq_logp, group.transformed.ref_seq_logp, behaviour_logp=weight_logp
            )
            if self.placement == "reward":
                reward_term = reward_term - beta * term
            else:
                penalty = term
        self._check_finite(term, group.ref_seq_logp, group.trained)
        return reward_term, token_reward, penalty

    def reference_loss(
        self,
        policy_logp: Tensor,
        ref_logp: Tensor,
        mask: Tensor,
        *,
        beta: float,
        reward: Tensor | None = None,
        complete: Tensor | None = None,
        masses: Callable[[GroupFacts], Masses] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return beta D at placement=reference, from completions sampled from the reference. Add it to `loss`.

        The mean over completions of the reference of (ref'/ref) f(pi/ref') is D(pi, ref'), for any ref' on its
        support.

        Args:
            policy_logp: [..., T] per token, nats, with gradient, of completions of the reference.
            ref_logp: [..., T] as in `loss`.
            mask: [..., T] as in `loss`.
            beta: as in `loss`.
            reward: [...] raw rewards, one group of completions per row, for a transform that changes the reference.
            complete: [...] bool, as in `loss`.
            masses: as in `loss`.

        Returns:
            The scalar loss, and by its metric's name the divergence from the reference itself, nats.

        Raises:
            ValueError: the placement is not reference, or the divergence is not finite.
        """
        if self.placement != "reference":
            raise ValueError(f"placement must be reference, got {self.placement!r}")
        policy_seq_logp, ref_seq_logp = masked_sum(policy_logp, mask), masked_sum(ref_logp.detach(), mask)
        used_ref_logp = ref_seq_logp
        if reward is not None:
            good = self.good(reward, ref_seq_logp, complete)
            if masses is None or good is None:
                raise ValueError("the transform needs the class masses of each sample, but masses is None")
            facts = GroupFacts(reward, ref_seq_logp, torch.zeros_like(ref_seq_logp), good, None)
            used_ref_logp = self.apply_transform(
                reward, ref_seq_logp, beta=beta, valid=complete, masses=masses(facts)
            ).ref_seq_logp
        term = (used_ref_logp - ref_seq_logp).exp() * self._term()(policy_seq_logp, used_ref_logp)
        self._check_finite(term, ref_seq_logp, None)
        with torch.no_grad():  # from the reference itself, whatever the transform makes of it
            divergence = self._term()(policy_seq_logp, ref_seq_logp).mean()
        return beta * term.mean(), {self.reference_metric: divergence}

    def measure_divergence(
        self, policy_samples: tuple[Tensor, Tensor], reference_samples: tuple[Tensor, Tensor]
    ) -> dict[str, Tensor]:
        """Measure the divergence without weights that vanish once the policy has left the reference.

        Args:
            policy_samples: log-probabilities [...] of whole completions of the policy, nats: under the policy and
                under the reference.
            reference_samples: the same of completions of the reference.

        Returns:
            By metric's name, nats: the forward KL, and the objective's divergence unless it is the reverse KL, of
            which samples of the policy are enough.
        """
        policy_logp, ref_logp = (logp.detach() for logp in reference_samples)
        metrics = {
            "kl/forward_from_reference_nats": divergences.forward_kl_from_reference(policy_logp, ref_logp).mean()
        }
        if self.direction not in ("reverse", "forward") and self.divergence.reference is not None:
            term = self._with_options(self.divergence.form("reference"))
            metrics[self.reference_metric] = from_both(term, policy_samples, reference_samples)
        return metrics

    def wide_rewards(self, reward: Tensor, valid: Tensor | None = None) -> str | None:
        """Return a warning if rewards spread wider than the range that the cap of the weights is computed from."""
        if not self.has_weights or self.max_log_weight != AUTO:
            return None
        spread = float(reward_spread(reward.flatten(), None if valid is None else valid.flatten()))
        if not spread > self.reward_range * (1 + 1e-6):
            return None
        return (
            f"objective.reward_range: the rewards of a step range over {spread:.4g}, more than "
            f"{self.reward_range:g}; set it to the highest minus the lowest possible reward, so that the cap on the "
            "weights is as high in groups whose rewards are close"
        )

    def _max_log_weight(
        self,
        policy_seq_logp: Tensor,
        ref_seq_logp: Tensor,
        transformed: Transformed,
        valid: Tensor | None,
        beta: float,
    ) -> Tensor | float:
        """The cap on the log weights of each group, [..., 1], or [..., 1, 1] per token; infinity: no cap."""
        power = self.divergence.weight_power
        if power is None or self.max_log_weight is None:
            return math.inf
        if not isinstance(self.max_log_weight, str):
            return self.max_log_weight
        exponent = power(**{name: getattr(self, name) for name in self.divergence.options})
        shaped = transformed.reward - self.entropy_coef * policy_seq_logp
        scale = abs(exponent) / beta if beta else math.inf
        log_weight = None
        if not torch.equal(transformed.ref_seq_logp, ref_seq_logp):
            log_weight = exponent * (policy_seq_logp - transformed.ref_seq_logp)
        cap = log_weight_cap(log_weight, shaped, scale, self.reward_range, valid)
        return cap.unsqueeze(-1) if self.level != "sequence" else cap

    def _term(self, max_log_weight: Tensor | float = math.inf) -> Callable[..., Tensor]:
        """The function of the divergence for the placement."""
        term = self._with_options(self.divergence.form(self.placement))
        return partial(term, max_log_weight=max_log_weight) if self.has_weights else term

    def _with_options(self, term: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return partial(term, **{name: getattr(self, name) for name in self.divergence.options})

    def exact_divergence(self, policy_logp: Tensor, ref_logp: Tensor) -> Tensor:
        """Return the divergence from all outcomes on the last axis, nats, with gradient: [..., A] -> [...]."""
        return self._with_options(self.divergence.form("exact"))(policy_logp, ref_logp)

    def good(self, reward: Tensor, ref_seq_logp: Tensor, may_be_good: Tensor | None = None) -> Tensor | None:
        """Return which samples are good, [..., G] bool; None without a threshold. Arguments as in `select_anchor`."""
        if self.threshold is None:
            return None
        return select_anchor(reward, ref_seq_logp, self.threshold(reward, may_be_good), may_be_good)[1]

    def _advantage(self, reward: Tensor, reward_term: Tensor, good: Tensor | None, valid: Tensor | None) -> Tensor:
        if self.mara_anchor == "cross_fitted":
            halves = (
                None if value is None else value.unflatten(-1, (2, -1)) for value in (reward + reward_term, valid)
            )
            return self.advantage(*halves).flatten(-2)
        if self.advantage_input == "shaped":
            return self.advantage(reward + reward_term, valid)
        if self.advantage_input == "good" and good is not None:
            reward = good.to(reward.dtype)
        return self.advantage(reward, valid) + leave_one_out(reward_term, valid)

    def _check_finite(self, term: Tensor, ref_seq_logp: Tensor, valid: Tensor | None) -> None:
        """Raise ValueError if the divergence of a valid sample is not finite: 0 * inf is NaN in the loss."""
        infinite = ~(term.isfinite() if term.dim() == ref_seq_logp.dim() else term.isfinite().all(-1))
        infinite = infinite if valid is None else infinite & valid
        if bool(infinite.any()):
            where = infinite.nonzero()[0].tolist()
            value = float(ref_seq_logp[tuple(where)])
            raise ValueError(
                f"the {self.divergence.name} divergence is not finite at {where}, where ref_logp sums to {value}; "
                f"{self._way_out(value)}"
            )

    def _way_out(self, ref_seq_logp: float) -> str:
        """What to do about a divergence that is not finite at a sample with this log-probability."""
        if self.placement == "reference":
            way = "use direction=forward, whose term on completions of the reference has no weight"
            return way if self.direction != "forward" else "the policy gives this completion no probability"
        if ref_seq_logp == -math.inf:
            off_support = "mark samples off the reference's support as not valid"
            return off_support if self.direction == "forward" else f"{off_support}, or use direction=forward"
        if self.has_weights and self.max_log_weight != AUTO:
            return f"its weight is too large for a number: set max_log_weight={AUTO}, which caps it without a bias"
        return (
            "the policy is too far from the reference or from the policy that sampled; use placement=reward, fewer "
            "updates per batch or a lower learning rate"
        )

    def _policy_gradient(self, group: Group, advantage: Tensor, token_reward: Tensor | None) -> Tensor:
        if self.length_normalised:
            return losses.length_normalised_policy_gradient(group.policy_logp, advantage, group.mask, group.trained)
        return losses.token_policy_gradient(
            group.policy_logp, advantage, group.mask, gamma=self.gamma, token_reward=token_reward, valid=group.trained
        )

    def _surrogate(self, group: Group, advantage: Tensor, token_reward: Tensor | None) -> Tensor:
        behaviour_logp = group.policy_logp.detach() if group.behaviour_logp is None else group.behaviour_logp
        if self.gamma != 1:
            raise ValueError(
                f"gamma must be 1 with completions of an earlier policy, got {self.gamma}: the clipped surrogate "
                "supports no discount"
            )
        if self.length_normalised and self.ratio != "geometric_mean":
            advantage = advantage / group.mask.sum(-1).clamp_min(1)
        options: dict[str, Any] = {"valid": group.trained, **self.policy_loss_options}
        if self.policy_loss != "kl_cov":
            options |= {"clip_low": self.clip_low, "clip_high": self.clip_high}
        if self.policy_loss == "policy_gradient":
            options["level"] = self.ratio
        if self.policy_loss == "clip_cov":
            if group.generator is None:
                raise ValueError("policy_loss=clip_cov chooses tokens at random, but generator is None")
            options["generator"] = group.generator
        surrogate = POLICY_LOSSES[self.policy_loss]
        loss = surrogate(group.policy_logp, behaviour_logp, advantage, group.mask, **options)
        if token_reward is not None:  # already multiplied by its importance weights
            no_advantage = torch.zeros_like(advantage)
            loss = loss + losses.token_policy_gradient(
                group.policy_logp, no_advantage, group.mask, token_reward=token_reward, valid=group.trained
            )
        return loss

    def _flowrl(self, group: Group, reward: Tensor, beta: float) -> Tensor:
        weight = None
        if group.behaviour_logp is not None:
            ratio = (group.policy_seq_logp.detach() - group.old_seq_logp).exp()
            weight = ratio.clamp(1 - self.clip_low, 1 + self.clip_high)
        if group.sampler_weight is not None:
            weight = group.sampler_weight if weight is None else weight * group.sampler_weight
        return losses.flowrl(
            group.policy_logp, group.ref_logp, reward, group.mask, beta=beta, weight=weight, valid=group.trained
        )

    @torch.no_grad()
    def _off_policy_metrics(self, group: Group, behaviour_logp: Tensor) -> dict[str, Tensor]:
        """KL of the policy from the one that sampled, and how often the ratio lies outside the clipping range."""
        log_ratio = (group.policy_logp - behaviour_logp).masked_fill(~group.mask, 0.0)
        counted = _both(group.trained, group.measured)
        counted = group.mask if counted is None else group.mask & counted.unsqueeze(-1)
        if self.ratio == "geometric_mean":
            log_ratio = log_ratio / group.mask.sum(-1, keepdim=True).clamp_min(1)
        if self.ratio != "token":
            log_ratio, counted = log_ratio.sum(-1), counted.any(-1)
        ratio = log_ratio.exp()
        outside = ((ratio < 1 - self.clip_low) | (ratio > 1 + self.clip_high)).to(ratio.dtype)
        kl_from_sampling = masked_sum(behaviour_logp - group.policy_logp, group.mask)
        return {
            "update/clipped_share": mean_or_nan(outside, counted),
            "update/kl_from_sampling_nats": mean_or_nan(kl_from_sampling, group.measured),
        }

    @torch.no_grad()
    def _metrics(self, group: Group) -> dict[str, Tensor]:
        reward, policy_seq_logp = group.reward, group.policy_seq_logp
        mean = partial(mean_or_nan, valid=group.measured)
        value = self._with_options(self.divergence.value)
        metrics = {
            "reward/raw": mean(reward),
            "reward/augmented": mean(group.transformed.reward),
            self.divergence_metric: mean(value(policy_seq_logp, group.ref_seq_logp)),
            "policy/entropy_nats": mean(-policy_seq_logp.detach()),
        }
        if self.threshold is not None and group.good is not None:
            metrics["mara/good_share"] = mean(group.good.to(reward.dtype))
            tied = torch.as_tensor(self.threshold(reward, group.may_be_good)).isinf()
            metrics["mara/unchanged_groups"] = (~group.good.any(-1)).sum()
            metrics["mara/tied_groups"] = tied.sum()
        return metrics | self._weight_metrics(group)

    def _weight_metrics(self, group: Group) -> dict[str, Tensor]:
        """Whether on-policy samples with weights ref/pi can be trusted, and how many weights are capped."""
        if self.direction == "reverse":
            return {}
        policy_seq_logp = group.policy_seq_logp.detach()
        valid = torch.ones_like(policy_seq_logp, dtype=torch.bool) if group.measured is None else group.measured
        metrics = {"weight/mean": mean_or_nan((group.ref_seq_logp - policy_seq_logp).exp(), valid)}
        if not self.has_weights:
            return metrics
        log_weight = (group.transformed.ref_seq_logp - policy_seq_logp).masked_fill(~valid, -torch.inf)
        group_size = effective_sample_size(log_weight)
        metrics["weight/effective_sample_size"] = mean_or_nan(group_size, valid.any(-1))
        metrics["weight/max"] = torch.where(valid.any(), log_weight.max().exp(), torch.nan)
        metrics["weight/capped_share"] = self._capped_share(group)
        return metrics

    def _capped_share(self, group: Group) -> Tensor:
        """Share of the weights, of sequences or tokens, that the cap lowers."""
        power = self.divergence.weight_power
        assert power is not None
        exponent = power(**{name: getattr(self, name) for name in self.divergence.options})
        counted: Tensor | None
        if self.level == "token":
            log_u, counted = group.policy_logp.detach() - group.ref_logp, group.mask
            counted = counted if group.measured is None else counted & group.measured.unsqueeze(-1)
        else:
            log_u, counted = group.policy_seq_logp.detach() - group.transformed.ref_seq_logp, group.measured
        return mean_or_nan((exponent * log_u > group.max_log_weight).to(log_u.dtype), counted)


def _zero_invalid(logp: Tensor, valid: Tensor | None) -> Tensor:
    """[..., G, T] with 0 for invalid samples: their values must not reach a gradient, since 0 * inf is NaN."""
    return logp if valid is None else torch.where(valid.unsqueeze(-1), logp, 0.0)


def _weighted(
    weight: Tensor | None, advantage: Tensor, token_reward: Tensor | None, penalty: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The terms of the samples, multiplied by their weights [..., G], if there are any."""
    if weight is None:
        return advantage, token_reward, penalty
    return (
        advantage * weight,
        None if token_reward is None else token_reward * weight.unsqueeze(-1),
        None if penalty is None else penalty * weight,
    )


def _both(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Where both masks are True; None stands for a mask that is True everywhere."""
    return b if a is None else a if b is None else a & b


def make_threshold(kind: str, value: float, floor: float | None = None) -> Threshold:
    """Return a threshold as a function of (reward, valid).

    Args:
        kind: constant; quantile of each group's rewards; or reference_quantile, of the rewards of completions of the
            reference, which the caller computes once for each prompt and sets by `Objective.with_thresholds`.
        value: the threshold, or the q of `core.mara.quantile_threshold`.
        floor: lower bound of a quantile threshold.
    """
    if kind == "constant":
        return lambda reward, valid: value
    if kind == "quantile":
        return lambda reward, valid: quantile_threshold(reward, value, floor, valid)
    if kind == "reference_quantile":
        return _missing_thresholds
    raise ValueError(f"threshold kind must be constant, quantile or reference_quantile, got {kind!r}")


def _missing_thresholds(reward: Tensor, valid: Tensor | None) -> Tensor:
    raise ValueError(
        "kind=reference_quantile: the thresholds of the prompts must be set by Objective.with_thresholds"
    )


def make_objective(
    *,
    direction: str,
    transform: str,
    transform_options: Mapping[str, Any] | None = None,
    threshold: Mapping[str, Any] | None = None,
    advantage: str = "leave_one_out",
    advantage_options: Mapping[str, Any] | None = None,
    advantage_k: int | None = None,
    **options: Any,
) -> Objective:
    """Make an `Objective` from the names of its parts.

    Args:
        direction: a name in `core.divergences.DIVERGENCES`, or an import path.
        transform: a name in `core.transforms.TRANSFORMS`, or in `BONUSES` or `BY_CLASS` of `core.advantages`, or an
            import path.
        transform_options: keyword arguments of the transform, without the threshold.
        threshold: keyword arguments of `make_threshold`; None: no sample is good.
        advantage: a name in `core.advantages.ADVANTAGES`, or an import path.
        advantage_options: options of an advantage given by import path.
        advantage_k: k of max_at_k (None: the whole group) and of pass_at_k.
        **options: the other fields of `Objective`.

    Raises:
        ValueError: a part is unknown, or `core.rules` rejects the combination.
    """
    transform_options = dict(transform_options or {})
    choices = Choices(
        direction=direction,
        transform=transform,
        algorithm=str(transform_options.get("algorithm", "auto")),
        classes=transform_options.get("level", "sequence"),
        mass=transform_options.get("mass", "remembered"),
        anchor=transform_options.get("anchor", "auto"),
        advantage=advantage,
        advantage_k=advantage_k,
        threshold=threshold is not None,
        loss=options.get("policy_loss", "policy_gradient"),
        **{name: options[name] for name in SHARED_CHOICES & options.keys()},
    )
    check_choices(choices)
    threshold_function = None if threshold is None else make_threshold(**threshold)
    if transform in BONUSES:
        options["bonus"] = partial(BONUSES[transform], **transform_options)
        function: Callable[..., Transformed] = identity
    elif transform in BY_CLASS:
        options["by_class"] = partial(BY_CLASS[transform], **transform_options)
        options["by_class_count"] = "answer_count" if transform in BY_ANSWER_COUNT else "class_size"
        function = identity
    elif transform == "mara":
        level, anchor = options.get("level", "sequence"), choices.mara_anchor
        function = partial(mara, direction=direction, algorithm=choices.mara_algorithm, level=level, anchor=anchor)
        options["mara_anchor"] = anchor
    elif ":" in transform:
        function = find_part("transform", transform, TRANSFORMS, transform_options)
    else:
        function = partial(find_part("transform", transform, TRANSFORMS), **transform_options)
    inputs = tuple(INPUTS.get(transform, getattr(function, "inputs", ())))
    if choices.needs_masses:
        inputs += ("masses",)
    unknown = sorted(set(inputs) - INPUT_NAMES)
    if unknown:
        raise ValueError(
            f"transform: {transform} has the input {unknown[0]}; allowed: {', '.join(sorted(INPUT_NAMES))}"
        )
    if "threshold" in inputs and threshold_function is None:
        raise ValueError(f"threshold: must be given with transform={transform}")
    return Objective(
        direction=direction,
        transform=function,
        transform_inputs=inputs,
        advantage=_advantage_function(advantage, advantage_k, advantage_options),
        advantage_input=ADVANTAGE_INPUTS.get(advantage, "shaped"),
        threshold=threshold_function,
        **options,
    )


SHARED_CHOICES = {"level", "placement", "alpha", "max_log_weight", "entropy_coef", "gamma", "length_normalised"} | {
    "skip_tied_groups",
    "ratio",
    "token_mean",
    "match_coef",
    "sampler_correction",
    "sampler_bound",
}
POLICY_LOSSES: dict[str, Callable[..., Tensor]] = {
    "policy_gradient": losses.clipped_policy_gradient,
    "cispo": losses.cispo,
    "clip_cov": losses.clip_cov,
    "kl_cov": losses.kl_cov,
}


def _advantage_function(name: str, k: int | None, options: Mapping[str, Any] | None) -> Callable[..., Tensor]:
    function = find_part("advantage", name, ADVANTAGES, options)
    if name == "pass_at_k":
        return partial(function, k=k, threshold=1.0)  # its rewards are 1 for good samples, else 0
    return partial(function, k=k) if name == "max_at_k" else function
