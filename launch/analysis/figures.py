"""What all figures share: how they are saved, and text in them."""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from launch.runs.atomic import replacing


def save_figure(figure: Figure, path: Path, dpi: int = 130) -> Path:
    """Write a figure to a file, close it and return the path."""
    with replacing(path) as file:
        figure.savefig(file, dpi=dpi)
    plt.close(figure)
    return path


def plain_label(text: str) -> str:
    """Text for a label of a figure, in which matplotlib would take what is between two dollar signs for a formula."""
    return text.replace("$", r"\$")
