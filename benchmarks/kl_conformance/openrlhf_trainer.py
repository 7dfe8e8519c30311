"""OpenRLHF's KL in the loss and in the reward, called on batches of a table in place of a model."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.kl_conformance.problem import Batch
from benchmarks.kl_conformance.stand_ins import load

WIDE = 1e9  # a clip range that does not clip


class _Experience(SimpleNamespace):
    """The fields that are used; all others are None."""

    def __getattr__(self, name: str) -> None:
        return None


class OpenRLHF:
    """OpenRLHF's functions, imported from a folder or from the path."""

    def __init__(self, folder: Path | None = None) -> None:
        modules = "models.utils", "models.loss", "trainer.ray.ppo_actor", "trainer.ppo_utils.experience_maker"
        self.utils, self.loss, self.ppo_actor, self.experience_maker = load("openrlhf", *modules, folder=folder)

    def loss_kl(self, batch: Batch, *, estimator: str, unbiased_gradient: bool, loss_agg_mode: str) -> Tensor:
        """`ActorPPOTrainer.training_step` with `--algo.kl.use_loss`."""
        kl = SimpleNamespace(use_loss=True, init_coef=1.0, estimator=estimator, unbiased_gradient=unbiased_gradient)
        return self._training_step(batch, batch.advantage[:, None] * batch.mask, loss_agg_mode, kl)

    def reward_kl(self, batch: Batch, *, estimator: str, adv_estimator: str, loss_agg_mode: str) -> Tensor:
        """`RemoteExperienceMaker.compute_advantages_and_returns`, then `ActorPPOTrainer.training_step`."""
        args = SimpleNamespace(
            rollout=SimpleNamespace(n_samples_per_prompt=batch.group),
            algo=SimpleNamespace(
                kl=SimpleNamespace(use_loss=False),
                advantage=SimpleNamespace(estimator=adv_estimator, gamma=1.0, lambd=1.0, no_std_norm=True),
            ),
            reward=SimpleNamespace(clip_range=None, overlong_buffer_len=None, stop_properly_penalty_coef=None),
        )
        maker_type = self.experience_maker.RemoteExperienceMaker
        maker = SimpleNamespace(
            strategy=SimpleNamespace(args=args),
            advantage_estimator=adv_estimator,
            kl_ctl=SimpleNamespace(value=batch.beta),
            get_cumulative_returns=lambda *given: maker_type.get_cumulative_returns(None, *given),
        )
        with _float64():
            experience = _Experience(
                rewards=batch.reward,
                index=list(range(len(batch.tokens))),
                info={},
                action_mask=batch.mask,
                kl=self.utils.compute_approx_kl(batch.old_logp, batch.ref_logp, kl_estimator=estimator),
            )
            maker_type.compute_advantages_and_returns(maker, [experience])
        return self._training_step(batch, experience.advantages, loss_agg_mode, args.algo.kl)

    def _training_step(self, batch: Batch, advantages: Tensor, loss_agg_mode: str, kl: SimpleNamespace) -> Tensor:
        """The loss of `training_step` times the mean count of tokens, so that the KL term is a sum over tokens.

        That term is divided by the count of tokens of the whole batch, which is given as its mean, with every
        `loss_agg_mode`; the policy's term is with token-mean.
        """
        losses: list[Tensor] = []
        strategy = SimpleNamespace(
            ring_attn_group=None,
            backward=lambda loss, *_: losses.append(loss),
            optimizer_step=lambda *_, **__: None,
            get_grad_norm=lambda _: 0.0,
        )
        actor = mock.Mock(side_effect=lambda *_, **__: (batch.policy_logp, None))
        args = SimpleNamespace(
            algo=SimpleNamespace(kl=kl),
            actor=SimpleNamespace(entropy_coef=None),
            train=SimpleNamespace(dynamic_batch_enable=False),
        )
        trainer = SimpleNamespace(
            actor=actor,
            args=args,
            strategy=strategy,
            actor_loss_fn=self.loss.PolicyLoss(WIDE, WIDE, token_level_loss=loss_agg_mode == "token-mean"),
            aux_loss=False,
            ema_model=None,
            actor_optim=None,
            actor_scheduler=SimpleNamespace(get_last_lr=lambda: [0.0]),
        )
        experience = _Experience(
            action_mask=batch.mask,
            action_log_probs=batch.old_logp,
            base_action_log_probs=batch.ref_logp,
            advantages=advantages,
            info={},
        )
        count = len(batch.tokens)
        totals: dict[str, Any] = {"batch_num_tokens": batch.mean_length * count, "global_batch_size": count}
        with _float64():
            self.ppo_actor.ActorPPOTrainer.training_step(trainer, experience, batch.beta, 0, {"dp_size": 1, **totals})
        return losses[0] * batch.mean_length


def _float64() -> Any:
    """Keep float64 where the functions convert to float32."""
    return mock.patch.object(torch.Tensor, "float", lambda self: self.double())
