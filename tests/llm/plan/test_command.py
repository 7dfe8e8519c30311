"""`python -m llm.plan`, called in this process."""

import re

import pytest

from llm.plan.__main__ import main


def test_the_command_says_what_to_change_and_that_is_enough(tiny_folder, capsys):
    long = ("experiment=one_two", "max_new_tokens=1000", "group_size=64")
    assert main([*long, "memory=64"]) == 0
    out = capsys.readouterr().out
    assert "115,264 parameters" in out
    assert "64,000 sampled tokens" in out
    needed = float(re.search(r"needs ([\d.]+) of", out).group(1))
    memory = f"memory={0.75 * needed:.3f}"
    assert main([*long, memory]) == 1
    error = capsys.readouterr().err
    advice = re.fullmatch(r"llm\.plan: the run does not fit: use (micro_batch=\d+) \(now 64\)\n", error).group(1)
    assert main([*long, memory, advice]) == 0
    assert main([*long, memory, advice, "ranks=2"]) == 1
    assert "prompts_per_step: must be at least the number of ranks" in capsys.readouterr().err


def test_a_test_model_is_found_by_its_name(capsys):
    assert main(["experiment=one_of_many", "memory=64"]) == 0
    assert "115,264 parameters" in capsys.readouterr().out


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
