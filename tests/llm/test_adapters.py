"""Adapters: their reference is the base model, and they are exported alone and merged."""

import sys

import pytest
import torch
from transformers import AutoModelForCausalLM

from conf.schema.base import ConfigError
from core.objective import make_objective
from launch.engines.factory import make_engine
from llm.adapters import add_adapter
from llm.batch import BatchSettings, draw_batch
from llm.inference.logprobs import completion_logp
from llm.inference.norms import fuse_rms_norms
from llm.models import load_models, save_policy
from llm.train import make_learner, train_step

SMALL = ("group_size=6", "prompts_per_step=3", "max_new_tokens=6", "steps=3", "threads=null", "optimizer.lr=.01")
LORA = ("model.lora.rank=2", "model.lora.alpha=4")


def logp(model, completions):
    with torch.no_grad():
        return completion_logp(model, *completions)


def step_of_loaded_models(config, task):
    """A training step of the models that `load_models` returns; the models and what the step reports."""
    models = load_models(config.model, config.seed)
    engine = make_engine("torch", models.policy, config.optimizer, config.steps)
    objective = make_objective(**config.objective_arguments())
    batch = draw_batch(BatchSettings.from_config(config), models, task, 0)
    return models, train_step(make_learner(config, task, models, engine), objective, batch, config.objective.beta)


def test_an_adapters_reference_is_the_base(model_folder, completions, odd_length, make_config):
    """One copy of the weights: the policy changes, and with its adapter off it computes what the base model does."""
    config = make_config(*SMALL, *LORA, f"model.name_or_path={model_folder}")
    plain = AutoModelForCausalLM.from_pretrained(model_folder)
    untouched = logp(plain, completions)
    assert fuse_rms_norms(plain)
    base = logp(plain, completions)
    torch.testing.assert_close(base, untouched, rtol=0, atol=1e-5)
    models, result = step_of_loaded_models(config, odd_length)
    assert models.reference is None
    with models.as_reference(models.policy) as reference:
        assert torch.equal(logp(reference, completions), base)
    assert (logp(models.policy, completions) - base).abs().max() > 1e-3  # control: the step changed the policy
    assert float(result.metrics["kl/reverse_nats"]) == pytest.approx(0.0, abs=1e-6)  # measured before the update
    trained = {name for name, p in models.policy.named_parameters() if p.requires_grad}
    assert trained
    assert all(".lora_" in name for name in trained)
    before = load_models(config.model, config.seed).reference_hash()
    assert models.reference_hash() == before


def test_an_adapter_is_exported_merged_and_alone(model_folder, completions, odd_length, make_config, tmp_path):
    from peft import PeftModel

    config = make_config(*SMALL, *LORA, f"model.name_or_path={model_folder}")
    models, _ = step_of_loaded_models(config, odd_length)
    trained = logp(models.policy, completions)
    save_policy(models.policy, models.tokenizer, config.model, tmp_path)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert type(merged) is type(AutoModelForCausalLM.from_pretrained(model_folder))
    torch.testing.assert_close(logp(merged, completions), trained, atol=1e-5, rtol=1e-5)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder), tmp_path / "adapter")
    torch.testing.assert_close(logp(adapted.get_base_model(), completions), trained, atol=1e-6, rtol=1e-6)
    base = logp(AutoModelForCausalLM.from_pretrained(model_folder), completions)
    assert (base - trained).abs().max() > 1e-3  # control


def test_without_peft_the_error_says_what_to_install(random_model, make_config, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"^model\.lora\.rank: LoRA needs peft, .*: pip install -e \.\[lora\]$"):
        add_adapter(random_model, make_config(*LORA).model.lora, seed=0)


def test_an_adapter_depends_on_the_seed_and_names_layers(model_folder, make_config):
    config = make_config(*LORA, f"model.name_or_path={model_folder}")

    def first_weights(seed):
        policy = load_models(config.model, seed).policy
        return torch.cat([p.detach().flatten() for name, p in policy.named_parameters() if ".lora_A" in name])

    assert torch.equal(first_weights(0), first_weights(0))
    assert not torch.equal(first_weights(0), first_weights(1))
    for targets, message in (("nothing", "must name layers"), ("lm_head", "must not include the output embedding")):
        bad = make_config(*LORA, f"model.lora.target_modules=[{targets}]", f"model.name_or_path={model_folder}")
        with pytest.raises(ConfigError, match=rf"^model\.lora\.target_modules: {message}"):
            load_models(bad.model)
