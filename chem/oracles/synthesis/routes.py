"""Routes: the shortest one in a search graph, its reactions, and a drawing of it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from rdkit import Chem
from rdkit.Chem import Draw, rdChemReactions
from syntheseus.search.graph.and_or import AndNode, AndOrGraph

from launch.runs.atomic import replacing

Route = dict[str, Any]  # smiles; for a molecule that is made also reaction (its name) and reactants (routes)


def shortest_route(graph: AndOrGraph, node: Any) -> Route:
    """The route with the fewest reactions among those in the graph."""
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
    """Each reaction as (name, SMILES of the reactants, SMILES of the product), from the last to the first."""
    if "reactants" in route:
        yield route["reaction"], [reactant["smiles"] for reactant in route["reactants"]], route["smiles"]
        for reactant in route["reactants"]:
            yield from route_steps(reactant)


def draw_route(route: Route, path: Path) -> None:
    """Draw a route as PNG, one reaction per row with the first on top; a purchasable molecule is drawn alone."""
    save_column(draw_steps(route, (220, 200)), path)


def draw_steps(route: Route, size: tuple[int, int]) -> list[Image.Image]:
    """A picture of each reaction, the first one first; of a purchasable molecule, the molecule alone.

    Args:
        route: what is drawn.
        size: of each molecule, pixels.
    """
    return [
        Draw.ReactionToImage(
            rdChemReactions.ReactionFromSmarts(f"{'.'.join(reactants)}>>{product}", useSmiles=True), size
        )
        for _, reactants, product in reversed(list(route_steps(route)))
    ] or [Draw.MolToImage(Chem.MolFromSmiles(route["smiles"]), size)]


def save_column(pictures: Sequence[Image.Image], path: Path) -> None:
    """Save pictures one below the other as PNG."""
    sheet = Image.new("RGB", (max(part.width for part in pictures), sum(part.height for part in pictures)), "white")
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    with replacing(path) as file:
        sheet.save(file, format="PNG")
