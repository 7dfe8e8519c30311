"""Picture of the best molecules of a run with their scores and synthesis routes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from chem.figures import molecule_label
from chem.oracles.synthesis.routes import Route, draw_steps, route_length, route_steps, save_column

WIDTH, CELL, LINE, MARGIN = 880, (210, 160), 24, 12  # pixels
FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def draw_routes(path: Path, routes: Sequence[tuple[Mapping[str, Any], Route]]) -> None:
    """Draw molecules with their scores, and below each its reactions with their names, the first on top."""
    save_column([draw_block(row, route) for row, route in routes], path)


def draw_block(row: Mapping[str, Any], route: Route) -> Image.Image:
    """Draw one molecule: a line with its score, and a row for each reaction."""
    steps = reversed(list(route_steps(route)))
    names = [f"{number}. {name}" for number, (name, *_) in enumerate(steps, 1)] or ["can be bought"]
    pictures = draw_steps(route, CELL)
    for picture in pictures:
        picture.thumbnail((WIDTH - 2 * MARGIN, CELL[1]))  # at most as wide as the sheet
    reactions = route_length(route)
    title = f"{molecule_label(row)}   {reactions} reaction{'' if reactions == 1 else 's'}"
    height = LINE + sum(LINE + picture.height for picture in pictures) + MARGIN
    block = Image.new("RGB", (WIDTH, height), "white")
    pen = ImageDraw.Draw(block)
    pen.rectangle((0, 0, WIDTH, LINE), fill="#e6e6e6")
    pen.text((MARGIN, 3), title, fill="black", font=ImageFont.truetype(str(FONT), 15))
    top = LINE
    for name, picture in zip(names, pictures, strict=True):
        pen.text((MARGIN, top + 6), name, fill="black", font=ImageFont.truetype(str(FONT), 13))
        block.paste(picture, (MARGIN, top + LINE))
        top += LINE + picture.height
    return block
