"""A picture of what models answer: for each question, the shares of its right answers under each model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib import colormaps
from matplotlib.axes import Axes

from launch.analysis.figures import save_figure

MAX_QUESTIONS = 6  # panels of the picture
MIN_NAMED = 0.13  # lowest share of an answer whose name is written into its bar
WRONG = "#e6e6e6"


def draw_answers(rows: Sequence[tuple[str, Mapping[str, Any]]], path: Path) -> bool:
    """Draw one panel for each of the first questions, with a stacked bar for each model.

    Args:
        rows: models by name with their `llm.evaluation.policy.answer_metrics`; the first is the base model, whose
            most common answer comes first in every bar.
        path: file to write.

    Returns:
        Whether the models answer several questions, so that there is a picture.
    """
    questions = list(rows[0][1].get("answers", {}))[:MAX_QUESTIONS]
    if len(questions) < 2:
        return False
    columns = min(len(questions), 3)
    lines = -(-len(questions) // columns)
    size = (2.0 + 3.1 * columns, lines * (0.7 + 0.27 * len(rows)))
    figure, panels = plt.subplots(lines, columns, figsize=size, layout="constrained", squeeze=False, sharey=True)
    for axes, question in zip(panels.flat, questions, strict=False):
        _draw_question(axes, question, [row["answers"].get(question, {}) for _, row in rows])
    for axes in panels.flat[len(questions) :]:
        axes.axis("off")
    for axes in panels[:, 0]:
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    panels[0, 0].invert_yaxis()
    figure.suptitle("Share of completions with each right answer (a colour each; grey: wrong)", fontsize="medium")
    save_figure(figure, path)
    return True


def dark(colour: tuple[float, ...]) -> bool:
    """Whether white text is easier to read on a colour than black text, by its relative luminance."""
    red, green, blue = colour[:3]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.45


def _draw_question(axes: Axes, question: str, shares: Sequence[Mapping[str, float]]) -> None:
    answers = list(dict.fromkeys(answer for model in shares for answer in model))
    colours = colormaps["turbo"]
    left = [0.0] * len(shares)
    for i, answer in enumerate(answers):
        values = [model.get(answer, 0.0) for model in shares]
        colour = colours(0.05 + 0.9 * i / max(len(answers) - 1, 1))
        bars = axes.barh(range(len(shares)), values, left=left, color=colour, edgecolor="white", linewidth=0.5)
        names = [answer if value >= MIN_NAMED else "" for value in values]
        axes.bar_label(bars, names, label_type="center", fontsize=6.5, color="white" if dark(colour) else "black")
        left = [a + b for a, b in zip(left, values, strict=True)]
    axes.barh(range(len(shares)), [1 - a for a in left], left=left, color=WRONG)
    axes.set(title=question, xlim=(0, 1), xticks=(0, 0.5, 1))
    axes.spines[["top", "right"]].set_visible(False)
