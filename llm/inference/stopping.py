"""What ends a completion: tokens and strings, found in a model's files or given in the configuration."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

from conf.schema.base import ConfigError
from llm.inference.prompts import Chat, chat_text

NEARLY_ALL = 0.95  # share of truncated completions that is worth a warning
QUESTION, ANSWER = "What is it?", "It is an apple"  # a conversation that is rendered to see how a turn ends


class StopStrings(NamedTuple):
    """Strings that end a completion with the token that completes them; the text is cut before them."""

    tokenizer: PreTrainedTokenizerBase
    strings: tuple[str, ...]

    def completed(self, tokens: Tensor) -> Tensor:
        """Whether the last token of each row completes one of the strings: [R, t] ids -> [R] bool."""
        longest = max(len(string.encode()) for string in self.strings)
        texts = decode(self.tokenizer, tokens[:, -longest - 1 :].tolist())  # a token has a byte or more
        found = [any(string in text for string in self.strings) for text in texts]
        return torch.tensor(found, device=tokens.device)


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


def text_before(text: str, strings: Sequence[str]) -> str:
    """A text up to the first of the strings in it; all of it if it has none of them."""
    return text[: min((text.find(string) for string in strings if string in text), default=None)]


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
    asked: Chat = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    for chat in (asked, [*asked, {"role": "user", "content": QUESTION}]):
        try:
            _, found, rest = chat_text(tokenizer, chat, switches).partition(ANSWER)
        except (TemplateError, ValueError, TypeError, KeyError):  # the template does not accept such a conversation
            continue
        ids = tokenizer(rest.lstrip(), add_special_tokens=False)["input_ids"] if found else []
        if rest.strip():
            return ids[0] if ids and ids[0] in special else None
    return None


def token_id(tokenizer: PreTrainedTokenizerBase, token: str | int, key: str) -> int:
    """The id of a token that is given as an id, or as text.

    Raises:
        ConfigError: there is no such id, or the text is not a single token.
    """
    if isinstance(token, int):
        if token >= len(tokenizer):
            raise ConfigError(f"{key}: must be ids below {len(tokenizer)}, the size of the vocabulary, got {token}")
        return token
    ids: list[int] = tokenizer(token, add_special_tokens=False)["input_ids"]
    if len(ids) == 1:
        return ids[0]
    if token in (vocabulary := tokenizer.get_vocab()):
        return int(vocabulary[token])
    strings = key.replace("tokens", "strings")
    raise ConfigError(
        f"{key}: must be single tokens, got {token!r}, which is {len(ids)} tokens; use {strings} for it"
    )


def describe_stops(tokenizer: PreTrainedTokenizerBase, found: Stops, stops: Stops) -> str | None:
    """One line about an end that only the chat template shows, or about no end at all; None if all is as usual.

    Args:
        tokenizer: of the model.
        found: in the model's files.
        stops: all of them, with those of the configuration.
    """
    if not stops.ids and not stops.strings:
        return (
            "no token ends a completion of this model: each is cut at max_new_tokens; set model.stop.tokens or "
            "model.stop.strings"
        )
    if found.turn is None:
        return None
    return (
        f"completions also end at {tokenizer.convert_ids_to_tokens(found.turn)}, which ends a turn in the chat "
        "template, but is not an eos token of the model"
    )


def truncation_warning(share: float, max_new_tokens: int) -> str:
    """What to change where nearly all completions of a step are cut."""
    return (
        f"{share:.0%} of a step's completions were cut at max_new_tokens={max_new_tokens}, and such completions are "
        "never good; raise max_new_tokens, or name what ends a completion in model.stop.tokens or model.stop.strings"
    )


def ids_of(ids: int | Sequence[int] | None) -> list[int]:
    """A list of ids, from one id, several, or None, as configurations name them."""
    return [] if ids is None else [ids] if isinstance(ids, int) else [int(token) for token in ids]
