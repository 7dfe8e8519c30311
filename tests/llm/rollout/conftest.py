"""Models for all tests of sampling with vLLM."""

import pytest
import torch


@pytest.fixture
def models(models):
    """Models with a quarter of the bytes as EOS, so that most completions are complete."""
    return models._replace(eos_ids=torch.arange(64))
