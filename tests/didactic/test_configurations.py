"""Configurations: mistakes, and the experiment files of the paper's figures."""

import pytest
from omegaconf.errors import OmegaConfBaseException

from conf.schema.base import ConfigError
from launch.cli.groups import CONF

from .grids import make_config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective.beta=[.1,-1]", r"objective\.beta: must be finite and >= 0, got -1"),
        ("objective.beta=[]", r"objective\.beta: must be a value or a list"),
        ("objective.beta=[.1,.1]", r"objective\.beta: must not repeat"),
        ("objective.direction=[reverse,sideways]", r"objective\.direction: must be one of"),
        ("start=nowhere", r"start: must be one of"),
        ("objective.placement=loss", r"objective\.placement: is only used with gradient=sampled"),
        ("advantage=centred", r"advantage: is only used with gradient=sampled"),
        ("problem.ref=[.5,.5]", r"problem\.name: must be table"),
        ("samples=1", r"samples: must be >= 2"),
    ],
)
def test_mistakes_name_their_key(override, message):
    with pytest.raises((ConfigError, OmegaConfBaseException), match=message):
        make_config(override)
    make_config()  # its legal neighbour


@pytest.mark.parametrize("figure", [f"figure{n}" for n in range(1, 6)])
def test_each_cell_of_a_figure_is_an_experiment(figure):
    """Each file of a figure is one cell of its grid, and together they are the whole grid."""
    folder = CONF / "didactic" / "experiment" / figure
    cells = []
    for path in folder.glob("*.yaml"):
        (cell,) = make_config(f"experiment={figure}/{path.stem}").cells()
        cells.append(cell)
    grid = make_config(f"experiment={figure}").cells()
    assert len(cells) == len(grid)
    assert all(cells.count(cell) == 1 for cell in grid)
    assert make_config("experiment=bandit").cells()[0] not in grid  # control
