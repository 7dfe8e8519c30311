"""verl's trainer with MARA's facts: what the estimator finds while the advantages of a batch are computed."""

import importlib
import sys
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

if find_spec("verl") is None:
    pytest.skip("verl is not on the path", allow_module_level=True)

from benchmarks.kl_conformance.stand_ins import load

load("verl", "trainer.ppo.core_algos")
mara_verl: Any = importlib.import_module("core.integrations.verl")


class StandInTrainer:
    """In place of PPOTrainerSync, which needs a cluster."""

    seen: Any = None

    def _compute_advantage(self, batch, metrics):
        self.seen = mara_verl._facts.get()
        return batch


@pytest.fixture
def trainer_class(monkeypatch):
    registry: dict[str, Any] = {}
    v1: Any = ModuleType("verl.trainer.ppo.v1")
    queue: Any = ModuleType("transfer_queue")
    v1.PPOTrainerSync = StandInTrainer
    v1.register_trainer = lambda name: lambda cls: registry.setdefault(name, cls)
    queue.kv_batch_get = lambda keys, partition_id, select_fields: keys
    monkeypatch.setitem(sys.modules, "verl.trainer.ppo.v1", v1)
    monkeypatch.setitem(sys.modules, "transfer_queue", queue)
    monkeypatch.delitem(sys.modules, "core.integrations.verl_trainer", raising=False)
    importlib.import_module("core.integrations.verl_trainer")
    return registry["mara_sync"]


def batch_of(*infos):
    extra = np.array([{"reward_extra_info": info} for info in infos], dtype=object)
    prompts = torch.nested.nested_tensor([torch.tensor([1, 2]), torch.tensor([3])])
    return SimpleNamespace(keys={"extra_fields": extra, "prompts": prompts}, partition_id="train")


def test_answers_and_prompts_are_known_while_advantages_are_computed(trainer_class):
    trainer: Any = trainer_class()
    metrics: dict[str, Any] = {}
    batch = batch_of({"score": 1.0, "answer": 7}, {"score": 0.0, "answer": "b"})
    assert trainer._compute_advantage(batch, metrics) is batch
    assert trainer.seen.answers == ["7", "b"]
    assert trainer.seen.prompts == [[1, 2], [3]]
    assert trainer.seen.metrics is metrics
    assert mara_verl._facts.get() is None  # afterwards


def test_without_answers_there_are_none(trainer_class):
    trainer = trainer_class()
    trainer._compute_advantage(batch_of({"score": 1.0}, {"score": 0.0, "answer": "b"}), {})
    assert trainer.seen.answers is None
