"""The tokens that end a completion, from a model's files. The clock: tests/llm/inference/test_prompts.py."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("transformers", reason="needs transformers")

from transformers import GenerationConfig, Qwen3Config

from core.integrations.model_files import Stops, end_of_turn, find_stops, ids_of

TURN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}END{% endfor %}"
ASSISTANT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def with_template(tokenizer, template, **attributes):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template
    for name, value in attributes.items():
        setattr(tokenizer, name, value)
    return tokenizer


def config(**ids):
    return Qwen3Config(**{"eos_token_id": None, **ids})


TEMPLATES = {  # what stands after a turn -> the token that ends it
    TURN.replace("END", "<|im_end|>\n"): "<|im_end|>",  # Qwen, Gemma
    TURN.replace("END", " <|im_end|>"): "<|im_end|>",  # Mistral
    TURN.replace("END", "<|im_end|>\n") + "{% if not add_generation_prompt %}<|endoftext|>{% endif %}": "<|im_end|>",
    TURN.replace("END", "{% if loop.last %}<|endoftext|>{% else %}<|im_end|>{% endif %}"): "<|endoftext|>",  # gpt-oss
    TURN.replace("END", ""): "<|im_start|>",  # GLM: a turn ends where the next one starts
    TURN.replace("END", "\n\n### next"): None,
    TURN.replace("END", "<|gone|>"): None,  # not a token
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}": None,
    "{{ raise_exception('only one turn') }}": None,
    TURN.replace("m.content", "m.content | trim").replace("END", "<|im_end|>"): "<|im_end|>",
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_end_of_a_turn_is_what_the_template_writes_after_it(tokenizer, template):
    expected = TEMPLATES[template]
    expected = None if expected is None else tokenizer.convert_tokens_to_ids(expected)
    assert end_of_turn(with_template(tokenizer, template + ASSISTANT)) == expected


def test_the_template_gets_its_keywords(tokenizer):
    template = TURN.replace("END", "{{ '<|im_end|>' if closed else '<|endoftext|>' }}")
    tokenizer = with_template(tokenizer, template)
    assert end_of_turn(tokenizer, {"closed": True}) == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert end_of_turn(with_template(tokenizer, None)) is None


def test_the_files_of_a_model_are_read_together(tokenizer):
    end, text, start = (
        tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("im_end", "endoftext", "im_start")
    )
    base = with_template(tokenizer, tokenizer.chat_template, eos_token="<|endoftext|>")
    several = GenerationConfig(eos_token_id=[text, end])  # Gemma 3, Phi-3.5
    one = GenerationConfig(eos_token_id=text)  # Qwen2.5-3B, whose template ends turns with another token
    assert find_stops(base, config(), several) == Stops([text, end], ())
    assert find_stops(base, config(), one) == Stops([text, end], (), end)
    assert find_stops(tokenizer, config(eos_token_id=7), GenerationConfig(eos_token_id=start)).ids == [start, end]
    assert find_stops(tokenizer, config(eos_token_id=7), GenerationConfig()).ids == [7, end]
    assert find_stops(tokenizer, config(eos_token_id=[7, 8]), None).ids == [7, 8, end]
    nothing = with_template(tokenizer, "{{ messages[-1].content }}", eos_token=None)
    assert find_stops(nothing, config(), GenerationConfig()) == Stops([], ())
    strings = GenerationConfig(stop_strings="\n\n")
    assert find_stops(nothing, config(), strings).strings == ("\n\n",)
    assert find_stops(nothing, config(), GenerationConfig(stop_strings=["a", "b"])).strings == ("a", "b")


def test_a_language_model_inside_another_model_names_its_own_end(tokenizer):
    from transformers import Gemma3Config

    nested: Any = Gemma3Config(text_config={"eos_token_id": 9})
    nested.eos_token_id = None
    assert find_stops(tokenizer, nested, None).ids == [9, tokenizer.eos_token_id]
    assert find_stops(
        tokenizer, SimpleNamespace(eos_token_id=8, get_text_config=nested.get_text_config), None
    ).ids == [
        8,
        tokenizer.eos_token_id,
    ]


def test_ids_are_given_in_several_forms():
    assert [ids_of(ids) for ids in (None, 0, [3, 4], (5,))] == [[], [0], [3, 4], [5]]
