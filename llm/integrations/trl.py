"""MARA in TRL's GRPOTrainer: the trainer's advantages are computed from MARA's reward and the sequence's KL.

As usual, TRL samples, calls the reward functions and computes log-probabilities under the reference. Its advantages
are then replaced by those of `core.objective` on whole groups: A = centred(R' - beta D'). R' is the reward and D' the
divergence after MARA's changes of reward and reference. D is the divergence between whole sequences: log pi - log ref
under reverse KL and -ref/pi under forward KL. The loss is TRL's `dr_grpo`, the sum over a sequence's tokens.
"""

import copy
import math
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from conf.schema.extras import not_installed
from core.mara import check_mara_beta
from core.objective import Objective, make_objective
from core.rules import AUTO
from core.sequence import masked_sum
from llm.inference.prompts import with_fixed_clock
from llm.inference.stopping import decode, find_stops
from llm.inference.temporary import temporarily

try:
    import trl
except ModuleNotFoundError as error:
    if error.name != "trl":
        raise
    raise ImportError(f"llm.integrations.trl: {not_installed('trl')}") from None
if not trl.__version__.startswith("1.16."):  # this module overrides methods outside TRL's public interface
    raise ImportError(f"llm.integrations.trl needs TRL 1.16, got {trl.__version__}: pip install 'trl>=1.16,<1.17'")

SAMPLED_IS_SCORED = "the policy must be sampled as it is, because its KL is computed"
PER_TOKEN_ENTROPY = "an entropy bonus per token moves the optimum"
ALLOWED: dict[str, tuple[tuple[Any, ...], str]] = {  # key of GRPOConfig: allowed values, and the reason
    "beta": (
        (0.0,),
        "mara_beta sets the KL term in the reward; a second one in the loss is per token and moves the optimum",
    ),
    "scale_rewards": (
        ("none",),
        "dividing by a standard deviation gives each group a different effective beta",
    ),
    "multi_objective_aggregation": (
        ("sum_then_normalize",),
        "the threshold does not apply to rewards that are normalised one by one",
    ),
    "loss_type": (
        ("dr_grpo",),
        "a loss that is divided by lengths, or reweighted, makes the effective beta depend on them",
    ),
    "num_iterations": (
        (1,),
        "a second pass over the same completions is off-policy: their reward contains the KL of the earlier policy",
    ),
    "entropy_coef": ((0.0,), PER_TOKEN_ENTROPY),
    "use_adaptive_entropy": ((False,), PER_TOKEN_ENTROPY),
    "top_entropy_quantile": ((1.0,), "tokens left out of the loss are missing from the sequence's KL"),
    "off_policy_mask_threshold": ((None,), "it drops samples depending on the sign of their advantage"),
    "sync_ref_model": ((False,), "the optimum is defined by a fixed reference"),
    "temperature": ((1.0,), SAMPLED_IS_SCORED),
    "top_p": ((1.0,), SAMPLED_IS_SCORED),
    "top_k": ((0, None), SAMPLED_IS_SCORED),
    "min_p": ((None, 0.0), SAMPLED_IS_SCORED),
    "repetition_penalty": ((1.0,), SAMPLED_IS_SCORED),
    "generation_kwargs": ((None, {}), SAMPLED_IS_SCORED),
}


@dataclass
class MaraGRPOConfig(trl.GRPOConfig):
    """GRPOConfig with MARA's keys, and defaults for which the optimum is uniform over the good completions.

    Raises:
        ValueError: a key of MARA is out of range, or a key of TRL would change the optimum; the message says why.
    """

    scale_rewards: str = "none"
    loss_type: str = "dr_grpo"
    disable_dropout: bool = True  # the policy that samples must be the one that is scored

    mara_beta: float | None = field(
        default=None,
        metadata={"help": "Coefficient of the sequence's KL in the reward, in reward units per nat; > 0."},
    )
    mara_threshold: float | None = field(
        default=None, metadata={"help": "Completions whose weighted sum of rewards is at least this are good."}
    )
    mara_quantile: float | None = field(
        default=None,
        metadata={"help": "Instead of mara_threshold: this quantile of each group's rewards, in [0, 1]."},
    )
    mara_floor: float | None = field(
        default=None, metadata={"help": "With mara_quantile: lower bound of the threshold."}
    )
    mara_direction: str = field(
        default="reverse", metadata={"help": "reverse: KL(policy || reference); forward: KL(reference || policy)."}
    )
    mara_algorithm: str = field(
        default="auto",
        metadata={
            "help": "1 augments the reward, 2 anchors the reference; auto is 1 for reverse and 2 for forward KL."
        },
    )
    mara_max_log_weight: float | None = field(
        default=None,
        metadata={
            "help": "Cap on log(reference / policy) of a sequence under forward KL, nats. None: a cap that leaves "
            "the optimum where it is; inf: no cap, which is dangerous over sequences."
        },
    )
    mara_reward_range: float = field(
        default=1.0,
        metadata={"help": "Highest minus lowest weighted sum of rewards, for mara_max_log_weight=None."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()

    def check(self) -> None:
        """Raise ValueError if the optimum would not be MARA's."""
        for key, (values, reason) in ALLOWED.items():
            value = getattr(self, key)
            if value not in values:
                raise ValueError(f"{key}: must be {values[0]!r} with MARA ({reason}), got {value!r}")
        if self.gradient_accumulation_steps % (self.steps_per_generation or 1):
            raise ValueError(
                "steps_per_generation: must divide gradient_accumulation_steps with MARA (later updates on the same "
                "completions are off-policy: their reward contains the KL of the earlier policy), got "
                f"{self.steps_per_generation} and {self.gradient_accumulation_steps}"
            )
        if self.delta is not None and self.delta < 1:
            raise ValueError(f"delta: must be None or >= 1 (below 1 it removes the gradient), got {self.delta}")
        if self.mara_beta is None:
            raise ValueError("mara_beta: must be given, in reward units per nat, got None")
        check_mara_beta(self.mara_beta)
        if (self.mara_threshold is None) == (self.mara_quantile is None):
            raise ValueError(
                f"mara_threshold: give either mara_threshold or mara_quantile, got {self.mara_threshold} and "
                f"mara_quantile={self.mara_quantile}"
            )
        if self.mara_quantile is not None and not 0 <= self.mara_quantile <= 1:
            raise ValueError(f"mara_quantile: must lie in [0, 1], got {self.mara_quantile}")
        if self.mara_floor is not None and self.mara_quantile is None:
            raise ValueError(f"mara_floor: needs mara_quantile, got {self.mara_floor} without it")
        if self.mara_max_log_weight is not None and self.mara_direction != "forward":
            raise ValueError(
                f"mara_max_log_weight: needs mara_direction='forward', got {self.mara_max_log_weight} without it"
            )
        make_objective(**self.objective_arguments())

    def objective_arguments(self) -> dict[str, Any]:
        """Keyword arguments of `core.objective.make_objective`."""
        is_quantile = self.mara_threshold is None
        cap = AUTO if self.mara_max_log_weight is None else self.mara_max_log_weight
        threshold = {
            "kind": "quantile" if is_quantile else "constant",
            "value": self.mara_quantile if is_quantile else self.mara_threshold,
            "floor": self.mara_floor,
        }
        return {
            "transform": "mara",
            "transform_options": {"algorithm": self.mara_algorithm, "anchor": "group"},  # without a memory of prompts
            "threshold": threshold,
            "advantage": "centred",
            "direction": self.mara_direction,
            "max_log_weight": cap if self.mara_max_log_weight != math.inf else None,
            "reward_range": self.mara_reward_range,
        }


class MaraGRPOTrainer(trl.GRPOTrainer):
    """TRL's GRPOTrainer with mode-anchored reward augmentation (GX-Chen et al., 2026, arXiv:2510.20817).

    The arguments are those of GRPOTrainer, with a MaraGRPOConfig as `args`. The reference is TRL's: the model on
    disk, or with peft the base model without its adapter. Completions for which all reward functions return None are
    excluded. Truncated completions keep their reward and are never good; with `mask_truncated_completions=True` they
    are excluded.

    objective: the `core.objective.Objective` that computes the advantages. It can be replaced by any other one with
        placement=reward and level=sequence.

    Raises:
        ValueError: `args` is not a valid MaraGRPOConfig; or tools, images or dropout are used, with which the scored
            distribution differs from the sampled one.
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
        args.beta = args.mara_beta or 0.0  # TRL loads a reference only if its beta is not 0
        super().__init__(model, reward_funcs, args, **options)
        args.beta = self.beta = 0.0
        self.objective = make_objective(**args.objective_arguments())
        _check_model(self)
        _end_where_turns_end(self)
        if "strftime_now" in str(self._tokenizer.chat_template):  # prompts keep their date over the training
            template = self.chat_template or self._tokenizer.get_chat_template()
            self.chat_template = with_fixed_clock(template, datetime.now().astimezone())

    def _generate_single_turn(self, *arguments: Any, **options: Any) -> Any:
        # `generate` takes what its own argument leaves open from the model's generation configuration: min_p, for
        # example, with which the policy that samples is not the one that is scored.
        model = self.accelerator.unwrap_model(self.model)
        model = model.get_base_model() if hasattr(model, "get_base_model") else model
        with temporarily([(model, "generation_config", GenerationConfig())]):
            return super()._generate_single_turn(*arguments, **options)

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: list[list[int]]
    ) -> Tensor:
        ended = [ids[-1] in self.eos_token_ids for ids in completion_ids_list]
        rows = [ids[:-1] if end else ids for ids, end in zip(completion_ids_list, ended, strict=True)]
        completions = _as_written(completions, decode(self._tokenizer, rows))
        self._complete = torch.tensor(ended)
        self._rewards: Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if any(isinstance(function, torch.nn.Module) for function in self.reward_funcs):
            # A reward model would read a special token in a completion as one, such as the start of another turn.
            special = set(self._tokenizer.all_special_ids)
            has_special = torch.tensor([not special.isdisjoint(row) for row in rows], device=self._rewards.device)
            self._rewards = self._rewards.masked_fill(self.accelerator.gather(has_special).unsqueeze(-1), math.nan)
        return self._rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        # With a beta other than 0, TRL computes the reference's log-probabilities here, but also adds a KL term to
        # the loss later on.
        self.beta = self.args.mara_beta
        try:
            batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        finally:
            self.beta = 0.0
        advantages = self._mara_advantages(batch)
        count = len(batch["advantages"])
        rank = self.accelerator.process_index
        batch["advantages"] = advantages[rank * count : (rank + 1) * count]
        logged = self._logs["advantages"]
        earlier = list(logged)[: -len(advantages)]
        logged.clear()
        logged.extend([*earlier, *advantages.tolist()])
        return batch

    def _mara_advantages(self, batch: dict[str, Any]) -> Tensor:
        """Advantages [N] of all processes' completions, because a group may span several; logs the metrics."""
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
            raise ValueError(f"rewards must be finite, or None to exclude a completion, got {reward}")
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
            if value.isfinite():  # TRL logs the mean over the steps of an interval, which one NaN would hide
                self._metrics["train" if training else "eval"][name].append(float(value))
        # TRL's loss is the mean of -A log pi(y) over all N rows, the objective's over the valid ones.
        return -gradient.flatten() * gradient.numel()

    def _policy_logp(self, batch: dict[str, Any]) -> Tensor:
        """[B, T] log-probabilities under the policy that sampled, nats. TRL computes them only if it needs them."""
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
        """TRL's loss without the constant by which dr_grpo divides the sum over tokens."""
        return super()._compute_loss(model, inputs) * self.max_completion_length


def _end_where_turns_end(trainer: MaraGRPOTrainer) -> None:
    """End completions also at the token that ends a turn in the chat template, as `python -m llm` does.

    Raises:
        ValueError: the model's generation configuration has stop strings, which TRL does not support; or vLLM, which
            reads the model's files itself, would not end completions there.
    """
    switches: Any = trainer.chat_template_kwargs
    stops = find_stops(trainer._tokenizer, trainer.model.config, trainer.model.generation_config, switches)
    if stops.strings:
        raise ValueError(f"stop_strings: must be None in the model's generation_config, got {list(stops.strings)}")
    unknown = [token for token in stops.ids if token not in trainer.eos_token_ids]
    if unknown and trainer.use_vllm:
        raise ValueError(
            "use_vllm: vLLM does not end completions where the chat template ends a turn; add token "
            f"{trainer._tokenizer.convert_ids_to_tokens(unknown[0])} to eos_token_id of the model's generation_config"
        )
    trainer.eos_token_ids = [*trainer.eos_token_ids, *unknown]
    if not trainer.use_vllm:
        trainer.generation_config.eos_token_id = trainer.eos_token_ids


def _as_written(completions: list[Any], texts: list[str]) -> list[Any]:
    """TRL's completions with their exact texts. TRL leaves special tokens out of what reward functions are given."""
    if isinstance(completions[0], str):
        return texts
    written = []
    for completion, text in zip(completions, texts, strict=True):
        plain = [set(turn) == {"role", "content"} for turn in completion] == [True]  # not parsed into several parts
        written.append([{**completion[0], "content": text}] if plain else completion)
    return written


def _check_model(trainer: MaraGRPOTrainer) -> None:
    """Raise ValueError if the log-probabilities would not be those of the distribution that is sampled."""
    if trainer.tools or trainer._is_vlm:
        raise ValueError("tools: MaraGRPOTrainer supports neither tools nor images")
    if trainer.aux_loss_enabled:
        raise ValueError("router_aux_loss_coef: must be 0.0 with MARA (an additional loss moves the optimum)")
    config = trainer.model.config.get_text_config()
    layers = [module.p for module in trainer.model.modules() if isinstance(module, torch.nn.Dropout)]
    if rate := max([*layers, getattr(config, "attention_dropout", 0.0) or 0.0]):
        raise ValueError(
            "disable_dropout: must be True with MARA, and the model's attention_dropout 0.0 (the policy that samples "
            f"must be the one that is scored), got a dropout rate of {rate}"
        )
