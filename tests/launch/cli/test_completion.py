"""Completion of `mara`: the candidates, and TAB in real shells."""

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from launch.cli.completion import SHELLS, answer, candidates
from tests.commands import run_module

HOME = Path(__file__).resolve().parents[3]
START = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("", ["llm", "chem", "collect"]),
        ("co", ["collect"]),
        ("llm ev", ["evaluate", "evaluation_completions="]),
        ("llm trans", ["transform.", "transform="]),
        ("llm transform=m", ["transform=mara"]),
        ("llm -m transform=identity,m", ["transform=identity,mara"]),
        ("llm objective.dir", ["objective.direction=", "objective.direction_options="]),
        ("llm objective.direction=f", ["objective.direction=forward"]),
        ("llm transform=mara transform.threshold.k", ["transform.threshold.kind="]),
        (
            "chem experiment=synth_fast/mara_0.8",
            ["experiment=synth_fast/mara_0.8", "experiment=synth_fast/mara_0.85"],
        ),
        ("chem.pretrain network=g", ["network=gru"]),
        ("llm plan experiment=one_two_", ["experiment=one_two_real"]),
        ("llm --mult", ["--multirun"]),
        ("submit ch", ["chem", "chem.benchmark"]),
        ("submit chem oracle=q", ["oracle=qed"]),
        ("collect --ag", ["--against"]),
        ("didactic hydra/launcher=l", ["hydra/launcher=local"]),
    ],
)
def test_the_candidates(line, some):
    found = candidates(line.split(" "))
    assert set(some) <= set(found)
    last = line.split(" ")[-1]
    assert all(candidate.startswith(last) for candidate in found)


@pytest.mark.parametrize(
    "line", ["nothing ", "llm no_such=1 trans", "llm transform=xyz", "llm data.train.path=", "status "]
)
def test_there_are_none_where_the_shell_should_offer_files_or_the_line_is_wrong(line):
    assert candidates(line.split(" ")) == []


def test_keys_follow_the_words_before_them():
    assert candidates(["llm", "transform=mara", "transform.anch"]) == ["transform.anchor="]
    assert candidates(["llm", "transform=identity", "transform.anch"]) == []  # control


def test_an_experiment_of_ones_own_is_offered(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nsteps: 3\n")
    assert "experiment=mine" in candidates(["llm", "--config-dir", str(tmp_path), "experiment=mi"])
    assert "experiment=mine" not in candidates(["llm", "experiment=mi"])  # control


@pytest.mark.parametrize("wish", ["install", "install=tcsh", "query", "=bash", "remove=bash"])
def test_a_request_that_is_not_understood_is_one_line(wish):
    assert answer(wish) is None
    child = run_module("launch.cli.mara", "-sc", wish, status=2)
    assert child.stderr.startswith("mara: --shell-completion: must be install=SHELL")
    assert child.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [["-sc"], ["--shell-completion"], ["llm", "-sc"], ["chem", "pretrain", "-sc"]])
def test_every_command_prints_the_script(words):
    child = run_module("launch.cli.mara", *words, "install=bash", status=0)
    assert child.stdout == answer("install=bash")


@pytest.mark.parametrize("module", ["llm", "chem.pretrain"])
def test_a_package_alone_prints_it_as_well(module):
    """Hydra's own script completes neither `mara` nor `python -m`."""
    assert run_module(module, "-sc", "install=zsh", status=0).stdout == answer("install=zsh")
    child = run_module(module, "--shell-completion", "install=tcsh", status=1)
    assert child.stderr.startswith(f"{module}: --shell-completion: must be install=SHELL")


@pytest.fixture
def bin_folder(tmp_path):
    """A folder with the command `mara`."""
    script = tmp_path / "bin" / "mara"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom launch.cli.mara import main\nsys.exit(main())\n")
    script.chmod(0o755)
    return script.parent


class Terminal:
    """A shell in a terminal, to which keys are typed."""

    def __init__(self, shell, folder, bin_folder):
        path = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
        environment = {"PATH": path, "TERM": "xterm", "HOME": str(folder), "PYTHONPATH": str(HOME), "PS1": "$ "}
        self.process, self.master = pty.fork()
        if self.process == 0:
            os.chdir(folder)
            os.execvpe(shell, START[shell], environment)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 160, 0, 0))

    def type(self, keys):
        os.write(self.master, keys.encode())

    def read_until(self, pattern, seconds=60.0):
        """What the shell prints, up to a pattern."""
        text, end = "", time.monotonic() + seconds
        while not re.search(pattern, re.sub(r"\x1b\[[\d;?]*[a-zA-Z]|[\r\b]", "", text)):
            assert time.monotonic() < end, f"{pattern} is not in {text!r}"
            if select.select([self.master], [], [], 0.2)[0]:
                text += os.read(self.master, 65536).decode("utf-8", "replace")
        return text

    def close(self):
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        os.close(self.master)


@pytest.mark.slow
@pytest.mark.parametrize("shell", SHELLS)
def test_tab_completes_in_a_shell(shell, tmp_path, bin_folder):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    install = "mara -sc install=fish | source" if shell == "fish" else f'eval "$(mara -sc install={shell})"'
    (tmp_path / "questions.jsonl").touch()
    terminal = Terminal(shell, tmp_path, bin_folder)
    try:
        terminal.type(f"{install}; echo in''stalled\n")
        terminal.read_until("installed")
        for typed, completed in (
            ("mara coll", "mara collect"),
            ("mara llm evaluate --mul", "mara llm evaluate --multirun"),
            ("mara diff quest", "mara diff questions.jsonl"),
            ("mara llm transform=mar", "mara llm transform=mara"),
            ("mara llm objective.direction=fo", "mara llm objective.direction=forward"),
            ("mara llm transform=mara transform.threshold.k", "transform.threshold.kind="),
            ("mara llm data.train.path=quest", "mara llm data.train.path=questions.jsonl"),
        ):
            terminal.type(f"{typed}\t")
            terminal.read_until(re.escape(completed))
            terminal.type("\x15")  # Ctrl-U: delete the line
    finally:
        terminal.close()


@pytest.mark.parametrize("shell", SHELLS)
def test_the_scripts_have_the_shells_syntax(shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    for action in ("install", "uninstall"):
        script = tmp_path / action
        script.write_text(answer(f"{action}={shell}"))
        assert subprocess.run([shell, "-n", script], capture_output=True, text=True).stderr == ""
