"""The picture of molecules with their routes."""

import pytest
from PIL import Image

from chem.report import best_routes

pytest.importorskip("syntheseus")
from chem.route_pictures import CELL, LINE, MARGIN, WIDTH, draw_routes

BOUGHT = {"smiles": "CCO"}
ACID = {"smiles": "CC(=O)O", "reaction": "oxidation", "reactants": [BOUGHT]}
AMIDE = {"smiles": "CC(=O)NC", "reaction": "amide coupling", "reactants": [ACID, {"smiles": "CN"}]}


def row(score, **details):
    return {"smiles": "C", "score": score, "details": details}


def test_the_best_molecules_with_a_route_are_chosen():
    rows = [row(0.1 * number, synthesis=AMIDE) for number in range(8)]
    rows += [row(0.99, docking={"pdbqt": "a"}), row(0.98), row(0.97, docking={"pdbqt": "a"}, made=BOUGHT)]
    chosen = best_routes(rows)
    assert [line["score"] for line, _ in chosen] == pytest.approx([0.97, 0.7, 0.6, 0.5, 0.4, 0.3])
    assert [route for _, route in chosen[:2]] == [BOUGHT, AMIDE]
    assert best_routes(rows[8:10]) == []  # control


def test_each_molecule_has_a_title_and_a_row_for_each_reaction(tmp_path):
    draw_routes(tmp_path / "routes.png", [(row(0.9), AMIDE), (row(0.8), BOUGHT)])
    image = Image.open(tmp_path / "routes.png")
    assert image.width == WIDTH
    assert image.height == 2 * (LINE + MARGIN) + 3 * (LINE + CELL[1])  # two reactions, and one that can be bought
    assert len(image.convert("L").getcolors()) > 20
