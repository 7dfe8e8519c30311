"""`python -m llm.plan`, called in this process."""

import re
from dataclasses import replace

import pytest
from transformers import AutoConfig

from launch.cli.compose import compose_typed
from llm import data, models
from llm.inference.prompts import prompt_lengths
from llm.plan.__main__ import main, run_command_line
from llm.plan.estimate import estimate
from llm.plan.settings import ASSUMED_PROMPT, make_settings, parse_arguments
from llm.tasks.base import load_task
from llm.testbed import tiny_models
from llm.testbed.names import resolve_model


def test_the_command_says_what_to_change_and_that_is_enough(tiny_folder, capsys, monkeypatch):
    # The advice depends on it, and this process holds what the tests before have imported.
    monkeypatch.setattr("llm.plan.settings.process_memory", lambda cuda: 420 << 20)
    long = ("experiment=one_two", "max_new_tokens=1000", "group_size=64")
    assert main([*long, "memory=64"]) == 0
    out = capsys.readouterr().out
    assert "115,264 parameters" in out
    assert "64,000 sampled tokens" in out
    first, last = out.splitlines()[0], out.splitlines()[-1]
    needed = re.match(r"fits: yes, .* to spare: needs ([\d.]+) GiB of 64.0 GiB \(memory=", first).group(1)
    assert last == "next: python -m llm experiment=one_two max_new_tokens=1000 group_size=64"
    memory = f"memory={0.75 * float(needed):.3f}"
    assert main([*long, memory]) == 1
    out, error = capsys.readouterr()
    assert out.startswith("fits: no, ")
    assert out.splitlines()[-1] == f"next: python -m llm.plan {' '.join(long)} {memory} micro_batch=32"
    advice = re.fullmatch(r"llm\.plan: the run does not fit: use (micro_batch=\d+) \(now 64\)\n", error).group(1)
    assert main([*long, memory, advice]) == 0
    assert main([*long, memory, advice, "ranks=2"]) == 1
    assert "prompts_per_step: must be at least the number of ranks" in capsys.readouterr().err


def test_a_test_model_is_found_by_its_name(capsys):
    assert main(["experiment=one_of_many", "memory=64"]) == 0
    assert "115,264 parameters" in capsys.readouterr().out


def test_the_next_command_names_the_ranks_or_the_launcher():
    assert run_command_line(1, ["steps=3"]) == "python -m llm steps=3"
    assert run_command_line(2, ["engine=zero2"]) == "torchrun --nproc-per-node=2 -m llm engine=zero2"
    launcher = ["hydra/launcher=slurm_node8", "engine=zero2"]
    assert run_command_line(8, launcher) == "python -m llm -m hydra/launcher=slurm_node8 engine=zero2"


@pytest.mark.parametrize(
    "overrides",
    [
        ["experiment=one_two", "model.lora.rank=4"],
        pytest.param(
            ["experiment=spellings", "engine=zero2", "ranks=2", "prompts_per_step=2"], marks=pytest.mark.long
        ),
        ["experiment=creative_tiny"],  # with a reward model
        pytest.param(["experiment=maths_tiny"], marks=pytest.mark.long),
    ],
)
def test_nothing_is_read_or_trained_and_the_numbers_are_those_of_what_is_loaded(
    overrides, tmp_path, monkeypatch, capsys
):
    """Without any file of the model or the data; then with the model and the data loaded."""
    arguments = parse_arguments(overrides)

    def refuse(*arguments, **keywords):
        raise AssertionError("the plan loads or trains")

    with monkeypatch.context() as patch:
        patch.setenv("MARA_CACHE", str(tmp_path / "empty"))
        for place, name in ((tiny_models, "_build"), (data, "load_records"), (models, "load_models")):
            patch.setattr(place, name, refuse)
        assert main([*overrides, "memory=64"]) == 0
        config, launcher = compose_typed("llm", arguments.overrides)
        planned, prompts = make_settings(config, launcher, arguments)
        assert not (tmp_path / "empty").exists()
    task = load_task(config.task.name, config)
    loaded = models.load_models(config.model)
    rewards = [read_reward(part.model) for part in config.reward.parts.values() if part.model]
    measured = replace(
        planned, model=loaded.policy.config.to_json_string(use_diff=False), reward_models=tuple(rewards)
    )
    assert measured.model != planned.model  # the file has further fields; the control
    assert estimate(measured) == estimate(planned)
    if not prompts.assumed:
        longest = max(prompt_lengths(loaded.tokenizer, task.prompts()))
        assert (prompts.number, prompts.longest) == (len(task.prompts()), longest)
    else:
        counted = make_settings(config, launcher, arguments._replace(read_data=True))[1]
        longest = max(prompt_lengths(loaded.tokenizer, task.prompts()))
        assert (counted.number, counted.longest, prompts.longest) == (len(task.prompts()), longest, ASSUMED_PROMPT)


def read_reward(name):
    return AutoConfig.from_pretrained(resolve_model(name)).to_json_string(use_diff=False)


def test_help_explains_the_plans_own_keys(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n    {key}=" in out for key in ("ranks", "memory", "prompt_tokens"))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("memory=much", "memory: must be a number, got 'much'"),
        ("ranks=0", "ranks: must be > 0, got 0"),
        ("micro_batches=4", "micro_batches"),
        ("model.name_or_path=/no/such", "model.name_or_path: must be a folder or hub name"),
        ("model.device=cuda", "memory: must be given"),
    ],
)
def test_a_mistake_is_one_line(tiny_folder, capsys, argument, message):
    assert main(["experiment=one_two", argument]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert error.startswith("llm.plan: ")
