"""Standard output that goes away: a closed pipe, a full disk, a closed descriptor."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAM = """
import sys
from launch.runs.streams import run_command
def main():
    for number in range(20000):
        print(number)
    open(sys.argv[1], "w").write("complete")
    return 3
run_command("command", main)
"""


@pytest.mark.parametrize(
    ("redirection", "message"),
    [
        ("| head -1", ""),
        (">/dev/full", "standard output: No space left on device; what follows is not shown\n"),
        (">&-", ""),
        (">&- 2>&-", ""),
        (">/dev/full 2>/dev/full", ""),
    ],
)
def test_a_command_goes_on_without_its_output(tmp_path, redirection, message):
    shell = f'"$0" -c "$1" "$2" {redirection}; echo "${{PIPESTATUS[0]}}" >"$2.status"'
    arguments = ["bash", "-c", shell, sys.executable, PROGRAM, str(tmp_path / "result")]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (tmp_path / "result").read_text() == "complete"
    assert (tmp_path / "result.status").read_text() == "3\n"
    assert done.stderr == message


def test_a_signal_ends_a_command_with_one_line():
    program = """
import os, signal
from launch.runs.streams import run_command
run_command("command", lambda: os.kill(os.getpid(), signal.SIGTERM))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (143, "command: interrupted by SIGTERM\n")
