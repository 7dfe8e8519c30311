"""The printed plan: units, sums, and the work of a step by counting."""

import re

from llm.plan.printing import format_gib, print_plan, print_work
from llm.plan.settings import GIB

from .examples import plan_settings


def test_small_numbers_of_gib_have_more_digits():
    assert format_gib(GIB // 2) == "0.500"
    assert format_gib(12.345 * GIB) == "12.35"


def test_the_table_sums_each_phase_and_the_largest_one_is_needed(capsys):
    phases = {"sampling": {"policy": 1 * GIB, "gradients": 0}, "training": {"policy": 1 * GIB, "gradients": 2 * GIB}}
    print_plan(plan_settings(ranks=2, engine="zero2"), phases, process=GIB // 2, memory=3 * GIB)
    out = capsys.readouterr().out
    assert "Memory per rank, GiB (2 x CPU, 32 bit, zero2)" in " ".join(out.split())
    rows = {line.split()[1]: re.findall(r"[\d.]+|-", line) for line in out.splitlines() if line.count("│") >= 3}
    assert rows["gradients"][-2:] == ["-", "2.00"]
    assert rows["process"] == ["0.500", "0.500"]
    assert rows["sum"] == ["1.50", "3.50"]
    assert "parameters; needs 3.50 of 3.00 GiB" in out


def test_the_work_of_a_step_is_counted(capsys, make_config):
    config = make_config("steps=30")
    settings = plan_settings(prompts=6, group_size=4, prompt_tokens=10, new_tokens=5, micro_batch=8)
    print_work(config, settings, prompts=12)
    out = " ".join(capsys.readouterr().out.split())
    # 6 groups in passes of 2 groups: 2 prompts of 10 tokens, and 4 of the 5 tokens of 8 completions.
    assert "each step: up to 120 sampled tokens for 60 prompt tokens, 3 passes of up to 52 tokens" in out
    print_work(config, plan_settings(prompts=1, group_size=4, prompt_tokens=10, new_tokens=5), prompts=1)
    single = " ".join(capsys.readouterr().out.split())
    assert "1 pass of up to 26 tokens" in single
    assert "30.00 epochs of 1 prompt" in single
    assert "the run: 30 steps, up to 3,600 sampled tokens, 15.00 epochs of 12 prompts" in out
