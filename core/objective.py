"""The middle of a training step: transform -> KL term -> advantage -> loss, for every package."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from core import kl, losses
from core.advantages import ADVANTAGES, tied_groups
from core.mara import quantile_threshold, select_anchor
from core.sequence import check_group, masked_sum
from core.stats import effective_sample_size
from core.transforms import Threshold, Transformed, identity, mara, mara_algorithm

TRANSFORMS: dict[str, Callable[..., Transformed]] = {"identity": identity, "mara": mara}


@dataclass(frozen=True, kw_only=True)
class Objective:
    """E_pi[R'] - beta D(pi, ref') + entropy_coef H(pi) and how its gradient is estimated from samples.

    transform: (reward, ref_seq_logp, *, beta, valid) -> the R' and ref' of a group.
    advantage: (reward, valid) -> advantages of a group.
    direction, level, placement: of the divergence, see `core.kl`.
    entropy_coef: reward units per nat of sequence entropy.
    mask_tied: leave out groups whose raw rewards are all equal, which only the KL term would move.
    threshold: what counts as good, for the metrics; None where the transform has no such notion.
    """

    direction: str
    transform: Callable[..., Transformed] = identity
    advantage: Callable[..., Tensor] = ADVANTAGES["leave_one_out"]
    level: str = "sequence"
    placement: str = "reward"
    entropy_coef: float = 0.0
    alpha: float | None = None
    max_log_weight: float = math.inf
    gamma: float = 1.0
    length_normalised: bool = False
    mask_tied: bool = False
    threshold: Threshold | None = None

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

        Returns:
            A scalar, and detached scalars by name.
        """
        if self.mask_tied:
            kept = ~tied_groups(reward, valid).expand_as(reward)
            valid = kept if valid is None else valid & kept
        if valid is not None:  # what an invalid sample holds must not reach a gradient: 0 * inf is NaN
            policy_logp, ref_logp = (torch.where(valid.unsqueeze(-1), x, 0.0) for x in (policy_logp, ref_logp))
        policy_seq_logp, ref_seq_logp = masked_sum(policy_logp, mask), masked_sum(ref_logp.detach(), mask)
        check_group(valid, reward=reward, policy_logp=policy_seq_logp, ref_logp=ref_seq_logp)
        may_be_good = valid if complete is None else complete if valid is None else valid & complete
        transformed = self.transform(reward, ref_seq_logp, beta=beta, valid=may_be_good)
        shaped = transformed.reward
        if self.entropy_coef:
            shaped = shaped + self.entropy_coef * kl.entropy_reward(policy_seq_logp)

        token_reward = penalty = None
        if self.level == "token":
            term = self._term()(policy_logp, ref_logp, mask=mask)
            if self.placement == "reward":
                token_reward = -beta * term
            else:
                penalty = term.sum(-1)
        else:
            term = self._term()(policy_seq_logp, transformed.ref_seq_logp)
            if self.placement == "reward":
                shaped = shaped - beta * term
            else:
                penalty = term

        advantage = self.advantage(shaped, valid)
        loss = self._policy_gradient(policy_logp, advantage, mask, token_reward, valid)
        if penalty is not None:
            loss = loss + beta * losses.mean_valid(penalty, valid)
        logged = self._metrics(reward, transformed, policy_seq_logp, ref_seq_logp, valid, may_be_good)
        logged["advantage/std"] = losses.mean_valid(advantage.square(), valid).sqrt()
        return loss, logged

    def _term(self) -> Callable[..., Tensor]:
        term = kl.kl_term(self.direction, self.placement)
        if self.direction == "alpha":
            return partial(term, alpha=self.alpha)
        if self.direction == "forward" and self.placement == "reward":
            return partial(term, max_log_weight=self.max_log_weight)
        return term

    def _policy_gradient(
        self,
        policy_logp: Tensor,
        advantage: Tensor,
        mask: Tensor,
        token_reward: Tensor | None,
        valid: Tensor | None,
    ) -> Tensor:
        if self.length_normalised:
            return losses.length_normalised_policy_gradient(policy_logp, advantage, mask, valid)
        return losses.token_policy_gradient(
            policy_logp, advantage, mask, gamma=self.gamma, token_reward=token_reward, valid=valid
        )

    @torch.no_grad()
    def _metrics(
        self,
        reward: Tensor,
        transformed: Transformed,
        policy_seq_logp: Tensor,
        ref_seq_logp: Tensor,
        valid: Tensor | None,
        may_be_good: Tensor | None,
    ) -> dict[str, Tensor]:
        mean = partial(losses.mean_valid, valid=valid)
        value = kl.VALUES[self.direction]
        value = partial(value, alpha=self.alpha) if self.direction == "alpha" else value
        logged = {
            "reward/raw": mean(reward),
            "reward/augmented": mean(transformed.reward),
            f"kl/{self.direction}_nats": mean(value(policy_seq_logp, ref_seq_logp)),
            "policy/entropy_nats": mean(-policy_seq_logp.detach()),
        }
        if self.threshold is not None:
            threshold = self.threshold(reward, may_be_good)
            _, good = select_anchor(reward, ref_seq_logp, threshold, may_be_good)
            logged["mara/good_share"] = mean(good.to(reward.dtype))
            tied = torch.as_tensor(threshold).isinf()
            logged["mara/unchanged_groups"] = (~good.any(-1)).sum()
            logged["mara/tied_groups"] = tied.sum()
        if self.direction == "forward":
            log_weight = transformed.ref_seq_logp - policy_seq_logp.detach()
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
    *, transform: str, transform_options: Mapping[str, Any], advantage: str, **options: Any
) -> Objective:
    """An `Objective` by the names of its parts, refused where the combination breaks the mathematics.

    Args:
        transform: identity or mara.
        transform_options: `threshold` (kind, value, floor) or None, and the transform's own; mara has `algorithm`.
        advantage: a name of `core.advantages.ADVANTAGES`.
        options: the remaining fields of `Objective`.

    Raises:
        ValueError: an unknown name, or a combination refused by `check_combination`.
    """
    if transform not in TRANSFORMS:
        raise ValueError(f"transform must be one of {sorted(TRANSFORMS)}, got {transform!r}")
    if advantage not in ADVANTAGES:
        raise ValueError(f"advantage must be one of {sorted(ADVANTAGES)}, got {advantage!r}")
    function: Callable[..., Transformed] = TRANSFORMS[transform]
    threshold = transform_options.get("threshold")
    good = None if threshold is None else make_threshold(**threshold)
    if transform == "mara":
        if good is None:
            raise ValueError("transform mara needs a threshold")
        direction, level = options["direction"], options.get("level", "sequence")
        algorithm = mara_algorithm(direction, transform_options.get("algorithm", "auto"), level)
        function = partial(mara, threshold=good, direction=direction, algorithm=algorithm, level=level)
    objective = Objective(transform=function, advantage=ADVANTAGES[advantage], threshold=good, **options)
    check_combination(objective, transform=transform, advantage=advantage)
    return objective


def check_combination(objective: Objective, *, transform: str, advantage: str) -> None:
    """Raise ValueError, with the way out, where the parts together have another optimum than the one claimed."""
    kl.kl_term(objective.direction, objective.placement)
    if objective.placement == "exact":
        raise ValueError("placement=exact needs all outcomes: use reward or loss for samples")
    if objective.level not in ("sequence", "token"):
        raise ValueError(f"level must be sequence or token, got {objective.level!r}")
    if objective.length_normalised and objective.level == "token" and objective.placement == "reward":
        raise ValueError("a length-normalised loss has no per-token reward: use placement=loss or level=sequence")
    if transform != "mara":
        return
    if objective.length_normalised:
        raise ValueError(
            "a length-normalised loss makes the effective beta depend on length, which MARA cannot undo: "
            "use length_normalised=false"
        )
    if objective.gamma != 1:
        raise ValueError(
            f"a discount makes the effective beta depend on length, which MARA cannot undo: use gamma=1, "
            f"got {objective.gamma}"
        )
    in_reward = objective.placement == "reward" and objective.level == "sequence"
    if advantage == "group_normalised" and not in_reward:
        raise ValueError(
            "with MARA, group_normalised advantages need the KL inside the reward before normalising, or the policy "
            "collapses onto the rarest good sample: use placement=reward and level=sequence, or leave_one_out"
        )
