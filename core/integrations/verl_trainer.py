"""verl's trainer `mara_sync`: the synchronous one, which also gives MARA the answers and the prompts of a batch.

It is needed for what MARA remembers of prompts, and for MARA over answers. MARA's metrics are logged with verl's.
"""

from typing import Any

import transfer_queue as tq
from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer

from .verl import StepFacts, step_facts


@register_trainer("mara_sync")
class MaraTrainerSync(PPOTrainerSync):
    """The synchronous trainer of verl 0.9 with `StepFacts` for the estimator `mara`."""

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        fields = ["prompts", "extra_fields"]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
        infos = [(fields or {}).get("reward_extra_info", {}) for fields in data["extra_fields"].tolist()]
        answers = None if any("answer" not in info for info in infos) else [str(info["answer"]) for info in infos]
        prompts = [ids.tolist() for ids in data["prompts"].unbind()]
        with step_facts(StepFacts(answers, prompts, metrics)):
            return super()._compute_advantage(batch, metrics)
