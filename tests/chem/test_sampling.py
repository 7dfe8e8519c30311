"""Molecules drawn from a prior: which, how many, and how they are written."""

import pytest
import torch

from chem import sampling
from chem.models.network import token_logp
from chem.models.prior import Prior, make_network
from chem.models.prior_report import sample_smiles
from chem.models.tokenizer import Tokenizer
from chem.molecules import canonical_form
from chem.sampling import collect_samples, spell, write_samples
from conf.schema.base import ConfigError
from conf.schema.chem import RecurrentConfig, SampleConfig
from launch.cli.compose import compose_typed

NETWORK = RecurrentConfig("gru", layers=1, hidden=12, embedding=8, dropout=0.0)


@pytest.fixture
def prior():
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_tokens("CNO(")
    network = make_network(len(tokenizer), NETWORK).eval()
    with torch.no_grad():
        network.head.bias[:2] = torch.tensor([0.5, -20.0])
    return Prior(network, tokenizer, NETWORK, 12)


def sample_config(*overrides):
    config: SampleConfig = compose_typed("chem.sample", list(overrides))[0]
    return config


def test_distinct_molecules_are_the_first_of_all_samples(prior, monkeypatch):
    monkeypatch.setattr(sampling, "BATCH", 7)
    chosen, drawn = collect_samples(prior, 20, True, seed=3)
    molecules = [canonical_form(smiles) for smiles in sample_smiles(prior, len(drawn), 3)]
    assert [sample.canonical for sample in drawn] == molecules
    assert [sample.canonical for sample in chosen] == list(dict.fromkeys(filter(None, molecules)))
    assert len(chosen) == 20 < len(drawn)  # with repeats and strings that are no molecules
    everything, same = collect_samples(prior, len(drawn), False, seed=3)
    assert everything == same
    assert [sample.smiles for sample in everything] == [sample.smiles for sample in drawn]
    tokens, mask = prior.tokenizer.encode_batch([sample.smiles for sample in chosen])
    logp = torch.tensor([sample.logp for sample in chosen])
    torch.testing.assert_close(logp, token_logp(prior.network, tokens, mask).sum(-1).detach())
    batches = [(drawn * 50_000)[:50_000]]
    monkeypatch.setattr(sampling, "draw_batches", lambda *arguments: batches)
    with pytest.raises(ConfigError, match=r"^count: 50,000 samples have only .* distinct molecules, fewer than"):
        collect_samples(prior, 1000, True, seed=3)


def test_a_molecule_is_spelled_as_asked(prior, tmp_path):
    found = sampling.Sample("OCCN", "NCCO", -3.0)
    invalid = sampling.Sample("C((", None, -4.0)
    spellings = {name: sample_config(f"spelling={name}") for name in ("canonical", "sampled", "randomised")}
    assert spell(found, spellings["canonical"]) == "NCCO"
    assert spell(found, spellings["sampled"]) == "OCCN"
    randomised = [spell(found, sample_config("spelling=randomised", f"seed={seed}")) for seed in range(8)]
    assert {canonical_form(smiles) for smiles in randomised} == {"NCCO"}
    assert len(set(randomised)) > 1
    assert {spell(invalid, config) for config in spellings.values()} == {"C(("}
    write_samples(tmp_path / "a.smi", [found, invalid], sample_config("format=smi"))
    assert (tmp_path / "a.smi").read_text() == "NCCO\nC((\n"
    write_samples(tmp_path / "a.csv", [found], sample_config())
    assert (tmp_path / "a.csv").read_text() == "smiles,drawn_as,logp_nats\nNCCO,OCCN,-3\n"
