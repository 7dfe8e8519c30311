"""Averages of the weights of a policy and its reference, and the command that saves them."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from conf.schema.base import ConfigError
from llm.ensemble import average_weights

ROOT = Path(__file__).parents[2]


def perturbed(model):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return other


def test_the_average_lies_between(random_model):
    policy, reference = perturbed(random_model), copy.deepcopy(random_model)
    original = {name: p.detach().clone() for name, p in policy.named_parameters()}
    distance = average_weights(policy, reference, 0.25)
    assert distance == pytest.approx(1.0, abs=0.05)
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(policy.get_parameter(name), 0.75 * parameter + 0.25 * original[name])
        assert torch.equal(parameter, random_model.get_parameter(name))  # unchanged
    for weight, expected in ((0.0, reference), (1.0, None)):
        policy = perturbed(random_model)
        average_weights(policy, reference, weight)
        for name, parameter in policy.named_parameters():
            value = original[name] if expected is None else expected.get_parameter(name)
            torch.testing.assert_close(parameter, value)


def test_another_model_is_refused(build_model, random_model, tokenizer):
    with pytest.raises(
        ConfigError, match=r"^reference: must be the model that the policy was trained from, but \d+ param"
    ):
        average_weights(build_model("llama", len(tokenizer)), random_model, 0.5)


def command(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "llm.ensemble", *map(str, arguments)], env=environment, capture_output=True, text=True
    )


def test_the_command_saves_an_ordinary_model(random_model, tokenizer, tmp_path):
    policy = perturbed(random_model)
    for name, model in (("base", random_model), ("run/policy", policy)):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    (tmp_path / "run" / "run.json").write_text("{}")
    fields = {"eos_token_id": [1, 256], "stop_strings": ["x"], "temperature": 0.6}  # as a run leaves them
    (tmp_path / "run" / "policy" / "generation_config.json").write_text(json.dumps(fields))
    done = command(
        f"policy={tmp_path / 'run'}",
        f"reference={tmp_path / 'base'}",
        "weight=.5",
        f"hydra.run.dir={tmp_path / 'out'}",
    )
    assert done.returncode == 0, done.stderr
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "policy")
    assert {name: getattr(loaded.generation_config, name) for name in fields} == fields
    for name, parameter in loaded.named_parameters():
        expected = (random_model.get_parameter(name) + policy.get_parameter(name)) / 2
        torch.testing.assert_close(parameter, expected)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["weight"] == 0.5
    assert json.loads((tmp_path / "out" / "run.json").read_text())["state"] == "finished"
    wrong = command("policy=nowhere/at/all", f"reference={tmp_path / 'base'}", f"hydra.run.dir={tmp_path / 'no'}")
    assert wrong.returncode == 1
    assert "llm.ensemble: policy: must be a run, a folder" in wrong.stderr
    wrong = command(f"policy={tmp_path}", f"reference={tmp_path}", "weight=2", f"hydra.run.dir={tmp_path / 'no2'}")
    assert wrong.returncode == 1
    assert "weight: must be" in wrong.stderr
