"""The middle of a training step: transform -> KL term -> advantage -> loss, for every package."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from core import divergences, losses
from core.advantages import ADVANTAGES, BONUSES, leave_one_out, tied_groups
from core.divergences import Divergence, find_divergence
from core.extension import find
from core.mara import quantile_threshold, select_anchor
from core.rules import Choices, check_choices
from core.sequence import check_group, masked_sum
from core.stats import effective_sample_size
from core.transforms import INPUTS, TRANSFORMS, Threshold, Transformed, identity, mara

ADVANTAGE_OF = {"max_at_k": "reward", "pass_at_k": "good"}  # the others are of the shaped reward


class Group(NamedTuple):
    """Samples of one group a row, [..., G] each or [..., G, T], and what the transform makes of them.

    Log-probabilities are as in `Objective.loss`, 0 where a sample is not valid; old_seq_logp is under the policy that
    sampled. may_be_good: valid and complete. good: None without a threshold.
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
    may_be_good: Tensor | None
    good: Tensor | None
    transformed: Transformed


@dataclass(frozen=True, kw_only=True)
class Objective:
    """E_pi[R'] - beta D(pi, ref') + entropy_coef H(pi) and how its gradient is estimated from samples.

    transform: (reward, ref_seq_logp, *, beta, valid) -> the R' and ref' of a group.
    transform_inputs: what else it takes, of `core.transforms.INPUTS`.
    advantage: (reward, valid) -> advantages of a group.
    advantage_of: what it is given. "shaped": R' with the entropy and, at placement=reward, the KL term in it.
        "reward": R' alone; "good": 1 where a sample is good and 0 elsewhere. With the last two, entropy and KL
        have a leave-one-out baseline of their own, for advantages that are not linear.
    bonus: (policy_seq_logp, good, valid) -> what is added to the advantages; None for nothing.
    direction: the divergence, a name of `core.divergences.DIVERGENCES` or an import path; direction_options: of the
        latter.
    level, placement: of the divergence, see `core.divergences`.
    entropy_coef: reward units per nat of sequence entropy.
    skip_tied_groups: leave out groups whose raw rewards are all equal, which only the KL term would move.
    threshold: what counts as good, for the metrics; None where the transform has no such notion.
    clip_low, clip_high, ratio: of updates on completions of an earlier policy, see
        `core.losses.clipped_policy_gradient`; ratio is its `level`.
    """

    direction: str
    direction_options: Mapping[str, Any] = field(default_factory=dict)
    transform: Callable[..., Transformed] = identity
    transform_inputs: tuple[str, ...] = ()
    advantage: Callable[..., Tensor] = leave_one_out
    advantage_of: str = "shaped"
    bonus: Callable[..., Tensor] | None = None
    level: str = "sequence"
    placement: str = "reward"
    entropy_coef: float = 0.0
    alpha: float | None = None
    max_log_weight: float = math.inf
    gamma: float = 1.0
    length_normalised: bool = False
    skip_tied_groups: bool = False
    threshold: Threshold | None = None
    clip_low: float = 1.0
    clip_high: float = math.inf
    ratio: str = "token"

    def __post_init__(self) -> None:
        choices = {name: getattr(self, name) for name in SHARED_CHOICES}
        check_choices(
            Choices(direction=self.direction, max_log_weight=finite_or_none(self.max_log_weight), **choices)
        )
        self.divergence.form(self.placement)
        if self.threshold is None and (self.advantage_of == "good" or self.bonus is not None):
            raise ValueError("threshold: must be given with an advantage or bonus of good samples")

    @property
    def divergence(self) -> Divergence:
        return find_divergence(self.direction, self.direction_options)

    @property
    def divergence_metric(self) -> str:
        """The key under which the divergence's value is logged, nats."""
        return f"kl/{self.divergence.name}_nats"

    @property
    def has_target(self) -> bool:
        """Whether the optimum is that of E_pi[R'] - beta D + entropy_coef H, R' of reward and reference alone."""
        return self.advantage_of == "shaped" and self.bonus is None and not self.transform_inputs

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
        diversity: Tensor | None = None,
        behaviour_logp: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss whose expected gradient is that of minus the objective, and what to log.

        Args:
            reward: [..., G] raw, one group a row.
            policy_logp: [..., G, T] per token, nats, with gradient, of completions sampled from the policy.
            ref_logp: [..., G, T] the same tokens under the reference.
            mask: [..., G, T] bool, True on completion tokens including EOS.
            beta: reward units per nat, the one now in force.
            valid: [..., G] bool, False for samples that do not count at all.
            complete: [..., G] bool, False for truncated completions: they keep their raw reward and their
                place in the baseline and are never good.
            diversity: [..., G], where the transform takes it.
            behaviour_logp: [..., G, T] under the policy that the completions were sampled from; None where that
                is the policy. KL and entropy are the present policy's, with the weights that this takes. At
                ratio=sequence without clipping the expected gradient is exact for advantages that are linear up
                to a baseline; clipping, ratio=token and the other advantages are approximations.

        Returns:
            A scalar, and detached scalars by name.

        Raises:
            ValueError: shapes differ, NaN where valid, a divergence that is infinite at a valid sample, or no
                `diversity` where the transform takes it; or a discount off-policy.
        """
        if self.skip_tied_groups:
            kept = ~tied_groups(reward, valid).expand_as(reward)
            valid = kept if valid is None else valid & kept
        if valid is not None:  # what an invalid sample holds must not reach a gradient: 0 * inf is NaN
            policy_logp, ref_logp = (torch.where(valid.unsqueeze(-1), x, 0.0) for x in (policy_logp, ref_logp))
            if behaviour_logp is not None:
                behaviour_logp = torch.where(valid.unsqueeze(-1), behaviour_logp, 0.0)
        policy_seq_logp, ref_seq_logp = masked_sum(policy_logp, mask), masked_sum(ref_logp.detach(), mask)
        check_group(valid, reward=reward, policy_logp=policy_seq_logp, ref_logp=ref_seq_logp)
        may_be_good = valid if complete is None else complete if valid is None else valid & complete
        good = self.good(reward, ref_seq_logp, may_be_good)
        old_seq_logp = policy_seq_logp.detach() if behaviour_logp is None else masked_sum(behaviour_logp, mask)
        known = {
            "policy_mean_logp": old_seq_logp / mask.sum(-1).clamp_min(1),
            "counted": valid,
            "diversity": diversity,
        }
        if "diversity" in self.transform_inputs and diversity is None:
            raise ValueError("the transform needs the diversity of each sample, got None")
        inputs = {name: known[name] for name in self.transform_inputs}
        transformed = self.transform(reward, ref_seq_logp, beta=beta, valid=may_be_good, **inputs)
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
            may_be_good=may_be_good,
            good=good,
            transformed=transformed,
        )
        loss, logged = self._estimate(group, beta)
        return loss, self._metrics(group) | logged

    def _estimate(self, group: Group, beta: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The policy gradient's loss, and what to log of it."""
        regulariser = torch.zeros_like(group.reward)  # what the entropy and the KL term add to the reward
        if self.entropy_coef:
            regulariser = regulariser + self.entropy_coef * divergences.entropy_reward(group.policy_seq_logp)
        token_reward = penalty = None
        if self.placement == "reference":
            term = torch.zeros_like(group.reward)  # it stands in `reference_loss`
        elif self.level == "token":
            term = self._term()(
                group.policy_logp, group.ref_logp, behaviour_logp=group.behaviour_logp, mask=group.mask
            )
            if self.placement == "reward":
                token_reward = -beta * term
            else:
                penalty = term.sum(-1)
        else:
            weighed = None  # in the reward the surrogate's ratio is its weight
            if self.placement == "loss" and group.behaviour_logp is not None:
                weighed = group.old_seq_logp
            term = self._term()(group.policy_seq_logp, group.transformed.ref_seq_logp, behaviour_logp=weighed)
            if self.placement == "reward":
                regulariser = regulariser - beta * term
            else:
                penalty = term
        self._check_finite(term, group.ref_seq_logp, group.valid)

        advantage = self._advantage(group.transformed.reward, regulariser, group.good, group.valid)
        if self.bonus is not None:
            advantage = advantage + self.bonus(group.old_seq_logp, group.good, group.valid)
        logged: dict[str, Tensor] = {}
        if group.behaviour_logp is None:
            loss = self._policy_gradient(group, advantage, token_reward)
        else:
            loss = self._surrogate(group, group.behaviour_logp, advantage, token_reward)
            logged = self._off_policy_metrics(group, group.behaviour_logp)
        if penalty is not None:
            loss = loss + beta * losses.mean_valid(penalty, group.valid)
        return loss, logged | {"advantage/std": losses.mean_valid(advantage.square(), group.valid).sqrt()}

    def reference_loss(
        self, policy_logp: Tensor, ref_logp: Tensor, mask: Tensor, *, beta: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """beta D at placement=reference, from completions sampled from the reference; to be added to `loss`.

        Args:
            policy_logp: [..., T] per token, nats, with gradient, of completions of the reference.
            ref_logp, mask: [..., T] as in `loss`.
            beta: as in `loss`.

        Returns:
            A scalar, and the divergence in nats by name.

        Raises:
            ValueError: another placement, or a divergence that is not finite.
        """
        if self.placement != "reference":
            raise ValueError(f"placement must be reference, got {self.placement!r}")
        policy_seq_logp, ref_seq_logp = masked_sum(policy_logp, mask), masked_sum(ref_logp.detach(), mask)
        term = self._term()(policy_seq_logp, ref_seq_logp)
        self._check_finite(term, ref_seq_logp, None)
        divergence = term.mean()
        return beta * divergence, {f"kl/{self.divergence.name}_from_reference_nats": divergence.detach()}

    def _term(self) -> Callable[..., Tensor]:
        names = self.divergence.options
        if self.placement == "reward":
            names += self.divergence.reward_options
        return self._with_options(self.divergence.form(self.placement), names)

    def _with_options(self, term: Callable[..., Tensor], names: tuple[str, ...]) -> Callable[..., Tensor]:
        return partial(term, **{name: getattr(self, name) for name in names}) if names else term

    def exact_divergence(self, policy_logp: Tensor, ref_logp: Tensor) -> Tensor:
        """The divergence from all outcomes on the last axis, nats, with gradient: [..., A] -> [...]."""
        return self._with_options(self.divergence.form("exact"), self.divergence.options)(policy_logp, ref_logp)

    def good(self, reward: Tensor, ref_seq_logp: Tensor, may_be_good: Tensor | None = None) -> Tensor | None:
        """[..., G] bool, the samples that reach the threshold; None without one. Arguments as in `select_anchor`."""
        if self.threshold is None:
            return None
        return select_anchor(reward, ref_seq_logp, self.threshold(reward, may_be_good), may_be_good)[1]

    def _advantage(self, reward: Tensor, regulariser: Tensor, good: Tensor | None, valid: Tensor | None) -> Tensor:
        if self.advantage_of == "shaped":
            return self.advantage(reward + regulariser, valid)
        of = reward if good is None or self.advantage_of == "reward" else good.to(reward.dtype)
        return self.advantage(of, valid) + leave_one_out(regulariser, valid)

    def _check_finite(self, term: Tensor, ref_seq_logp: Tensor, valid: Tensor | None) -> None:
        """An infinite divergence has no gradient to follow: 0 * inf is NaN in the loss."""
        infinite = ~(term.isfinite() if term.dim() == ref_seq_logp.dim() else term.isfinite().all(-1))
        infinite = infinite if valid is None else infinite & valid
        if bool(infinite.any()):
            where = infinite.nonzero()[0].tolist()
            raise ValueError(
                f"the {self.divergence.name} divergence is not finite at {where}, where ref_logp sums to "
                f"{float(ref_seq_logp[tuple(where)])}: mark samples off the reference's support as not valid, or "
                "use direction=forward"
            )

    def _policy_gradient(self, group: Group, advantage: Tensor, token_reward: Tensor | None) -> Tensor:
        if self.length_normalised:
            return losses.length_normalised_policy_gradient(group.policy_logp, advantage, group.mask, group.valid)
        return losses.token_policy_gradient(
            group.policy_logp, advantage, group.mask, gamma=self.gamma, token_reward=token_reward, valid=group.valid
        )

    def _surrogate(
        self, group: Group, behaviour_logp: Tensor, advantage: Tensor, token_reward: Tensor | None
    ) -> Tensor:
        if self.gamma != 1:
            raise ValueError(f"a discount needs completions of the present policy: use gamma=1, got {self.gamma}")
        if self.length_normalised:
            advantage = advantage / group.mask.sum(-1).clamp_min(1)
        loss = losses.clipped_policy_gradient(
            group.policy_logp,
            behaviour_logp,
            advantage,
            group.mask,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            level=self.ratio,
            valid=group.valid,
        )
        if token_reward is not None:  # its weights are in it
            nothing = torch.zeros_like(advantage)
            loss = loss + losses.token_policy_gradient(
                group.policy_logp, nothing, group.mask, token_reward=token_reward, valid=group.valid
            )
        return loss

    @torch.no_grad()
    def _off_policy_metrics(self, group: Group, behaviour_logp: Tensor) -> dict[str, Tensor]:
        """How far the policy is from the one that sampled, and how often its ratio is outside the clipping range."""
        log_ratio = (group.policy_logp - behaviour_logp).masked_fill(~group.mask, 0.0)
        counted = group.mask if group.valid is None else group.mask & group.valid.unsqueeze(-1)
        if self.ratio == "sequence":
            log_ratio, counted = log_ratio.sum(-1), counted.any(-1)
        ratio = log_ratio.exp()
        outside = ((ratio < 1 - self.clip_low) | (ratio > 1 + self.clip_high)).to(ratio.dtype)
        away = masked_sum(behaviour_logp - group.policy_logp, group.mask)
        return {
            "update/clipped_share": losses.mean_valid(outside, counted),
            "update/kl_from_sampling_nats": losses.mean_valid(away, group.valid),
        }

    @torch.no_grad()
    def _metrics(self, group: Group) -> dict[str, Tensor]:
        reward, policy_seq_logp, valid = group.reward, group.policy_seq_logp, group.valid
        mean = partial(losses.mean_valid, valid=valid)
        value = self._with_options(self.divergence.value, self.divergence.options)
        logged = {
            "reward/raw": mean(reward),
            "reward/augmented": mean(group.transformed.reward),
            self.divergence_metric: mean(value(policy_seq_logp, group.ref_seq_logp)),
            "policy/entropy_nats": mean(-policy_seq_logp.detach()),
        }
        if self.threshold is not None and group.good is not None:
            logged["mara/good_share"] = mean(group.good.to(reward.dtype))
            tied = torch.as_tensor(self.threshold(reward, group.may_be_good)).isinf()
            logged["mara/unchanged_groups"] = (~group.good.any(-1)).sum()
            logged["mara/tied_groups"] = tied.sum()
        if self.direction == "forward":
            log_weight = group.transformed.ref_seq_logp - policy_seq_logp.detach()
            if valid is not None:
                log_weight = log_weight.masked_fill(~valid, -torch.inf)
            logged["weight/effective_sample_size"] = effective_sample_size(log_weight).mean()
            logged["weight/max"] = log_weight.max().exp()
            logged["weight/capped_share"] = mean((log_weight > self.max_log_weight).to(reward.dtype))
        return logged


def make_threshold(kind: str, value: float, floor: float | None = None) -> Threshold:
    """constant: the value itself; quantile: `core.mara.quantile_threshold` at q = value."""
    if kind == "constant":
        return lambda reward, valid: value
    if kind == "quantile":
        return lambda reward, valid: quantile_threshold(reward, value, floor, valid)
    raise ValueError(f"threshold kind must be constant or quantile, got {kind!r}")


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
    """An `Objective` by the names of its parts.

    Args:
        direction: a name of `core.divergences.DIVERGENCES`, or an import path.
        transform: a name of `core.transforms.TRANSFORMS` or `core.advantages.BONUSES`, or an import path.
        transform_options: the transform's own keywords, without the threshold.
        threshold: keywords of `make_threshold`; None where nothing is called good.
        advantage: a name of `core.advantages.ADVANTAGES`, or an import path.
        advantage_options: of an advantage of your own.
        advantage_k: k of max_at_k (None: as many as the group has) and pass_at_k.
        options: the remaining fields of `Objective`.

    Raises:
        ValueError: a part that cannot be found, or a combination that `core.rules` refuses, with the way out.
    """
    own = dict(transform_options or {})
    choices = Choices(
        direction=direction,
        transform=transform,
        algorithm=str(own.get("algorithm", "auto")),
        advantage=advantage,
        advantage_k=advantage_k,
        threshold=threshold is not None,
        **{name: options[name] for name in SHARED_CHOICES & options.keys()},
        max_log_weight=finite_or_none(options.get("max_log_weight")),
    )
    check_choices(choices)
    good = None if threshold is None else make_threshold(**threshold)
    if transform in BONUSES:
        options["bonus"] = partial(BONUSES[transform], **own)
        function: Callable[..., Transformed] = identity
    elif transform == "mara":
        level = options.get("level", "sequence")
        function = partial(mara, direction=direction, algorithm=choices.mara_algorithm, level=level)
    elif ":" in transform:
        function = find("transform", transform, TRANSFORMS, own)
    else:
        function = partial(find("transform", transform, TRANSFORMS), **own)
    inputs = tuple(INPUTS.get(transform, getattr(function, "inputs", ())))
    if "threshold" in inputs:
        if good is None:
            raise ValueError(f"threshold: must be given with transform={transform}")
        function = partial(function, threshold=good)
    return Objective(
        direction=direction,
        transform=function,
        transform_inputs=tuple(name for name in inputs if name != "threshold"),
        advantage=_advantage_function(advantage, advantage_k, advantage_options),
        advantage_of=ADVANTAGE_OF.get(advantage, "shaped"),
        threshold=good,
        **options,
    )


SHARED_CHOICES = {"level", "placement", "alpha", "entropy_coef", "gamma", "length_normalised", "skip_tied_groups"}


def finite_or_none(cap: float | None) -> float | None:
    return None if cap is None or cap == math.inf else cap


def _advantage_function(name: str, k: int | None, options: Mapping[str, Any] | None) -> Callable[..., Tensor]:
    function = find("advantage", name, ADVANTAGES, options)
    if name == "pass_at_k":
        return partial(function, k=k, threshold=1.0)  # of 1 where good and 0 elsewhere
    return partial(function, k=k) if name == "max_at_k" else function
