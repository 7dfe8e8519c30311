"""Priors of REINVENT 4 and 2: converted with the same likelihoods, and never run."""

import os
import pickle
import sys
import types
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch
from torch import nn

from chem.convert import main
from chem.models.network import token_logp
from chem.models.prior import load_prior

TOKENS = ["$", "^", "(", ")", "1", "=", "C", "N", "O", "[nH]", "c"]
SMILES = ["CCO", "c1cc[nH]c1", "CC(=O)N", "N"]
PARAMS = {"dropout": 0.2, "layer_size": 24, "num_layers": 2, "embedding_layer_size": 12, "layer_normalization": False}


class RNN(nn.Module):
    """Laid out as REINVENT's network is."""

    def __init__(self, cell_type, vocabulary):
        super().__init__()
        self._embedding = nn.Embedding(vocabulary, 12)
        self._rnn = {"gru": nn.GRU, "lstm": nn.LSTM}[cell_type](12, 24, num_layers=2, dropout=0.2, batch_first=True)
        self._linear = nn.Linear(24, vocabulary)

    def likelihood(self, sequence):
        """Log-probability of ids that begin with START and end with END, one token after the other."""
        state, total = None, 0.0
        for now, after in pairwise(sequence):
            output, state = self._rnn(self._embedding(torch.tensor([[now]])), state)
            total = total + self._linear(output[0, 0]).log_softmax(-1)[after]
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


def place(monkeypatch, module, *classes):
    """Let classes be of a module that only the writer has."""
    stand_in = types.ModuleType(module)
    for one in classes:
        monkeypatch.setattr(one, "__module__", module)
        setattr(stand_in, one.__name__, one)
    parts = module.split(".")
    for count in range(1, len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[:count]), types.ModuleType(parts[0]))
    monkeypatch.setitem(sys.modules, module, stand_in)


def content_of(cell_type, tokens=TOKENS, layout="4", **changes):
    torch.manual_seed(0)
    network = RNN(cell_type, len(tokens)).eval()
    ids = {token: number for number, token in enumerate(tokens)}
    content = {"vocabulary": Vocabulary(ids), "tokenizer": SMILESTokenizer(), "max_sequence_length": 256}
    content |= {"network": network.state_dict(), "network_params": {**PARAMS, "cell_type": cell_type}}
    if layout == "4":
        content |= {"model_type": "Reinvent", "version": 1, "metadata": ModelMetaData()}
    if layout == "4 dictionary":
        content |= {"model_type": "Reinvent", "version": 1, "metadata": {"hash_id": "0"}}
        content["vocabulary"] = {"tokens": content["vocabulary"]._tokens, "pad_token": 0}
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
def test_a_converted_prior_has_the_same_likelihoods(monkeypatch, tmp_path, capsys, cell_type, layout, module, order):
    place(monkeypatch, module, Vocabulary, SMILESTokenizer)
    place(monkeypatch, "reinvent.models.meta_data", ModelMetaData)
    network, content = content_of(cell_type, order, layout)
    torch.save(content, tmp_path / "a.prior")
    for name in (module, "reinvent.models.meta_data"):  # the reader has neither
        monkeypatch.delitem(sys.modules, name)
    assert main([str(tmp_path / "a.prior"), str(tmp_path / "ours")]) == 0
    assert "11 tokens" in capsys.readouterr().out
    prior = load_prior(tmp_path / "ours")
    assert prior.max_tokens == 255
    tokens, mask = prior.tokenizer.encode_batch(SMILES)
    ours = token_logp(prior.network, tokens, mask).sum(-1)
    ids = {token: number for number, token in enumerate(order)}
    sequences = [["^", *(prior.tokenizer.tokens[i] for i in prior.tokenizer.encode(one))] for one in SMILES]
    theirs = torch.stack([network.likelihood([ids[token] for token in sequence]) for sequence in sequences])
    assert float((ours - theirs).abs().max().detach()) < 1e-5
    with torch.no_grad():  # control: another row of the embedding is seen
        prior.network.embedding.weight[2] += 1
    assert float((token_logp(prior.network, tokens, mask).sum(-1) - theirs).abs().max().detach()) > 1e-3


class Hostile:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("where", ["metadata", "vocabulary", "old"])
def test_a_hostile_file_is_refused_and_not_run(tmp_path, where):
    mark = tmp_path / "was_run"
    attack = Hostile(f"touch {mark}")
    path = tmp_path / "a.prior"
    if where == "old":
        path.write_bytes(pickle.dumps(attack, protocol=2))
    else:
        _, content = content_of("gru", layout="4 dictionary", tokenizer=None, **{where: attack})
        torch.save(content, path)
    with pytest.raises(SystemExit, match=r"a\.prior: must"):
        main([str(path), str(tmp_path / "ours")])
    assert not mark.exists()
    assert not (tmp_path / "ours").exists()
    pickle.loads(pickle.dumps(attack))  # control: the attack works
    assert mark.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"network_params": PARAMS | {"cell_type": "gru", "layer_normalization": True}},
            "layer_normalization: must be",
        ),
        ({"network_params": PARAMS | {"cell_type": "gru", "layer_size": 25}}, "network: must be of the sizes"),
        ({"network_params": PARAMS | {"cell_type": "rnn"}}, "network.name: must be one of lstm, gru, got rnn"),
        ({"vocabulary": {"C": 0, "$": 1, "^": 3}}, "vocabulary: must have"),
        ({"model_type": "Libinvent"}, "must be of model_type Reinvent"),
        ({"network": {"other": torch.zeros(1)}}, "network: must have"),
    ],
)
def test_another_kind_of_network_is_refused(tmp_path, changes, message):
    _, content = content_of("gru", layout="4 dictionary", tokenizer=None)
    torch.save(content | changes, tmp_path / "a.prior")
    with pytest.raises(SystemExit, match=message):
        main([str(tmp_path / "a.prior"), str(tmp_path / "ours")])


def test_what_is_no_file_of_reinvent_is_refused(tmp_path):
    (tmp_path / "text").write_text("CCO")
    torch.save({"a": 1}, tmp_path / "other")
    for name in ("text", "other", "none"):
        with pytest.raises(SystemExit, match="must be a prior of REINVENT"):
            main([str(tmp_path / name), str(tmp_path / "ours")])
