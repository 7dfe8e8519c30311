"""Small models made here: random weights where only equality matters, the pretrained tiny one where answers do."""

from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from llm.testbed.tiny_models import byte_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture
def random_model(tokenizer):
    """A random Qwen3 with the byte vocabulary, sharp enough to have preferences."""
    return make_model("qwen3", len(tokenizer))


def make_model(kind, vocab_size):
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    if kind == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4}
    if kind in ("qwen3", "gemma2"):
        sizes |= {"num_key_value_heads": 2, "head_dim": 8}
    if kind in ("qwen2", "mistral", "olmo2", "qwen3_moe"):
        sizes |= {"num_key_value_heads": 2}
    if kind == "llama-bias":
        kind, sizes = "llama", sizes | {"attention_bias": True, "num_key_value_heads": 1}
    if kind == "qwen3_moe":
        sizes |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
    config = AutoConfig.for_model(
        kind, vocab_size=vocab_size, bos_token_id=0, eos_token_id=1, pad_token_id=2, **sizes
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
    return model


@pytest.fixture
def build_model():
    return make_model


@pytest.fixture(scope="session")
def tiny_folder():
    """The pretrained tiny model, built once for the session."""
    from llm.testbed.tiny_models import tiny_model

    return tiny_model()


@pytest.fixture
def make_config():
    """A typed llm configuration, from the shipped files and overrides."""
    from hydra import compose, initialize_config_module

    from launch.cli.validation import register

    register("llm")

    def make(*overrides):
        with initialize_config_module("conf.llm", version_base="1.3"):
            return OmegaConf.to_object(compose("config", overrides=list(overrides)))

    return make


@pytest.fixture
def models(random_model, tokenizer):
    import copy

    from llm.models import Models

    reference = copy.deepcopy(random_model).requires_grad_(False)
    return Models(random_model, reference, tokenizer, torch.tensor([tokenizer.eos_token_id]), tokenizer.pad_token_id)


@pytest.fixture
def two_letters():
    """A task whose right answers a random model hits: completions that hold the letter a or b."""
    from llm.tasks.base import Task

    class TwoLetters(Task):
        def prompts(self):
            return [[{"role": "user", "content": text}] for text in ("hi", "longer question", "x")]

        def reward(self, prompt, completion):
            return float(len(completion) % 2)

    return SimpleNamespace(task=TwoLetters())
