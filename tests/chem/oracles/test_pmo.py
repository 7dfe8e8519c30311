"""The tasks of PMO: known values, and the scores of the guacamol package."""

import gzip
import importlib
import importlib.util
import json
import math
import os
import random
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from chem.oracles import pmo
from chem.oracles.base import Molecule
from chem.oracles.compose import make_component
from chem.oracles.pmo import TASKS
from conf.schema.base import ConfigError
from conf.schema.oracle import ComponentConfig

TARGETS = {  # molecules with a score of 1
    "celecoxib_rediscovery": "CC1=CC=C(C=C1)C1=CC(=NN1C1=CC=C(C=C1)S(N)(=O)=O)C(F)(F)F",
    "troglitazone_rediscovery": "Cc1c(C)c2OC(C)(COc3ccc(CC4SC(=O)NC4=O)cc3)CCc2c(C)c1O",
    "thiothixene_rediscovery": "CN(C)S(=O)(=O)c1ccc2Sc3ccccc3C(=CCCN4CCN(C)CC4)c2c1",
    "albuterol_similarity": "CC(C)(C)NCC(O)c1ccc(O)c(CO)c1",
    "mestranol_similarity": "COc1ccc2[C@H]3CC[C@@]4(C)[C@@H](CC[C@@]4(O)C#C)[C@@H]3CCc2c1",
    "isomers_c7h8n2o2": "CNc1ccc([N+](=O)[O-])cc1",
    "isomers_c9h10n2o2pf2cl": "CCOP(=O)(NC=N)c1cc(F)c(Cl)cc1F",
}
BIPHENYL = "NS(=O)(=O)c1cc(C(=O)N(C)Cc2ccc(-c3ccccc3)cc2)ccc1F"  # has the substructure of valsartan_smarts


def score(task, smiles):
    return make_component(ComponentConfig("pmo", {"task": task}))(Molecule(Chem.MolFromSmiles(smiles)))


@pytest.mark.parametrize(("task", "smiles"), TARGETS.items())
def test_a_target_scores_1(task, smiles):
    assert score(task, smiles) == 1
    assert score(task, "CCO") < 1


def test_sitagliptin_is_nothing_but_too_similar_to_itself():
    assert score("sitagliptin_mpo", pmo.SITAGLIPTIN) == pytest.approx(math.exp(-50) ** (1 / 4))


def test_an_isomer_is_judged_by_all_atoms():
    """Methane has 1 of 7 carbons, 4 of 8 hydrogens, no nitrogen or oxygen of 2 each, and 5 of 19 atoms."""
    squares = 6**2 + 4**2 + 2**2 + 2**2 + (14 / 2) ** 2
    assert score("isomers_c7h8n2o2", "C") == pytest.approx(math.exp(-squares / 2 / 5))


def test_the_hops_keep_one_half_and_change_the_other():
    """The molecule that both hops begin with has the wrong decoration, and the wrong scaffold."""
    assert score("deco_hop", pmo.QUINAZOLINE) == pytest.approx((1 + 0 + 0 + 1) / 4)
    assert score("scaffold_hop", pmo.QUINAZOLINE) == pytest.approx((1 + 1 + 0) / 3)


def test_valsartan_needs_its_substructure():
    assert score("valsartan_smarts", BIPHENYL) > 0
    assert score("valsartan_smarts", pmo.SITAGLIPTIN) == 0


def test_there_are_23_tasks_and_others_are_refused():
    assert len(TASKS) == 23
    with pytest.raises(ConfigError, match=r"task: must be one of albuterol_similarity, .*, got penicillin"):
        score("penicillin", "C")


def test_a_classifier_is_part_of_the_identity():
    assert set(pmo.Pmo("jnk3").identity()) == {"model"}
    assert pmo.Pmo("qed").identity() == {}


@pytest.fixture(scope="module")
def guacamol():
    """The benchmarks of the guacamol package, by the names of PMO, without the packages that these do not use."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "fcd", types.ModuleType("fcd"))
        patch.setattr("scipy.histogram", np.histogram, raising=False)
        reason = "needs guacamol: pip install --no-deps guacamol"
        g = pytest.importorskip("guacamol.standard_benchmarks", reason=reason)
    known = {
        "amlodipine_mpo": g.amlodipine_rings(),
        "deco_hop": g.decoration_hop(),
        "fexofenadine_mpo": g.hard_fexofenadine(),
        "isomers_c7h8n2o2": g.isomers_c7h8n2o2(),
        "isomers_c9h10n2o2pf2cl": g.isomers_c9h10n2o2pf2cl(),
        "median1": g.median_camphor_menthol(),
        "median2": g.median_tadalafil_sildenafil(),
        "osimertinib_mpo": g.hard_osimertinib(),
        "perindopril_mpo": g.perindopril_rings(),
        "qed": g.qed_benchmark(),
        "ranolazine_mpo": g.ranolazine_mpo(),
        "scaffold_hop": g.scaffold_hop(),
        "sitagliptin_mpo": g.sitagliptin_replacement(),
        "valsartan_smarts": g.valsartan_smarts(),
        "zaleplon_mpo": g.zaleplon_with_other_formula(),
    }
    for name, kind, high in [
        ("celecoxib_rediscovery", "ECFP4", 1.0),
        ("troglitazone_rediscovery", "ECFP4", 1.0),
        ("thiothixene_rediscovery", "ECFP4", 1.0),
        ("albuterol_similarity", "FCFP4", 0.75),
        ("mestranol_similarity", "AP", 0.75),
    ]:
        known[name] = g.similarity(TARGETS[name], name, fp_type=kind, threshold=high)
    return {name: benchmark.objective.score for name, benchmark in known.items()}


@pytest.fixture(scope="module")
def zinc():
    """A thousand molecules of ZINC, canonical, and molecules that the tasks are about."""
    path = Path(os.environ.get("MARA_DATA", "")) / "zinc250k.smi.gz"
    if not path.is_file():
        pytest.skip("needs MARA_DATA with zinc250k.smi.gz")
    with gzip.open(path, "rt") as file:
        lines = random.Random(0).sample(file.read().split(), 1000)
    known = [*TARGETS.values(), pmo.SITAGLIPTIN, pmo.QUINAZOLINE, pmo.RANOLAZINE, BIPHENYL]
    return [Chem.CanonSmiles(smiles) for smiles in [*lines, *known]]


def scores(task, smiles):
    function = TASKS[task]()
    return np.array([function(Chem.MolFromSmiles(one)) for one in smiles])


@pytest.mark.long
def test_the_scores_are_those_of_guacamol(guacamol, zinc):
    assert set(guacamol) == set(TASKS) - {"drd2", "gsk3b", "jnk3"}
    for task, theirs in guacamol.items():
        expected = np.array([theirs(one) for one in zinc])
        np.testing.assert_allclose(scores(task, zinc), expected, rtol=0, atol=1e-12, err_msg=task)
        assert expected.max() > 0, task
    control = scores("median2", zinc) - [guacamol["median1"](one) for one in zinc]
    assert abs(control).max() > 0.01


MOLSCORE = {  # tasks that MolScore defines as GuacaMol does
    "albuterol_similarity": "Albuterol_similarity",
    "amlodipine_mpo": "Amlodipine_MPO",
    "celecoxib_rediscovery": "Celecoxxib_rediscovery",
    "median1": "Median_molecules_1",
    "median2": "Median_molecules_2",
    "mestranol_similarity": "Mestranol_similarity",
    "perindopril_mpo": "Perindopril_MPO",
    "qed": "QED",
    "ranolazine_mpo": "Ranolazine_MPO",
    "thiothixene_rediscovery": "Thiothixene_rediscovery",
    "troglitazone_rediscovery": "Troglitazone_rediscovery",
}
OTHERWISE = {"fexofenadine_mpo": "Fexofenadine_MPO", "osimertinib_mpo": "Osimertinib_MPO"}  # other widths


@pytest.fixture(scope="module")
def molscore():
    """MolScore's scores: name of a file in its configs/MolOpt, SMILES -> scores. Its manager is not imported."""
    spec = importlib.util.find_spec("molscore")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs MolScore: pip install --no-deps molscore tqdm func_timeout dask")
    folder = Path(spec.submodule_search_locations[0])
    with pytest.MonkeyPatch.context() as patch:
        for name, place in (("molscore", folder), ("molscore.scoring_functions", folder / "scoring_functions")):
            module = types.ModuleType(name)
            module.__path__ = [str(place)]
            patch.setitem(sys.modules, name, module)
        stub = types.ModuleType("dask.distributed")
        stub.__dict__.update(Client=object, LocalCluster=object, __getattr__=lambda name: object)
        for name in ("dask", "dask.distributed", "dask_jobqueue", "Levenshtein", "molbloom"):
            patch.setitem(sys.modules, name, stub)
        sys.modules["molscore"].__dict__["resources"] = types.SimpleNamespace(files=lambda name: folder)
        modules = [
            importlib.import_module(f"molscore.scoring_functions.{name}") for name in ("similarity", "descriptors")
        ]
        shapes = importlib.import_module("molscore.utils.transformation_functions")

        def their_scores(name, smiles):
            config = json.loads((folder / "configs" / "MolOpt" / f"{name}.json").read_text())
            rows: list[dict[str, float]] = [{} for _ in smiles]
            for function in config["scoring_functions"]:
                kind = next(
                    getattr(module, function["name"]) for module in modules if hasattr(module, function["name"])
                )
                for row, answer in zip(rows, kind(**function["parameters"] | {"n_jobs": 1})(smiles), strict=True):
                    row |= answer
            metrics = config["scoring"]["metrics"]
            values = np.array(
                [[getattr(shapes, m["modifier"])(row[m["name"]], **m["parameters"]) for m in metrics] for row in rows]
            )
            return values.prod(1) ** (1 / len(metrics))

        yield their_scores


@pytest.mark.long
def test_the_scores_are_those_of_molscore_where_it_follows_guacamol(molscore, zinc):
    for task, name in MOLSCORE.items():
        np.testing.assert_allclose(scores(task, zinc), molscore(name, zinc), rtol=0, atol=1e-12, err_msg=task)
    for task, name in OTHERWISE.items():
        assert abs(scores(task, zinc) - molscore(name, zinc)).max() > 0.1, task
