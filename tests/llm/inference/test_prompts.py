"""Chats through the template: padding, and keywords of the template."""

from llm.inference.prompts import encode_chats
from llm.testbed.tiny_models import byte_tokenizer


def test_encode_chats_passes_switches_to_the_template(tokenizer):
    switched = byte_tokenizer()
    switched.chat_template = "{% if enable_thinking %}T{% else %}N{% endif %}"
    chats = [[{"role": "user", "content": "hi"}]]
    texts = [
        switched.decode(encode_chats(switched, chats, {"enable_thinking": flag}).ids[0]) for flag in (True, False)
    ]
    assert texts == ["T", "N"]


def test_prompts_are_left_padded_and_read_through_the_template(tokenizer):
    chats = [[{"role": "user", "content": text}] for text in ("hi", "hello")]
    prompts = encode_chats(tokenizer, chats)
    assert prompts.mask[:, -1].all()
    assert prompts.mask.sum(-1).diff().item() == 3
    text = tokenizer.decode(prompts.ids[0][prompts.mask[0]])
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
