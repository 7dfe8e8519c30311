"""The colours, against the published palette and against each other."""

import re

from launch.analysis import palette

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
