"""Each figure's panels and curves."""

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.patches import Rectangle

from didactic.figures import _stretches, draw_curves, draw_families, draw_figure, draw_switch, draw_table
from launch.analysis.figures import finite_points
from launch.analysis.palette import METHOD_COLOURS

from .grids import make_grid, trained_perfectly


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def lines_of(axes):
    return {line.get_label(): line for line in axes.lines}


def test_figure_5_has_a_panel_for_each_direction_and_beta():
    _, cells = make_grid("experiment=figure5", "objective.beta=[.1,.3]", "start=uniform")
    outcomes = trained_perfectly(cells)
    problem = cells[0].problem
    figure = draw_curves(problem, outcomes, [[0.1] * len(cells)])
    assert [axes.get_title() for axes in figure.axes] == [
        f"{name}, beta {beta}" for name in ("reverse KL", "forward KL") for beta in (0.1, 0.3)
    ]
    curve = lines_of(figure.axes[1])["MARA, reverse KL"].get_ydata()
    (target,) = [o.target for o in outcomes if o.cell.axes["transform"] == "mara"
                 and (o.cell.axes["direction"], o.beta) == ("reverse", 0.3)]  # fmt: skip
    torch.testing.assert_close(torch.as_tensor(curve), target)


def test_a_last_panel_shows_beta_if_it_changes():
    _, cells = make_grid("experiment=ablation", "objective.beta=.1", "objective.direction=reverse")
    outcomes = trained_perfectly(cells)
    constant = draw_curves(cells[0].problem, outcomes, [[0.1] * len(cells)] * 3)
    changing = draw_curves(cells[0].problem, outcomes, [[0.1 * step] * len(cells) for step in (1, 2, 3)])
    assert len(changing.axes) == len(constant.axes) + 1
    assert changing.axes[-1].get_title() == "beta over the steps"
    assert list(changing.axes[-1].lines[0].get_ydata()) == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_a_short_run_shows_its_betas(steps):
    """The history has a line for each step, and one for the end."""
    _, cells = make_grid("experiment=ablation", "objective.beta=.1", "objective.direction=reverse")
    betas = [[0.1 * step] * len(cells) for step in range(1, 2 + steps)]
    *_, last = draw_curves(cells[0].problem, trained_perfectly(cells), betas).axes
    assert finite_points(last) == len(cells) * (steps + 1)
    assert all(line.get_marker() == "o" for line in last.lines)


def test_a_method_has_its_colour_and_no_legend_is_wider_than_the_figure():
    _, cells = make_grid("experiment=figure5", "objective.beta=[.1]")
    figure = draw_curves(cells[0].problem, trained_perfectly(cells), [[0.1] * len(cells)])
    reverse, forward = (lines_of(axes) for axes in figure.axes)
    assert reverse["MARA, reverse KL"].get_color() == METHOD_COLOURS["mara_reverse"]
    assert forward["vanilla, forward KL"].get_color() == METHOD_COLOURS["vanilla_forward"]
    figure.canvas.draw()
    assert figure.legends[0].get_window_extent().width <= figure.bbox.width


def test_stretches_of_good_outcomes():
    good = torch.tensor([True, True, False, True, False, False, True])
    assert _stretches(good) == [(0, 1), (3, 3), (6, 6)]
    assert _stretches(~good) == [(2, 2), (4, 5)]


def test_figures_3_and_4_have_bars_of_the_policy_and_the_reference():
    _, cells = make_grid("experiment=figure4", "objective.beta=[.1,.5]")
    outcomes = trained_perfectly(cells)
    figure = draw_table(cells[0].problem, outcomes, [])
    assert len(figure.axes) == len(cells)
    heights = [bar.get_bbox().height for bar in figure.axes[0].patches if isinstance(bar, Rectangle)]
    expected = [*cells[0].problem.ref_logp.exp().tolist(), *outcomes[0].policy.tolist()]
    assert heights == pytest.approx(expected)
    assert figure.axes[0].get_title() == "reverse KL, beta 0.1"


def test_figure_2_marks_the_predicted_switch():
    _, cells = make_grid("experiment=figure2", "objective.beta=[.05,.1,.2,.5]")
    figure = draw_switch(cells[0].problem, trained_perfectly(cells), [])
    *panels, last = figure.axes
    assert [axes.get_title() for axes in panels] == ["reverse KL (dotted: exact)", "forward KL (dotted: exact)"]
    lines = lines_of(last)
    assert lines["predicted switch, 0.132"].get_xdata()[0] == pytest.approx(0.1316, abs=5e-4)
    signs = [value > 0 for value in lines["vanilla, reverse KL"].get_ydata()]
    assert signs == [True, True, False, False]  # the better mode is favoured below the switch


def test_figure_1_has_densities_over_the_target():
    _, cells = make_grid("experiment=figure1")
    figure = draw_families(cells[0].problem, trained_perfectly(cells), [])
    titles = [axes.get_title() for axes in figure.axes]
    assert sorted(titles) == ["Categorical: one logit per outcome", "Gaussian: mean and standard deviation"]
    position = cells[0].problem.position
    curve = torch.as_tensor(lines_of(figure.axes[0])["reverse KL"].get_ydata())
    assert float(torch.trapezoid(curve, position)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("experiment", ["bandit", "figure1", "figure2", "figure4", "figure5"])
def test_each_problem_has_its_figure(tmp_path, experiment):
    _, cells = make_grid(f"experiment={experiment}")
    draw_figure(cells[0].problem, trained_perfectly(cells), [[0.1] * len(cells)], tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert plt.get_fignums() == []  # it is closed
