"""The losses of TRL's trainers, called on batches of a table in place of a model."""

from collections import defaultdict
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from trl import GRPOTrainer, RLOOTrainer
from trl.experimental.a2po import A2POTrainer
from trl.experimental.gmpo import GMPOTrainer

from benchmarks.kl_conformance.problem import Batch

WIDE = 1e9  # a clip range that does not clip
LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo")


class _Accelerator:
    """One process."""

    device = torch.device("cpu")
    num_processes, process_index, sync_gradients = 1, 0, True

    def gather(self, value: Tensor) -> Tensor:
        return value

    gather_for_metrics = gather

    def reduce(self, value: Tensor, reduction: str) -> Tensor:
        return value


def _trainer(batch: Batch, args: dict[str, Any], **attributes: Any) -> Any:
    """What the losses read of a trainer and its configuration; TRL's defaults, without clipping."""
    defaults = {
        "delta": None,
        "steps_per_generation": 1,
        "per_device_train_batch_size": len(batch.tokens),
        "gradient_checkpointing_kwargs": None,
        "sapo_temperature_pos": 1.0,
        "sapo_temperature_neg": 1.05,
        "vespo_k_pos": 2.0,
        "vespo_lambda_pos": 3.0,
        "vespo_k_neg": 3.0,
        "vespo_lambda_neg": 2.0,
    }
    shared = {
        "args": SimpleNamespace(**defaults | args),
        "model": SimpleNamespace(training=True),
        "accelerator": _Accelerator(),
        "beta": batch.beta,
        "epsilon_low": WIDE,
        "epsilon_high": WIDE,
        "max_completion_length": batch.tokens.shape[1],
        "current_gradient_accumulation_steps": 1,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "aux_loss_enabled": False,
        "use_vllm": False,
        "_entropy_bonus_enabled": False,
        "_metrics": defaultdict(lambda: defaultdict(list)),
        "get_gamma_weights": GRPOTrainer.get_gamma_weights,
        "_get_per_token_logps_and_entropies": partial(_logps, batch.policy_logp),
    }
    return SimpleNamespace(**shared | attributes)


def _logps(logp: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor, None]:
    """Log-probabilities, entropies and the router's loss, as a forward pass returns them."""
    return logp, torch.zeros_like(logp.detach()), None


def _inputs(batch: Batch) -> dict[str, Any]:
    prompt = torch.zeros(len(batch.tokens), 1, dtype=torch.long)
    return {
        "prompt_ids": prompt,
        "prompt_mask": prompt + 1,
        "completion_ids": batch.tokens,
        "completion_mask": batch.mask.long(),
        "advantages": batch.advantage,
        "old_per_token_logps": batch.old_logp,
        "ref_per_token_logps": batch.ref_logp,
        "num_items_in_batch": torch.tensor(batch.mean_length * len(batch.tokens), dtype=batch.old_logp.dtype),
    }


def grpo_loss(
    batch: Batch, *, loss_type: str, use_bias_correction_kl: bool, importance_sampling_level: str
) -> Tensor:
    """`GRPOTrainer._compute_loss`, a sum over tokens where TRL divides it by a number that is the same for all.

    That number is `max_completion_length` for dr_grpo and, for dapo, cispo and vespo, the count of tokens of the
    whole batch per completion, which is given as its mean. bnpo divides by the count of the batch at hand, and is
    multiplied by the mean.
    """
    trainer = _trainer(
        batch,
        {"use_bias_correction_kl": use_bias_correction_kl},
        loss_type=loss_type,
        importance_sampling_level=importance_sampling_level,
    )
    loss: Tensor = GRPOTrainer._compute_loss(trainer, trainer.model, _inputs(batch))
    if loss_type == "dr_grpo":
        return loss * trainer.max_completion_length
    if loss_type in ("dapo", "cispo", "vespo", "bnpo"):
        return loss * batch.mean_length
    return loss


def gmpo_loss(batch: Batch) -> Tensor:
    """`GMPOTrainer._compute_loss`."""
    trainer = _trainer(batch, {})
    loss: Tensor = GMPOTrainer._compute_loss(trainer, trainer.model, _inputs(batch))
    return loss


def rloo_loss(batch: Batch) -> Tensor:
    """`RLOOTrainer._generate_and_score_completions`, which has the KL in the reward, then its `_compute_loss`."""
    model, reference = SimpleNamespace(training=True, is_gradient_checkpointing=False), object()
    lengths = batch.mask.sum(-1).tolist()
    completions = [row[:length] for row, length in zip(batch.tokens.tolist(), lengths, strict=True)]
    logs: Any = defaultdict(list, rewards=defaultdict(list), extra=defaultdict(list))

    def score(scored: object, *_: Any, **__: Any) -> tuple[Tensor, Tensor, None]:
        return _logps(batch.ref_logp if scored is reference else batch.old_logp)

    scoring = _trainer(
        batch,
        {},
        model=model,
        ref_model=reference,
        num_generations=batch.group,
        reward_weights=torch.ones(1, dtype=batch.reward.dtype),
        reward_clip_range=None,
        normalize_advantages=False,
        mask_truncated_completions=False,
        pad_to_multiple_of=None,
        reward_func_names=["reward"],
        log_multimodal=False,
        _tokenizer=SimpleNamespace(pad_token_id=0),
        _logs=logs,
        _pending_extra_logs={},
        _pending_metrics={},
        _generate=lambda prompts: ([[0]] * len(prompts), completions, [""] * len(prompts)),
        _calculate_rewards=lambda *_: batch.reward[:, None],
        _get_per_token_logps_and_entropies=score,
    )
    inputs = RLOOTrainer._generate_and_score_completions(scoring, [{"prompt": ""}] * len(completions))
    trainer = _trainer(batch, {})
    loss: Tensor = RLOOTrainer._compute_loss(trainer, model, inputs)
    return loss


def a2po_loss(batch: Batch) -> Tensor:
    """`A2POTrainer.compute_loss` over 2 beta2, with the exact V* of `beta1 = beta2`."""
    seq_logp = batch.policy_logp.sum(-1)
    trainer = _trainer(batch, {"beta2": batch.beta}, _get_sequence_logps=lambda *_: seq_logp)
    fields = dict.fromkeys(("input_ids", "attention_mask", "logits_to_keep"))
    inputs = {"ref_logps": batch.ref_logp.sum(-1), "rewards": batch.reward, "v_star": batch.value}
    loss: Tensor = A2POTrainer.compute_loss(trainer, trainer.model, fields | inputs)
    return loss / (2 * batch.beta)
