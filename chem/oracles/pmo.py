"""The 23 tasks of PMO, the benchmark of practical molecular optimisation (Gao et al., 2022, arXiv:2206.12411).

Twenty of them are tasks of GuacaMol (Brown et al., 2019, arXiv:1811.09621, its second suite, with geometric means),
three are classifiers of bioactivity. Each task is a composition of the few functions below. The scores equal those of
the `guacamol` package up to rounding (`tests/chem/oracles/test_pmo.py`). Other packages differ:

- TDC 0.3.6: the isomer scores count the capital letters of the SMILES string as atoms, and sitagliptin_mpo leaves out
  its Gaussians. Later versions of TDC agree with GuacaMol.
- MolScore 1.9.5: other widths in fexofenadine_mpo and osimertinib_mpo; another limit in deco_hop; the substructure of
  deco_hop in valsartan_smarts; another SMILES and rounded targets in sitagliptin_mpo; a pattern that is no SMARTS in
  scaffold_hop; isomer scores that also compare elements which the formula lacks; fingerprints of radius 3 in gsk3b
  and jnk3.
"""

import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from rdkit import Chem, DataStructs
from rdkit.Chem import GraphDescriptors, rdFingerprintGenerator, rdMolDescriptors
from rdkit.Chem.Pharm2D import Generate, Gobbi_Pharm2D

from chem.files import file_hash
from chem.oracles.base import Molecule
from chem.oracles.bioactivity import MODELS, bioactivity, model_file
from chem.oracles.properties import parse_smarts, qed
from conf.schema.base import check_choice

Function = Callable[[Chem.Mol], float]


def logp(mol: Chem.Mol) -> float:
    """Crippen's octanol-water partition coefficient."""
    return float(rdMolDescriptors.CalcCrippenDescriptors(mol)[0])


def tpsa(mol: Chem.Mol) -> float:
    """Topological polar surface area, square angstroms."""
    return float(rdMolDescriptors.CalcTPSA(mol))


def bertz(mol: Chem.Mol) -> float:
    """Bertz's index of complexity."""
    return float(GraphDescriptors.BertzCT(mol))


def count(element: str) -> Function:
    """Number of atoms of an element, hydrogens included where they are explicit."""
    return lambda mol: sum(atom.GetSymbol() == element for atom in mol.GetAtoms())


# --- from a value to a score


def clipped(function: Function, high: float) -> Function:
    """value / high, at most 1; for values from 0 on."""
    return lambda mol: min(function(mol) / high, 1.0)


def gaussian(function: Function, mean: float, width: float) -> Function:
    """exp(-((value - mean) / width)^2 / 2)."""
    return lambda mol: math.exp(-(((function(mol) - mean) / width) ** 2) / 2)


def at_least(function: Function, mean: float, width: float) -> Function:
    """1 from the mean on, the Gaussian below it."""
    return gaussian(lambda mol: min(function(mol), mean), mean, width)


def at_most(function: Function, mean: float, width: float) -> Function:
    """1 up to the mean, the Gaussian above it."""
    return gaussian(lambda mol: max(function(mol), mean), mean, width)


def geometric(*scores: Function) -> Function:
    """Geometric mean."""
    return lambda mol: math.prod(score(mol) for score in scores) ** (1 / len(scores))


def arithmetic(*scores: Function) -> Function:
    """Arithmetic mean."""
    return lambda mol: sum(score(mol) for score in scores) / len(scores)


# --- scores of a molecule


def _pharmacophores(mol: Chem.Mol) -> Any:
    return Generate.Gen2DFingerprint(mol, Gobbi_Pharm2D.factory)


FEATURES = rdFingerprintGenerator.GetMorganFeatureAtomInvGen()
FINGERPRINTS: dict[str, Callable[[Chem.Mol], Any]] = {  # counts of all codes, not folded
    "ECFP4": rdFingerprintGenerator.GetMorganGenerator(radius=2).GetSparseCountFingerprint,
    "ECFP6": rdFingerprintGenerator.GetMorganGenerator(radius=3).GetSparseCountFingerprint,
    "FCFP4": rdFingerprintGenerator.GetMorganGenerator(
        radius=2, atomInvariantsGenerator=FEATURES
    ).GetSparseCountFingerprint,
    "AP": rdFingerprintGenerator.GetAtomPairGenerator(maxDistance=10).GetSparseCountFingerprint,
    "PHCO": _pharmacophores,
}


def similarity(smiles: str, fingerprint: str) -> Function:
    """Tanimoto similarity to a molecule."""
    make = FINGERPRINTS[fingerprint]
    target = make(Chem.MolFromSmiles(smiles))
    return lambda mol: float(DataStructs.TanimotoSimilarity(make(mol), target))


def has(smarts: str) -> Function:
    """1 with the substructure, else 0."""
    pattern = parse_smarts(smarts)
    return lambda mol: float(mol.HasSubstructMatch(pattern))


def lacks(smarts: str) -> Function:
    """0 with the substructure, else 1."""
    pattern = parse_smarts(smarts)
    return lambda mol: float(not mol.HasSubstructMatch(pattern))


def isomer(formula: str) -> Function:
    """Geometric mean of Gaussians of each element's count (width 1) and of the number of atoms (width 2)."""
    wanted = {element: int(number or 1) for element, number in re.findall(r"([A-Z][a-z]*)(\d*)", formula)}
    total = sum(wanted.values())

    def score(mol: Chem.Mol) -> float:
        found = Counter(atom.GetSymbol() for atom in Chem.AddHs(mol).GetAtoms())
        squares: list[float] = [(found[element] - number) ** 2 for element, number in wanted.items()]
        squares.append(((found.total() - total) / 2) ** 2)
        return math.exp(-sum(squares) / 2 / len(squares))

    return score


# --- the tasks

SITAGLIPTIN = "Fc1cc(c(F)cc1F)CC(N)CC(=O)N3Cc2nnc(n2CC3)C(F)(F)F"
RANOLAZINE = "COc1ccccc1OCC(O)CN2CCN(CC(=O)Nc3c(C)cccc3C)CC2"
OSIMERTINIB = "COc1cc(N(C)CCN(C)C)c(NC(=O)C=C)cc1Nc2nccc(n2)c3cn(C)c4ccccc34"
QUINAZOLINE = "CCCOc1cc2ncnc(Nc3ccc4ncsc4c3)c2cc1S(=O)(=O)C(C)(C)C"  # of the two hops
QUINAZOLINE_CORE = "[#7]-c1n[c;h1]nc2[c;h1]c(-[#8])[c;h0][c;h1]c12"


def like_sitagliptin() -> tuple[Function, Function]:
    """Gaussians around the logP and the polar surface of sitagliptin."""
    mol = Chem.MolFromSmiles(SITAGLIPTIN)
    return gaussian(logp, logp(mol), 0.2), gaussian(tpsa, tpsa(mol), 5)


TASKS: dict[str, Callable[[], Function]] = {
    "albuterol_similarity": lambda: clipped(similarity("CC(C)(C)NCC(O)c1ccc(O)c(CO)c1", "FCFP4"), 0.75),
    "amlodipine_mpo": lambda: geometric(
        similarity(r"Clc1ccccc1C2C(=C(/N/C(=C2/C(=O)OCC)COCCN)C)\C(=O)OC", "ECFP4"),
        gaussian(rdMolDescriptors.CalcNumRings, 3, 0.5),
    ),
    "celecoxib_rediscovery": lambda: similarity("CC1=CC=C(C=C1)C1=CC(=NN1C1=CC=C(C=C1)S(N)(=O)=O)C(F)(F)F", "ECFP4"),
    "deco_hop": lambda: arithmetic(
        clipped(similarity(QUINAZOLINE, "PHCO"), 0.85),
        lacks("CS([#6])(=O)=O"),
        lacks("[#7]-c1ccc2ncsc2c1"),
        has(QUINAZOLINE_CORE),
    ),
    "drd2": lambda: bioactivity("drd2"),
    "fexofenadine_mpo": lambda: geometric(
        clipped(similarity("CC(C)(C(=O)O)c1ccc(cc1)C(O)CCCN2CCC(CC2)C(O)(c3ccccc3)c4ccccc4", "AP"), 0.8),
        at_least(tpsa, 90, 10),
        at_most(logp, 4, 1),
    ),
    "gsk3b": lambda: bioactivity("gsk3b"),
    "isomers_c7h8n2o2": lambda: isomer("C7H8N2O2"),
    "isomers_c9h10n2o2pf2cl": lambda: isomer("C9H10N2O2PF2Cl"),
    "jnk3": lambda: bioactivity("jnk3"),
    "median1": lambda: geometric(  # camphor and menthol
        similarity("CC1(C)C2CCC1(C)C(=O)C2", "ECFP4"), similarity("CC(C)C1CCC(C)CC1O", "ECFP4")
    ),
    "median2": lambda: geometric(  # tadalafil and sildenafil
        similarity("O=C1N(CC(N2C1CC3=C(C2C4=CC5=C(OCO5)C=C4)NC6=C3C=CC=C6)=O)C", "ECFP6"),
        similarity("CCCC1=NN(C2=C1N=C(NC2=O)C3=C(C=CC(=C3)S(=O)(=O)N4CCN(CC4)C)OCC)C", "ECFP6"),
    ),
    "mestranol_similarity": lambda: clipped(
        similarity("COc1ccc2[C@H]3CC[C@@]4(C)[C@@H](CC[C@@]4(O)C#C)[C@@H]3CCc2c1", "AP"), 0.75
    ),
    "osimertinib_mpo": lambda: geometric(
        clipped(similarity(OSIMERTINIB, "FCFP4"), 0.8),
        at_most(similarity(OSIMERTINIB, "ECFP6"), 0.85, 0.1),
        at_least(tpsa, 100, 10),
        at_most(logp, 1, 1),
    ),
    "perindopril_mpo": lambda: geometric(
        similarity("O=C(OCC)C(NC(C(=O)N1C(C(=O)O)CC2CCCCC12)C)CCC", "ECFP4"),
        gaussian(rdMolDescriptors.CalcNumAromaticRings, 2, 0.5),
    ),
    "qed": lambda: qed,
    "ranolazine_mpo": lambda: geometric(
        clipped(similarity(RANOLAZINE, "AP"), 0.7),
        at_least(logp, 7, 1),
        at_least(tpsa, 95, 20),
        gaussian(count("F"), 1, 1),
    ),
    "scaffold_hop": lambda: arithmetic(
        clipped(similarity(QUINAZOLINE, "PHCO"), 0.75),
        has("[#6]-[#6]-[#6]-[#8]-[#6]~[#6]~[#6]~[#6]~[#6]-[#7]-c1ccc2ncsc2c1"),
        lacks(QUINAZOLINE_CORE),
    ),
    "sitagliptin_mpo": lambda: geometric(
        gaussian(similarity(SITAGLIPTIN, "ECFP4"), 0, 0.1), *like_sitagliptin(), isomer("C16H15F6N5O")
    ),
    "thiothixene_rediscovery": lambda: similarity("CN(C)S(=O)(=O)c1ccc2Sc3ccccc3C(=CCCN4CCN(C)CC4)c2c1", "ECFP4"),
    "troglitazone_rediscovery": lambda: similarity("Cc1c(C)c2OC(C)(COc3ccc(CC4SC(=O)NC4=O)cc3)CCc2c(C)c1O", "ECFP4"),
    "valsartan_smarts": lambda: geometric(
        has("CN(C=O)Cc1ccc(c2ccccc2)cc1"),
        *like_sitagliptin(),
        gaussian(bertz, bertz(Chem.MolFromSmiles(SITAGLIPTIN)), 30),
    ),
    "zaleplon_mpo": lambda: geometric(
        similarity("O=C(C)N(CC)C1=CC=CC(C2=CC=NC3=C(C=NN23)C#N)=C1", "ECFP4"), isomer("C19H17N3O2")
    ),
}


class Pmo:
    """The score of a task of PMO.

    Args:
        task: its name, one of `TASKS`.
    """

    unit_range = True
    version = "1"

    def __init__(self, task: str) -> None:
        check_choice("task", task, TASKS)
        self.task = task
        self.score = TASKS[task]()

    def identity(self) -> dict[str, str]:
        """The hash of the classifier's file, where there is one."""
        return {"model": file_hash(model_file(self.task))} if self.task in MODELS else {}

    def __call__(self, molecule: Molecule) -> float:
        """The task's score."""
        return self.score(molecule.mol)
