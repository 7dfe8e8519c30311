import os
from collections import Counter

import pytest

from launch.cli.command_table import STARTED_AS

for variable in ("COLUMNS", "LINES"):  # the width of the developer's terminal changes no test
    os.environ.pop(variable, None)
    os.unsetenv(variable)  # pytest imports readline, which sets them for child processes only


@pytest.fixture(autouse=True)
def started_by_python(monkeypatch):
    """No test is started by the command `mara`, also after one that has run it in this process."""
    monkeypatch.delenv(STARTED_AS, raising=False)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """One cache of models, data and scores for all processes of the session; by default a temporary folder."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    os.environ.setdefault("MARA_CACHE", str(root / "cache"))


@pytest.fixture
def axes():
    """The axes of an empty figure."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots()
    yield axes
    pyplot.close(figure)


def pytest_collection_modifyitems(items):
    """Run the files with most slow tests first, so that no process is left with one of them at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])
