"""Priors by the name that a configuration gives them."""

import pytest
import torch

from chem.models.network import token_logp
from chem.models.prior import SHIPPED, load_prior, save_prior
from chem.models.prior_source import open_agent, open_prior
from conf.schema.base import ConfigError

from ..test_convert import write_reinvent


def test_a_file_of_reinvent_is_a_prior_and_an_agent(tmp_path):
    written = write_reinvent(tmp_path / "a.prior")
    prior = open_prior("prior", str(tmp_path / "a.prior"))
    save_prior(tmp_path / "ours", written._replace(max_tokens=20))
    tokens, mask = written.tokenizer.encode_batch(["CNO", "C"])
    expected = token_logp(written.network, tokens, mask)
    for agent in (open_agent(str(tmp_path / "a.prior"), prior), open_agent(str(tmp_path / "ours"), prior), prior):
        assert torch.equal(token_logp(agent.network, tokens, mask), expected)
    assert prior.max_tokens == 32
    assert open_agent(str(tmp_path / "ours"), prior).max_tokens == 20  # what both can sample
    assert open_agent(None, prior) is prior


def test_the_shipped_prior_and_what_is_no_prior(tmp_path):
    assert open_prior("prior", "shipped").tokenizer.tokens == load_prior(SHIPPED).tokenizer.tokens
    with pytest.raises(ConfigError, match=r"^prior: .*none does not exist; give a folder"):
        open_prior("prior", str(tmp_path / "none"))
    (tmp_path / "text").write_text("CCO")
    with pytest.raises(ConfigError, match=r"^agent: .*text: not a prior of REINVENT"):
        open_prior("agent", str(tmp_path / "text"))
    with pytest.raises(ConfigError, match=r"^agent: must have the vocabulary of the prior"):
        open_agent("shipped", write_reinvent(tmp_path / "a.prior"))
