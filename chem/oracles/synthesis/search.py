"""Search for routes with Retro*, over a one-step model made of templates or one of your own."""

import math
from collections.abc import Callable, Iterator, Sequence
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

from chem.oracles.synthesis.neutral import neutral_smiles
from chem.oracles.synthesis.templates import Retrosynthesis, Template, datamol_templates, gives_product, is_selective
from conf.schema.base import ConfigError, load_object


class TemplateModel(BackwardReactionModel):
    """A one-step model that proposes every reaction whose template matches, in the order of the templates.

    Args:
        templates: the reactions.
        selective: whether only reactions that give nothing but the product are possible.
        options: of `BackwardReactionModel`.
    """

    def __init__(self, templates: Sequence[Template], *, selective: bool = False, **options: Any) -> None:
        super().__init__(remove_product_in_reactants=True, **options)
        self.selective = selective
        self.retrosynthesis = Retrosynthesis(tuple(templates))
        self.template_of = {template.name: template for template in templates}

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

    def is_possible(self, reaction: SingleProductReaction) -> bool:
        """Whether the template of a proposed reaction, applied to the reactants, gives the product."""
        template = self.template_of[reaction.metadata["template"]]
        parts, product = tuple(mol.smiles for mol in reaction.reactants), reaction.product.smiles
        return gives_product(template, parts, product) and (
            not self.selective or is_selective(template, parts, product)
        )

    def get_parameters(self) -> Iterator[Any]:
        """None: the model is not trained."""
        return iter(())


def has_enough_carbon(reaction: SingleProductReaction) -> bool:
    """Whether the reactants have at least as many carbon atoms as the product.

    The check of reactions that a model of your own proposes. Other elements are not counted, because models leave
    out the reagents that bring oxygen, nitrogen or halogens.
    """
    return sum(map(_carbons, reaction.reactants)) >= _carbons(reaction.product)


def _carbons(node: Node) -> int:
    return sum(atom.GetAtomicNum() == 6 for atom in node.rdkit_mol.GetAtoms())


class Inventory(BaseMolInventory):
    """Purchasable molecules, as a set of canonical SMILES of neutral forms."""

    def __init__(self, stock: frozenset[str]) -> None:
        self.stock = stock

    def is_purchasable(self, mol: Node) -> bool:
        """Whether a molecule is in the inventory."""
        return neutral_smiles(mol.smiles) in self.stock


class ReactionCost(NoCacheNodeEvaluator[AndNode]):
    """Cost of a reaction: -log of its probability if the model gives one, as in Retro*, else 1.

    With a cost of 1 the search prefers routes with few reactions.
    """

    def _evaluate_nodes(self, nodes: Sequence[AndNode], graph: Any = None) -> list[float]:
        return [
            -math.log(min(max(p, 1e-10), 0.999))
            if (p := node.reaction.metadata.get("probability")) is not None
            else 1.0
            for node in nodes
        ]


class RouteSearch(RetroStarSearch):
    """Retro* that is limited to `depth` successive reactions and ends at the first route.

    At the last reaction only those whose reactants are all purchasable enter the graph. The others, which are most
    of all reactions, cannot be part of a route.

    Args:
        depth: largest number of successive reactions.
        is_possible: whether a proposed reaction may enter the graph; asked last, because it takes longest.
        options: of `RetroStarSearch`.
    """

    def __init__(self, depth: int, is_possible: Callable[[SingleProductReaction], bool], **options: Any) -> None:
        super().__init__(
            max_expansion_depth=2 * depth - 1,  # in nodes: molecules and reactions alternate
            and_node_cost_fn=ReactionCost(),
            value_function=ConstantNodeEvaluator(0.0),
            stop_on_first_solution=True,
            **options,
        )
        self.is_possible = is_possible

    def _filter_reactions(
        self, reactions: Sequence[SingleProductReaction], node: Any, graph: AndOrGraph
    ) -> list[SingleProductReaction]:
        new_reactions = super()._filter_reactions(reactions, node, graph)
        if node.depth + 2 >= self.max_expansion_depth:
            new_reactions = [
                reaction
                for reaction in new_reactions
                if all(self.mol_inventory.is_purchasable(mol) for mol in reaction.reactants)
            ]
        return [reaction for reaction in new_reactions if self.is_possible(reaction)]


def may_lead_to_route(node: Any) -> bool:
    """Whether a route through this node is still possible."""
    return isinstance(node, OrNode) and node.data.get("retro_star_value", math.inf) < math.inf


def choose_templates(reactions: Sequence[str] | None) -> list[Template]:
    """datamol's templates with these tags or names, or all of them.

    Raises:
        ConfigError: no template has such a tag or name.
    """
    templates = datamol_templates()
    if reactions is None:
        return list(templates)
    known = {tag for template in templates for tag in (*template.tags, template.name)}
    for reaction in reactions:
        if reaction not in known:
            raise ConfigError(f"reactions: must be tags or names of datamol's templates, got {reaction}")
    return [template for template in templates if set(reactions) & {*template.tags, template.name}]


def load_model(path: str, parameters: dict[str, Any]) -> BackwardReactionModel:
    """Create a one-step model from its import path.

    Raises:
        ConfigError: the path names no `BackwardReactionModel`.
    """
    model = load_object("model", path)(**parameters)
    if not isinstance(model, BackwardReactionModel):
        raise ConfigError(f"model: must be a syntheseus BackwardReactionModel, got {type(model).__name__}")
    model.reset(use_cache=True)
    return model
