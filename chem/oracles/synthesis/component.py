"""Synthesisability: is there a route from purchasable molecules, by syntheseus's search over a one-step model."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from syntheseus.interface.models import BackwardReactionModel
from syntheseus.interface.molecule import Molecule as Node

from chem.files import file_hash, find_file, folder_hash
from chem.oracles.base import Molecule, TimedOut, Value
from chem.oracles.synthesis.inventory import default_stock, read_stock
from chem.oracles.synthesis.routes import shortest_route
from chem.oracles.synthesis.search import Inventory, RouteSearch, TemplateModel, alive, choose_templates, load_model
from chem.oracles.synthesis.templates import datamol_version
from conf.schema.base import ConfigError

CACHED = 20_000  # molecules whose reactions a worker remembers


class Synthesis:
    """1 where a route is found, else 0; with the route.

    inventory: a file of SMILES that can be bought; None: the default one, which is no vendor's list (`chem.stock`).
    depth: reactions one behind the other, at most.
    reactions: tags or names of datamol's templates that a route may use, such as ["amide coupling"]; None: any.
    max_expansions: molecules that the search takes apart, at most; beyond, there is no route.
    time_limit_s: beyond it the result is `timed_out`, since a slower machine must not call a molecule unsolvable.
    model: `package.module:name` of a one-step model of your own, called with `model_parameters`: a
        `syntheseus.interface.models.BackwardReactionModel`.
    """

    unit_range = True

    def __init__(
        self,
        inventory: str | None = None,
        depth: int = 3,
        reactions: Sequence[str] | None = None,
        max_expansions: int = 2000,
        time_limit_s: float = 30.0,
        model: str | None = None,
        model_parameters: dict[str, Any] | None = None,
    ) -> None:
        if not (depth >= 1 and max_expansions >= 1 and time_limit_s > 0):
            raise ConfigError(
                f"depth, max_expansions, time_limit_s: must be >= 1, >= 1 and > 0, got {depth}, {max_expansions} "
                f"and {time_limit_s}"
            )
        self.path = default_stock() if inventory is None else find_file("inventory", inventory)
        stock = read_stock(self.path)
        if not stock:
            raise ConfigError(f"inventory: must hold molecules, got none in {self.path.name}")
        self.own_model = model
        if model is None:
            one_step: BackwardReactionModel = TemplateModel(
                choose_templates(reactions), use_cache=True, max_cache_size=CACHED
            )
        elif reactions is not None:
            raise ConfigError("reactions: must be null with a model of your own, which decides itself, got a list")
        else:
            one_step = load_model(model, model_parameters or {})
        self.search = RouteSearch(
            depth,
            reaction_model=one_step,
            mol_inventory=Inventory(stock),
            limit_iterations=max_expansions,
            time_limit_s=time_limit_s,
        )

    def identity(self) -> dict[str, Any]:
        model = {"datamol": datamol_version()} if self.own_model is None else {"model": self.own_model}
        code = folder_hash(Path(__file__).parent)
        return {"inventory": file_hash(self.path), "syntheseus": version("syntheseus"), "code": code, **model}

    def __call__(self, molecule: Molecule) -> Value:
        graph, expansions = self.search.run_from_mol(Node(molecule.smiles))
        if graph.root_node.has_solution:
            return Value(1.0, shortest_route(graph, graph.root_node))
        ended = not any(self.search.can_expand_node(node, graph) for node in graph.nodes() if alive(node))
        if not ended and expansions + 1 < self.search.limit_iterations:
            raise TimedOut(f"no route within {self.search.time_limit_s:g} s, and the search had not ended")
        return Value(0.0)
