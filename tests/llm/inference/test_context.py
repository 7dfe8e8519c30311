"""How many tokens a model can read, for all architectures, and the check of prompts before a run."""

import pytest
import torch
from transformers import AutoConfig, FalconConfig, Gemma3Config, GPT2Config, LlamaConfig, MptConfig, Qwen3Config
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from conf.schema.base import ConfigError
from llm.inference.context import check_context, context_length
from llm.inference.prompts import encode_chats
from llm.inference.rope import rope_parameters

from ..helpers import user_chat

WITHOUT_LIMIT = {  # state space models, recurrences, and ALiBi
    *("mamba", "mamba2", "falcon_mamba", "xlstm", "recurrent_gemma", "bloom", "cpmant", "xlnet"),
    *("gemma4_assistant", "gemma4_unified_assistant"),  # of transformers 5.17
}
QWEN = {"max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("config", "length"),
    [
        (GPT2Config(n_positions=64), 64),
        (MptConfig(max_seq_len=64), 64),
        (Qwen3Config(**QWEN), 64),
        (FalconConfig(**QWEN), 64),
        (FalconConfig(**QWEN, alibi=True), None),
        (Gemma3Config(text_config={"max_position_embeddings": 64}), 64 * 8),
        (Qwen3Config(**QWEN, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}), 256),
        (Qwen3Config(**QWEN, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}), 128),
    ],
)
def test_the_length_of_a_model(config, length):
    if isinstance(config, Gemma3Config):  # one mapping for each type of layer
        layers = {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}}
        config.text_config.rope_parameters = {**layers, "sliding_attention": {"rope_type": "default"}}
    assert context_length(config) == length


def test_yarn_extends_the_length_it_was_pretrained_with():
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6, "original_max_position_embeddings": 64}
    assert context_length(Qwen3Config(max_position_embeddings=64, rope_parameters=yarn)) == 256
    assert context_length(Qwen3Config(max_position_embeddings=256, rope_parameters=yarn)) == 256
    llama = {"rope_type": "llama3", "factor": 8.0, "rope_theta": 1e4, "original_max_position_embeddings": 64}
    llama |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    assert context_length(LlamaConfig(max_position_embeddings=512, rope_parameters=llama)) == 512
    assert rope_parameters(GPT2Config()) == [{}]


def test_every_architecture_has_a_length_or_is_known_to_have_none():
    unlimited, tried = set(), 0
    for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        try:
            config = AutoConfig.for_model(name)
        except Exception:  # some have no defaults
            continue
        tried += 1
        if context_length(config) is None:
            unlimited.add(name)
    assert tried > 100
    assert unlimited <= WITHOUT_LIMIT


@pytest.mark.parametrize("kind", ["gpt2", "mpt"])
def test_positions_beyond_the_length_do_not_exist(kind, tokenizer):
    from transformers import AutoModelForCausalLM

    sizes = {"gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2}, "mpt": {"d_model": 16, "n_layers": 1, "n_heads": 2}}
    length = {"gpt2": "n_positions", "mpt": "max_seq_len"}[kind]
    config = AutoConfig.for_model(kind, vocab_size=20, bos_token_id=0, eos_token_id=1, **sizes[kind], **{length: 8})
    model = AutoModelForCausalLM.from_config(config)
    limit = context_length(config)
    model(input_ids=torch.ones(1, limit, dtype=torch.long))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.ones(1, limit + 1, dtype=torch.long))


def test_the_longest_prompt_is_named_with_what_to_set(tokenizer):
    chats = [user_chat(text) for text in ("hi", "a much longer prompt, in\nseveral lines", "hello")]
    lengths = encode_chats(tokenizer, chats).mask.sum(-1).tolist()
    config, longest = Qwen3Config(max_position_embeddings=lengths[1] + 10), lengths[1]
    check_context(config, tokenizer, chats, 10)
    message = (
        rf"^max_new_tokens: prompt and completion must fit into the {longest + 10} positions of the model, got 11 "
        rf"tokens after the {longest} of prompt 1 \('a much longer prompt, in several lines'\); 1 of 3 prompts do "
        r"not fit: set max_new_tokens to 10 or less$"
    )
    with pytest.raises(ConfigError, match=message):
        check_context(config, tokenizer, chats, 11)
    with pytest.raises(ConfigError, match=r"3 of 3 prompts do not fit: leave out such prompts$"):
        check_context(Qwen3Config(max_position_embeddings=8), tokenizer, chats, 1)
    check_context(AutoConfig.for_model("mamba"), tokenizer, chats, 10**9)
    with pytest.raises(ConfigError, match=r"\('xxx[x]+\.\.\.'\)"):
        check_context(Qwen3Config(max_position_embeddings=8), tokenizer, [user_chat("x" * 500)], 1)


def test_rotary_positions_that_change_with_the_length_set_a_limit_as_well(tokenizer):
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 32}
    config = Qwen3Config(max_position_embeddings=128, rope_parameters=rope)
    used = encode_chats(tokenizer, [user_chat("hi")]).ids.shape[1]
    check_context(config, tokenizer, [user_chat("hi")], 32 - used)
    message = (
        r"^max_new_tokens: prompt and completion must fit into 32 tokens, past which the model changes the rotary"
    )
    with pytest.raises(ConfigError, match=message):
        check_context(config, tokenizer, [user_chat("hi")], 33 - used)
    plain = Qwen3Config(max_position_embeddings=128)  # control
    check_context(plain, tokenizer, [user_chat("hi")], 33 - used)


def test_keywords_of_the_template_count(tokenizer):
    chat, longer = user_chat("hi"), {"chat_template": tokenizer.chat_template + " think " * 9}
    plain = encode_chats(tokenizer, [chat]).ids.shape[1]
    config = Qwen3Config(max_position_embeddings=plain + 5)
    check_context(config, tokenizer, [chat], 5)
    with pytest.raises(ConfigError, match="must fit"):
        check_context(config, tokenizer, [chat], 5, longer)
