"""SMILES tokens and vocabularies."""

import pytest
import torch

from chem.models.tokenizer import Tokenizer, UnknownToken, split_tokens
from conf.schema.base import ConfigError


@pytest.mark.parametrize(
    ("smiles", "tokens"),
    [
        ("ClCBr", ["Cl", "C", "Br"]),
        ("C[C@@H](N)C(=O)[O-]", ["C", "[C@@H]", "(", "N", ")", "C", "(", "=", "O", ")", "[O-]"]),
        ("C%12CC%12", ["C", "%12", "C", "C", "%12"]),
        ("B1rC", ["B", "1", "r", "C"]),
        ("[Cl", ["[", "Cl"]),
        ("", []),
    ],
)
def test_a_smiles_is_split_into_tokens(smiles, tokens):
    assert split_tokens(smiles) == tokens
    assert "".join(tokens) == smiles


def test_encoding_and_decoding_are_inverse(tmp_path):
    smiles = ["CCO", "c1ccccc1Br", "C", "C[N+](C)(C)C"]
    tokenizer = Tokenizer.from_tokens(token for string in smiles for token in split_tokens(string))
    tokens, mask = tokenizer.encode_batch(smiles)
    assert tokenizer.decode(tokens) == smiles
    assert mask.sum(-1).tolist() == [len(split_tokens(string)) + 1 for string in smiles]
    assert bool((tokens[~mask] == 0).all())
    assert bool((tokens[mask] == 0).sum() == len(smiles))
    tokenizer.save(tmp_path / "vocabulary.json")
    assert Tokenizer.load(tmp_path / "vocabulary.json").tokens == tokenizer.tokens
    assert tokenizer.decode(torch.tensor([[2, 0, 3]])) == [tokenizer.tokens[2]]  # up to the first END


def test_a_token_outside_the_vocabulary_is_refused():
    tokenizer = Tokenizer.from_tokens(["C", "O"])
    for smiles in ("CN", "C$", "^C"):  # END and START are not part of a SMILES
        with pytest.raises(UnknownToken, match=r"^the vocabulary has no token '[N$^]', needed for '.*'$"):
            tokenizer.encode(smiles)
    assert tokenizer.encode("CO") == [2, 3, 0]


@pytest.mark.parametrize("content", ["{", "[1, 2]", '["C"]', '["$", "^", "C", "C"]', "{}"])
def test_a_file_that_is_not_a_vocabulary_is_refused(tmp_path, content):
    path = tmp_path / "vocabulary.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"vocabulary\.json: not a vocabulary, which is a JSON list of tokens \("):
        Tokenizer.load(path)
