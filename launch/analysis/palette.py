"""The colour of each method, the same in all figures.

The first eight colours remain distinct for colour-blind readers (Okabe and Ito, 2008). The others extend them where a
figure has more methods; marks and line styles differ as well, so that no reader depends on colour alone.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb

BLUE, ORANGE, GREEN, PINK, AMBER, SKY, BLACK, YELLOW = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#F0E442",
)
GREY = "#999999"
COLOURS = (BLUE, ORANGE, GREEN, PINK, AMBER, SKY, BLACK, YELLOW)
BASE = BLACK  # the model before training

METHOD_COLOURS = {  # by `method_name`
    "vanilla_reverse": BLUE,
    "vanilla_forward": SKY,
    "mara_reverse": ORANGE,
    "mara_forward": AMBER,
    "mara_answers_reverse": "#882255",
    "mara_answers_forward": PINK,
    "unlikely": GREEN,
    "grpo": "#332288",
    "grpo_no_std": "#6A5FC0",
    "grpo_sequence_kl": "#9C8FE0",
    "reinvent": "#117733",
    "reinforce": "#661100",
    "best_of_n": "#A0522D",
    "pass_at_k": "#AA4499",
    "entropy": "#808000",
    "dph": "#2A9D9D",
    "dph_js": "#5FBFA5",
    "darling": "#B8860B",
    "ucpo": "#C2185B",
    "differential_smoothing": "#7A8B99",
    "dapo": "#0000FF",
    "gspo": "#FF00FF",
    "cispo": "#00B200",
    "maxrl": "#4058FF",
    "dr_grpo": "#FF0040",
    "flowrl": "#ED73FF",
    "dmpo": "#8600B2",
    "gapo": "#FF009F",
    "ips_grpo": "#FF7373",
    "dra_grpo": "#86B200",
    "uniqueness": "#512E66",
    "obe_batch": "#00A0C8",
    "obe_historical": "#A830F8",
    "clip_cov": "#0000B2",
    "kl_cov": "#B20000",
    "reinforce_plus_plus": "#664250",
}
ALIASES = {  # methods and transforms by another name
    "rloo": "vanilla_reverse",
    "rloo_forward": "vanilla_forward",
    "dra": "dra_grpo",
    "ips": "ips_grpo",
}
OTHER_COLOURS = ("#3D5A80", "#98B06F", "#B07AA1", "#9D7660", "#5B8E7D", "#D37295", "#4E79A7", "#86711A")
MARKERS = "osD^vP*X"
LINES = ("-", "--", "-.", ":")


class Style(NamedTuple):
    """How a configuration is drawn in every figure of its sweep."""

    colour: str
    line: str
    marker: str


def method_name(config: Mapping[str, Any], overrides: Sequence[str] = ()) -> str:
    """The method of a run: what was typed as `method=`, or else its reward transform and divergence.

    Args:
        config: the run's configuration by dotted key.
        overrides: what was typed.
    """
    typed = dict(text.lstrip("+").split("=", 1) for text in overrides if "=" in text)
    name = str(typed.get("method", config.get("method", "")))
    if name:
        return ALIASES.get(name, name)
    transform = str(config.get("transform.name", ""))
    direction = str(config.get("objective.direction", "reverse"))
    if transform == "identity":
        return "reinvent" if config.get("loss") == "reinvent" else f"vanilla_{direction}"
    if transform == "mara":
        over_answers = config.get("transform.level") == "answer"
        return f"mara_answers_{direction}" if over_answers else f"mara_{direction}"
    if transform == "custom":
        return str(config.get("transform.function", transform))
    return ALIASES.get(transform, transform)


def method_colours(methods: Sequence[str]) -> dict[str, str]:
    """The colour of each method.

    A method without one of its own gets one that depends on its name and on the other such methods of the sweep, so
    that it is the same in all figures of the sweep.
    """
    colours: dict[str, str] = {}
    free = list(OTHER_COLOURS)
    for method in sorted(set(methods)):
        known = ALIASES.get(method, method)
        if known in METHOD_COLOURS:
            colours[method] = METHOD_COLOURS[known]
        else:
            free = free or list(OTHER_COLOURS)
            colours[method] = free.pop(zlib.crc32(method.encode()) % len(free))
    return colours


def styles(methods: Sequence[str]) -> list[Style]:
    """The style of each configuration, given by its method; configurations of one method get shades of its colour."""
    colours = method_colours(methods)
    counts = {method: methods.count(method) for method in methods}
    seen: dict[str, int] = {}
    result = []
    for method in methods:
        number = seen[method] = seen.get(method, -1) + 1
        colour = shade(colours[method], number, counts[method])
        kind = sorted(counts).index(method) if number == 0 else number
        result.append(Style(colour, LINES[number % len(LINES)], MARKERS[kind % len(MARKERS)]))
    return result


def shade(colour: str, number: int, count: int) -> str:
    """Shade `number` of `count` of a colour, from itself to a light one."""
    if count == 1:
        return colour
    towards_white = 0.6 * number / (count - 1)
    red, green, blue = (part + (1 - part) * towards_white for part in to_rgb(colour))
    return to_hex((red, green, blue)).upper()


def category_colours(count: int) -> list[str]:
    """Colours of the parts of a whole, such as the answers to a question: none is that of a method."""
    colours = colormaps["viridis"]
    return [to_hex(colours(0.2 + 0.7 * i / max(count - 1, 1))) for i in range(count)]
