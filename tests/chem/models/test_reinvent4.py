"""Priors of REINVENT 4 and 2: converted with the same likelihoods; no code in them is run."""

import os
import pickle
import sys
import types
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from chem.models.network import token_logp
from chem.models.reinvent4 import convert_prior, read_reinvent, token_ids
from conf.schema.base import ConfigError

TOKENS = ["$", "^", "(", ")", "1", "=", "C", "N", "O", "[nH]", "c"]
SMILES = ["CCO", "c1cc[nH]c1", "CC(=O)N", "N"]
PARAMS = {"dropout": 0.2, "layer_size": 24, "num_layers": 2, "embedding_layer_size": 12, "layer_normalization": False}


class RNN(nn.Module):
    """A network with the layout of REINVENT's."""

    def __init__(self, cell_type, vocabulary):
        super().__init__()
        self._embedding = nn.Embedding(vocabulary, 12)
        self._rnn = {"gru": nn.GRU, "lstm": nn.LSTM}[cell_type](12, 24, num_layers=2, dropout=0.2, batch_first=True)
        self._linear = nn.Linear(24, vocabulary)

    def likelihood(self, sequence):
        """Log-probability of ids that begin with START and end with END, one token after the other."""
        state, total = None, 0.0
        for token, next_token in pairwise(sequence):
            output, state = self._rnn(self._embedding(torch.tensor([[token]])), state)
            total = total + self._linear(output[0, 0]).log_softmax(-1)[next_token]
        return total


class Vocabulary:
    def __init__(self, tokens):
        self._tokens = {}
        for token, number in tokens.items():
            self._tokens[token], self._tokens[number] = number, token
        self._current_id = len(tokens)


class SMILESTokenizer:
    pass


@dataclass
class ModelMetaData:
    hash_id: str = "0"
    model_id: str = "1"
    updates: list = field(default_factory=list)


def move_to_module(monkeypatch, module, *classes):
    """Pretend that classes belong to a module that only the writer of the file has."""
    stand_in = types.ModuleType(module)
    for cls in classes:
        monkeypatch.setattr(cls, "__module__", module)
        setattr(stand_in, cls.__name__, cls)
    parts = module.split(".")
    for count in range(1, len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[:count]), types.ModuleType(parts[0]))
    monkeypatch.setitem(sys.modules, module, stand_in)


def make_content(cell_type, tokens=TOKENS, layout="4", **changes):
    torch.manual_seed(0)
    network = RNN(cell_type, len(tokens)).eval()
    vocabulary = Vocabulary({token: number for number, token in enumerate(tokens)})
    content: dict[str, Any] = {
        "vocabulary": vocabulary,
        "tokenizer": SMILESTokenizer(),
        "max_sequence_length": 256,
        "network": network.state_dict(),
        "network_params": {**PARAMS, "cell_type": cell_type},
    }
    if layout == "4":
        content |= {"model_type": "Reinvent", "version": 1, "metadata": ModelMetaData()}
    if layout == "4 dictionary":
        content |= {"model_type": "Reinvent", "version": 1, "metadata": {"hash_id": "0"}}
        content["vocabulary"] = {"tokens": vocabulary._tokens, "pad_token": 0}
    return network, content | changes


@pytest.mark.parametrize("cell_type", ["gru", "lstm"])
@pytest.mark.parametrize(
    ("layout", "module", "order"),
    [
        ("4", "reinvent.models.reinvent.models.vocabulary", TOKENS),
        ("4 dictionary", "reinvent.models.reinvent.models.vocabulary", TOKENS),
        ("2", "models.vocabulary", TOKENS),
        ("4", "reinvent.models.reinvent.models.vocabulary", TOKENS[::-1]),  # END and START elsewhere
    ],
)
def test_a_converted_prior_has_the_same_likelihoods(monkeypatch, tmp_path, cell_type, layout, module, order):
    move_to_module(monkeypatch, module, Vocabulary, SMILESTokenizer)
    move_to_module(monkeypatch, "reinvent.models.meta_data", ModelMetaData)
    network, content = make_content(cell_type, order, layout)
    torch.save(content, tmp_path / "a.prior")
    for name in (module, "reinvent.models.meta_data"):  # the reader has neither
        monkeypatch.delitem(sys.modules, name)
    prior = convert_prior(read_reinvent(tmp_path / "a.prior"))
    assert len(prior.tokenizer) == 11
    assert prior.max_tokens == 255
    assert not prior.network.training
    tokens, mask = prior.tokenizer.encode_batch(SMILES)
    ours = token_logp(prior.network, tokens, mask).sum(-1)
    ids = {token: number for number, token in enumerate(order)}
    sequences = [["^", *(prior.tokenizer.tokens[i] for i in prior.tokenizer.encode(smiles))] for smiles in SMILES]
    theirs = torch.stack([network.likelihood([ids[token] for token in sequence]) for sequence in sequences])
    assert float((ours - theirs).abs().max().detach()) < 1e-5
    with torch.no_grad():  # control: another row of the embedding matters
        prior.network.get_parameter("embedding.weight")[2] += 1
    assert float((token_logp(prior.network, tokens, mask).sum(-1) - theirs).abs().max().detach()) > 1e-3


class Hostile:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("metadata", r"a\.prior: refused because it names posix\.system, .*; no code in it was run$"),
        ("vocabulary", r"a\.prior: refused because it names posix\.system"),
        ("old", r"a\.prior: not a prior of REINVENT \("),
    ],
)
def test_a_hostile_file_is_refused_and_not_run(tmp_path, where, message):
    mark = tmp_path / "was_run"
    attack = Hostile(f"touch {mark}")
    path = tmp_path / "a.prior"
    if where == "old":
        path.write_bytes(pickle.dumps(attack, protocol=2))
    else:
        _, content = make_content("gru", layout="4 dictionary", tokenizer=None, **{where: attack})
        torch.save(content, path)
    with pytest.raises(ConfigError, match=message):
        read_reinvent(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(attack))  # control: the attack works
    assert mark.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"network_params": PARAMS | {"cell_type": "gru", "layer_normalization": True}},
            r"^network_params\.layer_normalization: must be false, got true",
        ),
        (
            {"network_params": PARAMS | {"cell_type": "gru", "layer_size": 25}},
            r"^network: the weights do not have the sizes in network_params \(.*size mismatch",
        ),
        ({"network_params": PARAMS | {"cell_type": "rnn"}}, r"^network\.name: must be one of lstm, gru, got rnn"),
        ({"vocabulary": {"C": 0, "$": 1, "^": 3}}, r"^vocabulary: must have the tokens .* got \{'C': 0"),
        ({"vocabulary": [1, 2]}, r"^vocabulary: must be a mapping of tokens to ids, got a list$"),
        ({"model_type": "Libinvent"}, r"only priors of model_type Reinvent can be converted, got Libinvent$"),
        (
            {"network": {"other": torch.zeros(1)}},
            r"^network: only weights of _embedding\., _rnn\., _linear\. can be converted, got other$",
        ),
    ],
)
def test_another_kind_of_model_is_refused(tmp_path, changes, message):
    _, content = make_content("gru", layout="4 dictionary", tokenizer=None)
    torch.save(content | changes, tmp_path / "a.prior")
    with pytest.raises(ConfigError, match=message):
        convert_prior(read_reinvent(tmp_path / "a.prior"))


@pytest.mark.parametrize("length", [-3, 0, 2, 10**9, 12.5, "12"])
def test_a_length_that_cannot_be_sampled_is_refused(length):
    content = make_content("gru", max_sequence_length=length)[1]
    with pytest.raises(ConfigError, match="max_tokens must be a whole number >= 2 and <= 10000"):
        convert_prior(content)


def test_weights_that_are_not_finite_are_refused():
    content = make_content("gru")[1]
    content["network"]["_linear.bias"][2] = float("nan")
    with pytest.raises(ConfigError, match=r"the weights head\.bias are not finite"):
        convert_prior(content)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("text", r"not a prior of REINVENT \(.+\)$"),
        ("dictionary", r"not a prior of REINVENT \(vocabulary, network, max_sequence_length missing\)$"),
        ("number", r"not a prior of REINVENT \(its content has type int, not dict\)$"),
        ("none", r"cannot be read \(No such file or directory\)$"),
    ],
)
def test_a_file_that_is_not_reinvents_is_refused(tmp_path, name, reason):
    (tmp_path / "text").write_text("CCO")
    torch.save({"a": 1}, tmp_path / "dictionary")
    torch.save(1, tmp_path / "number")
    with pytest.raises(ConfigError, match=rf"{name}: {reason}"):
        read_reinvent(tmp_path / name)


def test_ids_of_a_vocabulary_are_found_in_both_layouts():
    ids = {"$": 0, "^": 1, "C": 2}
    assert token_ids(Vocabulary(ids)) == token_ids({"tokens": Vocabulary(ids)._tokens}) == token_ids(ids) == ids
