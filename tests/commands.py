"""Run `python -m MODULE` as a user types it, without importing the libraries anew for each command.

A server process imports torch, transformers and the other libraries once and forks for each command. The project's
own modules are imported by the fork, from the paths that a new interpreter would use. Tests about starting,
interrupting or killing a command start a new interpreter instead.
"""

import importlib
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from tests.hidden.sitecustomize import hide
from tools.as_command import become_command

ROOT = Path(__file__).parents[1]
LIBRARIES = (
    *("torch", "torch.distributed", "torch._dynamo", "transformers", "transformers.models.auto.modeling_auto"),
    *("tokenizers", "safetensors.torch", "hydra", "hydra.core.override_parser.overrides_parser", "omegaconf", "yaml"),
    *("rich.table", "rich.progress", "matplotlib.pyplot", "pandas", "numpy", "PIL.Image", "submitit"),
    *("rdkit.Chem", "rdkit.Chem.Draw", "rdkit.Chem.Scaffolds.MurckoScaffold", "rdkit.Chem.rdFingerprintGenerator"),
)


def run_module(module, *arguments, folder=ROOT, status=None, timeout=800, **environment):
    """Run `python -m MODULE ARGUMENTS` in a folder; returns a `subprocess.CompletedProcess` with text.

    Args:
        module: name of the module.
        arguments: its arguments, converted to strings.
        folder: working folder.
        status: expected exit status; None: not checked.
        timeout: seconds after which the command is killed.
        environment: environment variables to set in addition to those of this process.
    """
    words = [module, *map(str, arguments)]
    with tempfile.TemporaryFile("w+b") as out, tempfile.TemporaryFile("w+b") as error:
        variables = {**os.environ, **{name: str(value) for name, value in environment.items()}}
        code = server().run(words, str(folder), variables, (out.fileno(), error.fileno()), timeout)
        texts = [_content(file) for file in (out, error)]
    if status is not None:
        assert code == status, "".join(texts)
    return subprocess.CompletedProcess(["python", "-m", *words], code, *texts)


def module_words(command):
    """The module and arguments of a command as a user types it, `mara llm plan ...` or `python -m llm.plan ...`."""
    words = shlex.split(command, comments=True)
    if words[0] == "mara":
        from launch.cli.mara import find_command  # not in the server, whose forks import what is ours anew

        module, arguments = find_command(words[1:])
        return [module, *arguments]
    assert words[:2] == ["python", "-m"], command
    return words[2:]


def _content(file):
    file.seek(0)
    return file.read().decode("utf-8", "surrogateescape").replace("\r\n", "\n")


@cache
def server():
    return Server()


class Server:
    """The process that forks. It ends when this process does."""

    def __init__(self):
        self.connection, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        with other:
            command = [sys.executable, "-m", "tests.commands", str(other.fileno())]
            self.process = subprocess.Popen(command, pass_fds=[other.fileno()], cwd=ROOT, stdin=subprocess.DEVNULL)

    def run(self, words, folder, environment, outputs, timeout):
        request = json.dumps([words, folder, environment]).encode()
        socket.send_fds(self.connection, [request], outputs)
        self.connection.settimeout(None)
        child = int(self.connection.recv(100))
        self.connection.settimeout(timeout)
        try:
            return int(self.connection.recv(100))
        except TimeoutError:
            os.kill(child, 9)
            self.connection.settimeout(None)
            self.connection.recv(100)
            raise


def serve(connection):
    """Import the libraries, then run one command after the other, each in a fork."""
    for name in LIBRARIES:
        with suppress(ImportError):
            importlib.import_module(name)
    while True:
        request, outputs, _, _ = socket.recv_fds(connection, 1 << 20, 2)
        if not request:
            return
        child = os.fork()
        if child == 0:
            connection.close()
            words, folder, environment = json.loads(request)
            _run_command(words, folder, environment, outputs)
        for descriptor in outputs:
            os.close(descriptor)
        connection.send(str(child).encode())
        connection.send(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())


def _run_command(words, folder, environment, outputs):
    """Become `python -m WORDS`; never returns."""

    def prepare():
        for descriptor, target in zip(outputs, (1, 2), strict=True):
            os.dup2(descriptor, target)
            os.close(descriptor)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
        sys.path[:] = [os.getcwd(), *paths, *sys.path[1:]]
        if environment.get("HIDDEN_PACKAGE"):
            hide(environment["HIDDEN_PACKAGE"])

    become_command(words, prepare)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
