"""SMILES to token ids and back. A vocabulary is a JSON list of tokens."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from conf.schema.base import ConfigError
from launch.runs.run_folder import write_text

END, START = "$", "^"  # ids 0 and 1, as in REINVENT's vocabularies; END also pads
END_ID, START_ID = 0, 1
# A bracket atom, a ring bond of two digits, a halogen of two letters, or one character.
TOKEN = re.compile(r"\[[^\]]*\]|%\d\d|Br|Cl|.", re.DOTALL)


class UnknownToken(ValueError):
    """A SMILES has a token that the vocabulary lacks."""


def split_tokens(smiles: str) -> list[str]:
    """Split a SMILES into tokens; joining them gives the SMILES back."""
    return TOKEN.findall(smiles)


class Tokenizer:
    """Maps tokens to ids. END has id 0 and pads; START has id 1.

    Args:
        tokens: the tokens in the order of their ids.

    Raises:
        ValueError: the vocabulary does not begin with END and START, or has a token twice.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        if list(tokens[:2]) != [END, START]:
            raise ValueError(f"a vocabulary must begin with {END!r} and {START!r}, got {list(tokens[:2])}")
        repeated = [token for token, count in Counter(tokens).items() if count > 1]
        if repeated:
            raise ValueError(f"a vocabulary must have each token once, got {repeated[0]!r} more than once")
        self.tokens = list(tokens)
        self._ids = {token: i for i, token in enumerate(tokens)}

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def from_tokens(cls, tokens: Iterable[str]) -> "Tokenizer":
        """A vocabulary of END, START and these tokens, sorted."""
        return cls([END, START, *sorted(set(tokens) - {END, START})])

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Load a vocabulary from a JSON list of tokens.

        Raises:
            ConfigError: the file is not such a list.
        """
        try:
            tokens = json.loads(path.read_text("utf-8"))
            if not (isinstance(tokens, list) and all(isinstance(token, str) for token in tokens)):
                raise ValueError("it holds other values")
            return cls(tokens)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: not a vocabulary, which is a JSON list of tokens ({error})") from None

    def save(self, path: Path) -> None:
        """Write the tokens as a JSON list."""
        write_text(path, json.dumps(self.tokens, ensure_ascii=False) + "\n")

    def encode(self, smiles: str) -> list[int]:
        """Ids of a SMILES, with END at the end.

        Raises:
            UnknownToken: the vocabulary lacks a token.
        """
        tokens = split_tokens(smiles)
        unknown = [token for token in tokens if self._ids.get(token, START_ID) <= START_ID]
        if unknown:
            raise UnknownToken(f"the vocabulary has no token {unknown[0]!r}, needed for {smiles!r}")
        return [*(self._ids[token] for token in tokens), END_ID]

    def encode_batch(self, smiles: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids [N, T] int64 padded with END, and mask [N, T] bool, True up to and including each row's first END."""
        rows = [self.encode(string) for string in smiles]
        lengths = torch.tensor([len(row) for row in rows])
        tokens = torch.full((len(rows), max(map(len, rows), default=0)), END_ID)
        for row, ids in enumerate(rows):
            tokens[row, : len(ids)] = torch.tensor(ids)
        return tokens, torch.arange(tokens.shape[1]) < lengths.unsqueeze(-1)

    def decode(self, tokens: Tensor) -> list[str]:
        """SMILES of rows of ids [N, T], each up to its first END."""
        smiles = []
        for row in tokens.tolist():
            stop = row.index(END_ID) if END_ID in row else len(row)
            smiles.append("".join(self.tokens[i] for i in row[:stop]))
        return smiles
