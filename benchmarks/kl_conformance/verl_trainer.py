"""verl's KL in the loss and in the reward, called on batches of a table in place of a model."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from benchmarks.kl_conformance.problem import Batch
from benchmarks.kl_conformance.stand_ins import load

WIDE = 1e9  # a clip range that does not clip
ESTIMATORS = ("kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3")


class _Padded(dict[str, Any]):
    """The part of a TensorDict that the functions read."""

    batch_size: tuple[int, ...] = ()

    def select(self, *names: str) -> "_Padded":
        return _Padded({name: self[name] for name in names})

    def to_padded_tensor(self) -> "_Padded":
        return self


class _Config(SimpleNamespace):
    def get(self, name: str, default: Any = None) -> Any:
        return getattr(self, name, default)


class Verl:
    """verl's functions, imported from a folder or from the path."""

    def __init__(self, folder: Path | None = None) -> None:
        modules = "trainer.ppo.core_algos", "workers.utils.losses", "trainer.ppo.ray_trainer"
        self.core_algos, self.losses, self.ray_trainer = load("verl", *modules, folder=folder)

    def loss_kl(self, batch: Batch, *, kl_loss_type: str, loss_agg_mode: str) -> Tensor:
        """`ppo_loss` with `use_kl_loss`."""
        advantages = batch.advantage[:, None] * batch.mask
        return self._ppo_loss(batch, advantages, loss_agg_mode, kl_loss_type)

    def reward_kl(
        self, batch: Batch, *, kl_penalty: str, adv_estimator: str, loss_agg_mode: str, by_std: bool = False
    ) -> Tensor:
        """`apply_kl_penalty`, `compute_advantage`, then `ppo_loss` without a KL of its own."""
        last = batch.mask.sum(-1, keepdim=True) - 1
        scores = torch.zeros_like(batch.old_logp).scatter(1, last, batch.reward[:, None])
        count = len(batch.tokens)
        fields = _Padded(
            response_mask=batch.mask.long(),
            token_level_scores=scores,
            old_log_probs=batch.old_logp,
            ref_log_prob=batch.ref_logp,
            reward_baselines=batch.reward - batch.advantage,
        )
        fields.batch_size = (count,)
        data = SimpleNamespace(batch=fields, non_tensor_batch={"uid": np.arange(count) // batch.group})
        controller = self.core_algos.FixedKLController(batch.beta)
        data, _ = self.ray_trainer.apply_kl_penalty(data, controller, kl_penalty)
        data = self.ray_trainer.compute_advantage(data, adv_estimator, norm_adv_by_std_in_grpo=by_std, config={})
        return self._ppo_loss(batch, data.batch["advantages"], loss_agg_mode, None)

    def _ppo_loss(self, batch: Batch, advantages: Tensor, loss_agg_mode: str, kl_loss_type: str | None) -> Tensor:
        """`ppo_loss`, a sum over tokens where verl divides it by a number that is the same for all completions."""
        config = _Config(
            loss_agg_mode=loss_agg_mode,
            global_batch_info={},
            loss_scale_factor=None,
            policy_loss={"loss_mode": "vanilla"},
            clip_ratio=WIDE,
            clip_ratio_low=WIDE,
            clip_ratio_high=WIDE,
            clip_ratio_c=WIDE,
            use_kl_loss=kl_loss_type is not None,
            kl_loss_type=kl_loss_type,
            kl_loss_coef=batch.beta,
        )
        count = len(batch.tokens)
        data = _Padded(
            dp_size=1,
            batch_num_tokens=batch.mean_length * count,
            global_batch_size=count,
            response_mask=batch.mask,
            old_log_probs=batch.old_logp,
            advantages=advantages,
            ref_log_prob=batch.ref_logp,
        )
        with mock.patch.object(self.losses, "no_padding_2_padding", lambda value, _: value):
            loss, _ = self.losses.ppo_loss(config, {"log_probs": batch.policy_logp}, data)
        constant = {
            "token-mean": batch.mean_length,
            "token-sum": 1 / count,
            "seq-mean-token-sum-norm": float(batch.tokens.shape[1]),
        }
        return constant.get(loss_agg_mode, 1.0) * loss
