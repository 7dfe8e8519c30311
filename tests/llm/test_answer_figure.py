import matplotlib.pyplot as plt
import numpy as np

from launch.analysis.figures import panels
from llm.answer_figure import _draw_question, dark, draw_answers, mean_shares

BASE = {"answers": {"planet": {"Mars": 0.5, "Venus": 0.25}, "season": {"summer": 1.0}}}
TRAINED = {"answers": {"planet": {"Earth": 0.5, "Mars": 0.5}, "season": {}}}


def test_there_is_a_picture_for_several_questions(tmp_path):
    assert draw_answers([("base", [BASE]), ("run", [TRAINED, BASE])], tmp_path / "answers.png")
    assert (tmp_path / "answers.png").stat().st_size > 1000
    for metrics in ({}, {"answers": {"planet": {"Mars": 1.0}}}):
        assert not draw_answers([("base", [metrics])], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_an_answer_has_one_colour_in_all_bars():
    figure, axes = plt.subplots()
    _draw_question(axes, "planet", [model["answers"]["planet"] for model in (BASE, TRAINED)])
    bars = [[(bar.get_x(), bar.get_width()) for bar in container] for container in axes.containers]
    assert bars == [
        [(0.0, 0.5), (0.0, 0.5)],  # Mars
        [(0.5, 0.25), (0.5, 0.0)],  # Venus
        [(0.75, 0.0), (0.5, 0.5)],  # Earth
        [(0.75, 0.25), (1.0, 0.0)],  # wrong
    ]
    assert [text.get_text() for text in axes.texts] == ["Mars", "Mars", "Venus", "", "", "Earth"]
    assert [dark(colour) for colour in ("#000080", "#ffff00")] == [True, False]
    plt.close(figure)


def test_shares_are_means_over_the_seeds_and_an_answer_that_one_lacks_counts_0():
    assert mean_shares([BASE, TRAINED], "planet") == {"Mars": 0.5, "Venus": 0.125, "Earth": 0.25}


def test_a_name_is_written_where_it_fits():
    shares = (0.12, 0.24, 0.36)
    figure, grid = panels(1, 3, (3.1 + 2.0 / 3, 2.0))
    axes = grid[0, 0]
    _draw_question(axes, "continent", [dict.fromkeys(("Antarctica", "Asia"), share) for share in shares])
    figure.draw_without_rendering()
    names = [text.get_text() for text in axes.texts]
    assert names == ["", "Antarctica", "Antarctica", "Asia", "Asia", "Asia"]
    to_shares = axes.transData.inverted()
    widths = [np.ptp(to_shares.transform(text.get_window_extent())[:, 0]) for text in axes.texts]
    assert all(width < share for name, width, share in zip(names, widths, shares * 2, strict=True) if name)
    assert widths[1] > shares[0]  # control: the name that was left out would not fit
    plt.close(figure)
