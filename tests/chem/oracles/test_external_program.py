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
    first, child, second = log.read_text().split()
    assert Path(first).parent == folder
    assert Path(second).parent == last
    assert not last.exists()
    time.sleep(0.2)
    assert not psutil.pid_exists(int(child)) or psutil.Process(int(child)).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"command": "echo 1"}, "^command: must be a list of the program and its arguments, got 'echo 1'$"),
        ({"command": ["no-such-program"]}, "^command: the program no-such-program was not found"),
        (
            {"command": ["echo", "{ligand}"]},
            r"^command: unknown placeholder \{ligand\}; allowed: \{folder\}, \{output\}",
        ),
        ({"pattern": "score"}, r"^pattern: must have exactly one group, for the number, got 0 in score$"),
        ({"pattern": "(score"}, "^command, pattern: not valid: missing"),
        ({"pick": "best"}, "pick: must be one of first, last, min, max, got best"),
        ({"source": "output"}, r"^command: must contain \{output\} with source=output$"),
    ],
)
def test_a_mistake_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ExternalProgram(**{"command": ["echo"], "pattern": r"(\S+)", **options})
