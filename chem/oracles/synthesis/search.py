"""Synthesisability: is there a route from purchasable molecules, by syntheseus's search over a one-step model."""

import math
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from PIL import Image
from rdkit import Chem
from rdkit.Chem import Draw, rdChemReactions
from syntheseus.interface.bag import Bag
from syntheseus.interface.models import BackwardReactionModel
from syntheseus.interface.molecule import Molecule as Node
from syntheseus.interface.reaction import SingleProductReaction
from syntheseus.search.algorithms.best_first.retro_star import RetroStarSearch
from syntheseus.search.graph.and_or import AndNode, AndOrGraph, OrNode
from syntheseus.search.mol_inventory import BaseMolInventory
from syntheseus.search.node_evaluation.base import NoCacheNodeEvaluator
from syntheseus.search.node_evaluation.common import ConstantNodeEvaluator

from chem.files import file_hash, find_file
from chem.oracles.base import Molecule, TimedOut, Value
from chem.oracles.synthesis.inventory import default_stock, read_stock
from chem.oracles.synthesis.templates import Retrosynthesis, Template, datamol_templates, datamol_version
from conf.schema.base import ConfigError

CACHED = 20_000  # molecules whose reactions a worker remembers

Route = dict[str, Any]  # smiles; and where it is made, not bought: reaction (its name) and reactants (routes)


class TemplateModel(BackwardReactionModel):
    """A one-step model that proposes whatever a template matches, in the order of the templates."""

    def __init__(self, templates: Sequence[Template], **options: Any) -> None:
        super().__init__(remove_product_in_reactants=True, **options)
        self.retrosynthesis = Retrosynthesis(tuple(templates))

    def _get_reactions(self, inputs: list[Node], num_results: int) -> list[Sequence[SingleProductReaction]]:
        return [self._reactions(product)[:num_results] for product in inputs]

    def _reactions(self, product: Node) -> list[SingleProductReaction]:
        return [
            SingleProductReaction(
                reactants=Bag([Node(part, canonicalize=False, make_rdkit_mol=False) for part in reactants]),
                product=product,
                metadata={"template": template.name},
            )
            for template, reactants in self.retrosynthesis(Chem.MolFromSmiles(product.smiles))
        ]

    def get_parameters(self) -> Iterator[Any]:
        return iter(())


class Inventory(BaseMolInventory):
    """What can be bought: a set of canonical SMILES."""

    def __init__(self, stock: frozenset[str]) -> None:
        self.stock = stock

    def is_purchasable(self, mol: Node) -> bool:
        return mol.smiles in self.stock


class ReactionCost(NoCacheNodeEvaluator[AndNode]):
    """-log of a reaction's probability where the model gives one, as in Retro*, else 1: fewest reactions first."""

    def _evaluate_nodes(self, nodes: Sequence[AndNode], graph: Any = None) -> list[float]:
        return [
            -math.log(min(max(p, 1e-10), 0.999))
            if (p := node.reaction.metadata.get("probability")) is not None
            else 1.0
            for node in nodes
        ]


class RouteSearch(RetroStarSearch):
    """Retro* within a depth, counted in reactions one behind the other, that ends at the first route.

    Where the reactants of a reaction lie too deep to be made themselves, only reactions whose reactants can all be
    bought enter the graph: the others cannot be part of a route, and they are most of all reactions.
    """

    def __init__(self, depth: int, **options: Any) -> None:
        super().__init__(
            max_expansion_depth=2 * depth - 1,  # nodes: reactions and molecules take turns
            and_node_cost_fn=ReactionCost(),
            value_function=ConstantNodeEvaluator(0.0),
            stop_on_first_solution=True,
            **options,
        )

    def _filter_reactions(
        self, reactions: Sequence[SingleProductReaction], node: Any, graph: AndOrGraph
    ) -> list[SingleProductReaction]:
        kept = super()._filter_reactions(reactions, node, graph)
        if node.depth + 2 < self.max_expansion_depth:
            return kept
        return [one for one in kept if all(self.mol_inventory.is_purchasable(mol) for mol in one.reactants)]


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
            one_step: BackwardReactionModel = TemplateModel(chosen(reactions), use_cache=True, max_cache_size=CACHED)
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
        return {"inventory": file_hash(self.path), "syntheseus": version("syntheseus"), **model}

    def __call__(self, molecule: Molecule) -> Value:
        graph, expansions = self.search.run_from_mol(Node(molecule.smiles))
        if graph.root_node.has_solution:
            return Value(1.0, shortest_route(graph, graph.root_node))
        ended = not any(self.search.can_expand_node(node, graph) for node in graph.nodes() if alive(node))
        if not ended and expansions + 1 < self.search.limit_iterations:
            raise TimedOut(f"no route within {self.search.time_limit_s:g} s, and the search had not ended")
        return Value(0.0)


def alive(node: Any) -> bool:
    """Whether a route could still go through it."""
    return isinstance(node, OrNode) and node.data.get("retro_star_value", math.inf) < math.inf


def chosen(reactions: Sequence[str] | None) -> list[Template]:
    templates = datamol_templates()
    if reactions is None:
        return list(templates)
    tags = {tag for template in templates for tag in (*template.tags, template.name)}
    for wanted in reactions:
        if wanted not in tags:
            raise ConfigError(f"reactions: must be tags or names of datamol's templates, got {wanted}")
    return [one for one in templates if set(reactions) & {*one.tags, one.name}]


def load_model(path: str, parameters: dict[str, Any]) -> BackwardReactionModel:
    if ":" not in path:
        raise ConfigError(f"model: must be package.module:name, got {path}")
    model = resolve_name(path)(**parameters)
    if not isinstance(model, BackwardReactionModel):
        raise ConfigError(f"model: must be a syntheseus BackwardReactionModel, got {type(model).__name__}")
    model.reset(use_cache=True)
    return model


def shortest_route(graph: AndOrGraph, node: Any) -> Route:
    """The route with the fewest reactions among those that the graph holds."""
    if node.mol.metadata["is_purchasable"]:
        return {"smiles": node.mol.smiles}
    routes = [
        {
            "smiles": node.mol.smiles,
            "reaction": reaction.reaction.metadata.get("template", "reaction"),
            "reactants": [shortest_route(graph, child) for child in graph.successors(reaction)],
        }
        for reaction in graph.successors(node)
        if isinstance(reaction, AndNode) and reaction.has_solution
    ]
    return min(routes, key=route_length)


def route_length(route: Route) -> int:
    """Number of reactions."""
    return sum(1 for _ in route_steps(route))


def route_steps(route: Route) -> Iterator[tuple[str, list[str], str]]:
    """(name, SMILES of the reactants, SMILES of the product) of each reaction, the last one first."""
    if "reactants" in route:
        yield route["reaction"], [part["smiles"] for part in route["reactants"]], route["smiles"]
        for part in route["reactants"]:
            yield from route_steps(part)


def draw_route(route: Route, path: Path) -> None:
    """A PNG with one reaction a row, the first to be done on top; of a molecule to be bought, the molecule."""
    rows = [
        Draw.ReactionToImage(
            rdChemReactions.ReactionFromSmarts(f"{'.'.join(reactants)}>>{product}", useSmiles=True), (220, 200)
        )
        for _, reactants, product in reversed(list(route_steps(route)))
    ] or [Draw.MolToImage(Chem.MolFromSmiles(route["smiles"]), (220, 200))]
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    sheet.save(path)
