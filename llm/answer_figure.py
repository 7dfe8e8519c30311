"""A picture of what models answer: for each question, the shares of its right answers under each model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from launch.analysis.figures import panels, plain_label, save_figure
from launch.analysis.palette import category_colours

MAX_QUESTIONS = 6  # panels of the picture
PANEL_WIDTH = 2.7  # inches of an axis of shares, at least
NAME_SIZE = 6.5  # points; a letter is about 0.6 of it wide
WRONG = "#e6e6e6"


def draw_answers(rows: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], path: Path) -> bool:
    """Draw one panel for each of the first questions, with a stacked bar for each model.

    Args:
        rows: models by name with the `llm.evaluation.policy.answer_metrics` of their seeds, whose mean is drawn; the
            first is the base model, whose most common answer comes first in every bar.
        path: file to write.

    Returns:
        Whether the models answer several questions, so that there is a picture.
    """
    questions = list(rows[0][1][0].get("answers", {}))[:MAX_QUESTIONS]
    if len(questions) < 2:
        return False
    columns = min(len(questions), 3)
    lines = -(-len(questions) // columns)
    size = (3.1 + 2.0 / columns, 0.7 + 0.27 * len(rows))
    figure, grid = panels(lines, columns, size, sharey=True)
    for axes, question in zip(grid.flat, questions, strict=False):
        _draw_question(axes, question, [mean_shares(seeds, question) for _, seeds in rows])
    for axes in grid.flat[len(questions) :]:
        axes.axis("off")
    for axes in grid[:, 0]:
        axes.set_yticks(range(len(rows)), [plain_label(name) for name, _ in rows])
    grid[0, 0].invert_yaxis()
    figure.suptitle("Share of completions with each right answer (a colour each; grey: wrong)", fontsize="medium")
    save_figure(figure, path)
    return True


def mean_shares(seeds: Sequence[Mapping[str, Any]], question: str) -> dict[str, float]:
    """The share of each right answer to a question, averaged over the seeds; an answer that a seed lacks counts 0."""
    shares = [seed["answers"].get(question, {}) for seed in seeds]
    answers = dict.fromkeys(answer for share in shares for answer in share)
    return {answer: fmean(share.get(answer, 0.0) for share in shares) for answer in answers}


def name_width(answer: str) -> float:
    """The share whose bar is wide enough for the name of an answer, with half a letter on each side."""
    return (len(answer) + 1) * 0.6 * NAME_SIZE / 72 / PANEL_WIDTH


def dark(colour: str) -> bool:
    """Whether white text is easier to read on a colour than black text, by its relative luminance."""
    red, green, blue = to_rgb(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.45


def _draw_question(axes: Axes, question: str, shares: Sequence[Mapping[str, float]]) -> None:
    answers = list(dict.fromkeys(answer for model in shares for answer in model))
    left = [0.0] * len(shares)
    for answer, colour in zip(answers, category_colours(len(answers)), strict=True):
        values = [model.get(answer, 0.0) for model in shares]
        bars = axes.barh(range(len(shares)), values, left=left, color=colour, edgecolor="white", linewidth=0.5)
        names = [plain_label(answer) if value >= name_width(answer) else "" for value in values]
        colour_of_text = "white" if dark(colour) else "black"
        axes.bar_label(bars, names, label_type="center", fontsize=NAME_SIZE, color=colour_of_text)
        left = [a + b for a, b in zip(left, values, strict=True)]
    axes.barh(range(len(shares)), [1 - a for a in left], left=left, color=WRONG)
    axes.set(title=plain_label(question), xlim=(0, 1), xticks=(0, 0.5, 1))
    axes.grid(visible=False, axis="y")
