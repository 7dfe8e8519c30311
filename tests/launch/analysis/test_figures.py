"""Labels of figures."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pytest

from launch.analysis.figures import plain_label


@pytest.mark.parametrize("text", ["beta=0.1", "answer=$x$", r"pattern=^\d$\frac$", "price=$5", "a_b^c"])
def test_a_label_is_shown_as_it_is(text):
    figure, axes = plt.subplots()
    axes.set_title(plain_label(text))
    figure.canvas.draw()
    plt.close(figure)


def test_control_matplotlib_fails_at_a_formula_that_is_none():
    figure, axes = plt.subplots()
    axes.set_title(r"pattern=^\d$\frac$")
    with pytest.raises(ValueError, match="frac"):
        figure.canvas.draw()
    plt.close(figure)
