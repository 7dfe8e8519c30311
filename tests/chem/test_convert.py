"""`python -m chem.convert FILE FOLDER`."""

import json
import shlex

import pytest
import torch

from chem.convert import main
from chem.models.network import token_logp
from chem.models.prior import SHIPPED, Prior, load_prior, make_network
from chem.models.tokenizer import Tokenizer
from conf.schema.chem import RecurrentConfig
from launch.runs.run_folder import read_json

from ..commands import run_module
from .foreign.configurations import SATURN, STAGE_2, STAGED_LEARNING

PREFIXES = {"embedding.": "_embedding.", "cells.": "_rnn.", "head.": "_linear."}
CONFIG = RecurrentConfig("gru", layers=2, hidden=6, embedding=5, dropout=0.0)
PARAMS = {"cell_type": "gru", "num_layers": 2, "layer_size": 6, "embedding_layer_size": 5, "dropout": 0.0}


def reinvent_weights(network):
    """The weights of a network of ours under REINVENT's names."""
    weights = {}
    for name, tensor in network.state_dict().items():
        prefix = next(prefix for prefix in PREFIXES if name.startswith(prefix))
        weights[PREFIXES[prefix] + name.removeprefix(prefix)] = tensor
    return weights


def write_reinvent(path, **changes):
    """Write a prior of ours in REINVENT's layout."""
    tokenizer = Tokenizer.from_tokens("CNO")
    network = make_network(len(tokenizer), CONFIG)
    weights = reinvent_weights(network)
    vocabulary = {token: number for number, token in enumerate(tokenizer.tokens)}
    content = {"vocabulary": vocabulary, "network": weights, "network_params": PARAMS, "max_sequence_length": 33}
    torch.save(content | changes, path)
    return Prior(network, tokenizer, CONFIG, 32)


def test_the_command_writes_a_prior(tmp_path, capsys):
    prior = write_reinvent(tmp_path / "a.prior")
    assert main([str(tmp_path / "a.prior"), str(tmp_path / "ours")]) == 0
    parameters = sum(parameter.numel() for parameter in prior.network.parameters())
    wrote, *following = capsys.readouterr().out.splitlines()
    assert wrote == f"wrote {tmp_path / 'ours'}: gru, {parameters:,} parameters, 5 tokens"
    assert following == [
        f"next: python -m chem prior={tmp_path / 'ours'}",
        f"next: python -m chem.sample prior={tmp_path / 'ours'} count=1000",
    ]
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


def run_printed_command(folder, file, *overrides):
    """Convert a configuration, run the command that is printed last, and return what was printed and the summary."""
    printed = run_module("chem.convert", file, "converted", folder=folder, status=0).stdout
    words = shlex.split(printed.splitlines()[-1].removeprefix("next: "))
    assert words[:2] == ["python", "-m"]
    run_module(
        *words[2:], "hydra.run.dir=run", "cache=null", *overrides, folder=folder, status=0, OMP_NUM_THREADS="1"
    )
    return printed, read_json(folder / "run/summary.json")


def test_a_configuration_of_reinvent_4_runs_as_it_is(tmp_path):
    shipped = load_prior(SHIPPED)
    sizes = {"num_layers": 3, "layer_size": 256, "embedding_layer_size": 128, "cell_type": "lstm", "dropout": 0.0}
    content = {
        "vocabulary": {token: number for number, token in enumerate(shipped.tokenizer.tokens)},
        "network": reinvent_weights(shipped.network),
        "network_params": sizes,
        "max_sequence_length": 129,
    }
    torch.save(content, tmp_path / "reinvent.prior")
    (tmp_path / "staged.toml").write_text(STAGED_LEARNING)
    (tmp_path / "stage2_scoring.toml").write_text(STAGE_2)
    printed, summary = run_printed_command(tmp_path, "staged.toml")
    assert "-> learning_strategy.sigma = 128: objective.beta=0.0078125 (1 / sigma)\n" in printed
    assert "-- mystery = 3: no counterpart: unknown key" in printed
    assert [stage["steps"] for stage in summary["stages"]] == [1, 1]
    assert "QED" in (tmp_path / "run/molecules.csv").read_text().partition("\n")[0]


@pytest.mark.long
def test_a_configuration_of_saturn_runs_as_it_is(tmp_path):
    saturn = json.loads(json.dumps(SATURN))
    saturn["goal_directed_generation"]["hallucinated_memory"]["execute_hallucinated_memory"] = False
    (tmp_path / "saturn.json").write_text(json.dumps(saturn))
    printed, _ = run_printed_command(tmp_path, "saturn.json", "steps=2")
    assert "-- novelty = 1: no counterpart: unknown key" in printed
