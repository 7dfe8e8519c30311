"""The search's parts: templates, costs, inventories and one-step models."""

import math
from pathlib import Path

import pytest
from rdkit import Chem

pytest.importorskip("syntheseus", reason="needs the extra synthesis")
from syntheseus.interface.bag import Bag
from syntheseus.interface.molecule import Molecule
from syntheseus.interface.reaction import SingleProductReaction
from syntheseus.search.graph.and_or import AndNode, OrNode

from chem.oracles.synthesis.inventory import read_stock
from chem.oracles.synthesis.search import (
    Inventory,
    ReactionCost,
    RouteSearch,
    TemplateModel,
    choose_templates,
    has_enough_carbon,
    load_model,
    may_lead_to_route,
)
from chem.oracles.synthesis.templates import Retrosynthesis, datamol_templates
from conf.schema.base import ConfigError


def reaction_node(**metadata):
    reaction = SingleProductReaction(
        reactants=Bag([Molecule("C")]),
        product=Molecule("CC"),
        metadata=metadata,
    )
    return AndNode(reaction=reaction)


def test_templates_are_chosen_by_tag_or_name():
    assert choose_templates(None) == list(datamol_templates())
    chosen = choose_templates(["amide coupling"])
    assert {template.name for template in chosen} == {f"amide_coupling-{n}" for n in (1, 2, 3, 4)}
    assert [template.name for template in choose_templates(["amide_coupling-2"])] == ["amide_coupling-2"]
    with pytest.raises(ConfigError, match=r"^reactions: must be tags or names of datamol's templates, got none$"):
        choose_templates(["amide coupling", "none"])


def test_the_model_proposes_what_the_templates_match(amide):
    templates = choose_templates(["amide coupling"])
    (reactions,) = TemplateModel(templates)([Molecule(amide)], num_results=100)
    proposed = [(r.metadata["template"], tuple(sorted(m.smiles for m in r.reactants))) for r in reactions]
    expected = [(t.name, parts) for t, parts in Retrosynthesis(tuple(templates))(Chem.MolFromSmiles(amide))]
    assert proposed == expected
    assert len(proposed) >= 2
    assert len(TemplateModel(templates)([Molecule(amide)], num_results=1)[0]) == 1
    assert list(TemplateModel(templates).get_parameters()) == []


def test_costs_are_minus_log_probability_or_one():
    nodes = [reaction_node(), reaction_node(probability=0.5), reaction_node(probability=0.0)]
    assert ReactionCost()(nodes) == pytest.approx([1.0, math.log(2), -math.log(1e-10)])
    assert ReactionCost()([reaction_node(probability=1.0)])[0] > 0  # no reaction is free


def test_the_inventory_is_a_set():
    inventory = Inventory(frozenset(["CCO"]))
    assert inventory.is_purchasable(Molecule("OCC"))
    assert not inventory.is_purchasable(Molecule("CCN"))
    assert Inventory(frozenset(["NCC(=O)O"])).is_purchasable(Molecule("[NH3+]CC(=O)[O-]"))


@pytest.mark.parametrize(
    ("reactants", "product", "enough"),
    [
        (["CC(=O)O", "CN"], "CNC(C)=O", True),
        (["c1ccccc1"], "Brc1ccccc1", True),  # a reagent that the model left out
        (["CC(=O)O"], "CNC(C)=O", False),
        (["CC"], "CCCC", False),
    ],
)
def test_a_model_of_your_own_must_not_lose_carbon(reactants, product, enough):
    reaction = SingleProductReaction(reactants=Bag(map(Molecule, reactants)), product=Molecule(product), metadata={})
    assert has_enough_carbon(reaction) == enough


@pytest.mark.parametrize(("depth", "reactions"), [(1, 0), (2, 2), (3, 2)])
def test_the_depth_is_in_reactions(blocks, amide, depth, reactions):
    stock = frozenset(read_stock(Path(blocks)).smiles)
    model = TemplateModel(datamol_templates(), use_cache=True)
    search = RouteSearch(
        depth,
        model.is_possible,
        reaction_model=model,
        mol_inventory=Inventory(stock),
        limit_iterations=500,
        time_limit_s=60.0,
    )
    graph, _ = search.run_from_mol(Molecule(amide))
    assert graph.root_node.has_solution == bool(reactions)
    deepest = max(node.depth for node in graph.nodes())
    assert deepest <= 2 * depth  # molecules and reactions alternate
    for node in graph.nodes():  # reactants of a last reaction are purchasable
        if node.depth == 2 * depth:
            assert node.mol.smiles in stock


def test_a_node_is_hopeless_if_its_value_is_infinite():
    node = OrNode(mol=Molecule("C"))
    assert not may_lead_to_route(node)
    node.data["retro_star_value"] = 2.0
    assert may_lead_to_route(node)
    node.data["retro_star_value"] = math.inf
    assert not may_lead_to_route(node)
    assert not may_lead_to_route(reaction_node())


def test_a_model_of_another_type_is_refused():
    with pytest.raises(ConfigError, match=r"^model: must be a syntheseus BackwardReactionModel, got Counter$"):
        load_model("collections:Counter", {})
    with pytest.raises(ConfigError, match=r"^model: collections:Nothing cannot be imported"):
        load_model("collections:Nothing", {})
