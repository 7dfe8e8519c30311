"""Servers that a run starts: where vLLM is looked for, and a process that ends with the run."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from conf.schema.base import ConfigError
from llm.rollout.base import RolloutFailed
from llm.rollout.client import Client, Ends
from llm.rollout.pool import Servers, Weights
from llm.rollout.server import ServerProcess, free_port, serve_command, server_environment, vllm_python

from .stand_in import EOS

STAND_IN = Path(__file__).with_name("stand_in.py")
ENDS = Ends([EOS], (), 4, 300)


@pytest.fixture
def python(tmp_path):
    """A program that takes the place of the Python with vLLM, and starts the stand-in instead."""
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit 0\nexec {sys.executable} {STAND_IN} "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def process(python, tmp_path):
    server = ServerProcess(python, tmp_path / "model", ["--dtype", "float32"], {"A": 1}, tmp_path / "vllm_0.log")
    yield server
    server.stop()


def test_where_vllm_is_looked_for(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MARA_VLLM_PYTHON", raising=False)
    monkeypatch.setattr("llm.rollout.server.__file__", str(tmp_path / "a" / "llm" / "rollout" / "server.py"))
    assert vllm_python("given") == "given"
    with pytest.raises(ConfigError, match=r"rollout\.python: no environment with vLLM was found; name its Python"):
        vllm_python(None)
    beside = tmp_path / ".venv-vllm" / "bin" / "python"
    beside.parent.mkdir(parents=True)
    beside.touch()
    assert vllm_python(None) == str(beside)
    monkeypatch.setenv("MARA_VLLM_PYTHON", "/named/python")
    assert vllm_python(None) == "/named/python"
    assert vllm_python("given") == "given"


def test_the_command_samples_from_the_whole_distribution():
    command = serve_command("python", Path("/model"), 8000, ["--dtype", "float32"])
    assert command[:3] == ["python", "-m", "vllm.entrypoints.openai.api_server"]
    text = " ".join(command)
    for part in (
        "--model /model",
        "--host 127.0.0.1",
        "--port 8000",
        "--generation-config vllm",
        "--enable-scale-out",
    ):
        assert part in text
    assert text.endswith("--dtype float32")  # what is given comes last and wins


def test_variables_of_the_run_are_not_passed_on(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("PYTHONPATH", "/ours")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    environment = server_environment({"CUDA_VISIBLE_DEVICES": "1", "VLLM_CPU_KVCACHE_SPACE": 2})
    assert not {"WORLD_SIZE", "PYTHONPATH"} & set(environment)
    assert environment["VLLM_SERVER_DEV_MODE"] == "1"
    assert (environment["CUDA_VISIBLE_DEVICES"], environment["VLLM_CPU_KVCACHE_SPACE"]) == ("1", "2")


def test_a_server_starts_answers_and_ends(process):
    process.start()
    process.wait(30)
    assert process.running
    assert Client(process.address, 5).version() == "default"
    assert "--generation-config vllm" in process.log.read_text()
    process.stop()
    assert not process.running
    assert not Client(process.address, 1).healthy()


def test_a_server_that_does_not_start_says_why(python, tmp_path):
    process = ServerProcess(python, tmp_path, ["--fail"], {}, tmp_path / "vllm_0.log")
    servers = Servers([], [process], timeout=1, start_seconds=30, retries=1, warn=print)
    with pytest.raises(
        RolloutFailed, match=r"the server 0 ended while it started: no memory for the cache \(.*vllm_0"
    ):
        servers.start()
    servers.close()
    with pytest.raises(
        ConfigError, match=r"rollout\.python: /missing cannot be started \(No such file or directory\)"
    ):
        ServerProcess("/missing", tmp_path, [], {}, tmp_path / "log").start()


def test_a_server_that_dies_is_started_again_and_gets_its_weights(process):
    warnings: list[str] = []
    servers = Servers([], [process], timeout=5, start_seconds=30, retries=2, warn=warnings.append)
    servers.start()
    servers.load(Weights("w-1", "/dev/shm/one", False, None))
    before, address = servers.sample([([1], 7)], 2, ENDS), process.address
    os.killpg(process._process.pid, signal.SIGKILL)
    assert servers.sample([([1], 7)], 2, ENDS) == before
    assert process.address != address
    assert Client(process.address, 5).version() == "w-1"
    assert any(warning.startswith(f"the server {address} cannot be reached") for warning in warnings)
    servers.close()
    assert not process.running


def test_a_server_that_hangs_is_started_again(process, monkeypatch):
    """It says that it is well, but does not answer: a stopped process that is asked with a short limit."""
    monkeypatch.setattr("llm.rollout.server.GRACE_SECONDS", 0.2)
    servers = Servers([], [process], timeout=1, start_seconds=30, retries=2, warn=lambda message: None)
    servers.start()
    servers.load(Weights("w-1", "/dev/shm/one", False, None))
    address = process.address
    os.killpg(process._process.pid, signal.SIGSTOP)
    assert len(servers.sample([([1], 7)], 2, ENDS)) == 2
    assert process.address != address
    servers.close()


def test_a_server_ends_with_a_run_that_is_killed(python, tmp_path):
    script = textwrap.dedent(f"""
        import os, pathlib
        from llm.rollout.server import ServerProcess
        server = ServerProcess({python!r}, pathlib.Path("/model"), [], {{}}, pathlib.Path({str(tmp_path / "log")!r}))
        server.start()
        server.wait(60)
        print(server.address, flush=True)
        os.kill(os.getpid(), 9)
    """)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200)
    client, end = Client(result.stdout.strip(), 1), time.monotonic() + 20
    assert client.address.startswith("http://127.0.0.1:"), result.stderr
    while client.healthy(1.0):
        assert time.monotonic() < end, "the server goes on"
        time.sleep(0.1)


def test_a_free_port_can_be_listened_on():
    assert free_port() != free_port()
