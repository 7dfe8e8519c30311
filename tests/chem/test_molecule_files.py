"""The reader of molecule files: separators, headers, columns, encodings, SDF, and what is left out."""

import gzip

import pytest
from rdkit import Chem

from chem.molecule_files import (
    canonical_smiles,
    distinct_molecules,
    format_counts,
    parse_smiles,
    read_molecule_file,
    read_molecules,
)
from chem.molecules import MAX_CHARACTERS
from conf.schema.base import ConfigError

BOM = "\ufeff"


@pytest.mark.parametrize(
    ("name", "text", "column"),
    [
        ("a.smi", "CCO\nCCN\n", "1"),
        ("a.smi", "# made by hand\nCCO ethanol, pure\n# further down\nCCN 1,2-x\n", "1"),
        ("a.smi", "smiles zinc_id\nCCO ZINC1\nCCN ZINC2\n", "smiles"),  # ZINC
        ("a.txt", "ZINC1\tCCO\nZINC2\tCCN\n", "2"),
        ("a.csv", "zinc_id,smiles\nZINC1,CCO\nZINC2,CCN\n", "smiles"),
        ("a.csv", "Compound Name,SMILES (canonical)\nmy compound,CCO\nother,CCN\n", "SMILES (canonical)"),
        ("a.txt", "chembl_id\tcanonical_smiles\tstandard_inchi\nCHEMBL1\tCCO\tInChI=1S\nCHEMBL2\tCCN\tI\n",
         "canonical_smiles"),  # ChEMBL's dump
        ("a.csv", f'{BOM}"ChEMBL ID";"Name";"Smiles"\r\n"1";"a;\nb";"CCO"\r\n\r\n"2";"";"CCN"\r\n', "Smiles"),
        ("a.tsv", "CCO\tethanol absolute\nCCN\tx y\n", "1"),
        ("a.csv", "smiles,name\nCCO |&1:1|,x\nCCN,y\n", "smiles"),  # extended SMILES
        ("a.csv", "# a comment\nsmiles,scaffold_smiles\nCCO,C\nCCN,C\n", "smiles"),
        ("a.csv", "CCO,1.5\nCCN,2.5\n", "1"),
        ("a.csv", 'id,x,SMILES\n1,"' + "x" * 200_000 + '",CCO\n2,,CCN\n', "SMILES"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["plain", "gzipped", "utf-16"])
def test_files_as_they_are(tmp_path, name, text, column, form):
    content = text.removeprefix(BOM).encode("utf-16") if form == "utf-16" else text.encode()
    path = tmp_path / (name + ".gz" * (form == "gzipped"))
    path.write_bytes(gzip.compress(content) if form == "gzipped" else content)
    table = read_molecule_file("data", path)
    assert (table.smiles, table.column) == (["CCO", "CCN"], column)


def test_order_empty_cells_and_lines_are_kept(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["smiles,score", "OCC,1", ",2", "C(,", "CCO"]))
    table = read_molecule_file("file", path, columns={"score_column": "score"})
    assert table == (["OCC", "", "C(", "CCO"], {"score": ["1", "2", "", ""]}, [2, 3, 4, 5], "smiles")
    (tmp_path / "a.smi").write_text("CCO\n\n# c\nC(\n")
    assert read_molecule_file("file", tmp_path / "a.smi")[::2] == (["CCO", "", "C("], [1, 2, 4])


def test_a_column_is_chosen_by_name_or_number(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,left,right\n1,CCO,CCN\n2,CCCl,CCBr\n")
    assert read_molecule_file("data", path, "right").smiles == ["CCN", "CCBr"]
    path.write_text("1,CCO,CCN\n2,CCCl,CCBr\n")
    assert read_molecule_file("data", path, "2").smiles == ["CCO", "CCCl"]
    assert read_molecule_file("data", path, "3").smiles == ["CCN", "CCBr"]


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("CanonicalSMILES,IsomericSMILES\nCCO,CCO\n", None,
         r"^known_column: several columns of a\.csv may hold the SMILES; set it to one of CanonicalSMILES, Isom"),
        ("CCO,CCN\nCC,CF\n", None, r"^known_column: several columns of a\.csv may .* one of 1, 2$"),
        ("id,mol\n1,CCO\n", "smiles", r"^known_column: a\.csv has no column smiles; its columns are: id, mol$"),
        ("1,CCO\n", "3", r"^known_column: a\.csv has 2 columns, got 3$"),
        ("1,CCO\n", "0", r"^known_column: a\.csv has 2 columns, got 0$"),
        ('smiles,name\nCCO,x\nCCN,"y\n' + "CCC,z\n" * 60, "smiles", r"^known: quotes in a\.csv do not match \("),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(tmp_path, text, column, message):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        read_molecule_file("known", path, column, column_key="known_column")
    assert "\n" not in str(error.value)


def test_a_header_without_smiles_is_refused_where_a_header_is_needed(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,score\nx1,1\n")
    with pytest.raises(
        ConfigError, match=r"^smiles_column: no column of a\.csv holds SMILES; its columns are: id, sc"
    ):
        read_molecule_file("file", path, columns={"score_column": "score"})
    path.write_text("structure,score\nCCO,1\n")  # control: found by what it holds
    assert read_molecule_file("file", path, columns={"score_column": "score"}).smiles == ["CCO"]


def test_a_damaged_file_is_one_line(tmp_path):
    path = tmp_path / "a.smi.gz"
    path.write_bytes(gzip.compress(b"CCO\n" * 1000)[:-9])
    with pytest.raises(ConfigError, match=r"^data: a\.smi\.gz must be text, plain or gzipped \("):
        read_molecule_file("data", path)


@pytest.mark.parametrize("gzipped", [False, True])
def test_sdf(tmp_path, gzipped):
    ethanol = Chem.MolFromSmiles("CCO")
    ethanol.SetProp("activity", "7.5")
    records = [Chem.MolToMolBlock(ethanol) + ">  <activity>\n7.5\n\n$$$$\n", "\nbroken\n\n  1\n$$$$\n"]
    records.append(Chem.MolToMolBlock(Chem.MolFromSmiles("CCN")) + "$$$$\n")
    content = "".join(records).encode()
    path = tmp_path / ("a.sdf.gz" if gzipped else "a.sdf")
    path.write_bytes(gzip.compress(content) if gzipped else content)
    table = read_molecule_file("data", path, columns={"score_column": "activity"})
    assert table.smiles == ["CCO", "unreadable record", "CCN"]
    assert table.columns == {"activity": ["7.5", "", ""]}
    assert read_molecules("data", path) == (["CCO", "CCN"], {"lines": 3, "kept": 2, "not a molecule": 1})
    with pytest.raises(ConfigError, match=r"^score_column: a\.sdf.* has no field score; its fields are: activity$"):
        read_molecule_file("data", path, columns={"score_column": "score"})


def test_reasons_are_counted():
    strings = ["OCC", "CCO", "", "C(", "C" * 251, "C" * (MAX_CHARACTERS + 1), "CCN", "ü"]
    molecules = distinct_molecules(strings, canonical_smiles)
    assert molecules.smiles == ["CCO", "CCN"]
    reasons = {"not a molecule": 2, "too large": 2, "duplicate": 1, "empty": 1}
    assert molecules.counts == {"lines": 8, "kept": 2, **reasons}
    assert format_counts({"lines": 1100, "kept": 2, "not a molecule": 1}) == "lines 1,100, kept 2, not a molecule 1"
    assert Chem.MolToSmiles(parse_smiles("C" * 250)) == "C" * 250  # control


def test_a_file_without_a_molecule_is_refused(tmp_path):
    path = tmp_path / "a.smi"
    path.write_text("C(\n\n")
    with pytest.raises(
        ConfigError, match=r"^known: there are no molecules in a\.smi \(lines 2, kept 0, not a molecule 1, "
    ):
        read_molecules("known", path)
    path.write_text("C(\nCCO\n")  # control
    assert read_molecules("known", path).smiles == ["CCO"]
