"""Colours that stay distinct under colour blindness (Okabe and Ito, 2008), in the order of their use."""

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
