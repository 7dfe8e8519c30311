"""Small models: with random weights for tests of equality, and the trained tiny model for tests of answers."""

import pytest
import torch
from omegaconf import OmegaConf

from llm.testbed.tiny_models import byte_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture
def random_model(tokenizer):
    """A random Qwen3 with the byte vocabulary and a distribution far from uniform."""
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
    """Folder of the trained tiny model, built once per session."""
    from llm.testbed.tiny_models import tiny_model

    return tiny_model()


@pytest.fixture
def make_config():
    """Makes a typed llm configuration from the shipped files and overrides."""
    from hydra import compose, initialize_config_module

    from launch.cli.validation import register

    def make(*overrides):
        register("llm")
        with initialize_config_module("conf.llm", version_base="1.3"):
            return OmegaConf.to_object(compose("config", overrides=list(overrides)))

    return make


@pytest.fixture
def models(random_model, tokenizer):
    """A random policy and a reference with the same weights."""
    import copy

    from llm.models import Models

    reference = copy.deepcopy(random_model).requires_grad_(False)
    return Models(random_model, reference, tokenizer, torch.tensor([tokenizer.eos_token_id]), tokenizer.pad_token_id)


@pytest.fixture
def model_folder(random_model, tokenizer, tmp_path):
    """A random model and its tokenizer in the form that `from_pretrained` loads."""
    random_model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def completions(tokenizer):
    """Two prompts with two completions each: (prompts, tokens, mask)."""
    from llm.inference.prompts import encode_chats, pad_completions

    prompts = encode_chats(tokenizer, [[{"role": "user", "content": text}] for text in ("hi", "a longer one")])
    rows = [[9, 8, 7], [5], [50, 51, 52, 53, 54], [60, 61]]
    return prompts, *pad_completions(rows, tokenizer.pad_token_id)


@pytest.fixture
def odd_length():
    """A task that a random model solves now and then: completions with an odd number of characters."""
    from llm.tasks.base import Task

    class OddLength(Task):
        def prompts(self):
            return [[{"role": "user", "content": text}] for text in ("hi", "longer question", "x")]

        def reward(self, prompt, completion):
            return float(len(completion) % 2)

    return OddLength()
