"""Tables of molecules as REINVENT 4 and Saturn write them."""

import gzip
import json

import pytest

pytest.importorskip("rdkit", reason="needs the extra chem")

from chem.diagnosis_files import OURS, REINVENT, SATURN, TABLE, read_molecules, repeats, with_classes
from conf.schema.base import ConfigError

# The headers and formats are those of `write_summary` of REINVENT 4 and of `Oracle.oracle_history` of Saturn.
REINVENT_CSV = """\
Agent,Prior,Target,Score,SMILES,Scaffold,QED,QED (raw),step
20.1000,30.5000,-5.0000,0.8000000,c1ccccc1C,c1ccccc1,0.8000000,0.8000,1
21.0000,31.0000,-4.0000,0.0000000,not a molecule,,0.0000000,0.0000,2
22.0000,29.0000,-4.0000,,CCO,,nan,nan,2
"""
SATURN_CSV = """\
,oracle_calls,scaffold,smiles,reward,penalized_reward,qed_raw_values,qed_reward
0,15.0,c1ccccc1,Cc1ccccc1,0.5,0.5,0.5,0.5
0,30.0,c1ccccc1,CCc1ccccc1,0.25,0.0,0.25,0.25
"""


def test_reinvent_has_log_likelihoods(tmp_path):
    path = tmp_path / "staged_learning_1.csv"
    path.write_text(REINVENT_CSV)
    molecules = read_molecules([path])
    assert molecules.origin == REINVENT
    first, second, third = molecules.samples
    assert (first.step, first.reward, first.policy_logp, first.ref_logp) == (1, 0.8, -20.1, -30.5)
    assert second.reward == 0
    assert third.reward is None
    by_scaffold = with_classes(molecules.samples, "scaffold")
    assert [sample.answer for sample in by_scaffold] == ["c1ccccc1", ""]  # what is no molecule is left out
    assert [sample.answer for sample in with_classes(molecules.samples, "molecule")] == ["Cc1ccccc1", "CCO"]


def test_saturn_has_oracle_calls_for_steps(tmp_path):
    path = tmp_path / "oracle_history.csv.gz"
    path.write_bytes(gzip.compress(SATURN_CSV.encode()))
    molecules = read_molecules([path])
    assert molecules.origin == SATURN
    assert [(sample.step, sample.reward) for sample in molecules.samples] == [(15, 0.5), (30, 0.25)]
    assert any("listed once" in note for note in molecules.notes)


def test_a_run_folder_and_any_table(tmp_path):
    row = {"step": 3, "smiles": "CCO", "score": 0.5, "status": "ok"}
    (tmp_path / "samples.jsonl").write_text(json.dumps(row) + "\n")
    molecules = read_molecules([tmp_path])
    assert (molecules.origin, molecules.samples[0].step) == (OURS, 3)
    assert (molecules.config, molecules.metrics) == ({}, ())
    (tmp_path / "config.yaml").write_text("seed: 3\n")
    assert read_molecules([tmp_path]).config == {"seed": 3}  # a folder that has been copied without its metrics
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "repeats": 0.5}\n')
    assert repeats(read_molecules([tmp_path / "samples.jsonl"]).metrics) == (0.5, 0.5)
    table = tmp_path / "scores.csv"
    table.write_text("smiles,score\nCCO,0.5\nCCN,0.6\n")
    assert read_molecules([table]).origin == TABLE
    assert [sample.step for sample in read_molecules([table]).samples] == [0, 1]  # the order stands for time


def test_repeats_are_those_of_the_first_and_last_tenth():
    metrics = [{"step": step, "repeats": step / 100} for step in range(20)] + [{"step": 20, "repeats": None}]
    assert repeats(metrics) == pytest.approx((0.005, 0.185))
    assert repeats([{"step": 0}]) is None
    assert repeats([]) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no molecules"),
        ("a,b\n1,2\n", "must have the columns of REINVENT 4"),
        ("smiles,score\nCCO,high\n", "line 2: score must be a number, got 'high'"),
        (b"\xff\xfe\x00\x81\x82", "not a table of text"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, content, message):
    path = tmp_path / "x.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=message) as error:
        read_molecules([path])
    assert str(error.value).startswith(str(path))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_molecules([tmp_path / "nowhere.csv"])
