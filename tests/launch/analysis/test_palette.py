"""The colours, against the published palette and against each other."""

import re
from itertools import combinations
from pathlib import Path

import pytest

from launch.analysis import palette
from launch.analysis.palette import METHOD_COLOURS, category_colours, method_colours, method_name, styles

CONF = Path(__file__).parents[3] / "conf"

# Okabe and Ito (2008), Color Universal Design, table of RGB values in 0-255.
PUBLISHED = {
    "BLUE": (0, 114, 178),
    "ORANGE": (213, 94, 0),
    "GREEN": (0, 158, 115),
    "PINK": (204, 121, 167),
    "AMBER": (230, 159, 0),
    "SKY": (86, 180, 233),
    "BLACK": (0, 0, 0),
    "YELLOW": (240, 228, 66),
}


def rgb(colour):
    return tuple(int(part, 16) for part in re.fullmatch(r"#(..)(..)(..)", colour).groups())


def luminance(colour):
    """Relative luminance (WCAG 2.1)."""
    linear = [c / 12.92 if (c := value / 255) <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for value in rgb(colour)]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_the_colours_are_the_published_ones():
    assert {name: rgb(getattr(palette, name)) for name in PUBLISHED} == PUBLISHED
    assert set(palette.COLOURS) == {getattr(palette, name) for name in PUBLISHED}
    assert palette.GREY not in palette.COLOURS


def test_yellow_is_used_last():
    """On white it has the least contrast."""
    assert palette.COLOURS[-1] == max(palette.COLOURS, key=luminance)
    contrasts = [1.05 / (luminance(colour) + 0.05) for colour in palette.COLOURS]
    assert min(contrasts[:3]) > 3  # of the first three, as WCAG asks of graphics


def test_every_method_has_a_colour_of_its_own_that_can_be_seen_on_white():
    methods = {path.stem for path in (CONF / "llm" / "method").glob("*.yaml")}
    assert {palette.ALIASES.get(name, name) for name in methods} - set(METHOD_COLOURS) == set()
    colours = [*METHOD_COLOURS.values(), *palette.OTHER_COLOURS]
    assert min(1.05 / (luminance(colour) + 0.05) for colour in colours) > 2
    distances = [sum((a - b) ** 2 for a, b in zip(*map(rgb, pair), strict=True)) for pair in combinations(colours, 2)]
    assert min(distances) > 20**2
    assert palette.BASE not in colours


@pytest.mark.parametrize(
    ("config", "overrides", "name"),
    [
        ({"transform.name": "identity", "objective.direction": "forward"}, [], "vanilla_forward"),
        ({"transform.name": "identity", "loss": "reinvent"}, [], "reinvent"),
        ({"transform.name": "mara", "loss": "reinvent"}, [], "mara_reverse"),
        ({"transform.name": "mara", "transform.level": "answer"}, [], "mara_answers_reverse"),
        ({"transform.name": "identity"}, ["method=grpo", "seed=1"], "grpo"),
        ({"transform.name": "identity"}, ["method=rloo"], "vanilla_reverse"),
        ({"transform.name": "custom", "transform.function": "a.b:c"}, [], "a.b:c"),
        ({"transform.name": "unlikely"}, ["~x"], "unlikely"),
        ({"transform.name": "dra"}, [], "dra_grpo"),
    ],
)
def test_the_method_of_a_run(config, overrides, name):
    assert method_name(config, overrides) == name


def test_a_method_has_one_colour_in_all_sweeps_and_others_in_all_figures_of_a_sweep():
    assert method_colours(["mara_reverse", "x"])["mara_reverse"] == METHOD_COLOURS["mara_reverse"]
    unknown = ["mine", "yours", "theirs"]
    assert method_colours(unknown) == method_colours(unknown[::-1])  # whatever the order
    assert len(set(method_colours([*unknown, "grpo"]).values())) == 4
    many = [str(number) for number in range(30)]
    assert set(method_colours(many)) == set(many)


def test_configurations_of_one_method_are_shades_with_different_lines():
    first, second, third, other = styles(["mara_reverse", "mara_reverse", "mara_reverse", "grpo"])
    assert first.colour == METHOD_COLOURS["mara_reverse"]
    assert luminance(first.colour) < luminance(second.colour) < luminance(third.colour)
    assert len({first.line, second.line, third.line}) == 3
    assert len({style.marker for style in (first, second, third, other)}) >= 3
    assert styles(["grpo"])[0].colour == other.colour


def test_the_parts_of_a_whole_have_no_colour_of_a_method():
    for count in (1, 2, 8, 30):
        colours = [colour.upper() for colour in category_colours(count)]
        assert len(set(colours)) == count
        assert not set(colours) & {*METHOD_COLOURS.values(), *palette.COLOURS}
