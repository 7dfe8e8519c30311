"""Descriptors of RDKit by name, and the features of a QSAR model."""

import numpy as np
import pytest
from rdkit import Chem, DataStructs
from rdkit.Chem import Descriptors, GraphDescriptors, rdFingerprintGenerator

from chem.oracles.base import Molecule
from chem.oracles.compose import Scorer
from chem.oracles.descriptors import FINGERPRINTS, Descriptor, make_features
from conf.schema.base import ConfigError
from conf.schema.oracle import ComponentConfig, OracleConfig

ASPIRIN = Chem.MolFromSmiles("CC(=O)Oc1ccccc1C(=O)O")


def test_every_descriptor_of_rdkit_has_its_value():
    expected = Descriptors.CalcMolDescriptors(ASPIRIN)
    assert len(expected) > 200
    for name, value in expected.items():
        assert Descriptor(name)(Molecule(ASPIRIN)) == value
    assert Descriptor("BalabanJ")(Molecule(ASPIRIN)) == GraphDescriptors.BalabanJ(ASPIRIN) != expected["MolWt"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MolWT", r"^name: RDKit has no descriptor MolWT; did you mean MolWt, "),
        ("qqqqqq", r"^name: RDKit has no descriptor qqqqqq; rdkit\.Chem\.Descriptors\.descList has the names$"),
    ],
)
def test_an_unknown_descriptor_is_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        Descriptor(name)


def test_a_descriptor_within_one_needs_no_transform():
    component = ComponentConfig("descriptor", {"name": "FractionCSP3"})
    assert Scorer(OracleConfig([component]))("CCc1ccccc1").score == 0.25
    with pytest.raises(ConfigError, match="values of descriptor are not within"):
        Scorer(OracleConfig([ComponentConfig("descriptor", {"name": "MolMR"})]))


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_a_fingerprint_has_the_bits_of_rdkits(name):
    generator = {
        "morgan": rdFingerprintGenerator.GetMorganGenerator(radius=2),
        "rdkit": rdFingerprintGenerator.GetRDKitFPGenerator(),
        "atom_pair": rdFingerprintGenerator.GetAtomPairGenerator(),
        "torsion": rdFingerprintGenerator.GetTopologicalTorsionGenerator(),
    }.get(name)
    row = make_features([name])(ASPIRIN)
    assert row.dtype == np.float32
    if generator is None:
        assert len(row) == 167
        assert row[164] == 1  # oxygen
    else:
        bits = np.zeros(2048)
        DataStructs.ConvertToNumpyArray(generator.GetFingerprint(ASPIRIN), bits)
        assert (row == bits).all()
        counts = make_features([{"name": name, "counts": True}])(ASPIRIN)
        expected = generator.GetCountFingerprint(ASPIRIN).GetNonzeroElements()
        assert {int(index): counts[index] for index in np.flatnonzero(counts)} == expected
        assert counts.max() > 1


def test_features_keep_their_order():
    row = make_features(["MolWt", {"name": "morgan", "bits": 64, "radius": 1}, "TPSA"])(ASPIRIN)
    assert len(row) == 66
    assert row[[0, -1]].tolist() == pytest.approx([180.159, 63.6], abs=1e-3)
    assert set(row[1:-1].tolist()) == {0, 1}
    with pytest.raises(ValueError, match=r"^feature 1 is not finite$"):
        make_features(["MolWt", "MaxPartialCharge"])(Chem.MolFromSmiles("C[Se]C"))


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([], r"^features: must name at least one fingerprint or descriptor, got \[\]$"),
        (["ecfp"], r"^features: RDKit has no descriptor ecfp"),
        ([{"radius": 2}], r"^features: need fingerprints \(morgan, rdkit, .*\) or descriptors, got \{'radius': 2\}$"),
        ([{"name": "maccs", "bits": 64}], r"^features: maccs: maccs\(\) got an unexpected keyword argument 'bits'$"),
    ],
)
def test_features_that_do_not_exist_are_refused(features, message):
    with pytest.raises(ConfigError, match=message):
        make_features(features)
