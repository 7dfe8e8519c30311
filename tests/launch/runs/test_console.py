"""The console prints text as it is, and is wide enough for tables in a log."""

import os
import subprocess
import sys
from pathlib import Path

from launch.runs.console import console

ROOT = Path(__file__).parents[3]


def test_text_is_printed_as_it_is(capsys):
    text = "[bold]not bold[/] :smile: 'quoted' 12 [0]"
    console.print(text)
    assert capsys.readouterr().out == f"{text}\n"


def printed_width(**environment):
    code = "from launch.runs.console import console; print(console.width); console.print('x ' * 100)"
    variables = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | environment
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, env=variables
    )
    width, *lines = done.stdout.splitlines()
    return int(width), [line.count("x") for line in lines]


def test_a_log_has_120_columns_or_as_many_as_the_environment_says():
    assert printed_width() == (120, [60, 40])
    assert printed_width(COLUMNS="80") == (80, [40, 40, 20])
    assert printed_width(COLUMNS="nonsense")[0] == 120
