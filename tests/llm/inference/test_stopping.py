"""What ends a completion: found in a model's files, given by keys, and followed by the sampler."""

import pytest
import torch
from transformers.generation import StopStringCriteria

from conf.schema.base import ConfigError
from core.integrations.model_files import Stops, decode
from llm.inference.decoder import PackedDecoder
from llm.inference.padded import PaddedDecoder
from llm.inference.prompts import encode_chats
from llm.inference.sampling import sample
from llm.inference.stopping import (
    StopStrings,
    describe_stops,
    text_before,
    token_id,
    truncation_warning,
)

from ..helpers import user_chat

# --- what is found -------------------------------------------------------------------------------------------


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
