"""Routes: their reactions, their drawings, and the shortest one of a graph."""

import json
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("syntheseus", reason="needs the extra synthesis")
from syntheseus.interface.bag import Bag
from syntheseus.interface.molecule import Molecule
from syntheseus.interface.reaction import SingleProductReaction
from syntheseus.search.graph.and_or import AndNode, OrNode

from chem.oracles.synthesis.component import Synthesis
from chem.oracles.synthesis.inventory import read_stock
from chem.oracles.synthesis.routes import draw_route, route_length, route_steps, shortest_route
from chem.oracles.synthesis.templates import datamol_templates

ROUTE = {
    "smiles": "CCO",
    "reaction": "last",
    "reactants": [{"smiles": "C"}, {"smiles": "CC", "reaction": "first", "reactants": [{"smiles": "C"}]}],
}


def test_a_route_ends_at_purchasable_molecules(blocks, amide, ask):
    route = ask(Synthesis(blocks, depth=2), amide).details
    assert json.loads(json.dumps(route)) == route
    assert route_length(route) == 2
    products, reactants = set(), set()
    for name, parts, product in route_steps(route):
        assert name in {template.name for template in datamol_templates()}
        products.add(product)
        reactants.update(parts)
    assert amide in products
    assert reactants - products <= set(read_stock(Path(blocks)).smiles)


def test_steps_are_listed_from_the_last_to_the_first():
    assert list(route_steps(ROUTE)) == [("last", ["C", "CC"], "CCO"), ("first", ["C"], "CC")]
    assert (route_length(ROUTE), route_length({"smiles": "C"})) == (2, 0)


class Graph:
    """A search graph in which only C is purchasable and every reaction is part of a route."""

    def __init__(self):
        self.children = {}

    def successors(self, node):
        return self.children.get(id(node), [])

    def molecule(self, smiles):
        node = OrNode(mol=Molecule(smiles))
        node.mol.metadata["is_purchasable"] = smiles == "C"
        return node

    def add_reaction(self, product, name, *reactants):
        bag = Bag([reactant.mol for reactant in reactants])
        node = AndNode(SingleProductReaction(reactants=bag, product=product.mol, metadata={"template": name}))
        node.has_solution = True
        self.children.setdefault(id(product), []).append(node)
        self.children[id(node)] = list(reactants)
        return node


def test_the_shortest_of_several_routes_is_taken():
    graph = Graph()
    ethanol, ethane, methane = (graph.molecule(smiles) for smiles in ("CCO", "CC", "C"))
    graph.add_reaction(ethanol, "from ethane", ethane)
    graph.add_reaction(ethane, "from methane", methane)
    direct = graph.add_reaction(ethanol, "direct", methane)
    assert shortest_route(graph, ethanol) == {"smiles": "CCO", "reaction": "direct", "reactants": [{"smiles": "C"}]}
    direct.has_solution = False  # control
    assert [name for name, *_ in route_steps(shortest_route(graph, ethanol))] == ["from ethane", "from methane"]


@pytest.mark.parametrize(("route", "rows"), [(ROUTE, 2), ({"smiles": "CCO"}, 1)])
def test_a_drawing_has_one_row_per_reaction(tmp_path, route, rows):
    draw_route(route, tmp_path / "route.png")
    image = Image.open(tmp_path / "route.png")
    assert image.height == rows * 200
    assert len(image.convert("L").getcolors()) > 10  # not blank
