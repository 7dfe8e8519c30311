"""The summary at the start: what it says, that it fits, and that it can neither stop nor change a run."""

import json
import shutil
from types import SimpleNamespace

import pytest
import yaml

from conf.schema.base import ConfigError
from llm import startup
from llm.inference.paths import PADDED
from llm.plan.activations import OutOfTime
from llm.plan.duration import RunTime
from llm.plan.settings import DeviceMemory
from llm.startup import announce, method_rows, rounded_duration, threshold_text, time_text, two_digits

from ..e2e.typed import llm

SMALL = ("prompts_per_step=2", "group_size=4", "max_new_tokens=6", "evaluation_completions=8", "threads=1")


@pytest.fixture
def start(models, odd_length, make_config, tmp_path, capsys, monkeypatch):
    """Announces a run and returns its stub, with the warnings and facts that it got, and what was printed."""
    monkeypatch.setattr(startup, "TIME_LIMIT", 1000.0)

    def run_start(*overrides, main=True, first_step=0):
        run = SimpleNamespace(is_main=main, ranks=SimpleNamespace(world=1), first_step=first_step, folder=tmp_path)
        run.warnings, run.facts = [], {}
        run.warn, run.note = run.warnings.append, run.facts.update
        announce(run, make_config(*SMALL, *overrides), odd_length, models, models.policy)
        return run, capsys.readouterr().out

    return run_start


def test_the_summary_names_the_model_the_method_and_the_sizes(start):
    run, out = start("transform=mara", "steps=30", first_step=10)
    rows = {line[:13].strip(): " ".join(line[13:].split()) for line in out.splitlines() if line[:1].strip()}
    assert max(map(len, out.splitlines())) <= 80
    assert rows["parameters"].endswith("all trained")
    assert rows["device"].startswith("cpu, float32, ")
    assert rows["prompts"] == "packed: a prompt is processed once for its completions"
    assert rows["method"] == "mara of sequences, Algorithm 1, anchor group"
    assert rows["advantage"] == "leave_one_out"
    assert rows["divergence"] == "reverse KL, level sequence, in the reward"
    assert (rows["beta"], rows["threshold"]) == ("0.03", "reward >= 0.8")
    assert rows["step"] == "2 prompts x 4 completions of up to 6 tokens, 1 update"
    assert rows["steps"] == "30, from step 10"
    assert rows["memory"].startswith("about ")
    assert "GiB" in rows["memory"]
    assert rows["time"].startswith("up to about ")
    assert run.facts == {"model": {"device": "cpu", "dtype": "float32"}}
    assert run.warnings == []


def test_the_summary_says_what_samples(start):
    _, out = start("rollout=vllm", "rollout.asynchronous=true")
    assert "sampling       vLLM, 1 server, correction truncate at 2, one step ahead" in out
    _, out = start("rollout=vllm", "rollout.addresses=['http://a:1']", "rollout.bound=null")
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert "sampling vLLM, http://a:1, correction truncate" in rows
    _, out = start("rollout=vllm_in_process")
    assert "sampling vLLM, an engine beside each rank, correction truncate at 2" in " ".join(out.split())
    assert "sampling" not in start()[1]  # control


def test_only_the_main_rank_prints(start):
    run, out = start(main=False)
    assert (out, run.facts) == ("", {})


def test_a_model_without_packed_prompts_is_said_to_be_padded(start, monkeypatch):
    monkeypatch.setattr(startup, "path_of", lambda body: PADDED)
    assert "padded: computes a prompt's keys and values once" in start()[1]


@pytest.mark.parametrize("error", [ConfigError("no estimate"), RuntimeError("anything")])
def test_an_estimate_that_fails_does_not_stop_the_run(start, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(startup, "estimate", fail)
    monkeypatch.setattr(startup, "measure_device", fail)
    run, out = start()
    assert [line.split()[1:] for line in out.splitlines() if line.startswith(("memory", "time"))] == [
        ["not", "known"]
    ] * 2
    assert run.warnings == []


def test_an_estimate_that_is_not_finished_in_time_names_the_command_without_a_limit(start, monkeypatch):
    def late(settings):
        raise OutOfTime

    monkeypatch.setattr(startup, "estimate", late)
    run, out = start()
    memory = " ".join(out[out.index("\nmemory") : out.index("\ntime")].split())
    assert memory == "memory not estimated within 1000 s; python -m llm.plan takes the time that it needs"
    assert run.warnings == []


def test_a_run_that_does_not_fit_is_warned_about_with_a_change(start, monkeypatch):
    options = ("group_size=64", "max_new_tokens=600", "micro_batch=64")
    monkeypatch.setattr(startup, "process_memory", lambda cuda: 2**20)
    monkeypatch.setattr(startup, "device_memory", lambda settings, launcher: DeviceMemory(100 * 2**20, "here"))
    (warning,) = start(*options)[0].warnings
    assert warning.startswith("the run may not fit into memory: use ")
    assert "micro_batch=" in warning
    monkeypatch.setattr(startup, "device_memory", lambda settings, launcher: DeviceMemory(2**10, "here"))
    (warning,) = start(*options)[0].warnings
    assert warning == (
        "the run may not fit into memory: python -m llm.plan with the same overrides may find a change"
    )
    monkeypatch.setattr(startup, "device_memory", lambda settings, launcher: DeviceMemory(2**40, "here"))
    assert start(*options)[0].warnings == []  # control


def test_thresholds_and_schedules_in_words(make_config):
    assert threshold_text(make_config("transform.threshold.value=null")).startswith("none")
    quantile = make_config("transform.threshold={kind: reference_quantile, value: 0.9, floor: 0.1}")
    assert threshold_text(quantile) == "0.9 quantile of the reference's rewards, at least 0.1"
    rows = method_rows(make_config("method=dph_js", "beta_schedule=linear", "beta_schedule.final=0.1"))
    assert rows["divergence"] == "jensen_shannon, level sequence, on completions of the reference"
    assert rows["beta"] == "0.03 at first, schedule linear"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.032, "0.03 s"), (3.3, "3 s"), (43.0, "45 s"), (89.0, "1.5 min"), (1000.0, "15 min"), (5000.0, "1.5 h"),
     (90_000.0, "1 day"), (900_000.0, "10 days")],
)  # fmt: skip
def test_durations_are_rounded(seconds, text):
    assert rounded_duration(seconds) == text


def test_the_time_is_that_of_the_steps_and_both_evaluations():
    assert time_text(RunTime(2.0, 10.0), 20, False) == "up to about 1 min, 2 s a step"
    assert time_text(RunTime(2.0, 10.0), 0, True).startswith("up to about 20 s")
    assert [two_digits(number) for number in (0.456, 4.56, 45.6, 456.0)] == ["0.46", "4.6", "46", "456"]


@pytest.mark.slow
def test_a_copied_model_has_the_defaults_of_any_model(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "another")
    options = ("steps=2", "group_size=4", "evaluation_completions=8", "checkpoint.keep=0")
    out, _ = llm(f"model.name_or_path={tmp_path / 'another'}", *options, f"hydra.run.dir={tmp_path / 'run'}")
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["model"]["device"], config["model"]["dtype"], config["threads"]) == ("auto", "auto", None)
    assert (config["optimizer"]["lr"], config["micro_batch"]) == (1e-6, 16)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["model"]["device"] in ("cpu", "cuda")
    assert record["model"]["dtype"] == ("float32" if record["model"]["device"] == "cpu" else "bfloat16")
    assert record["model"]["origin"] == "another"
    assert "1e-06" in out
    for name in ("metrics.jsonl", "summary.json"):
        assert "up to about" not in (tmp_path / "run" / name).read_text()
    metrics = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert not [key for key in metrics if "time" in key or "memory" in key]
