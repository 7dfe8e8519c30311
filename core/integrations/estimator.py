"""Advantages of MARA for trainers that sample, score and update on their own: settings, memory and estimation.

A trainer hands over rewards, and the log-probabilities of whole completions under the policy that sampled them and
under the reference. `MaraEstimator` returns advantages with which its policy gradient is that of `core.objective`.
"""

import copy
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ..classes import ClassMemory, StepMasses, make_class_memory
from ..mara import check_mara_beta, quantile_threshold, reaches
from ..objective import Objective, make_objective
from ..rules import ANCHORS, AUTO, CLASSES, MASSES, Choices

ADVANTAGE = "centred"


@dataclass(frozen=True, kw_only=True)
class MaraSettings:
    """What defines MARA in a trainer; one of `threshold`, `quantile` and `reference_quantile` is given.

    Attributes:
        beta: coefficient of the sequence's KL in the reward, reward units per nat, > 0.
        threshold: completions with at least this reward are good.
        quantile: of each group's rewards, as a threshold that follows the policy.
        reference_quantile: of the rewards of `reference_samples` completions of the reference, once for each prompt.
        floor: lower bound of a quantile threshold.
        direction: reverse, KL(policy || reference), or forward, KL(reference || policy).
        algorithm: 1 augments the reward, 2 anchors the reference; auto is 1 for reverse and 2 for forward KL.
        level: what becomes equally likely: each good sequence, or each good answer.
        mass: how the reference's mass of an answer is estimated: remembered over the run, from the group, or counted
            in completions of the reference.
        anchor: group, cross_fitted, remembered; auto: as `core.rules.Choices.mara_anchor`.
        max_log_weight: cap on log(reference / policy) of a sequence under forward KL, nats. None: a cap that leaves
            the optimum where it is; inf: no cap.
        reward_range: highest minus lowest reward, for max_log_weight=None.
        reference_samples: completions of the reference for each prompt, where they are needed.
    """

    beta: float | None = None
    threshold: float | None = None
    quantile: float | None = None
    reference_quantile: float | None = None
    floor: float | None = None
    direction: str = "reverse"
    algorithm: str = "auto"
    level: str = "sequence"
    mass: str = "remembered"
    anchor: str = "auto"
    max_log_weight: float | None = None
    reward_range: float = 1.0
    reference_samples: int = 64

    @property
    def needs_reference_samples(self) -> bool:
        """Whether completions of the reference are sampled once for each prompt."""
        return self.reference_quantile is not None or (self.level, self.mass) == ("answer", "reference")

    @property
    def remembers_prompts(self) -> bool:
        """Whether something is kept for each prompt from step to step, so that prompts need a name."""
        choices = self.choices()
        by_prompt = choices.mara_anchor == "remembered" or (self.level, self.mass) == ("answer", "remembered")
        return by_prompt or self.needs_reference_samples

    def check(self, prefix: str = "") -> None:
        """Raise ValueError if a value is outside its domain or a combination has no uniform optimum.

        Args:
            prefix: of the keys in messages, such as mara_.
        """
        if self.beta is None:
            raise ValueError(f"{prefix}beta: must be given, in reward units per nat, got None")
        check_mara_beta(self.beta)
        kinds = ("threshold", "quantile", "reference_quantile")
        given = [name for name in kinds if getattr(self, name) is not None]
        if len(given) != 1:
            values = ", ".join(f"{prefix}{name}={getattr(self, name)}" for name in given)
            raise ValueError(
                f"{prefix}threshold: give one of {', '.join(prefix + name for name in kinds)}, got {values or 'none'}"
            )
        for name in kinds[1:]:
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{prefix}{name}: must lie in [0, 1], got {value}")
        for name, allowed in (("level", CLASSES), ("mass", MASSES), ("anchor", ANCHORS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{prefix}{name}: must be one of {', '.join(allowed)}, got {getattr(self, name)}")
        if self.floor is not None and self.threshold is not None:
            raise ValueError(f"{prefix}floor: needs a quantile, got {self.floor} with {prefix}threshold")
        if self.max_log_weight is not None and self.direction != "forward":
            raise ValueError(
                f"{prefix}max_log_weight: needs {prefix}direction='forward', got {self.max_log_weight} without it"
            )
        if self.reference_samples < 1:
            raise ValueError(f"{prefix}reference_samples: must be >= 1, got {self.reference_samples}")
        self.objective()

    def objective_arguments(self) -> dict[str, Any]:
        """Keyword arguments of `core.objective.make_objective`."""
        kind = next(
            name for name in ("threshold", "quantile", "reference_quantile") if getattr(self, name) is not None
        )
        cap = AUTO if self.max_log_weight is None else self.max_log_weight
        return {
            "transform": "mara",
            "transform_options": {
                "algorithm": str(self.algorithm),
                "level": self.level,
                "mass": self.mass,
                "anchor": self.anchor,
            },
            "threshold": {
                "kind": "constant" if kind == "threshold" else kind,
                "value": getattr(self, kind),
                "floor": self.floor,
            },
            "advantage": ADVANTAGE,
            "direction": self.direction,
            "max_log_weight": cap if self.max_log_weight != math.inf else None,
            "reward_range": self.reward_range,
        }

    def objective(self) -> Objective:
        """The objective. Raises ValueError if `core.rules` refuses the combination."""
        return make_objective(**self.objective_arguments())

    def choices(self) -> Choices:
        """The same choices by name."""
        return Choices(
            direction=self.direction,
            transform="mara",
            algorithm=str(self.algorithm),
            classes=self.level,
            mass=self.mass,
            anchor=self.anchor,
            advantage=ADVANTAGE,
            threshold=True,
        )


SETTINGS = tuple(field.name for field in fields(MaraSettings))


def prompt_key(prompt: Any) -> str:
    """A short name of a prompt (a text, token ids, or turns of a chat), the same in every run."""
    return hashlib.sha256(json.dumps(prompt, sort_keys=True, default=str).encode()).hexdigest()[:16]


class MaraEstimator:
    """Computes advantages, and remembers thresholds, class masses and anchors of prompts over a run.

    Attributes:
        objective: the `core.objective.Objective` that is differentiated. Any other one with placement=reward and
            level=sequence can take its place.
    """

    def __init__(self, settings: MaraSettings) -> None:
        self.settings = settings
        self.objective = settings.objective()
        self.memory: ClassMemory | None = make_class_memory(settings.choices())
        self.thresholds: dict[str, float] = {}

    def missing(self, prompts: Sequence[str]) -> list[str]:
        """The prompts, each once, of which completions of the reference are still needed."""
        if not self.settings.needs_reference_samples:
            return []
        return [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.thresholds]

    def add_reference(
        self, prompt: str, reward: Sequence[float], complete: Sequence[bool], labels: Sequence[str]
    ) -> None:
        """Take a prompt's threshold, and the masses of its answers, from completions of the reference.

        Args:
            prompt: its name.
            reward: of each completion; NaN where it does not count.
            complete: False for truncated completions, which are never good.
            labels: the answer of each.
        """
        settings, values = self.settings, torch.tensor(reward, dtype=torch.float32)
        usable = torch.tensor(list(complete), dtype=torch.bool) & values.isfinite()
        threshold = math.inf if settings.threshold is None else settings.threshold
        if settings.reference_quantile is not None:
            threshold = float(quantile_threshold(values, settings.reference_quantile, settings.floor, usable))
        self.thresholds[prompt] = threshold
        if self.memory is not None and self.memory.counts_reference:
            good = [i for i, is_good in enumerate((usable & reaches(values, threshold)).tolist()) if is_good]
            self.memory.count_reference(prompt, [labels[i] for i in good], values[good].tolist(), len(labels))

    def advantages(
        self,
        reward: Tensor,
        policy_seq_logp: Tensor,
        ref_seq_logp: Tensor,
        *,
        prompts: Sequence[str],
        labels: Sequence[Sequence[str]],
        rows: int,
        valid: Tensor | None = None,
        complete: Tensor | None = None,
        training: bool = True,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Advantages A, so that -sum_i A_i log pi(y_i) / rows has the gradient of the objective's loss, and metrics.

        Args:
            reward: [P, G] raw rewards, one group per row.
            policy_seq_logp: [P, G] under the policy that sampled, summed over tokens, nats.
            ref_seq_logp: [P, G] under the reference.
            prompts: the name of each group's prompt, P.
            labels: the answer of each completion, `[P][G]`; not used at level=sequence.
            rows: the number of completions over which the trainer averages its loss.
            valid: [P, G] bool, False for completions that do not count.
            complete: [P, G] bool, False for truncated completions, which are never good.
            training: False leaves the memory as it is.

        Returns:
            [P, G] advantages, 0 where not valid, and the objective's metrics.

        Raises:
            ValueError: as in `Objective.loss`.
        """
        objective, masses = self.objective, None
        if self.settings.reference_quantile is not None:
            thresholds = torch.tensor([[self.thresholds[prompt]] for prompt in prompts])
            objective = objective.with_thresholds(thresholds.to(reward))
        if self.memory is not None:
            memory = self.memory if training else copy.deepcopy(self.memory)
            masses = StepMasses(memory, prompts, labels)
        leaf = policy_seq_logp.detach().unsqueeze(-1).requires_grad_()
        with torch.enable_grad():
            loss, metrics = objective.loss(
                reward,
                leaf,
                ref_seq_logp.unsqueeze(-1),
                torch.ones_like(leaf, dtype=torch.bool),
                beta=self.settings.beta or 0.0,
                valid=valid,
                complete=complete,
                masses=masses,
            )
            (gradient,) = torch.autograd.grad(loss, leaf)
        return -gradient.squeeze(-1) * rows, metrics

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint; it can be written as JSON."""
        return {
            "thresholds": dict(self.thresholds),
            "memory": None if self.memory is None else self.memory.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.thresholds = dict(state["thresholds"])
        if self.memory is not None and state["memory"] is not None:
            self.memory.load_state_dict(state["memory"])
