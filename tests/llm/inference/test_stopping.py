"""What ends a completion: found in a model's files, given by keys, and followed by the sampler."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, Qwen3Config
from transformers.generation import StopStringCriteria

from conf.schema.base import ConfigError
from llm.inference.decoder import PackedDecoder
from llm.inference.padded import PaddedDecoder
from llm.inference.prompts import encode_chats
from llm.inference.sampling import sample
from llm.inference.stopping import (
    Stops,
    StopStrings,
    decode,
    describe_stops,
    end_of_turn,
    find_stops,
    ids_of,
    text_before,
    token_id,
    truncation_warning,
)

from ..helpers import user_chat

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


# --- what is found -------------------------------------------------------------------------------------------

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


def test_only_what_is_out_of_the_ordinary_is_said(tokenizer):
    usual = Stops([256], ())
    assert describe_stops(tokenizer, usual, usual) is None
    turn = Stops([257, 256], (), 256)
    assert describe_stops(tokenizer, turn, turn).startswith("completions also end at <|im_end|>, which ends a turn")
    none = Stops([], ())
    assert "model.stop.tokens or model.stop.strings" in describe_stops(tokenizer, none, none)
    assert describe_stops(tokenizer, none, Stops([], ("x",))) is None
    assert truncation_warning(1.0, 32).startswith("100% of a step's completions were cut at max_new_tokens=32")


def test_a_token_is_given_as_text_or_as_an_id(tokenizer):
    key = "model.stop.tokens"
    assert token_id(tokenizer, "<|im_end|>", key) == tokenizer.eos_token_id
    assert token_id(tokenizer, "\n", key) == tokenizer("\n")["input_ids"][0]
    assert token_id(tokenizer, "Ċ", key) == tokenizer("\n")["input_ids"][0]  # as the vocabulary spells it
    assert token_id(tokenizer, 258, key) == 258
    with pytest.raises(ConfigError, match=r"^model\.stop\.tokens: must be ids below 259, .*got 259$"):
        token_id(tokenizer, 259, key)
    with pytest.raises(
        ConfigError, match=r"^model\.stop\.tokens: .*got 'ab', which is 2 tokens; use model\.stop\.str"
    ):
        token_id(tokenizer, "ab", key)
    assert [ids_of(ids) for ids in (None, 0, [3, 4], (5,))] == [[], [0], [3, 4], [5]]


# --- strings -------------------------------------------------------------------------------------------------


def test_a_text_ends_before_the_first_string():
    assert text_before("a stop b END c", ("END", "stop")) == "a "
    assert text_before("stop", ("stop",)) == ""
    assert text_before("sto", ("stop",)) == "sto"


def bpe_tokenizer():
    """A byte-level tokenizer with merges, so that strings begin and end inside tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<eos>"])
    tokenizer.train_from_iterator(["stop stopper last top o'clock opera é stopé é"] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


@pytest.mark.parametrize("strings", [("stop",), ("top o", "é"), ("s",), ("<eos>", "p é")])
def test_strings_are_completed_where_transformers_says_so(strings):
    tokenizer = bpe_tokenizer()
    words = [i for i in range(len(tokenizer)) if len(tokenizer.decode([i])) > 1 or tokenizer.decode([i]) in "stop é"]
    words += tokenizer("é", add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    choice = torch.randint(len(words), (4000, 6), generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor(words)[choice]
    stop_strings, criteria = StopStrings(tokenizer, strings), StopStringCriteria(tokenizer, list(strings))
    running, count = torch.ones(len(tokens), dtype=torch.bool), 0
    for t in range(1, 7):  # rows in which no string is complete yet
        ours, theirs = stop_strings.completed(tokens[:, :t]), criteria(tokens[:, :t], None)
        assert torch.equal(ours[running], theirs[running])
        count += int(theirs[running].sum())
        running &= ~ours
    assert count > 100
    assert running.any()


@pytest.mark.parametrize("decoder", [PackedDecoder, PaddedDecoder])
@pytest.mark.parametrize("with_token", [True, False])
def test_a_row_ends_with_the_token_that_completes_a_string(random_model, tokenizer, monkeypatch, decoder, with_token):
    """The rows of a sampler that does not stop, cut afterwards, are the reference."""
    monkeypatch.setattr("llm.inference.sampling.make_decoder", decoder)
    prompts = encode_chats(tokenizer, [user_chat("hi"), user_chat("a longer one")])
    uniforms = torch.rand(48, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    never = torch.tensor([], dtype=torch.long)
    free = sample(random_model, prompts, uniforms, group_size=24, eos_ids=never, pad_id=3)
    texts = [decode(tokenizer, [row])[0] for row in free.tokens.tolist()]
    pairs = [text[i : i + 2] for text in texts for i in range(2, 9) if text[i : i + 2].isascii()]
    strings = tuple(sorted(set(pairs))[::9])
    eos = torch.unique(free.tokens[:, 6])[:12] if with_token else never

    lengths, expected, complete = [], [], []
    for row in free.tokens.tolist():
        for t in range(1, 13):
            text, by_token = decode(tokenizer, [row[:t]])[0], row[t - 1] in eos.tolist()
            found = [text.index(string) for string in strings if string in text]
            if found or by_token:
                expected.append(decode(tokenizer, [row[: t - 1]])[0] if by_token else text[: min(found)])
                break
        else:
            expected.append(text)
        lengths.append(t)
        complete.append(bool(found or by_token))
    assert 5 < sum(complete) < 48
    assert len(set(lengths)) > 4

    stop_strings = StopStrings(tokenizer, strings)
    rollout = sample(random_model, prompts, uniforms, group_size=24, eos_ids=eos, pad_id=3, stop_strings=stop_strings)
    assert rollout.mask.sum(-1).tolist() == lengths
    assert rollout.complete.tolist() == complete
    assert torch.equal(rollout.tokens[rollout.mask], free.tokens[:, : rollout.tokens.shape[1]][rollout.mask])
    assert bool((rollout.tokens[~rollout.mask] == 3).all())
    assert rollout.texts(tokenizer, eos.tolist(), strings) == expected
    assert rollout.texts(tokenizer) != expected  # control: without the strings
