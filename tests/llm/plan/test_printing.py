"""The printed plan: units, sums, and the work of a step by counting."""

import re

from llm.plan.printing import format_size, print_plan, print_verdict, print_work
from llm.plan.settings import GIB, DeviceMemory, PlannedPrompts

from .examples import plan_settings


def test_a_size_has_three_digits_in_a_unit_that_suits_it():
    sizes = [0, 999, 1000, 450 * 1024, 999.4 * 2**20, 999.6 * 2**20, GIB, 12.345 * GIB, 123.4 * GIB, 5000 * GIB]
    texts = [
        "0 B",
        "999 B",
        "0.977 KiB",
        "450 KiB",
        "999 MiB",
        "0.976 GiB",
        "1.00 GiB",
        "12.3 GiB",
        "123 GiB",
        "4.88 TiB",
    ]
    assert [format_size(size) for size in sizes] == texts


def test_the_first_line_says_whether_the_run_fits_by_how_much_and_where(capsys):
    phases = {"sampling": {"policy": GIB}, "training": {"policy": GIB, "gradients": 2 * GIB}}
    assert print_verdict(phases, GIB // 2, DeviceMemory(4 * GIB, "this machine"))
    assert not print_verdict(phases, GIB // 2, DeviceMemory(3 * GIB, "memory=, for each rank"))
    assert capsys.readouterr().out.splitlines() == [
        "fits: yes, 512 MiB to spare: needs 3.50 GiB of 4.00 GiB (this machine), in the phase training",
        "fits: no, 512 MiB too much: needs 3.50 GiB of 3.00 GiB (memory=, for each rank), in the phase training",
    ]


def test_the_table_sums_each_phase(capsys):
    phases = {"sampling": {"policy": 1 * GIB, "gradients": 0}, "training": {"policy": 1 * GIB, "gradients": 2 * GIB}}
    print_plan(plan_settings(ranks=2, engine="zero2"), phases, process=GIB // 2, memory=3 * GIB)
    out = capsys.readouterr().out
    assert "Memory per rank (2 x CPU, 32 bit, zero2)" in " ".join(out.split())
    rows = {line.split()[1]: re.findall(r"[\d.]+ \w+|-", line) for line in out.splitlines() if line.count("│") >= 3}
    assert rows["gradients"][-2:] == ["-", "2.00 GiB"]
    assert rows["process"] == ["512 MiB", "512 MiB"]
    assert rows["sum"] == ["1.50 GiB", "3.50 GiB"]
    assert "0.00" not in out


def test_the_work_of_a_step_is_counted(capsys, make_config):
    config = make_config("steps=30")
    settings = plan_settings(prompts=6, group_size=4, prompt_tokens=10, new_tokens=5, micro_batch=8)
    print_work(config, settings, PlannedPrompts(12, 1, 10))
    out = " ".join(capsys.readouterr().out.split())
    # 6 groups in passes of 2 groups: 2 prompts of 10 tokens, and 4 of the 5 tokens of 8 completions.
    assert "each step: up to 120 sampled tokens for 60 prompt tokens, 3 passes of up to 52 tokens" in out
    print_work(
        config, plan_settings(prompts=1, group_size=4, prompt_tokens=10, new_tokens=5), PlannedPrompts(1, 1, 10)
    )
    single = " ".join(capsys.readouterr().out.split())
    assert "1 pass of up to 26 tokens" in single
    assert "30.00 epochs of 1 prompt" in single
    assert "assumed" not in single
    print_work(config, settings, PlannedPrompts(None, 64, 512, "the data set d is not read"))
    unknown = " ".join(capsys.readouterr().out.split())
    assert "prompts of up to 512 tokens are assumed, since the data set d is not read;" in unknown
    assert "epochs" not in unknown
    assert "the run: 30 steps, up to 3,600 sampled tokens, 15.00 epochs of 12 prompts" in out
