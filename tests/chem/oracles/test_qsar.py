"""QSAR models against scikit-learn's own predictions, from ONNX and skops files."""

import numpy as np
import pytest
from rdkit import Chem

pytest.importorskip("sklearn", reason="needs the extra qsar")
pytest.importorskip("onnxruntime", reason="needs the extra qsar")
pytest.importorskip("skops", reason="needs the extra qsar")
pytest.importorskip("skl2onnx", reason="needs the extra dev")
import skl2onnx
import skops.io
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier, RandomForestRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from chem.oracles.base import Molecule, Status
from chem.oracles.compose import Scorer
from chem.oracles.descriptors import make_features
from chem.oracles.qsar import Qsar
from conf.schema.base import ConfigError
from conf.schema.oracle import ComponentConfig, OracleConfig

SMILES = [
    *("C" * n for n in range(1, 9)),
    *("c1ccccc1" + "O" * n for n in range(1, 5)),
    "CCN",
    "CC(=O)O",
    "CCF",
    "CS",
]
MOLECULES = [Molecule(Chem.MolFromSmiles(smiles)) for smiles in SMILES]
FEATURES = [{"name": "morgan", "radius": 2, "bits": 128, "counts": True}, "MolWt", "TPSA"]
ROWS = np.stack([make_features(FEATURES)(molecule.mol) for molecule in MOLECULES])
TARGET = ROWS[:, -1] / 10 + np.sin(ROWS[:, -2])
CLASSES = np.digitize(TARGET, np.quantile(TARGET, [0.5]))


def save_onnx(model, path, **options):
    path.write_bytes(skl2onnx.to_onnx(model, ROWS[:1], options=options or None).SerializeToString())
    return str(path)


def save_skops(model, path):
    skops.io.dump(model, path)
    return str(path)


@pytest.mark.parametrize("suffix", ["onnx", "skops"])
@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_a_forest_predicts_as_in_scikit_learn(suffix, kind, tmp_path):
    estimators = {"n_estimators": 20, "random_state": 0, "n_jobs": 2}
    if kind == "regression":
        model = RandomForestRegressor(**estimators).fit(ROWS, TARGET)
        expected = model.predict(ROWS)
    else:
        model = RandomForestClassifier(**estimators).fit(ROWS, CLASSES)
        expected = model.predict_proba(ROWS)[:, 1]
    save = save_onnx if suffix == "onnx" else save_skops
    qsar = Qsar(save(model, tmp_path / f"model.{suffix}"), FEATURES)
    values = qsar.score_batch(MOLECULES)
    assert values == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert np.ptp(expected) > 0.5  # control: the molecules differ
    assert [qsar(molecule) for molecule in MOLECULES] == values  # alone as in a batch
    if kind == "classification":
        first = Qsar(str(qsar.path), FEATURES, column=0)
        assert first(MOLECULES[0]) == pytest.approx(1 - expected[0], abs=1e-5)
    assert len(qsar.identity()["model"]) == 64


def test_probabilities_in_an_array_as_well(tmp_path):
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(ROWS, CLASSES)
    qsar = Qsar(save_onnx(model, tmp_path / "model.onnx", **{"zipmap": False}), FEATURES)
    assert qsar(MOLECULES[3]) == pytest.approx(model.predict_proba(ROWS)[3, 1], abs=1e-5)
    with pytest.raises(ConfigError, match=r"^output: must be one of label, probabilities, got scores$"):
        Qsar(str(qsar.path), FEATURES, output="scores")


def test_a_target_of_several(tmp_path):
    model = LinearRegression().fit(ROWS, np.stack([TARGET, 2 * TARGET, 3 * TARGET], axis=1))
    path = save_skops(model, tmp_path / "model.skops")
    assert Qsar(path, FEATURES, column=1)(MOLECULES[2]) == pytest.approx(model.predict(ROWS)[2, 1], rel=1e-5)
    with pytest.raises(ConfigError, match=r"^column: must be from 0 to 2, as model\.skops predicts, got null$"):
        Qsar(path, FEATURES)


def test_one_molecule_without_features_fails_alone(tmp_path):
    model = LinearRegression().fit(ROWS[:, -2:] / 500, np.linspace(0, 1, len(ROWS)))
    path = save_skops(model, tmp_path / "model.skops")
    component = ComponentConfig("qsar", {"model": path, "features": ["MaxPartialCharge", "TPSA"]})
    results = Scorer(OracleConfig([component])).score_batch(["C", "C[Se]C", "CC"])
    assert [result.status for result in results] == [Status.ok, Status.failed, Status.ok]
    assert results[1].message == "qsar: ValueError: feature 0 is not finite"


@pytest.mark.parametrize(
    "model",
    [
        HistGradientBoostingRegressor(max_iter=3),
        make_pipeline(StandardScaler(), MLPRegressor(hidden_layer_sizes=(4,), max_iter=3)),
        make_pipeline(StandardScaler(), GaussianProcessRegressor(RBF())),
        CalibratedClassifierCV(RandomForestClassifier(3, random_state=0), cv=2),
    ],
    ids=lambda model: type(model).__name__,
)
@pytest.mark.filterwarnings("ignore:.*Optimization")
def test_estimators_that_skops_alone_does_not_trust(model, tmp_path):
    classifier = hasattr(model, "predict_proba")
    model.fit(ROWS, CLASSES if classifier else TARGET)
    expected = model.predict_proba(ROWS)[:, 1] if classifier else model.predict(ROWS)
    qsar = Qsar(save_skops(model, tmp_path / "model.skops"), FEATURES)
    assert qsar.score_batch(MOLECULES) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_other_types_are_not_read(tmp_path):
    """A function of its own in a pipeline would run on loading or predicting."""
    model = make_pipeline(FunctionTransformer(save_skops), LinearRegression())
    path = save_skops(model, tmp_path / "model.skops")
    with pytest.raises(ConfigError, match=r"^model: model\.skops holds types that are not trusted: .*save_skops;"):
        Qsar(path, FEATURES)
    with pytest.raises(ConfigError, match=r"^model: data\.skops holds no estimator, but an object of list$"):
        Qsar(save_skops([1, 2], tmp_path / "data.skops"), FEATURES)


@pytest.mark.parametrize("suffix", ["onnx", "skops"])
def test_damaged_files_and_other_features_are_one_line(suffix, tmp_path):
    model = LinearRegression().fit(ROWS, TARGET)
    save = save_onnx if suffix == "onnx" else save_skops
    path = save(model, tmp_path / f"model.{suffix}")
    with pytest.raises(ConfigError, match=rf"^features: model\.{suffix} cannot predict from these \(.*130.*\)$"):
        Qsar(path, ["MolWt"])
    (tmp_path / f"model.{suffix}").write_bytes(b"no model")
    with pytest.raises(ConfigError, match=rf"^model: model\.{suffix} cannot be read as (ONNX|a file of skops) "):
        Qsar(path, FEATURES)
    (tmp_path / "model.pkl").touch()
    with pytest.raises(ConfigError, match=r"^model: must be a file \.onnx or \.skops, got model\.pkl$"):
        Qsar(str(tmp_path / "model.pkl"), FEATURES)


@pytest.mark.parametrize(("suffix", "package"), [("onnx", "onnxruntime"), ("skops", "skops")])
def test_a_missing_library_names_the_extra(suffix, package, tmp_path, monkeypatch):
    (tmp_path / f"model.{suffix}").touch()
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ConfigError, match=rf"^model: {package} is not installed \(extra qsar\): pip install "):
        Qsar(str(tmp_path / f"model.{suffix}"), FEATURES)
