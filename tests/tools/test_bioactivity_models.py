"""Reading pickles without unpickling them."""

import io
import pickle
from typing import Any

import numpy as np
import pytest

from chem.oracles.bioactivity import Forest
from tools.bioactivity_models import Array, Holder, concatenate_trees, forest_arrays, read_pickle


class Planted:
    """Would write a file if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def read(value):
    return read_pickle(io.BytesIO(pickle.dumps(value, protocol=3)))


@pytest.mark.parametrize("kind", ["<f8", "<i4", "u1", "V3"])
def test_arrays_are_rebuilt(kind):
    array = np.arange(24, dtype="u1").repeat(np.dtype(kind).itemsize).view(kind).reshape(2, 12)
    (held,) = read([array])
    assert isinstance(held, Array)
    assert held.array().dtype == array.dtype
    assert held.array().tobytes() == array.tobytes()
    assert read([np.asfortranarray(array)])[0].array().tobytes() == array.tobytes()


def test_structured_arrays_keep_their_fields():
    nodes = np.zeros(3, [("left_child", "<i8"), ("threshold", "<f8")])
    nodes["threshold"] = [0.5, 1.5, 2.5]
    assert read([nodes])[0].array()["threshold"].tolist() == [0.5, 1.5, 2.5]


def test_plain_values():
    value: dict[str, Any] = {
        "a": [1, 300, 70000, -1, 2.5, None, True, False, "text", (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {}]
    }
    assert read(value) == value
    assert read([np.float64(2.5)]) == [2.5]


def test_nothing_is_called(tmp_path):
    planted = Planted(tmp_path / "planted")
    (held,) = read([planted])
    assert isinstance(held, Holder)
    assert not planted.path.exists()
    pickle.loads(pickle.dumps(planted)).close()  # a control: unpickling runs it
    assert planted.path.exists()


def test_other_opcodes_are_refused():
    with pytest.raises(ValueError, match="unexpected pickle opcode LONG1"):
        read(2**70)


NODES = np.array(
    [(1, 4, 7, 0.5), (2, 3, 2, 0.5), (-1, -1, -2, -2.0), (-1, -1, -2, -2.0), (-1, -1, -2, -2.0)],
    [("left_child", "<i8"), ("right_child", "<i8"), ("feature", "<i8"), ("threshold", "<f8")],
)
COUNTS = np.array([[9, 9], [6, 4], [4, 0], [1, 3], [2, 6]], float)


def test_a_tree_goes_right_with_the_bit():
    forest = Forest(**concatenate_trees([(NODES, COUNTS)] * 2))
    for bits, expected in [((), 0.0), ((2,), 0.75), ((7,), 0.75), ((2, 7), 0.75)]:
        present = np.zeros(8, bool)
        present[list(bits)] = True
        assert forest(present) == expected


@pytest.mark.parametrize(("field", "value"), [("threshold", 0.25), ("left_child", 3)])
def test_other_trees_are_refused(field, value):
    nodes = NODES.copy()
    nodes[field][0] = value
    with pytest.raises(ValueError, match="left child is the next node"):
        concatenate_trees([(nodes, COUNTS)])
    with pytest.raises(ValueError, match="numbers of training molecules"):
        concatenate_trees([(NODES, COUNTS / 9)])


def test_a_forest_is_found_in_its_holders():
    model, estimator, tree = (Holder("class", ()) for _ in range(3))
    nodes, values = read([NODES, COUNTS[:, None]])
    tree.state = {"nodes": nodes, "values": values}
    estimator.state = {"tree_": tree}
    model.state = {"estimators_": [estimator]}
    assert forest_arrays(model)["roots"].tolist() == [0]
