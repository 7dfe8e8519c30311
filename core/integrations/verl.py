"""MARA in verl, through its registries: the advantage estimator `mara` and the policy loss `mara`.

verl imports the modules in the environment variable VERL_USE_EXTERNAL_MODULES wherever it runs:

    VERL_USE_EXTERNAL_MODULES=mara.integrations.verl python -m verl.trainer.main_ppo algorithm.adv_estimator=mara
        algorithm.use_kl_in_reward=True algorithm.kl_ctrl.kl_coef=0.03 +algorithm.mara.threshold=0.8
        actor_rollout_ref.actor.policy_loss.loss_mode=mara

The advantages are those of `core.objective` on whole groups, A = centred(R' - beta D'), the same for all tokens of a
completion. beta is `algorithm.kl_ctrl.kl_coef`. With `use_kl_in_reward` verl scores completions with the reference
and subtracts a KL term per token; the estimator starts again from the rewards without it.
"""

import sys
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..sequence import masked_sum
from .estimator import SETTINGS, MaraEstimator, MaraSettings, prompt_key

try:
    from verl.trainer.ppo import core_algos
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "verl":
        raise
    raise ImportError(f"{__name__}: verl is not installed: pip install 'verl>=0.9.1,<0.10'") from None

NAME = "mara"
KEYS = {*SETTINGS, "max_response_length"} - {"beta", "reference_quantile", "reference_samples"}
PREFIX = "algorithm.mara."
MARA_SYNC = "trainer.v1.trainer_mode=mara_sync, with mara.integrations.verl_trainer in VERL_USE_EXTERNAL_MODULES"
_estimators: dict[tuple[MaraSettings, int | None], MaraEstimator] = {}


class StepFacts(NamedTuple):
    """What a trainer of `verl_trainer` knows of a batch besides its tensors, and where it wants the metrics.

    Attributes:
        answers: of each completion; None: the reward function returns none.
        prompts: the token ids of each prompt.
        metrics: is filled in.
    """

    answers: Sequence[str] | None
    prompts: Sequence[Sequence[int]]
    metrics: dict[str, Any]


_facts: ContextVar[StepFacts | None] = ContextVar("facts", default=None)


@contextmanager
def step_facts(facts: StepFacts) -> Iterator[None]:
    """Context in which the estimator finds the facts of a batch."""
    token = _facts.set(facts)
    try:
        yield
    finally:
        _facts.reset(token)


def read_settings(config: Any) -> tuple[MaraSettings, int | None]:
    """The settings in verl's `algorithm` section, and `max_response_length`.

    Raises:
        ValueError: a key is unknown, or a key of verl or MARA has a value with which the optimum would not be MARA's.
    """
    given = dict(config.get("mara", None) or {})
    if unknown := sorted(given.keys() - KEYS):
        raise ValueError(f"{PREFIX}{unknown[0]}: no such key; the keys are {', '.join(sorted(KEYS))}")
    if not config.get("use_kl_in_reward", False):
        raise ValueError(
            "algorithm.use_kl_in_reward: must be True with adv_estimator=mara (verl then computes the reference's "
            "log-probabilities, and algorithm.kl_ctrl.kl_coef is MARA's beta), got False"
        )
    controller = config.get("kl_ctrl")
    if controller.get("type", "fixed") != "fixed":
        raise ValueError(f"algorithm.kl_ctrl.type: must be fixed with MARA, got {controller.get('type')}")
    if given.get("mass") == "reference":
        raise ValueError(
            f"{PREFIX}mass: must be remembered or group in verl, which samples no reference, got reference"
        )
    longest = given.pop("max_response_length", None)
    settings = MaraSettings(beta=float(controller.get("kl_coef")), **given)
    settings.check(PREFIX)
    return settings, longest


@core_algos.register_adv_est(NAME)
def mara_advantage(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: Sequence[Hashable] | None = None,
    config: Any = None,
    **unused: Any,
) -> tuple[Tensor, Tensor]:
    """Advantages of MARA for a batch of verl.

    Args:
        token_level_rewards: [B, T] with verl's KL term, which is not used.
        response_mask: [B, T], nonzero on completion tokens. A row without any does not count.
        index: the group of each completion, `uid` of the batch.
        config: the section `algorithm`.
        **unused: whatever else verl passes to every estimator.

    Returns:
        advantages and returns, [B, T] each, equal.

    Raises:
        ValueError: see `read_settings`; or the batch lacks what the settings need.
    """
    settings, longest = read_settings({} if config is None else config)
    batch, extra = _batch_of_caller()
    if index is None:
        raise ValueError("uid: the batch must have it, which says which completions are of one group")
    estimator = _estimators.setdefault((settings, longest), MaraEstimator(settings))
    mask = response_mask.bool()
    rows = groups_of(list(index))
    reward = batch["token_level_scores"].masked_fill(~mask, 0.0).sum(-1)
    if not bool(reward.isfinite().all()):
        raise ValueError(f"token_level_scores: rewards must be finite, got {reward.tolist()}")
    complete = torch.ones_like(reward, dtype=torch.bool) if longest is None else mask.sum(-1) < longest
    facts = _facts.get()
    grouped, metrics = estimator.advantages(
        *(
            rows.take(x)
            for x in (reward, *(_seq_logp(batch, name, mask) for name in ("old_log_probs", "ref_log_prob")))
        ),
        prompts=rows.first(_prompts(settings, batch, facts)),
        labels=rows.nested(_answers(settings, extra, facts, len(reward))),
        rows=int(mask.any(-1).sum()),
        valid=rows.take(mask.any(-1)) & rows.real.to(mask.device),
        complete=rows.take(complete),
    )
    if facts is not None:
        facts.metrics.update({name: float(value) for name, value in metrics.items() if value.isfinite()})
    advantages = rows.put(grouped).unsqueeze(-1) * mask
    return advantages, advantages


class Groups(NamedTuple):
    """The rows of a batch by group. Groups may differ in size; a short one is filled up with repeated rows.

    Attributes:
        rows: [P, G] long, the row of each member.
        real: [P, G] bool, False for what fills a group up.
    """

    rows: Tensor
    real: Tensor

    def take(self, value: Tensor) -> Tensor:
        """[B] -> [P, G]."""
        return value[self.rows.to(value.device)]

    def put(self, value: Tensor) -> Tensor:
        """[P, G] -> [B]."""
        real = self.real.to(value.device)
        out = value.new_zeros(int(real.sum()))
        out[self.rows.to(value.device)[real]] = value[real]
        return out

    def first(self, items: Sequence[str]) -> list[str]:
        """The item of each group's first row."""
        return [items[row] for row in self.rows[:, 0].tolist()]

    def nested(self, items: Sequence[str]) -> list[list[str]]:
        """The items of each group's rows."""
        return [[items[row] for row in rows] for rows in self.rows.tolist()]


def groups_of(index: Sequence[Hashable]) -> Groups:
    """The groups of a batch from the name of each row's group, in any order."""
    members: dict[Hashable, list[int]] = {}
    for row, name in enumerate(index):
        members.setdefault(name, []).append(row)
    size = max(map(len, members.values()))
    rows = [[*group, *group[:1] * (size - len(group))] for group in members.values()]
    real = [[position < len(group) for position in range(size)] for group in members.values()]
    return Groups(torch.tensor(rows), torch.tensor(real))


def _batch_of_caller() -> tuple[Any, Mapping[str, Any]]:
    """The tensors and the other columns of the batch.

    verl hands an estimator rewards, mask and group, but no log-probabilities and no answers. They are in the argument
    `data` of its function `compute_advantage`, which calls the estimator.
    """
    data = sys._getframe(2).f_locals.get("data")
    if data is None or not hasattr(data, "batch"):
        raise ValueError("adv_estimator: mara must be called by verl's compute_advantage(data, ...)")
    for name, why in (("old_log_probs", "the policy"), ("ref_log_prob", "the reference, from use_kl_in_reward=True")):
        if name not in data.batch:
            raise ValueError(f"{name}: the batch must have the log-probabilities of {why}")
    return data.batch, data.non_tensor_batch


def _seq_logp(batch: Any, name: str, mask: Tensor) -> Tensor:
    logp = batch[name]
    return masked_sum(logp.to(torch.promote_types(logp.dtype, torch.float32)), mask)  # bfloat16 is too coarse to sum


def _prompts(settings: MaraSettings, batch: Any, facts: StepFacts | None) -> list[str]:
    """The name of each completion's prompt, by which something is remembered over the steps."""
    count = len(batch["old_log_probs"])
    if facts is not None:
        return [prompt_key(list(ids)) for ids in facts.prompts]
    if "prompts" in batch:
        return [prompt_key(ids) for ids in batch["prompts"].tolist()]
    if settings.remembers_prompts:
        raise ValueError(
            f"{PREFIX}mass and {PREFIX}anchor: this trainer passes on no prompts, by which masses and anchors are "
            f"remembered; set {MARA_SYNC}, or {PREFIX}mass=group and {PREFIX}anchor=group"
        )
    return [""] * count


def _answers(settings: MaraSettings, extra: Mapping[str, Any], facts: StepFacts | None, count: int) -> list[str]:
    """The answer of each completion: `answer` in what the reward function returns beside the score."""
    if settings.level != "answer":
        return [""] * count
    answers = extra.get("answer") if facts is None else facts.answers
    if answers is None:
        raise ValueError(
            f"{PREFIX}level=answer: the reward function must return a dictionary with score and answer"
            + ("" if facts is not None else f", and this trainer must pass it on: {MARA_SYNC}")
        )
    return [str(answer) for answer in answers]


@core_algos.register_policy_loss(NAME)
def mara_policy_loss(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str = "token-mean",
    config: Any = None,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """verl's clipped policy loss as a sum over the tokens of each completion, whatever `loss_agg_mode` says.

    Dividing by lengths, or by the number of tokens of a batch, makes the effective beta depend on them.

    Raises:
        ValueError: `config` adds a KL or an entropy term to the loss.
    """
    for key, reason in (
        ("use_kl_loss", "the KL is in the reward, and a second one per token moves the optimum"),
        ("entropy_coeff", "an entropy bonus per token moves the optimum"),
    ):
        if config is not None and config.get(key, 0):
            raise ValueError(
                f"actor.{key}: must be {type(config.get(key))(0)} with MARA ({reason}), got {config.get(key)}"
            )
    loss, metrics = core_algos.get_policy_loss_fn("vanilla")(
        old_log_prob=old_log_prob,
        log_prob=log_prob,
        advantages=advantages,
        response_mask=response_mask,
        loss_agg_mode="seq-mean-token-sum",
        config=config,
        rollout_is_weights=rollout_is_weights,
    )
    return loss, metrics
