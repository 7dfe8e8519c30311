"""A program that scores a batch: QuickVina2-GPU by the documented commands, and molecules that fail alone."""

import stat
import sys
from pathlib import Path

import pytest
import yaml
from rdkit import Chem

pytest.importorskip("meeko", reason="needs the extra docking")
from chem.oracles import Oracle, Status, Value
from chem.oracles.base import Molecule
from chem.oracles.batch_program import BatchProgram
from chem.oracles.compose import Scorer, make_component
from conf.schema.base import ConfigError
from conf.schema.oracle import ComponentConfig, ComponentTransformConfig, OracleConfig

DOCS = Path(__file__).resolve().parents[3] / "docs" / "oracles.md"
STAND_IN = Path(__file__).with_name("quickvina2_gpu.py")
RECEPTOR = "ATOM      1  N   LEU A   1     -23.116  51.856  14.804  0.00  0.00    +0.386 {:2}\n"
SHAPE = ComponentTransformConfig("reverse_sigmoid", low=-16.0, high=0.0, k=0.15)


def documented(name):
    """The parameters of a component in the page's examples."""
    blocks = DOCS.read_text("utf-8").split("```yaml\n- name: ")[1:]
    examples = [yaml.safe_load("- name: " + block.split("```")[0])[0] for block in blocks]
    return next(example["parameters"] for example in examples if example["name"] == name)


@pytest.fixture
def quickvina(tmp_path, monkeypatch):
    """The files that the documented commands name, in the folder of the command."""
    folder = tmp_path / "QuickVina2-GPU-2.1"
    folder.mkdir()
    program = folder / "QuickVina2-GPU-2-1"
    program.write_text(f"#!{sys.executable} -S\n{STAND_IN.read_text()}")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    for kernel in ("Kernel1_Opt.bin", "Kernel2_Opt.bin"):
        (folder / kernel).write_bytes(b"")
    (tmp_path / "receptor.pdbqt").write_text(RECEPTOR.format("N") + RECEPTOR.format("HD"))
    monkeypatch.chdir(tmp_path)
    return folder


def molecules(*smiles):
    return [Molecule(Chem.MolFromSmiles(string)) for string in smiles]


def energies(answers):
    return [answer.value if isinstance(answer, Value) else str(answer) for answer in answers]


def test_the_documented_commands_run(quickvina):
    batch = BatchProgram(**documented("batch_program"))
    assert batch.preflight() == "-3 for c1ccccc1, -6.5 for CC(=O)Nc1ccc(O)cc1"
    assert energies(batch.score_batch(molecules("CCO", "C.C", "CCCC"))) == [
        -2,  # three heavy atoms and a polar hydrogen, half a kcal/mol each
        "the molecule has several fragments; only one can be docked",
        -2,
    ]
    single = make_component(ComponentConfig("external_program", documented("external_program")))
    assert single(molecules("CCO")[0]).value == -2
    kernel = quickvina / "Kernel2_Opt.bin"
    kernel.unlink()  # control: without the kernels' folder it cannot run
    with pytest.raises(
        ConfigError, match=r"^command: the program fails for simple molecules: .*status 1: .*Kernel2_Opt"
    ):
        batch.preflight()


def test_a_molecule_at_fault_fails_alone(quickvina):
    """One aborts the program, one makes it hang, and one has an opened ring, which QuickVina cannot read."""
    parameters = documented("batch_program") | {"time_limit_s": 1.0, "flexible_ring_size": 7}
    scorer = Scorer(OracleConfig([ComponentConfig("batch_program", parameters, SHAPE)]))
    carbons = ["C" * n for n in range(1, 4)]
    results = scorer.score_batch([*carbons, "CI", "CC(=O)N1CCCCCC1", "CBr", "C1CC"])
    by_smiles = {result.smiles: result for result in results}
    assert [by_smiles[smiles].values["batch_program"] for smiles in carbons] == [-0.5, -1, -1.5]
    assert by_smiles["CI"].message == "batch_program: RuntimeError: the program ended with status -6:"
    assert by_smiles["CBr"].message == "batch_program: the program did not end within 1 s"
    assert by_smiles["CBr"].status is Status.timed_out
    assert "CG0 is not a valid AutoDock type" in by_smiles["CC(=O)N1CCCCCC1"].message
    two = BatchProgram(**parameters).score_batch(molecules("CC(=O)N1CCCCCC1", "CC"))  # the program skips the first
    assert energies(two) == ["the program wrote no file for this molecule", -1]
    assert by_smiles["C1CC"].status is Status.invalid
    rigid = BatchProgram(**documented("batch_program"))  # control
    assert energies(rigid.score_batch(molecules("CC(=O)N1CCCCCC1"))) == [-5]


def test_an_oracle_with_a_batch_program(quickvina):
    component = ComponentConfig("batch_program", documented("batch_program"), SHAPE)
    with Oracle(OracleConfig([ComponentConfig("qed"), component], workers=1, time_limit_s=20.0)) as oracle:
        assert oracle.notes == ["batch_program: -3 for c1ccccc1, -6.5 for CC(=O)Nc1ccc(O)cc1"]
        results = oracle(["C" * n for n in range(1, 20)])
    assert [result.values["batch_program"] for result in results] == [-0.5 * n for n in range(1, 20)]


def test_one_number_for_each_molecule_in_order():
    lines = BatchProgram(
        ["sh", "-c", "cut -d' ' -f1 $1 | awk '{{print length($1)}}'", "-", "{smi_list}"], r"(\d+)", "stdout"
    )
    assert energies(lines.score_batch(molecules("CCO", "C", "CC"))) == [3, 1, 2]
    one = BatchProgram(["sh", "-c", "echo 1 > {output}", "{smi_folder}"], r"(\d+)", "output")
    assert energies(one.score_batch(molecules("C"))) == [1]
    with pytest.raises(ValueError, match=r"^output has 1 numbers for 2 molecules$"):
        one.score_batch(molecules("C", "CC"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"command": ["echo"]}, r"^command: must contain the molecules, as one of \{smi_folder\}, \{sdf_folder\}"),
        ({"command": ["echo", "{smi_list}"]}, r"^command: must contain \{output_folder\} with source=output_folder$"),
        ({"command": ["echo", "{smiles}"]}, r"^command: unknown placeholder \{smiles\}; allowed: "),
        ({"source": "file"}, "^source: must be one of output_folder, stdout, output, got file$"),
        ({"flexible_ring_size": 6}, "^flexible_ring_size: must be >= 7, or null for rigid rings, got 6$"),
    ],
)
def test_a_mistake_is_refused(options, message):
    command = ["echo", "{smi_folder}", "{output_folder}"]
    with pytest.raises(ConfigError, match=message):
        BatchProgram(**{"command": command, "pattern": r"(\S+)", **options})
