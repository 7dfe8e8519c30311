"""Priors as folders, and the shipped one."""

import hashlib
import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from chem.models.network import Rollout, sample, token_logp
from chem.models.prior import SHIPPED, Prior, load_prior, make_network, save_prior
from chem.models.tokenizer import Tokenizer
from conf.schema.base import ConfigError
from conf.schema.chem import NetworkConfig
from launch.runs.rng import rollout_uniforms

from ..networks import CONFIGS


def write_prior(folder, kind="gru"):
    tokenizer = Tokenizer.from_tokens(["C", "O"])
    prior = Prior(make_network(len(tokenizer), CONFIGS[kind]).eval(), tokenizer, CONFIGS[kind], 8)
    save_prior(folder, prior)
    return prior


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_prior_is_saved_and_loaded(tmp_path, kind):
    saved = write_prior(tmp_path, kind)
    loaded = load_prior(tmp_path)
    tokens, mask = saved.tokenizer.encode_batch(["CO", "CCO", "O"])
    assert torch.equal(token_logp(saved.network, tokens, mask), token_logp(loaded.network, tokens, mask))
    assert loaded.config == CONFIGS[kind]
    assert loaded.max_tokens == 8
    assert loaded.tokenizer.tokens == saved.tokenizer.tokens
    assert not loaded.network.training


def test_a_folder_that_is_not_a_prior_is_refused(tmp_path):
    write_prior(tmp_path)
    (tmp_path / "vocabulary.json").write_text('["$", "^", "C"]')
    message = r"the prior cannot be loaded, its files are damaged or do not belong together \(RuntimeError: .*\)$"
    with pytest.raises(ConfigError, match=message):
        load_prior(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="JSONDecodeError"):
        load_prior(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"network": {**vars(CONFIGS["gru"]), "layers": 0}}))
    with pytest.raises(ConfigError, match=r"^network\.layers: must be >= 1 and <= 1000, got 0"):
        load_prior(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"not a prior, model\.safetensors is missing \(a prior is a folder with"):
        load_prior(tmp_path)


@pytest.mark.parametrize("max_tokens", [-5, 0, 1, 8.0, "8", True, None, 10**9])
@pytest.mark.parametrize("kind", ["gru", "transformer"])
def test_a_length_that_cannot_be_sampled_is_refused(tmp_path, kind, max_tokens):
    write_prior(tmp_path, kind)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, "max_tokens": max_tokens}))
    with pytest.raises(ConfigError, match=r"max_tokens must be a whole number >= 2 and <= \d+, got .*; the prior is"):
        load_prior(tmp_path)


def test_a_length_beyond_the_positions_is_refused(tmp_path):
    for kind, refused in (("gru", False), ("transformer", True)):
        write_prior(tmp_path, kind)
        settings = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**settings, "max_tokens": 9}))
        if refused:
            with pytest.raises(ConfigError, match=r">= 2 and <= 8, got 9"):
                load_prior(tmp_path)
        else:
            assert load_prior(tmp_path).max_tokens == 9


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300, 1e30])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    write_prior(tmp_path)
    weights = {name: tensor.double() for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    weights["head.weight"][1, 0] = value
    save_file(weights, tmp_path / "model.safetensors")
    if value == 1e30:  # control: large, but a number in float32
        load_prior(tmp_path)
        return
    with pytest.raises(ConfigError, match=r"the weights head\.weight are not finite .*; the prior is damaged"):
        load_prior(tmp_path)


def test_truncated_sequences_are_decoded_to_nothing(tmp_path):
    prior = write_prior(tmp_path)
    tokens = torch.tensor([[2, 3, 0], [2, 2, 3]])
    rollout = Rollout(tokens, torch.ones(2, 3, dtype=torch.bool), torch.tensor([True, False]))
    assert prior.decode(rollout) == ["CO", ""]
    assert prior.tokenizer.decode(tokens) == ["CO", "CCO"]  # control


def test_another_configuration_makes_no_network():
    with pytest.raises(ValueError, match="must be a RecurrentConfig or a TransformerConfig, got NetworkConfig"):
        make_network(5, NetworkConfig("mlp"))


def test_the_card_is_of_the_shipped_file():
    weights = SHIPPED / "model.safetensors"
    assert weights.stat().st_size < 8e6
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in (SHIPPED / "MODEL_CARD.md").read_text()


def test_likelihoods_in_buckets_are_those_of_single_rows():
    prior = load_prior(SHIPPED)
    rollout = sample(prior.network, rollout_uniforms(0, 0, [0] * 160, list(range(160)), prior.max_tokens))
    in_buckets = token_logp(prior.network, rollout.tokens, rollout.mask).sum(-1).detach()
    for row in range(20):
        alone = token_logp(prior.network, rollout.tokens[row : row + 1], rollout.mask[row : row + 1]).sum().detach()
        assert abs(float(alone - in_buckets[row])) < 1e-6 * abs(float(alone))
