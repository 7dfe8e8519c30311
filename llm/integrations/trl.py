"""MARA in TRL's GRPOTrainer: the sequence's KL and the augmented reward enter TRL's advantages, TRL does the rest.

TRL samples, calls the reward functions and scores the completions with the reference, as ever. What it would make of
the rewards alone is then replaced by `core.objective` on whole groups: A = centred(R' - beta D'), with R' and the
reference in D' as MARA changes them, D the divergence between whole sequences (in the reward: log pi - log ref under
reverse, -ref/pi under forward KL). Its loss is TRL's `dr_grpo`, the sum over a sequence's tokens.
"""

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from core.mara import check_mara_beta
from core.objective import Objective, make_objective
from core.sequence import masked_sum

try:
    import trl
except ModuleNotFoundError as error:
    if error.name != "trl":
        raise
    raise ImportError("llm.integrations.trl needs TRL: pip install 'mara-rl[trl]'") from None
if not trl.__version__.startswith("1.16."):  # methods that are not of its public interface are extended
    raise ImportError(f"llm.integrations.trl needs TRL 1.16: pip install 'mara-rl[trl]', got {trl.__version__}")

ALLOWED: dict[str, tuple[tuple[Any, ...], str]] = {  # key of GRPOConfig: values, and why no others
    "beta": (
        (0.0,),
        "the KL term is mara_beta's, in the reward; a second one in the loss is per token and moves the optimum",
    ),
    "scale_rewards": (
        ("none",),
        "dividing by a standard deviation makes the effective beta differ from group to group",
    ),
    "multi_objective_aggregation": (
        ("sum_then_normalize",),
        "rewards normalised one by one are no longer those that the threshold is about",
    ),
    "loss_type": (
        ("dr_grpo",),
        "a loss divided by lengths, or reweighted, makes the effective beta depend on them",
    ),
    "num_iterations": (
        (1,),
        "a second pass over the same completions is off-policy: the KL in their reward is that of the policy before",
    ),
    "entropy_coef": ((0.0,), "an entropy bonus per token moves the optimum"),
    "use_adaptive_entropy": ((False,), "an entropy bonus per token moves the optimum"),
    "top_entropy_quantile": ((1.0,), "leaving tokens out of the loss leaves them out of the sequence's KL"),
    "off_policy_mask_threshold": ((None,), "it drops samples by the sign of their advantage"),
    "sync_ref_model": ((False,), "the optimum is that of a fixed reference"),
    "temperature": ((1.0,), "what is sampled must be the policy whose KL is taken"),
    "top_p": ((1.0,), "what is sampled must be the policy whose KL is taken"),
    "top_k": ((0, None), "what is sampled must be the policy whose KL is taken"),
    "min_p": ((None, 0.0), "what is sampled must be the policy whose KL is taken"),
    "repetition_penalty": ((1.0,), "what is sampled must be the policy whose KL is taken"),
    "generation_kwargs": ((None, {}), "what is sampled must be the policy whose KL is taken"),
}


@dataclass
class MaraGRPOConfig(trl.GRPOConfig):
    """GRPOConfig with MARA's keys, and with defaults under which its optimum is uniform over the good completions.

    Raises:
        ValueError: a key of MARA outside its domain, or one of TRL's that breaks the optimum, with the reason.
    """

    scale_rewards: str = "none"
    loss_type: str = "dr_grpo"
    disable_dropout: bool = True  # what is sampled must be what is scored

    mara_beta: float | None = field(
        default=None, metadata={"help": "Coefficient of the sequence's KL in the reward: reward units per nat, > 0."}
    )
    mara_threshold: float | None = field(
        default=None, metadata={"help": "Weighted sums of rewards at and above this are good."}
    )
    mara_quantile: float | None = field(
        default=None,
        metadata={"help": "In place of mara_threshold: this quantile of each group's rewards, in [0, 1]."},
    )
    mara_floor: float | None = field(default=None, metadata={"help": "With mara_quantile, no threshold below this."})
    mara_direction: str = field(
        default="reverse", metadata={"help": "reverse: KL(policy || reference); forward: KL(reference || policy)."}
    )
    mara_algorithm: str = field(
        default="auto",
        metadata={"help": "1 augments the reward, 2 anchors the reference; auto: 1 under reverse, 2 under forward."},
    )
    mara_max_log_weight: float | None = field(
        default=None, metadata={"help": "Cap on log(reference / policy) of a sequence under forward KL, nats."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()

    def check(self) -> None:
        """Raise ValueError where the optimum would be another one than MARA's."""
        for key, (values, reason) in ALLOWED.items():
            if (found := getattr(self, key)) not in values:
                raise ValueError(f"{key}: must be {values[0]!r} with MARA ({reason}), got {found!r}")
        if self.gradient_accumulation_steps % (self.steps_per_generation or 1):
            raise ValueError(
                f"steps_per_generation: must divide gradient_accumulation_steps with MARA (later updates on the same "
                f"completions are off-policy: the KL in their reward is that of the policy before), got "
                f"{self.steps_per_generation} and {self.gradient_accumulation_steps}"
            )
        if self.delta is not None and self.delta < 1:
            raise ValueError(f"delta: must be None or >= 1 (below 1 it removes the gradient), got {self.delta}")
        if self.mara_beta is None:
            raise ValueError("mara_beta: must be given, in reward units per nat, got None")
        check_mara_beta(self.mara_beta)
        if (self.mara_threshold is None) == (self.mara_quantile is None):
            raise ValueError(
                f"mara_threshold: must be given, or mara_quantile in its place, got {self.mara_threshold} and "
                f"mara_quantile={self.mara_quantile}"
            )
        if self.mara_quantile is not None and not 0 <= self.mara_quantile <= 1:
            raise ValueError(f"mara_quantile: must lie in [0, 1], got {self.mara_quantile}")
        if self.mara_floor is not None and self.mara_quantile is None:
            raise ValueError(f"mara_floor: must be None without mara_quantile, got {self.mara_floor}")
        if self.mara_max_log_weight is not None and self.mara_direction != "forward":
            raise ValueError(
                f"mara_max_log_weight: only used with mara_direction='forward', got {self.mara_max_log_weight}"
            )
        make_objective(**self.objective_arguments())

    def objective_arguments(self) -> dict[str, Any]:
        """Keyword arguments of `core.objective.make_objective`."""
        quantile = self.mara_threshold is None
        threshold = {
            "kind": "quantile" if quantile else "constant",
            "value": self.mara_quantile if quantile else self.mara_threshold,
            "floor": self.mara_floor,
        }
        return {
            "transform": "mara",
            "transform_options": {"algorithm": self.mara_algorithm},
            "threshold": threshold,
            "advantage": "centred",
            "direction": self.mara_direction,
            "max_log_weight": math.inf if self.mara_max_log_weight is None else self.mara_max_log_weight,
        }


class MaraGRPOTrainer(trl.GRPOTrainer):
    """TRL's GRPOTrainer with mode-anchored reward augmentation (GX-Chen et al., 2026, arXiv:2510.20817).

    Arguments are GRPOTrainer's; `args` is a MaraGRPOConfig. The reference is TRL's: the model as it is on disk,
    or with peft the base without its adapter. Completions for which all reward functions return None do not count;
    truncated ones keep their reward and are never good, or do not count with `mask_truncated_completions=True`.

    objective: the `core.objective.Objective` that makes the advantages; any with the divergence in the reward, per
        sequence, can take its place.

    Raises:
        ValueError: `args` is another configuration or one that is refused; tools, images and dropout, which make what
            is scored another thing than what was sampled.
    """

    args: Any  # MaraGRPOConfig
    model: Any
    num_generations: int
    num_generations_eval: int
    objective: Objective
    _logs: dict[str, Any]

    def __init__(
        self, model: Any, reward_funcs: Any = None, args: MaraGRPOConfig | None = None, **options: Any
    ) -> None:
        if not isinstance(args, MaraGRPOConfig):
            raise ValueError(f"args: must be a MaraGRPOConfig, got {type(args).__name__}")
        args.check()
        args = copy.copy(args)
        args.beta = args.mara_beta or 0.0  # TRL makes a reference where its beta is not 0
        super().__init__(model, reward_funcs, args, **options)
        args.beta = self.beta = 0.0
        self.objective = make_objective(**args.objective_arguments())
        _check_model(self)

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: list[list[int]]
    ) -> Tensor:
        self._complete = torch.tensor([ids[-1] in self.eos_token_ids for ids in completion_ids_list])
        self._rewards: Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        return self._rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self.beta = self.args.mara_beta  # TRL scores completions with the reference where its beta is not 0
        try:
            batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        finally:
            self.beta = 0.0  # and adds a KL term to the loss
        advantages = self._mara_advantages(batch)
        own = len(batch["advantages"])
        rank = self.accelerator.process_index
        batch["advantages"] = advantages[rank * own : (rank + 1) * own]
        logged = self._logs["advantages"]
        others = list(logged)[: -len(advantages)]
        logged.clear()
        logged.extend([*others, *advantages.tolist()])
        return batch

    def _mara_advantages(self, batch: dict[str, Any]) -> Tensor:
        """[N] of all processes' completions, since a group may be spread over them; logs the objective's figures."""
        training = self.model.training
        group = self.num_generations if training else self.num_generations_eval
        seq_logp = [self._policy_logp(batch), batch["ref_per_token_logps"]]
        seq_logp = [masked_sum(logp.float(), batch["completion_mask"].bool()) for logp in seq_logp]
        complete = self._complete.to(seq_logp[0])
        policy, reference, complete = self.accelerator.gather(torch.stack([*seq_logp, complete], -1)).unbind(-1)
        complete = complete.bool().view(-1, group)
        reward = (self._rewards * self.reward_weights.to(policy.device)).nansum(-1).view(-1, group)
        valid = ~self._rewards.isnan().all(-1).view(-1, group)
        if not bool(reward.isfinite().all()):
            raise ValueError(f"rewards must be finite, or None where a completion does not count, got {reward}")
        if self.mask_truncated_completions:
            valid = valid & complete

        leaf = policy.view(-1, group, 1).requires_grad_()
        with torch.enable_grad():
            loss, metrics = self.objective.loss(
                reward,
                leaf,
                reference.view(-1, group, 1),
                torch.ones_like(leaf, dtype=torch.bool),
                beta=self.args.mara_beta,
                valid=valid,
                complete=complete,
            )
            (gradient,) = torch.autograd.grad(loss, leaf)
        for name, value in metrics.items():
            self._metrics["train" if training else "eval"][name].append(float(value))
        # TRL's loss is the mean of -A log pi(y) over all N rows, and core's over the valid ones.
        return -gradient.flatten() * gradient.numel()

    def _policy_logp(self, batch: dict[str, Any]) -> Tensor:
        """[B, T] of the policy that sampled, nats; TRL has them only where it needs them itself."""
        if "old_per_token_logps" in batch:
            return batch["old_per_token_logps"]
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
        training = self.model.training
        size = self.args.per_device_train_batch_size if training else self.args.per_device_eval_batch_size
        with torch.no_grad():
            logp, _, _ = self._get_per_token_logps_and_entropies(
                self.model, ids, mask, batch["completion_ids"].shape[1], batch_size=size
            )
        return logp

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """TRL's, without the constant by which dr_grpo divides the sum over tokens."""
        return super()._compute_loss(model, inputs) * self.max_completion_length


def _check_model(trainer: MaraGRPOTrainer) -> None:
    """Raise ValueError where the log-probabilities would not be those of the tokens that the policy sampled."""
    if trainer.tools or trainer._is_vlm:
        raise ValueError("tools: must be none with MaraGRPOTrainer, and the model one of text, got tools or images")
    if trainer.aux_loss_enabled:
        raise ValueError("router_aux_loss_coef: must be 0.0 with MARA (another loss moves the optimum)")
    config = trainer.model.config.get_text_config()
    layers = [module.p for module in trainer.model.modules() if isinstance(module, torch.nn.Dropout)]
    if rate := max([*layers, getattr(config, "attention_dropout", 0.0) or 0.0]):
        raise ValueError(
            f"disable_dropout: must be True with MARA, and the model's attention_dropout 0.0 (what is scored must be "
            f"what is sampled), got dropout at {rate}"
        )
