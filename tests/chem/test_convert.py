"""`python -m chem.convert FILE FOLDER`."""

import pytest
import torch

from chem.convert import main
from chem.models.network import token_logp
from chem.models.prior import Prior, load_prior, make_network
from chem.models.tokenizer import Tokenizer
from conf.schema.chem import RecurrentConfig

PREFIXES = {"embedding.": "_embedding.", "cells.": "_rnn.", "head.": "_linear."}
CONFIG = RecurrentConfig("gru", layers=2, hidden=6, embedding=5, dropout=0.0)
PARAMS = {"cell_type": "gru", "num_layers": 2, "layer_size": 6, "embedding_layer_size": 5, "dropout": 0.0}


def write_reinvent(path, **changes):
    """Write a prior of ours in REINVENT's layout."""
    tokenizer = Tokenizer.from_tokens("CNO")
    network = make_network(len(tokenizer), CONFIG)
    weights = {}
    for name, tensor in network.state_dict().items():
        prefix = next(prefix for prefix in PREFIXES if name.startswith(prefix))
        weights[PREFIXES[prefix] + name.removeprefix(prefix)] = tensor
    vocabulary = {token: number for number, token in enumerate(tokenizer.tokens)}
    content = {"vocabulary": vocabulary, "network": weights, "network_params": PARAMS, "max_sequence_length": 33}
    torch.save(content | changes, path)
    return Prior(network, tokenizer, CONFIG, 32)


def test_the_command_writes_a_prior(tmp_path, capsys):
    prior = write_reinvent(tmp_path / "a.prior")
    assert main([str(tmp_path / "a.prior"), str(tmp_path / "ours")]) == 0
    parameters = sum(parameter.numel() for parameter in prior.network.parameters())
    assert capsys.readouterr().out == f"wrote {tmp_path / 'ours'}: gru, {parameters:,} parameters, 5 tokens\n"
    converted = load_prior(tmp_path / "ours")
    assert (converted.config, converted.max_tokens) == (CONFIG, 32)
    tokens, mask = prior.tokenizer.encode_batch(["CNO", "C"])
    assert torch.equal(token_logp(converted.network, tokens, mask), token_logp(prior.network, tokens, mask))


def test_a_mistake_is_one_line_and_nothing_is_written(tmp_path):
    write_reinvent(tmp_path / "a.prior", model_type="Libinvent")
    for name, message in (("a.prior", "only priors of model_type Reinvent"), ("none", "cannot be read")):
        with pytest.raises(SystemExit, match=rf"^chem\.convert: {tmp_path / name}: {message}") as stop:
            main([str(tmp_path / name), str(tmp_path / "ours")])
        assert "\n" not in str(stop.value)
        assert not (tmp_path / "ours").exists()
