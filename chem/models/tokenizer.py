"""SMILES to token ids and back, with a vocabulary that is one JSON list."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from conf.schema.base import ConfigError

END, START = "$", "^"  # ids 0 and 1, as in REINVENT's vocabularies; rows are filled with END after their end
END_ID, START_ID = 0, 1
# A bracket atom, a ring bond of two digits, a halogen of two letters, or one character.
TOKEN = re.compile(r"\[[^\]]*\]|%\d\d|Br|Cl|.", re.DOTALL)


class UnknownToken(ValueError):
    """A SMILES has a token that the vocabulary lacks."""


def split(smiles: str) -> list[str]:
    """The tokens of a SMILES; joined they give it back."""
    return TOKEN.findall(smiles)


class Tokenizer:
    """Tokens by id: END is 0 (and fills rows), START is 1.

    Raises:
        ValueError: the vocabulary does not begin with END and START, or has a token twice.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        if list(tokens[:2]) != [END, START]:
            raise ValueError(f"a vocabulary must begin with {END!r} and {START!r}, got {list(tokens[:2])}")
        twice = [token for token, count in Counter(tokens).items() if count > 1]
        if twice:
            raise ValueError(f"a vocabulary must have each token once, got {twice[0]!r} more often")
        self.tokens = list(tokens)
        self._ids = {token: i for i, token in enumerate(tokens)}

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def of(cls, tokens: Iterable[str]) -> "Tokenizer":
        """A vocabulary of these tokens, sorted."""
        return cls([END, START, *sorted(set(tokens) - {END, START})])

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """From a JSON list of tokens.

        Raises:
            ConfigError: the file is no such list.
        """
        try:
            tokens = json.loads(path.read_text("utf-8"))
            if not (isinstance(tokens, list) and all(isinstance(token, str) for token in tokens)):
                raise ValueError("another kind of value")
            return cls(tokens)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: must be a JSON list of tokens, got {error}") from None

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.tokens, ensure_ascii=False) + "\n", "utf-8")

    def encode(self, smiles: str) -> list[int]:
        """Ids, END last.

        Raises:
            UnknownToken: the vocabulary lacks one.
        """
        tokens = split(smiles)
        unknown = [token for token in tokens if self._ids.get(token, START_ID) <= START_ID]
        if unknown:
            raise UnknownToken(f"the vocabulary has no token {unknown[0]!r}, which is in {smiles!r}")
        return [*(self._ids[token] for token in tokens), END_ID]

    def encode_batch(self, smiles: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids [N, T] int64 filled with END, and mask [N, T] bool, True up to and including each row's END."""
        rows = [self.encode(one) for one in smiles]
        lengths = torch.tensor([len(row) for row in rows])
        tokens = torch.full((len(rows), max(map(len, rows), default=0)), END_ID)
        for row, ids in enumerate(rows):
            tokens[row, : len(ids)] = torch.tensor(ids)
        return tokens, torch.arange(tokens.shape[1]) < lengths.unsqueeze(-1)

    def decode(self, tokens: Tensor) -> list[str]:
        """The SMILES of rows of ids [N, T], each up to its first END."""
        found = []
        for row in tokens.tolist():
            stop = row.index(END_ID) if END_ID in row else len(row)
            found.append("".join(self.tokens[i] for i in row[:stop]))
        return found
