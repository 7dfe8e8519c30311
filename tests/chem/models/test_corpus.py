"""Files of SMILES as training data: filtering, reading, batches, randomised SMILES."""

import gzip

import pytest
import torch
from rdkit import Chem

from chem.models.corpus import (
    epoch_batches,
    filter_smiles,
    randomise_encodable,
    randomise_smiles,
    read_corpus,
    split_rows,
)
from chem.models.tokenizer import Tokenizer, split_tokens
from conf.schema.base import ConfigError
from conf.schema.chem import MoleculeFilterConfig

SETTINGS = MoleculeFilterConfig(["C", "N", "O", "Cl"], 2, 12, 20, 1, True)
MOLECULE = "CC(=O)Nc1ccc(O)cc1"


def test_molecules_are_filtered_and_reasons_counted():
    lines = [
        "OCC",
        "CCO",
        "C(",
        "",
        "CCBr",
        "C",
        "CCCCCCCCCCCCCCO",
        "CC(=O)[O-].[Na+]",
        "C1CC1",
        "CC(C)(C)OCC(N)=O",
        "COC",
    ]
    smiles, counts = filter_smiles(lines, SETTINGS)
    assert smiles == ["CCO", "CC(=O)[O-]", "C1CC1", "CC(C)(C)OCC(N)=O", "COC"]
    reasons = {"duplicate": 1, "not a molecule": 1, "empty": 1, "element": 1, "heavy atoms": 2}
    assert counts == {"lines": 11, "kept": 5, **reasons, "salt stripped": 1}
    strict = MoleculeFilterConfig(["C", "N", "O", "Cl"], 2, 15, 15, 2, False)
    smiles, counts = filter_smiles(lines, strict)
    assert counts["several fragments"] == 1
    assert "salt stripped" not in counts  # control
    assert counts["too long"] == 2
    assert counts["rare token"] == 1
    assert smiles == ["CCO", "COC"]
    assert sum(count for reason, count in counts.items() if reason != "lines") == 11
    assert filter_smiles(["C" * 20_000, "CCO", "CCN"], SETTINGS)[1]["too long"] == 1  # RDKit crashes on such chains


def test_a_file_is_read_plain_or_gzipped_and_once(tmp_path):
    (tmp_path / "a.smi").write_text("CCO\nCCN\n")
    (tmp_path / "a.smi.gz").write_bytes(gzip.compress(b"CCO\nCCN\n"))
    for name in ("a.smi", "a.smi.gz"):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        assert read_corpus(str(tmp_path / name), SETTINGS, folder).smiles == ["CCO", "CCN"]
        stored = folder / "corpus.json"
        stored.write_text(stored.read_text().replace('"CCN"]', '"CCCl"]'))
        assert read_corpus(str(tmp_path / name), SETTINGS, folder).smiles == ["CCO", "CCCl"]  # it was not read again
    (tmp_path / "a.smi").write_text("CCO\nCCN\nCCC\n")  # another content
    assert len(read_corpus(str(tmp_path / "a.smi"), SETTINGS, tmp_path / "a_smi").smiles) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bad.smi.gz", r"^data: bad\.smi\.gz must be text, plain or gzipped \("),
        ("none.smi", r"^data: there is no file .*none\.smi, neither here nor in the folder named by MARA_DATA$"),
        ("one.smi", r"^data: at least 2 molecules of .*one\.smi .* \(lines 2, kept 1, not a molecule 1\)$"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path, name, message):
    (tmp_path / "bad.smi.gz").write_bytes(gzip.compress(b"CCO\n")[:-9])
    (tmp_path / "one.smi").write_text("CCO\nC(\n")
    with pytest.raises(ConfigError, match=message):
        read_corpus(str(tmp_path / name), SETTINGS, tmp_path)


def test_the_column_of_the_smiles_is_part_of_what_is_stored(tmp_path):
    (tmp_path / "a.csv").write_text("smiles,product\nCCO,CCCl\nCCN,CCC\n")
    assert read_corpus(str(tmp_path / "a.csv"), SETTINGS, tmp_path).smiles == ["CCO", "CCN"]
    assert read_corpus(str(tmp_path / "a.csv"), SETTINGS, tmp_path, "product").smiles == ["CCCl", "CCC"]


def test_an_epoch_has_every_molecule_once_and_little_padding():
    lengths = torch.randint(10, 70, (5000,), generator=torch.Generator().manual_seed(0))
    batches = epoch_batches(lengths, 64, 0, 3)
    assert sorted(torch.cat(batches).tolist()) == list(range(5000))
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    assert padded < 1.05 * int(lengths.sum())
    unsorted = torch.randperm(5000, generator=torch.Generator().manual_seed(1)).split(64)  # control
    assert sum(len(batch) * int(lengths[batch].max()) for batch in unsorted) > 1.5 * int(lengths.sum())
    assert not torch.equal(batches[0], epoch_batches(lengths, 64, 0, 4)[0])


@pytest.mark.parametrize(("count", "share", "expected"), [(100, 0.1, 10), (3, 0.01, 1), (3, 0.99, 2)])
def test_rows_are_split_with_at_least_one_on_each_side(count, share, expected):
    train, held_out = split_rows(count, share, 0)
    assert len(held_out) == expected
    assert sorted(train + held_out) == list(range(count))
    assert count < 100 or split_rows(count, share, 1)[1] != held_out


def test_a_randomised_smiles_is_the_same_molecule():
    randomised = {randomise_smiles(MOLECULE, 0, epoch) for epoch in range(10)}
    assert len(randomised) > 5
    assert {Chem.CanonSmiles(smiles) for smiles in randomised} == {Chem.CanonSmiles(MOLECULE)}
    assert randomise_smiles(MOLECULE, 0, 3) == randomise_smiles(MOLECULE, 0, 3)
    assert randomise_smiles("C(", 0, 3) == "C("  # not a molecule


def test_randomised_smiles_stay_within_the_vocabulary_and_the_length():
    tokenizer = Tokenizer.from_tokens(split_tokens(MOLECULE))
    many = list(randomise_encodable([MOLECULE] * 2, tokenizer, 40, 0, 1))
    assert many == [randomise_smiles(MOLECULE, 0, 1)] * 2 != [MOLECULE] * 2
    assert list(randomise_encodable([MOLECULE], tokenizer, 5, 0, 1)) == [MOLECULE]
    without_ring = Tokenizer.from_tokens(["C"])
    assert list(randomise_encodable([MOLECULE], without_ring, 40, 0, 1)) == [MOLECULE]
