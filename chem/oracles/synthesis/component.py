"""Synthesisability: whether syntheseus finds a route from purchasable molecules with a one-step model."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rdkit import Chem
from syntheseus.interface.models import BackwardReactionModel
from syntheseus.interface.molecule import Molecule as Node

from chem.files import file_hash, find_file, folder_hash
from chem.molecule_files import format_counts
from chem.oracles.base import Molecule, TimedOut, Value
from chem.oracles.synthesis.inventory import default_stock, read_stock
from chem.oracles.synthesis.neutral import neutral_form
from chem.oracles.synthesis.routes import shortest_route
from chem.oracles.synthesis.search import (
    Inventory,
    RouteSearch,
    TemplateModel,
    choose_templates,
    has_enough_carbon,
    load_model,
    may_lead_to_route,
)
from chem.oracles.synthesis.templates import datamol_version
from conf.schema.base import ConfigError

MODEL_CACHE = 20_000  # molecules whose reactions a worker remembers


class Synthesis:
    """1 if a route to the neutral form is found, else 0. The details are the route.

    Args:
        inventory: a file of purchasable molecules, of any kind that `chem.molecule_files` reads; salts are stripped
            and neutralised. None: the default inventory, which is not a vendor's list (`chem.stock`).
        depth: largest number of successive reactions.
        reactions: tags or names of datamol's templates that a route may use, such as ["amide coupling"]; None: all.
        max_expansions: largest number of molecules that the search expands; without a route by then the value is 0.
        time_limit_s: after it the result is `timed_out`, because the value must not depend on the machine's speed.
        model: `package.module:name` of a one-step model of your own, a
            `syntheseus.interface.models.BackwardReactionModel`. Reactions with more carbon in the product than in
            the reactants are left out.
        model_parameters: keyword arguments of that model.
        smiles_column: column of the SMILES in `inventory`, by name or number; None: found.
        selective: whether each reaction of a route must give nothing but its product, see
            `chem.oracles.synthesis.templates.is_selective`; with the templates only.

    Raises:
        ConfigError: a parameter is invalid, or a file is missing.
    """

    unit_range = True
    version = "5d1f0c6a9b7e4823"  # change it whenever the values change

    def __init__(
        self,
        inventory: str | None = None,
        depth: int = 3,
        reactions: Sequence[str] | None = None,
        max_expansions: int = 2000,
        time_limit_s: float = 30.0,
        model: str | None = None,
        model_parameters: dict[str, Any] | None = None,
        smiles_column: str | None = None,
        selective: bool = False,
    ) -> None:
        if not (depth >= 1 and max_expansions >= 1 and time_limit_s > 0):
            raise ConfigError(
                f"depth, max_expansions, time_limit_s: must be >= 1, >= 1 and > 0, got {depth}, {max_expansions} "
                f"and {time_limit_s}"
            )
        self.path = default_stock() if inventory is None else find_file("inventory", inventory)
        self.stock = read_stock(self.path, smiles_column)
        self.own_model = model
        if model is None:
            options = {"use_cache": True, "max_cache_size": MODEL_CACHE}
            templates = TemplateModel(choose_templates(reactions), selective=selective, **options)
            one_step: BackwardReactionModel = templates
            is_possible = templates.is_possible
        elif reactions is not None:
            raise ConfigError("reactions: must be null with model, which chooses its own reactions")
        elif selective:
            raise ConfigError("selective: must be false with model, which chooses its own reactions")
        else:
            one_step, is_possible = load_model(model, model_parameters or {}), has_enough_carbon
        self.search = RouteSearch(
            depth,
            is_possible,
            reaction_model=one_step,
            mol_inventory=Inventory(frozenset(self.stock.smiles)),
            limit_iterations=max_expansions,
            time_limit_s=time_limit_s,
        )

    def identity(self) -> dict[str, Any]:
        """Hashes of the inventory and of this code, and the versions of syntheseus and of the model."""
        model = {"datamol": datamol_version()} if self.own_model is None else {"model": self.own_model}
        code = folder_hash(Path(__file__).parent)
        return {"inventory": file_hash(self.path), "syntheseus": version("syntheseus"), "code": code, **model}

    def preflight(self) -> str:
        """How many molecules the inventory has, and why lines of it were left out."""
        return f"inventory {self.path.name}: {format_counts(self.stock.counts)}"

    def __call__(self, molecule: Molecule) -> Value:
        """Search for a route to the neutral form of one molecule."""
        graph, expansions = self.search.run_from_mol(Node(Chem.MolToSmiles(neutral_form(molecule.mol))))
        if graph.root_node.has_solution:
            return Value(1.0, shortest_route(graph, graph.root_node))
        exhausted = not any(
            self.search.can_expand_node(node, graph) for node in graph.nodes() if may_lead_to_route(node)
        )
        if not exhausted and expansions + 1 < self.search.limit_iterations:
            raise TimedOut(f"no route within {self.search.time_limit_s:g} s, and the search had not ended")
        return Value(0.0)
