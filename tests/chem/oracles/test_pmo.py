"""The tasks of PMO: known values, and the scores of the guacamol package."""

import gzip
import math
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

ZINC = Path("/work/shared/data/zinc250k.smi.gz")
TARGETS = {  # molecules with a score of 1
    "celecoxib_rediscovery": "CC1=CC=C(C=C1)C1=CC(=NN1C1=CC=C(C=C1)S(N)(=O)=O)C(F)(F)F",
    "troglitazone_rediscovery": "Cc1c(C)c2OC(C)(COc3ccc(CC4SC(=O)NC4=O)cc3)CCc2c(C)c1O",
    "thiothixene_rediscovery": "CN(C)S(=O)(=O)c1ccc2Sc3ccccc3C(=CCCN4CCN(C)CC4)c2c1",
    "albuterol_similarity": "CC(C)(C)NCC(O)c1ccc(O)c(CO)c1",
    "mestranol_similarity": "COc1ccc2[C@H]3CC[C@@]4(C)[C@@H](CC[C@@]4(O)C#C)[C@@H]3CCc2c1",
    "isomers_c7h8n2o2": "CNc1ccc([N+](=O)[O-])cc1",
    "isomers_c9h10n2o2pf2cl": "CCOP(=O)(NC=N)c1cc(F)c(Cl)cc1F",
}


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
    biphenyl = "NS(=O)(=O)c1cc(C(=O)N(C)Cc2ccc(-c3ccccc3)cc2)ccc1F"
    assert score("valsartan_smarts", biphenyl) > 0
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


@pytest.mark.long
def test_the_scores_are_those_of_guacamol(guacamol):
    if not ZINC.is_file():
        pytest.skip(f"needs {ZINC}")
    with gzip.open(ZINC, "rt") as file:
        lines = file.read().split()
    smiles = [
        *random.Random(0).sample(lines, 1000),
        *TARGETS.values(),
        pmo.SITAGLIPTIN,
        pmo.QUINAZOLINE,
        pmo.RANOLAZINE,
    ]
    mols = [Chem.MolFromSmiles(one) for one in smiles]
    assert set(guacamol) == set(TASKS) - {"drd2", "gsk3b", "jnk3"}
    for task, theirs in guacamol.items():
        ours = TASKS[task]()
        expected = np.array([theirs(one) for one in smiles])
        np.testing.assert_allclose([ours(mol) for mol in mols], expected, rtol=0, atol=1e-12, err_msg=task)
        assert expected.max() > 0, task
    wrong = pmo.geometric(pmo.similarity(TARGETS["celecoxib_rediscovery"], "ECFP6"))  # a control: another radius
    assert (
        max(abs(wrong(mol) - guacamol["celecoxib_rediscovery"](one)) for mol, one in zip(mols, smiles, strict=True))
        > 0.01
    )
