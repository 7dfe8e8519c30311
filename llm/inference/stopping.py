"""What ends a completion: tokens and strings that are configured. `core.integrations.model_files` finds a model's."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from conf.schema.base import ConfigError
from core.integrations.model_files import Stops, decode

NEARLY_ALL = 0.95  # share of truncated completions that is worth a warning


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


def text_before(text: str, strings: Sequence[str]) -> str:
    """A text up to the first of the strings in it; all of it if it has none of them."""
    return text[: min((text.find(string) for string in strings if string in text), default=None)]


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
