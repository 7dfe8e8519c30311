"""Training with an engine of vLLM beside each rank, here a stand-in that samples from the files that it is given."""

import copy
import json
import os
import sys
from pathlib import Path

import pytest
import torch

from conf.schema.base import ConfigError
from llm.rollout import in_process
from llm.rollout.base import RolloutFailed

from ..helpers import train_rows
from .sampling_server import ModelFiles
from .stand_in import StandIn
from .test_vllm import SMALL, FakeRun, draw, run_on_ranks
from .test_vllm import options as of_a_server

PACKAGE = Path(__file__).parent / "fake_package"


@pytest.fixture
def engine(monkeypatch):
    """The stand-in's class of engines."""
    monkeypatch.syspath_prepend(str(PACKAGE))
    names = ("vllm", "vllm.lora", "vllm.lora.request")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    import vllm

    yield vllm.LLM
    for name in names:
        sys.modules.pop(name, None)


def options(tmp_path, *more):
    (tmp_path / "shm").mkdir(exist_ok=True)
    return (*SMALL, "rollout=vllm_in_process", f"rollout.folder={tmp_path / 'shm'}", *more)


def test_training_is_that_of_a_server(models, odd_length, make_config, engine, tmp_path):
    rows = train_rows(tmp_path / "engine", models, odd_length, make_config, *options(tmp_path, "optimizer.lr=.003"))
    with StandIn(ModelFiles()) as server:
        chosen = of_a_server(server, tmp_path, "optimizer.lr=.003")
        expected = train_rows(tmp_path / "server", models, odd_length, make_config, *chosen)
    assert rows == expected
    assert [row["rollout/token_gap_max_nats"] < 1e-4 for row in rows] == [True] * 3
    made = engine.made[-1]
    assert made.calls == ["reload_weights", "reset_prefix_cache", "generate"] * 3
    assert made.ended
    assert list((tmp_path / "shm").iterdir()) == []  # what was written is removed
    # Control: an engine that keeps the weights of its first step is noticed.
    engine.stale = True
    old = train_rows(tmp_path / "old", models, odd_length, make_config, *options(tmp_path, "optimizer.lr=.003"))
    assert old[0]["rollout/token_gap_max_nats"] < 1e-4 < 1e-3 < old[2]["rollout/token_gap_nats"]


def test_lora_trains_with_adapters(models, odd_length, make_config, engine, tmp_path, model_folder, monkeypatch):
    pytest.importorskip("peft")
    from llm.adapters import add_adapter

    monkeypatch.setattr(engine, "base", model_folder)
    chosen = options(tmp_path, "model.lora.rank=2", f"model.name_or_path={model_folder}", "optimizer.lr=.01")
    adapted = models._replace(reference=None, policy=copy.deepcopy(models.policy))
    add_adapter(adapted.policy, make_config(*chosen).model.lora, 0)
    rows = train_rows(tmp_path / "run", adapted, odd_length, make_config, *chosen)
    assert all(row["rollout/token_gap_max_nats"] < 1e-3 for row in rows)
    made = engine.made[-1]
    assert made.calls == ["generate"] * 3
    assert made.arguments["max_lora_rank"] == 8


FAULTS = [
    ("dead", r"failed while sampling \(RuntimeError: EngineCore encountered an issue\.\)"),
    ("fewer completions", "gave 3 completions instead of 4"),
    ("no log-probabilities", "gave 0 log-probabilities for"),
    ("aborted", "ended a completion by 'abort'"),
    ("other weights", "sampled with the weights other instead of"),
    ("no versions", "does not say with which weights it sampled"),
]


@pytest.mark.parametrize(("fault", "message"), FAULTS)
def test_a_fault_stops_the_run_and_nothing_is_lost(models, odd_length, make_config, engine, tmp_path, fault, message):
    chosen = options(tmp_path, "checkpoint.every_steps=null", "checkpoint.every_seconds=1000")
    part = tmp_path / "part"
    engine.faults[:] = [None, None, fault]
    with pytest.raises(RolloutFailed, match=f"the engine of vLLM {message}.*run the same command to resume"):
        train_rows(part, models, odd_length, make_config, *chosen)
    assert [path.name for path in (part / "checkpoints").iterdir()] == ["step_00000002"]
    assert engine.made[-1].ended
    if fault == FAULTS[0][0]:
        whole = train_rows(tmp_path / "whole", models, odd_length, make_config, *chosen)
        resumed = train_rows(part, models, odd_length, make_config, *chosen)
        assert resumed[-1] == pytest.approx(whole[-1], abs=1e-5, nan_ok=True)


def test_what_the_engine_starts_with(models, odd_length, make_config, engine, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("MASTER_PORT", "1234")
    more = ("rollout.arguments={max_num_seqs: 7}", "rollout.environment.VLLM_CPU_KVCACHE_SPACE=2")
    run, before = FakeRun(tmp_path), dict(os.environ)
    draw(models, odd_length, make_config(*options(tmp_path, *more)), run)
    made = engine.made[-1]
    assert made.arguments["dtype"] == "float32"
    assert made.arguments["enforce_eager"] is True
    assert made.arguments["max_num_seqs"] == 7
    assert made.arguments["generation_config"] == "vllm"
    assert made.environment["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert made.environment["VLLM_NO_USAGE_STATS"] == "1"
    assert "MASTER_PORT" not in made.environment
    assert dict(os.environ) == before
    log = (tmp_path / "vllm_0.log").read_text()
    assert "the engine starts" in log
    assert "a warning of the engine" in log
    assert "engine" not in capfd.readouterr().out
    assert run.said == [f"starting vLLM, whose output is in {tmp_path / 'vllm_0.log'}"]
    print("after")
    assert capfd.readouterr().out == "after\n"


def test_an_engine_that_does_not_start_ends_in_a_line(models, odd_length, make_config, engine, tmp_path):
    message = (
        r"rollout: the engine of vLLM did not start: RuntimeError: Engine core initialization failed\. See above\. "
    )
    with pytest.raises(RolloutFailed, match=message + r"\(.*vllm_0\.log\)"):
        train_rows(
            tmp_path / "run", models, odd_length, make_config, *options(tmp_path, "+rollout.arguments.fail=true")
        )
    assert list((tmp_path / "shm").iterdir()) == []


def test_without_vllm_the_run_ends_in_a_line(models, odd_length, make_config, tmp_path, monkeypatch):
    monkeypatch.setattr(in_process.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="vllm_in_process needs vLLM in the environment that trains; install it"):
        train_rows(tmp_path / "run", models, odd_length, make_config, *options(tmp_path))


def test_an_engine_sees_the_gpu_of_its_rank(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert in_process.visible(torch.device("cpu")) == {}
    assert in_process.visible(torch.device("cuda", 1)) == {"CUDA_VISIBLE_DEVICES": "1"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert in_process.visible(torch.device("cuda", 1)) == {"CUDA_VISIBLE_DEVICES": "6"}
    assert in_process.visible(torch.device("cuda")) == {"CUDA_VISIBLE_DEVICES": "4"}


@pytest.mark.slow
def test_each_rank_has_an_engine_and_samples_its_share(tmp_path, model_folder, monkeypatch):
    arguments = [word for word in options(tmp_path) if word != "threads=null"]
    arguments += [f"model.name_or_path={model_folder}", "model.device=cpu", "model.dtype=float32", "threads=1"]
    arguments += ["evaluation_completions=4", "sample_every=1", "optimizer.lr=1e-3"]
    arguments += ["model.stop.tokens=[60,61,62,63,64,65,66,67]"]
    (one, one_samples), (two, two_samples) = (
        run_on_ranks(world, tmp_path / str(world), arguments, PACKAGE) for world in (1, 2)
    )
    assert [row["completion"] for row in two_samples] == [row["completion"] for row in one_samples]
    assert len(one_samples) == 24
    for row, expected in zip(two, one, strict=True):
        assert row == pytest.approx(expected, abs=1e-4, nan_ok=True)
    assert sorted(path.name for path in (tmp_path / "2").glob("vllm_*.log")) == ["vllm_0.log", "vllm_1.log"]
    assert json.loads((tmp_path / "2" / "run.json").read_text())["rollout"] == {"vllm": None}
