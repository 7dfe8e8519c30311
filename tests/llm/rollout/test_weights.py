"""The policy as files: what a server loads is what the policy computes."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from conf.schema.base import ConfigError
from llm.rollout.weights import WeightFolder

IDS = torch.arange(20).unsqueeze(0)


def test_a_model_is_written_with_its_output_embedding(models, make_config, tmp_path):
    """Also where it is tied: vLLM on a CPU keeps a copy of a tied one, which it does not renew."""
    policy = models.policy
    policy.get_output_embeddings().weight = policy.get_input_embeddings().weight
    policy.config.tie_word_embeddings = True
    folder = WeightFolder(tmp_path, make_config("threads=null").model, models)
    for _ in range(2):
        with torch.no_grad():
            policy.get_input_embeddings().weight.mul_(0.5)
        path = folder.write(policy, "w-1")
    assert path == folder.path_of("w-2")  # one folder for all versions
    names = {name for file in tmp_path.rglob("*.safetensors") for name in load_file(file)}
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= names
    assert json.loads((tmp_path / "model" / "config.json").read_text())["tie_word_embeddings"] is False
    loaded = AutoModelForCausalLM.from_pretrained(path)
    assert loaded.get_output_embeddings().weight is not loaded.get_input_embeddings().weight
    with torch.no_grad():
        torch.testing.assert_close(loaded(IDS).logits, policy(IDS).logits)
    assert policy.config.tie_word_embeddings  # the policy is as it was
    assert len(AutoTokenizer.from_pretrained(path)) == len(models.tokenizer)


def test_a_model_that_is_not_tied_is_written_as_it_is(models, make_config, tmp_path):
    head = models.policy.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach() * 2)
    models.policy.config.tie_word_embeddings = False
    path = WeightFolder(tmp_path, make_config("threads=null").model, models).write(models.policy, "w-1")
    loaded = AutoModelForCausalLM.from_pretrained(path)
    with torch.no_grad():
        torch.testing.assert_close(loaded(IDS).logits, models.policy(IDS).logits)


def test_an_adapter_has_a_folder_for_each_version(models, make_config, tmp_path, model_folder, monkeypatch):
    peft = pytest.importorskip("peft")
    from llm.adapters import add_adapter

    model = make_config("threads=null", "model.lora.rank=2", f"model.name_or_path={model_folder}").model
    add_adapter(models.policy, model.lora, 0)
    with torch.no_grad():
        for name, parameter in models.policy.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
    (tmp_path / "shm").mkdir()
    folder = WeightFolder(tmp_path / "shm", model, models)
    assert folder.write_base(models.policy) == model_folder
    paths = [folder.write(models.policy, version) for version in ("a-1", "a-2")]
    assert paths == [folder.path_of("a-1"), folder.path_of("a-2")]
    loaded = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder), paths[1])
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=IDS).logits, models.policy(IDS).logits, atol=1e-4, rtol=1e-4)
    folder.drop("a-1")
    folder.drop(None)
    assert sorted(path.name for path in (tmp_path / "shm").iterdir()) == ["a-2"]
    monkeypatch.setattr("llm.rollout.weights.adapter_base", lambda name: "other")
    with pytest.raises(ConfigError, match=r"model\.name_or_path: must be a whole model with rollout=vllm and"):
        folder.write_base(models.policy)
