"""Training data, best weights and starting points of a prior; the loop itself is in tests/chem/test_pretrain.py."""

import pytest
import torch
from rdkit import Chem

from chem.models.corpus import Corpus
from chem.models.network import token_logp
from chem.models.prior import Prior, make_network, save_prior
from chem.models.prior_training import (
    BestWeights,
    TrainingData,
    keep_encodable,
    load_initial_prior,
    validation_loss,
)
from chem.models.tokenizer import Tokenizer, split_tokens
from conf.schema.base import ConfigError
from conf.schema.chem import PretrainConfig, RecurrentConfig
from launch.cli.compose import compose_typed

SMALL = RecurrentConfig("lstm", layers=1, hidden=16, embedding=8, dropout=0.0)
NETWORK = ["network.layers=1", "network.hidden=16", "network.embedding=8"]  # the same
SMILES = [f"{'C' * n}{end}" for n in range(1, 6) for end in ("O", "N", "c1ccccc1", "C(=O)O")]


def compose_pretrain(*overrides):
    options = ["data=a.smi", "batch_size=4", "validation_share=0.2", *NETWORK, *overrides]
    config: PretrainConfig = compose_typed("chem.pretrain", options)[0]
    return config


def make_data(*overrides, tokenizer=None):
    return TrainingData(Corpus(SMILES, {}, {}), compose_pretrain(*overrides), tokenizer)


def test_each_epoch_has_every_training_molecule_once_and_none_held_out():
    data = make_data()
    assert len(data.validation_smiles) == 4
    assert sorted(data.smiles + data.validation_smiles) == sorted(SMILES)
    epochs = []
    for epoch in range(2):
        steps = range(epoch * data.batches_per_epoch, (epoch + 1) * data.batches_per_epoch)
        epochs.append([smiles for step in steps for smiles in data.tokenizer.decode(data.batch(step)[0])])
        assert sorted(epochs[-1]) == sorted(data.smiles)
    assert epochs[0] != epochs[1]
    held_out = [s for tokens, _ in data.validation_batches() for s in data.tokenizer.decode(tokens)]
    assert sorted(held_out) == sorted(data.validation_smiles)


def test_randomised_training_spells_the_same_molecules_differently():
    canonical, randomised = make_data(), make_data("spelling=randomised")
    ours, theirs = (data.tokenizer.decode(data.batch(0)[0]) for data in (randomised, canonical))
    assert ours != theirs
    assert [Chem.CanonSmiles(s) for s in ours] == [Chem.CanonSmiles(s) for s in theirs]
    assert set(canonical.tokenizer.tokens) <= set(randomised.tokenizer.tokens)
    first, second = (randomised.validation_batches() for _ in range(2))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True))


def test_the_validation_loss_is_per_molecule():
    torch.manual_seed(0)
    data = make_data()
    network = make_network(len(data.tokenizer), SMALL).train()
    total = 0.0
    for smiles in data.validation_smiles:
        tokens, mask = data.tokenizer.encode_batch([smiles])
        total -= float(token_logp(network, tokens, mask).sum().detach())
    assert validation_loss(network, data.validation_batches()) == pytest.approx(total / 4, rel=1e-5)
    assert not network.training


def test_the_best_weights_are_those_of_the_lowest_loss():
    network = make_network(5, SMALL)
    best = BestWeights(network)
    weight = network.head.weight

    def validate(loss):
        with torch.no_grad():
            weight.add_(1)
        best.update(loss, network)
        return weight.detach().clone(), best.waited

    (_, waited), (second, _), *later = [validate(loss) for loss in (2.0, 1.0, 1.5, 1.0)]
    assert (waited, [count for _, count in later]) == (0, [1, 2])  # an equal loss is not better
    assert best.loss == 1.0
    assert torch.equal(best.weights["head.weight"], second)
    assert not torch.equal(best.weights["head.weight"], weight)  # control
    restored = BestWeights(make_network(5, SMALL))
    restored.load_state_dict(best.state_dict())
    assert (restored.loss, restored.waited) == (1.0, 2)
    assert torch.equal(restored.weights["head.weight"], second)


def test_molecules_outside_the_vocabulary_are_left_out_and_counted():
    corpus = Corpus(["CCO", "CCN", "CCF", "CO"], {"lines": 5, "kept": 4, "empty": 1}, {"name": "a"})
    tokenizer = Tokenizer.from_tokens(["C", "O", "N"])
    encodable = keep_encodable(corpus, tokenizer)
    assert encodable.smiles == ["CCO", "CCN", "CO"]
    assert encodable.counts == {"lines": 5, "kept": 3, "empty": 1, "unknown token": 1}
    known = corpus._replace(smiles=["CCO", "CO"])
    assert "unknown token" not in keep_encodable(known, tokenizer).counts
    with pytest.raises(ConfigError, match=r"^data: at least 2 molecules must have only tokens .* got 0 of 4$"):
        keep_encodable(corpus, Tokenizer.from_tokens(["c"]))


def test_the_initial_prior_must_have_the_configured_network(tmp_path):
    tokenizer = Tokenizer.from_tokens(split_tokens("CNO"))
    save_prior(tmp_path, Prior(make_network(len(tokenizer), SMALL), tokenizer, SMALL, 128))
    assert load_initial_prior(compose_pretrain()) is None
    initial = load_initial_prior(compose_pretrain(f"init={tmp_path}"))
    assert initial is not None
    assert initial.tokenizer.tokens == tokenizer.tokens
    with pytest.raises(ConfigError, match=rf"^network: must be the network of init={tmp_path}, .*'hidden': 16.*: 17"):
        load_initial_prior(compose_pretrain(f"init={tmp_path}", "network.hidden=17"))
