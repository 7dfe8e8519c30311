"""A program as an oracle: its input and output, and that nothing is left of it, also when it hangs."""

import stat
import time
from pathlib import Path

import psutil
import pytest
from rdkit import Chem

from chem.oracles import Oracle, Status, TimedOut
from chem.oracles.base import Molecule
from chem.oracles.external_program import ExternalProgram
from conf.schema.base import ConfigError
from conf.schema.oracle import ComponentConfig, OracleConfig

PROGRAM = """#!/bin/sh
case "$1" in
    *N*) sleep 1000 & echo $! >> "$3"; wait ;;
    *O*) echo "no oxygen" >&2; exit 3 ;;
    *S*) echo "nothing to read" ;;
    *) pwd >> "$3"; touch rubbish; echo "score: -4.5"; echo "score: -7.25" ;;
esac
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program"
    path.write_text(PROGRAM)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return [str(path), "{smiles}", "{smi}", str(tmp_path / "log")]


def molecule(smiles):
    return Molecule(Chem.MolFromSmiles(smiles))


def test_a_number_is_picked_and_nothing_is_left(program, tmp_path):
    pattern = r"score: (\S+)"
    for pick, expected in {"first": -4.5, "last": -7.25, "min": -7.25, "max": -4.5}.items():
        assert ExternalProgram(program, pattern, pick=pick)(molecule("CCC")).value == expected
    folders = (tmp_path / "log").read_text().split()
    assert len(folders) == 4
    assert not any(Path(folder).exists() for folder in folders)

    output = ExternalProgram(
        ["sh", "-c", "echo pose 3.5 > {output}; cat {sdf} >> {output}"], r"pose (\S+)", source="output"
    )
    assert output(molecule("CCC")).value == 3.5
    sdf = ExternalProgram(["cat", "{sdf}"], r"^\s*(\d+)\s*\d+.*V2000")
    assert ExternalProgram(["grep", "V2000", "{sdf}"], r"^\s*(\d+)")(molecule("CCC")).value == 11  # with hydrogens
    with pytest.raises(ValueError, match="nothing in stdout matches"):
        sdf(molecule("CCC"))  # control: ^ matches only at the beginning of the text


def test_failures_and_hangs(program, tmp_path):
    oracle = ExternalProgram(program, r"score: (\S+)", time_limit_s=0.5)
    with pytest.raises(RuntimeError, match="status 3: no oxygen"):
        oracle(molecule("CCO"))
    with pytest.raises(ValueError, match="nothing in stdout matches"):
        oracle(molecule("CCS"))
    start = time.monotonic()
    with pytest.raises(TimedOut, match=r"within 0\.5 s"):
        oracle(molecule("CCN"))
    assert time.monotonic() - start < 5
    child = int((tmp_path / "log").read_text())
    time.sleep(0.2)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_the_oracles_limit_ends_the_program_and_its_files_too(program, tmp_path):
    log = tmp_path / "log"
    component = ComponentConfig(
        "external_program", {"command": program, "pattern": r"score: (\S+)", "time_limit_s": 100.0}
    )
    component.transform.name, component.transform.edge, component.transform.side = "step", 0.0, "below"
    with Oracle(OracleConfig([component], workers=1, time_limit_s=1.0)) as oracle:
        folder = oracle._workers[0].folder
        results = oracle(["CCC", "CCN", "CCCC"])
        assert [result.status for result in results] == [Status.ok, Status.timed_out, Status.ok]
        assert not folder.exists()
        assert oracle._workers[0].folder.exists()
        last = oracle._workers[0].folder
    checked, first, child, second = log.read_text().split()  # the first call is the preflight
    assert Path(checked).parent == folder
    assert Path(first).parent == folder
    assert Path(second).parent == last
    assert not last.exists()
    time.sleep(0.2)
    assert not psutil.pid_exists(int(child)) or psutil.Process(int(child)).status() == psutil.STATUS_ZOMBIE


def executable(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_relative_paths_are_those_of_the_folder_of_the_command(tmp_path, monkeypatch):
    """The program itself, its files and folders, in a folder that is not the program's working folder."""
    executable(tmp_path / "bin" / "program", '#!/bin/sh\necho "score: $(cat "$1") in $(pwd)"\n')
    (tmp_path / "number.txt").write_text("3.5\n")
    monkeypatch.chdir(tmp_path)
    pattern = r"score: (\S+)"
    oracle = ExternalProgram(["bin/program", "number.txt"], pattern)
    assert oracle.preflight() == "3.5 for c1ccccc1"
    assert ExternalProgram(["bin/program", "{here}/number.txt"], pattern)(molecule("CC")).value == 3.5
    with_option = ExternalProgram(["echo", "--in=number.txt", "--out=number"], r"in=(\S+)")
    assert with_option.program.filled({})[1:] == [f"--in={tmp_path / 'number.txt'}", "--out=number"]
    inside = ExternalProgram(["./program", "../number.txt"], r"in (\S+)$", cwd="bin")
    assert inside.program.filled({}) == [str(tmp_path / "bin" / "program"), "../number.txt"]
    with pytest.raises(ValueError, match=r"could not convert string to float: '.*/bin'"):
        inside(molecule("CC"))

    before = oracle.identity()
    (tmp_path / "number.txt").write_text("4.5\n")
    assert oracle.identity() != before  # another file may give other numbers
    monkeypatch.chdir("/")  # control: elsewhere the argument names nothing
    elsewhere = ExternalProgram([str(tmp_path / "bin" / "program"), "number.txt"], pattern)
    with pytest.raises(ConfigError, match=r"^command: the program gives no number for a simple molecule; c1ccccc1: "):
        elsewhere.preflight()
    monkeypatch.setenv("MARA_CWD", str(tmp_path))  # in a job of a cluster
    assert ExternalProgram(["bin/program", "number.txt"], pattern).preflight() == "4.5 for c1ccccc1"
    with pytest.raises(ConfigError, match=r"^cwd: there is no folder .*/nowhere$"):
        ExternalProgram(["bin/program"], pattern, cwd="nowhere")


def test_the_program_is_tried_with_another_molecule_before_it_is_refused(program):
    only_oxygen = ["sh", "-c", 'case "$1" in *O*) echo 2;; *) exit 1;; esac', "-", "{smiles}"]
    assert ExternalProgram(only_oxygen, r"(\S+)").preflight() == "2 for CC(=O)Nc1ccc(O)cc1"
    with pytest.raises(ConfigError, match="simple molecule; c1ccccc1: the program ended with status 1"):
        ExternalProgram(["false"], r"(\S+)").preflight()


def test_a_receptor_without_hydrogens_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = "ATOM      1  N   LEU A   1     -23.116  51.856  14.804  0.00  0.00    +0.386 N \n"
    (tmp_path / "r.pdbqt").write_text(line)
    command = ["echo", "--receptor", "r.pdbqt"]
    with pytest.raises(ConfigError, match=r"^command: r\.pdbqt has no polar hydrogens \(atom type HD\)"):
        ExternalProgram(command, r"(\S+)")
    (tmp_path / "r.pdbqt").write_text(line + line.replace(" N \n", " HD\n"))
    ExternalProgram(command, r"(\S+)")  # control


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"command": "echo 1"}, "^command: must be a list of the program and its arguments, got 'echo 1'$"),
        ({"command": ["no-such-program"]}, "^command: the program no-such-program was not found"),
        (
            {"command": ["echo", "{ligand}"]},
            r"^command: unknown placeholder \{ligand\}; allowed: \{folder\}, \{here\}, \{output\}",
        ),
        ({"pattern": "score"}, r"^pattern: must have exactly one group, for the number, got 0 in score$"),
        ({"pattern": "(score"}, "^pattern: not valid: missing"),
        ({"pick": "best"}, "pick: must be one of first, last, min, max, got best"),
        ({"source": "output"}, r"^command: must contain \{output\} with source=output$"),
    ],
)
def test_a_mistake_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ExternalProgram(**{"command": ["echo"], "pattern": r"(\S+)", **options})
