"""The notebooks run, and their stored outputs are those of a run."""

import base64
import json
import re
import struct
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[1]
QUICKSTART = HOME / "notebooks" / "quickstart.ipynb"
NUMBER = re.compile(r"\d*\.\d+")


def cells_of(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def printed(cell):
    """What a cell prints and shows as text."""
    parts = [output.get("text", output.get("data", {}).get("text/plain", "")) for output in cell["outputs"]]
    return "".join("".join(part) for part in parts)


def pictures(cell):
    data = [output.get("data", {}).get("image/png") for output in cell["outputs"]]
    return [base64.b64decode("".join(text)) for text in data if text]


@pytest.fixture
def stored():
    return json.loads(QUICKSTART.read_text("utf-8"))


def test_the_stored_outputs_are_small_and_name_no_machine(stored):
    text = QUICKSTART.read_text("utf-8")
    assert not re.search(r"/(home|root|work|tmp|Users|mnt)/|site-packages", text)
    assert set(stored["metadata"]) == {"kernelspec", "language_info"}
    assert [cell["execution_count"] for cell in cells_of(stored)] == list(range(1, len(cells_of(stored)) + 1))
    assert not any(output["output_type"] == "error" for cell in cells_of(stored) for output in cell["outputs"])
    (picture,) = [picture for cell in cells_of(stored) for picture in pictures(cell)]
    assert len(picture) < 100_000
    assert struct.unpack(">II", picture[16:24])[0] > 400  # pixels wide
    assert len(stored["cells"]) <= 14


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_is_stored(stored, tmp_path):
    """The exact optima are the same number for number; training ends near them, as in the stored outputs."""
    nbformat = pytest.importorskip("nbformat", reason="nbclient and ipykernel are not installed (extra: dev)")
    nbclient = pytest.importorskip("nbclient", reason="nbclient and ipykernel are not installed (extra: dev)")
    notebook = nbformat.read(QUICKSTART, 4)
    for cell in notebook.cells:
        cell.pop("outputs", None)
        if cell.cell_type == "code":
            cell.outputs = []
    nbclient.NotebookClient(notebook, timeout=800, resources={"metadata": {"path": str(tmp_path)}}).execute()
    now, before = cells_of(notebook), cells_of(stored)
    for number in (1, 2):
        assert printed(now[number]) == printed(before[number]) != ""
    assert printed(now[3]).strip() == "trained"
    assert len(pictures(now[4])) == 1
    values = [[float(x) for x in NUMBER.findall(printed(cells[5]))] for cells in (now, before)]
    assert len(values[0]) == 6
    assert values[0] == pytest.approx(values[1], abs=0.08)
    right, trained, exact = values[0][:2], values[0][2:4], values[0][4:]
    assert min(right) > 0.9
    assert trained[0] < 0.25 < 0.35 < trained[1]  # collapse and cure
    assert exact == pytest.approx([0.09 / 0.74, 0.5], abs=1e-3)
