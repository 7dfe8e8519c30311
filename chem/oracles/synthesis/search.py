"""The search for a route: Retro* over a one-step model, which is made of templates or is one of your own."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from rdkit import Chem
from syntheseus.interface.bag import Bag
from syntheseus.interface.models import BackwardReactionModel
from syntheseus.interface.molecule import Molecule as Node
from syntheseus.interface.reaction import SingleProductReaction
from syntheseus.search.algorithms.best_first.retro_star import RetroStarSearch
from syntheseus.search.graph.and_or import AndNode, AndOrGraph, OrNode
from syntheseus.search.mol_inventory import BaseMolInventory
from syntheseus.search.node_evaluation.base import NoCacheNodeEvaluator
from syntheseus.search.node_evaluation.common import ConstantNodeEvaluator

from chem.oracles.synthesis.templates import Retrosynthesis, Template, datamol_templates
from conf.schema.base import ConfigError, load_object


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


def alive(node: Any) -> bool:
    """Whether a route could still go through it."""
    return isinstance(node, OrNode) and node.data.get("retro_star_value", math.inf) < math.inf


def choose_templates(reactions: Sequence[str] | None) -> list[Template]:
    templates = datamol_templates()
    if reactions is None:
        return list(templates)
    tags = {tag for template in templates for tag in (*template.tags, template.name)}
    for wanted in reactions:
        if wanted not in tags:
            raise ConfigError(f"reactions: must be tags or names of datamol's templates, got {wanted}")
    return [template for template in templates if set(reactions) & {*template.tags, template.name}]


def load_model(path: str, parameters: dict[str, Any]) -> BackwardReactionModel:
    """A one-step model of your own."""
    model = load_object("model", path)(**parameters)
    if not isinstance(model, BackwardReactionModel):
        raise ConfigError(f"model: must be a syntheseus BackwardReactionModel, got {type(model).__name__}")
    model.reset(use_cache=True)
    return model
