"""Chats as token ids: padding, and keywords of the template."""

import torch

from llm.inference.prompts import encode_chats, pad_completions
from llm.testbed.tiny_models import byte_tokenizer

from ..helpers import user_chat


def test_the_template_gets_its_keywords(tokenizer):
    with_switch = byte_tokenizer()
    with_switch.chat_template = "{% if enable_thinking %}T{% else %}N{% endif %}"
    chats = [user_chat("hi")]
    texts = [
        with_switch.decode(encode_chats(with_switch, chats, {"enable_thinking": flag}).ids[0])
        for flag in (True, False)
    ]
    assert texts == ["T", "N"]


def test_prompts_are_left_padded_and_end_where_the_answer_starts(tokenizer):
    chats = [user_chat("hi"), user_chat("hello")]
    prompts = encode_chats(tokenizer, chats)
    assert prompts.mask[:, -1].all()
    assert prompts.mask.sum(-1).diff().item() == 3
    text = tokenizer.decode(prompts.ids[0][prompts.mask[0]])
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_completions_are_right_padded():
    tokens, mask = pad_completions([[1, 2, 3], [4], [5, 6]], pad_id=9)
    assert tokens.tolist() == [[1, 2, 3], [4, 9, 9], [5, 6, 9]]
    assert torch.equal(mask, tokens != 9)
