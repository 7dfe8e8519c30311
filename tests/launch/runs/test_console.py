"""The console prints text as it is, and is wide enough for tables in a log."""

import subprocess
import sys
from pathlib import Path

from launch.runs.console import console

ROOT = Path(__file__).parents[3]


def test_text_is_printed_as_it_is(capsys):
    text = "[bold]not bold[/] :smile: 'quoted' 12 [0]"
    console.print(text)
    assert capsys.readouterr().out == f"{text}\n"


def test_a_log_has_120_columns():
    code = "from launch.runs.console import console; print(console.width); console.print('x ' * 100)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    width, *lines = done.stdout.splitlines()
    assert width == "120"
    assert [line.count("x") for line in lines] == [60, 40]
