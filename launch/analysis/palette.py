"""Colours that remain distinct for colour-blind readers (Okabe and Ito, 2008), in order of use."""

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
