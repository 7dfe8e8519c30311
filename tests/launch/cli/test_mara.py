"""`mara COMMAND` is `python -m MODULE`, in any folder."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from benchmarks.reliability.trials import default_signals
from launch.cli import mara
from launch.cli.command_table import BY_MODULE, BY_WORDS, STARTED_AS
from launch.cli.shadowing import ROOMS
from tests.commands import ROOT, run_module

HOME = Path(__file__).resolve().parents[3]
ENTRY = tomllib.loads((HOME / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]["mara"]
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", STARTED_AS)}
SMALL = ("experiment=bandit", "steps=2")


@pytest.fixture
def script(tmp_path):
    """The script that pip makes of the entry point, in a folder of its own."""
    module, _, function = ENTRY.partition(":")
    path = tmp_path / "bin" / "mara"
    path.parent.mkdir()
    path.write_text(f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def folder(tmp_path):
    """A folder of a user whose files have the names of our folders and of Python's modules."""
    folder = tmp_path / "user"
    (folder / "conf").mkdir(parents=True)
    (folder / "conf" / "mine.yaml").write_text("steps: 2\n")
    (folder / "core").mkdir()
    for file in ("core/__init__.py", "launch.py", "random.py"):
        (folder / file).write_text("raise RuntimeError('imported')\n")
    (folder / "my_advantage.py").write_text(
        "def centred(reward, valid=None):\n    return reward - reward.mean(-1, True)\n"
    )
    return folder


def run(command, folder, **environment):
    return subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=ENVIRONMENT | environment,
        text=True,
        capture_output=True,
        timeout=300,
    )


def run_mara(*words, **options):
    return run_module("launch.cli.mara", *words, **options)


@pytest.mark.parametrize(("columns", "width"), [(40, 60), (80, 80), (200, 100)])
def test_the_page_has_every_command_and_is_as_wide_as_the_terminal(monkeypatch, columns, width):
    monkeypatch.setenv("COLUMNS", str(columns))
    page = mara.help_page()
    for words in BY_WORDS:
        assert f"\n  {words} " in page
    prose = [line for line in page.splitlines() if not line.startswith(("  mara", "usage", "KL-"))]
    assert width - 15 < max(map(len, prose)) <= width
    assert len(page.splitlines()) < (60 if columns >= 80 else 90)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("llm transform=mara", ("llm", ["transform=mara"])),
        ("llm -m seed=0,1", ("llm", ["-m", "seed=0,1"])),
        ("llm plan ranks=8", ("llm.plan", ["ranks=8"])),
        ("llm.plan ranks=8", ("llm.plan", ["ranks=8"])),
        ("collect A --json", ("launch.collect", ["A", "--json"])),
        ("launch.collect A", ("launch.collect", ["A"])),
        ("explain", ("core.explain", [])),
        ("chem pretrain pretrain", ("chem.pretrain", ["pretrain"])),
        ("submit llm plan", ("launch.submit", ["llm", "plan"])),
    ],
)
def test_a_command_is_found_by_its_words_or_its_module(words, expected):
    assert mara.find_command(words.split()) == expected


@pytest.mark.parametrize(
    ("words", "suggestion"),
    [
        ("colect A", "mara collect"),
        ("llm evaluat run=A", "mara llm evaluate"),
        ("evaluate run=A", "mara llm evaluate"),
        ("llm.plann", "mara llm plan"),
        ("launch.statsu A", "mara status"),
        ("chem pre-train data=A", "mara chem pretrain"),
        ("xyzzy", None),
    ],
)
def test_a_misspelt_command_is_one_line_with_a_suggestion(words, suggestion):
    child = run_mara(*words.split(), status=2)
    (line,) = child.stderr.splitlines()
    assert child.stdout == ""
    assert line.startswith("mara: there is no command ")
    assert (f"did you mean {suggestion}" in line) if suggestion else ("did you mean" not in line)


def test_help_is_immediate(script, folder):
    heavy = "{'hydra', 'omegaconf', 'torch', 'numpy', 'rich'} & set(sys.modules)"
    code = f"import sys; from launch.cli import mara; sys.argv = ['mara', '--help']; mara.main(); print({heavy})"
    child = run([sys.executable, "-c", code], HOME, COLUMNS="80")
    page = child.stdout.rpartition("\n\n")[0]
    assert child.stdout.splitlines()[-1] == "set()"
    for words in ((), ("-h",), ("help",)):
        assert run([script, *words], folder, COLUMNS="80").stdout.startswith(page)


def test_explain_names_the_next_command_as_it_was_typed():
    words = [sys.executable, "-m", "launch.cli.mara", "explain", "reward=[1,1,0]", "ref=[.3,.02,.68]", "beta=.01"]
    child = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert child.stdout.splitlines()[-1].startswith("next: mara didactic -m ")


def test_the_version_is_that_of_the_package():
    assert run_mara("--version", status=0).stdout.startswith("mara 0.")


@pytest.mark.slow
@pytest.mark.parametrize("module", BY_MODULE)
def test_the_help_of_each_command_teaches_in_its_first_lines(module):
    command = BY_MODULE[module]
    child = run_mara(*command.words.split(), "--help", status=0, COLUMNS="120")
    assert child.stderr == ""
    assert "python -m" not in child.stdout.replace("python -m core.explain is the same command", "")
    lines = child.stdout.splitlines()
    assert lines[0].startswith(f"usage: mara {command.words} ")
    first_page = "\n".join(lines[1:30])
    assert f"mara {command.words} " in first_page  # an example
    sentences = [line for line in lines[1:16] if len(line) > 60]
    assert len(sentences) >= 2
    assert run_mara("help", *command.words.split(), status=0, COLUMNS="120").stdout == child.stdout
    by_module = run_module(module, "--help", status=0, COLUMNS="120")
    assert by_module.stdout.startswith(f"usage: python -m {module} ") or module == "core.explain"


@pytest.mark.slow
def test_a_users_folder_hides_nothing_and_gives_its_own_parts(script, folder):
    words = ["didactic", *SMALL, "gradient=sampled", "advantage=my_advantage:centred", "hydra.run.dir=run"]
    child = run([script, *words], folder)
    assert child.returncode == 0, child.stderr
    record = json.loads((folder / "run" / "run.json").read_text())
    assert record["command"][:3] == ["python", "-m", "didactic"]
    assert record["state"] == "finished"
    again = run([script, "reproduce", "run", "--out", "again"], folder)
    assert again.returncode == 0, again.stderr
    assert "reproduced: " in again.stdout

    by_module = run([sys.executable, "-m", "didactic", *words[1:-1], "hydra.run.dir=other"], folder)  # control
    assert by_module.returncode == 1
    assert not (folder / "other").exists()


@pytest.mark.slow
def test_jobs_in_processes_of_their_own_find_the_users_parts(script, folder):
    words = ["didactic", *SMALL, "-m", "hydra/launcher=local", "seed=0,1", "hydra.sweep.dir=sweep"]
    words += ["gradient=sampled", "advantage=my_advantage:centred"]
    child = run([script, *words], folder)
    assert child.returncode == 0, child.stderr
    status = run([script, "status", "sweep", "--json"], folder)
    assert [job["state"] for job in json.loads(status.stdout)["sweep"]] == ["finished", "finished"]
    shutil.rmtree(folder / "sweep" / "1")
    assert run([script, "resume", "sweep"], folder).returncode == 0
    assert json.loads((folder / "sweep" / "1" / "run.json").read_text())["state"] == "finished"
    assert run([script, "submit", "--launcher", "local", *words[:3], "seed=-1"], folder).stderr.count("\n") == 1


@pytest.mark.slow
def test_an_interrupt_ends_a_command_with_its_own_message(script, folder):
    words = ["didactic", "experiment=bandit", "steps=1000000", "hydra.run.dir=run"]
    process = subprocess.Popen(
        [str(script), *words],
        cwd=folder,
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=default_signals,  # a shell's `&` makes what it starts ignore SIGINT
    )
    metrics = folder / "run" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        pass
    process.send_signal(2)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert "didactic: interrupted by SIGINT" in error


def modules_of(kind, room, folder):
    """Make a module, a package or a plain folder of a name."""
    if kind == "module":
        (folder / f"{room}.py").write_text("")
        return
    (folder / room).mkdir()
    (folder / room / ("__init__.py" if kind == "package" else "file.yaml")).write_text("")


@pytest.mark.parametrize(
    ("command", "room", "kind"),
    [
        *(("llm", room, "folder") for room in ROOMS if room != "llm"),
        *((command, "conf", "package") for command in ("llm.plan", "chem.sample", "didactic", "launch.status")),
        *((command, "launch", "module") for command in ("llm", "chem.convert", "didactic")),
    ],
)
def test_python_m_in_a_folder_with_one_of_our_names_is_one_line(tmp_path, command, room, kind):
    modules_of(kind, room, tmp_path)
    child = run([sys.executable, "-m", command, "--help"], tmp_path, PYTHONPATH="")
    assert child.returncode == 1
    (line,) = child.stderr.splitlines()
    assert line.startswith(f"mara: another package named '{room}' at {tmp_path / room}")
    assert "; use the command mara, which imports from the working folder last, or" in line
