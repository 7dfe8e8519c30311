"""The settings of a plan from overrides, launcher and models."""

import os

import pytest
import torch

from conf.schema.base import ConfigError
from llm.plan.settings import (
    CUDA_CONTEXT,
    GIB,
    PlanArguments,
    device_memory,
    make_settings,
    parse_arguments,
    process_memory,
)
from llm.tasks.texts import ONE_TWO_PROMPT

from .examples import plan_settings

TINY = ("experiment=one_two", "max_new_tokens=20", "group_size=4", "prompts_per_step=4")


def test_the_plans_own_keys_are_taken_from_the_command_line():
    arguments = parse_arguments(["steps=3", "ranks=2", "memory=1.5", "~ranks", "hydra.ranks=4"])
    assert arguments == PlanArguments(["steps=3", "~ranks", "hydra.ranks=4"], ranks=2, memory=1.5)
    for argument, message in (
        ("ranks=2.5", "ranks: must be a number, got '2.5'"),
        ("memory=0", "memory: must be .*> 0, got 0"),
        ("memory=nan", "memory: must be finite"),
        ("prompt_tokens=-1", "prompt_tokens: must be > 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_arguments([argument])


def test_settings_follow_the_configuration(tiny_folder, make_config):
    config = make_config(*TINY, "evaluation_completions=40", "micro_batch=3", "engine=zero2", "model.dtype=bfloat16")
    settings, prompts = make_settings(config, {"nodes": 2, "tasks_per_node": 2}, PlanArguments([]))
    assert (prompts.number, prompts.evaluated, prompts.assumed) == (1, 1, "")
    assert (settings.engine, settings.ranks, settings.dtype_bytes, settings.cuda) == ("zero2", 4, 2, False)
    assert (settings.prompts, settings.group_size, settings.new_tokens, settings.micro_batch) == (4, 4, 20, 3)
    assert settings.evaluation_rows == 40
    assert settings.lora is None
    # A token of the test model is a byte; S stands for a special token.
    assert settings.prompt_tokens == len(f"Suser\n{ONE_TWO_PROMPT}S\nSassistant\n")
    arguments = PlanArguments([], ranks=1, prompt_tokens=7)
    assert make_settings(config, {"nodes": 2}, arguments)[0].prompt_tokens == 7
    lora = make_config(*TINY, "model.lora.rank=3", "model.gradient_checkpointing=true")
    settings, _ = make_settings(lora, {}, PlanArguments([]))
    assert settings.lora == (3, tuple(lora.model.lora.target_modules))
    assert settings.checkpointing


def test_what_cannot_be_planned_is_an_error(tiny_folder, make_config, tmp_path):
    with pytest.raises(
        ConfigError, match=r"prompts_per_step: must be at least the number of ranks.*got 4 prompts for 8 ranks"
    ):
        make_settings(make_config(*TINY), {}, PlanArguments([], ranks=8))
    with pytest.raises(
        ConfigError, match=r"model\.name_or_path: must be a folder or hub name of a model, got .*nothing"
    ):
        make_settings(make_config(*TINY, f"model.name_or_path={tmp_path}/nothing"), {}, PlanArguments([]))


def test_memory_is_that_of_the_launcher_or_of_this_machine_per_rank():
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert device_memory(plan_settings(), {}) == (whole, "this machine")
    assert device_memory(plan_settings(ranks=4), {}) == (whole / 4, "this machine, shared by 4 ranks")
    launcher = {"mem_gb": 6, "tasks_per_node": 2}
    assert device_memory(plan_settings(ranks=4), launcher) == (3 * GIB, "hydra.launcher.mem_gb, for each rank")
    assert device_memory(plan_settings(cuda=True), {}, 80) == (80 * GIB, "memory=, for each rank's GPU")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"^memory: must be given as the GiB of each rank's GPU"):
            device_memory(plan_settings(cuda=True), {})
    assert process_memory(cuda=True) == CUDA_CONTEXT
    with open("/proc/self/status") as status:
        resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    assert process_memory(cuda=False) == pytest.approx(1024 * resident, rel=0.05)
