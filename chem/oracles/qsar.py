"""QSAR models of scikit-learn, saved as ONNX or by skops: neither is a pickle, and neither runs code."""

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem

from chem.files import file_hash, find_file
from chem.oracles.base import Molecule
from chem.oracles.descriptors import make_features
from conf.schema.base import ConfigError
from conf.schema.extras import missing_package, not_installed

KERNELS = ("ConstantKernel", "DotProduct", "Matern", "Product", "RationalQuadratic", "RBF", "Sum", "WhiteKernel")
TRUSTED = {  # types of scikit-learn beside those that skops trusts by itself: plain data and arithmetic
    "sklearn.tree._tree.Tree",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    *(f"sklearn.gaussian_process.kernels.{name}" for name in KERNELS),
}

Predict = Callable[[np.ndarray], np.ndarray]  # [N, F] float32 -> [N] or [N, K]
DIGITS = 6  # of a prediction; its last bits may depend on how many molecules are predicted at once


class BatchedModel:
    """A model that predicts for several molecules at once; a prediction has 6 digits.

    Args:
        path: its file.
        features: from RDKit's molecule to what the model reads.
        predict: predictions [N] or [N, K] from a list of N such.
        libraries: distributions whose versions the predictions depend on.
        column: target of a model with several, or class whose probability is taken, from 0. None: the only target,
            or the second of two classes.

    Raises:
        ConfigError: the model cannot predict from these features, or has several columns and none was chosen.
    """

    def __init__(
        self,
        path: Path,
        features: Callable[[Chem.Mol], Any],
        predict: Callable[[list[Any]], np.ndarray],
        libraries: Sequence[str],
        column: int | None,
    ) -> None:
        self.path, self.features, self.predict = path, features, predict
        self.libraries, self.column = libraries, column
        try:
            self._select(predict([features(Chem.MolFromSmiles("C"))]))
        except ConfigError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(f"features: {path.name} cannot predict from these ({reason})") from error

    def _select(self, predictions: np.ndarray) -> np.ndarray:
        """The column [N] of predictions [N] or [N, K]."""
        table = np.asarray(predictions, dtype=np.float64).reshape(len(predictions), -1)
        columns = table.shape[1]
        column = {1: 0, 2: 1}.get(columns) if self.column is None else self.column
        if column is None or not 0 <= column < columns:
            got = "null" if self.column is None else self.column
            raise ConfigError(f"column: must be from 0 to {columns - 1}, as {self.path.name} predicts, got {got}")
        return table[:, column]

    def identity(self) -> dict[str, Any]:
        """Hash of the file, and versions of the libraries that read it."""
        return {"model": file_hash(self.path), **{name: version(name) for name in self.libraries}}

    def __call__(self, molecule: Molecule) -> float:
        """Predict for one molecule."""
        answer = self.score_batch([molecule])[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def score_batch(self, molecules: Sequence[Molecule]) -> list[float | Exception]:
        """Predict for several molecules at once. A molecule that has no features fails alone."""
        answers: list[Any] = []
        for molecule in molecules:
            try:
                answers.append(self.features(molecule.mol))
            except Exception as error:
                answers.append(error)
        described = [row for row in answers if not isinstance(row, Exception)]
        if described:
            values = iter(self._select(self.predict(described)))
            answers = [row if isinstance(row, Exception) else float(f"{next(values):.{DIGITS}g}") for row in answers]
        return answers


class Qsar(BatchedModel):
    """The prediction of a model: a regressor's value, or the probability of a class.

    Args:
        model: ONNX file (.onnx), or file of skops (.skops) with estimators of scikit-learn only.
        features: what the model was trained on, in the order of its inputs (`chem.oracles.descriptors`).
        output: name of the ONNX output; None: that of skl2onnx's probabilities if it is there, else the only one.
        column: as for `BatchedModel`.

    Raises:
        ConfigError: the file cannot be read, does not fit the features, or holds other types.
    """

    version = "1"  # change it whenever the values change

    def __init__(
        self,
        model: str,
        features: Sequence[str | Mapping[str, Any]],
        output: str | None = None,
        column: int | None = None,
    ) -> None:
        path = find_file("model", model)
        libraries: tuple[str, ...] = ("onnxruntime",)
        if path.suffix == ".onnx":
            predict = read_onnx(path, output)
        elif path.suffix == ".skops":
            if output is not None:
                raise ConfigError("output: is a name in an ONNX file; use column with a .skops file")
            predict, libraries = read_skops(path), ("skops", "scikit-learn")
        else:
            raise ConfigError(f"model: must be a file .onnx or .skops, got {path.name}")
        super().__init__(path, make_features(features), lambda rows: predict(np.stack(rows)), libraries, column)


def read_onnx(path: Path, output: str | None) -> Predict:
    """Read an ONNX model of one input [N, F].

    Raises:
        ConfigError: it cannot be read, or has no such output.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(f"model: {not_installed('onnxruntime')}") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has many kinds
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"model: {path.name} cannot be read as ONNX ({reason})") from error
    inputs, outputs = session.get_inputs(), [tensor.name for tensor in session.get_outputs()]
    if len(inputs) != 1:
        raise ConfigError(f"model: {path.name} has {len(inputs)} inputs; one is needed, molecules by features")
    probabilities = [name for name in outputs if name in ("probabilities", "output_probability")]  # skl2onnx's names
    choice = output or (probabilities or outputs)[0]
    if choice not in outputs or (output is None and not probabilities and len(outputs) > 1):
        raise ConfigError(f"output: must be one of {', '.join(outputs)}, got {output or 'null'}")
    kind = np.float64 if inputs[0].type == "tensor(double)" else np.float32

    def predict(rows: np.ndarray) -> np.ndarray:
        (values,) = session.run([choice], {inputs[0].name: rows.astype(kind)})
        return np.array([list(row.values()) if isinstance(row, dict) else row for row in values])  # dicts: ZipMap's

    return predict


def read_skops(path: Path) -> Predict:
    """Read an estimator that skops saved.

    Raises:
        ConfigError: it cannot be read, or holds types other than `TRUSTED` and those that skops trusts by itself.
    """
    try:
        import skops.io
    except ImportError as error:
        raise ConfigError(f"model: {missing_package(error) or error}") from error
    try:
        types = set(skops.io.get_untrusted_types(file=path))
        if types - TRUSTED:
            raise ConfigError(
                f"model: {path.name} holds types that are not trusted: {', '.join(sorted(types - TRUSTED)[:5])}; "
                "save the model as ONNX"
            )
        estimator = skops.io.load(path, trusted=sorted(types))
    except ConfigError:
        raise
    except Exception as error:  # a damaged file raises many kinds
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"model: {path.name} cannot be read as a file of skops ({reason})") from error
    if not hasattr(estimator, "predict"):
        raise ConfigError(f"model: {path.name} holds no estimator, but an object of {type(estimator).__name__}")
    single = {name: 1 for name in estimator.get_params() if name.rpartition("__")[2] == "n_jobs"}
    estimator.set_params(**single)  # a worker has one core
    return getattr(estimator, "predict_proba", estimator.predict)
