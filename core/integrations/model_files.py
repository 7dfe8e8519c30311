"""What a model's files say of its completions: the tokens that end them, their exact text, the time in a prompt."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from jinja2 import TemplateError
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

TIME_CODES = [f"%-{letter}" for letter in "dHIjmMSUWy"] + [
    f"%{letter}" for letter in "aAbBcdDeFGHIjmMpRSTuUVwWxXyYzZ"
]
QUESTION, ANSWER = "What is it?", "It is an apple"  # a conversation that is rendered to see how a turn ends


class Stops(NamedTuple):
    """What ends the completions of a model: token ids, and strings.

    turn: the token that ends a turn in the chat template, if nothing else names it.
    """

    ids: list[int]
    strings: tuple[str, ...]
    turn: int | None = None


def decode(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]]) -> list[str]:
    """The exact text of rows of ids. Special tokens are shown, because the model has written them."""
    texts: list[str] = tokenizer.batch_decode(
        list(map(list, rows)), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return texts


def find_stops(
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig,
    generation_config: GenerationConfig | None,
    switches: Mapping[str, Any] | None = None,
) -> Stops:
    """What ends a completion according to a model's files.

    Tokens: those of generation_config.json, or, where it names none, of the model's configuration; the tokenizer's
    end-of-sequence token; and the token after an assistant's turn in the chat template.

    Args:
        tokenizer: of the model.
        config: the model's; those of a model with several parts name the token in that of the language model.
        generation_config: the model's, if it has one.
        switches: keywords of the chat template.
    """
    declared = None if generation_config is None else generation_config.eos_token_id
    for part in (config, config.get_text_config(decoder=True)):
        declared = getattr(part, "eos_token_id", None) if declared is None else declared
    ids = list(dict.fromkeys([*ids_of(declared), *ids_of(tokenizer.eos_token_id)]))
    turn = end_of_turn(tokenizer, switches)
    turn = None if turn in ids else turn
    strings = None if generation_config is None else generation_config.stop_strings
    strings = [strings] if isinstance(strings, str) else strings or []
    return Stops([*ids, *ids_of(turn)], tuple(strings), turn)


def end_of_turn(tokenizer: PreTrainedTokenizerBase, switches: Mapping[str, Any] | None = None) -> int | None:
    """The special token that the chat template writes after an assistant's turn; None if there is none.

    A template that marks only the start of a turn ends one by the start of the next.
    """
    asked = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    for chat in (asked, [*asked, {"role": "user", "content": QUESTION}]):
        try:
            text = str(tokenizer.apply_chat_template(chat, tokenize=False, **(switches or {})))
        except (TemplateError, ValueError, TypeError, KeyError):  # the template does not accept such a conversation
            continue
        _, answered, rest = text.partition(ANSWER)
        ids = tokenizer(rest.lstrip(), add_special_tokens=False)["input_ids"] if answered else []
        if rest.strip():
            return ids[0] if ids and ids[0] in special else None
    return None


def ids_of(ids: int | Sequence[int] | None) -> list[int]:
    """A list of ids, from one id, several, or None, as configurations name them."""
    return [] if ids is None else [ids] if isinstance(ids, int) else [int(token) for token in ids]


def with_fixed_clock(template: str, clock: datetime) -> str:
    """A chat template in which strftime_now formats a fixed time. A template without it is returned as it is.

    It is a macro of the template, because `apply_chat_template` does not pass functions on to templates.
    """
    if "strftime_now" not in template:
        return template
    formatted = "".join(f" | replace({code!r}, {clock.strftime(code)!r})" for code in TIME_CODES)
    macro = "{%- macro strftime_now(format) -%}{{ format" + formatted + " }}{%- endmacro %}"
    return f"{macro}\n{template}"  # trim_blocks removes the line end
