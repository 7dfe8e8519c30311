"""Properties that RDKit computes: a molecule in, a number out."""

from collections.abc import Callable, Sequence
from typing import Any

from rdkit import Chem, DataStructs
from rdkit.Chem import QED, rdFingerprintGenerator, rdMolDescriptors
from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogEntry, FilterCatalogParams, SmartsMatcher
from rdkit.Contrib.SA_Score import sascorer

from chem.oracles.base import Component, Molecule
from conf.schema.base import ConfigError


class Property:
    """A function of the molecule alone."""

    def __init__(self, function: Callable[[Chem.Mol], float], unit_range: bool = False) -> None:
        self.function = function
        self.unit_range = unit_range

    def __call__(self, molecule: Molecule) -> float:
        return float(self.function(molecule.mol))


class Alerts:
    """How many structural alerts the molecule raises: of RDKit's named catalogues, and of SMARTS of your own.

    catalogs: names such as PAINS, BRENK, NIH, CHEMBL_Glaxo. smarts: patterns, each an alert.
    """

    def __init__(self, catalogs: Sequence[str] = ("PAINS", "BRENK"), smarts: Sequence[str] = ()) -> None:
        known = FilterCatalogParams.FilterCatalogs.names
        parameters = FilterCatalogParams()
        for name in catalogs:
            if name not in known:
                raise ConfigError(f"alerts.catalogs: must be among {', '.join(known)}, got {name}")
            parameters.AddCatalog(known[name])
        self.catalog = FilterCatalog(parameters)
        self.patterns = [pattern_of("alerts.smarts", one) for one in smarts]

    def __call__(self, molecule: Molecule) -> float:
        own = sum(molecule.mol.HasSubstructMatch(pattern) for pattern in self.patterns)
        return float(len(self.catalog.GetMatches(molecule.mol)) + own)


class Similarity:
    """Largest Tanimoto similarity of Morgan fingerprints to the given molecules."""

    unit_range = True

    def __init__(self, smiles: Sequence[str], radius: int = 2, bits: int = 2048) -> None:
        targets = [smiles] if isinstance(smiles, str) else list(smiles)
        mols = [Chem.MolFromSmiles(target) for target in targets]
        if not targets or None in mols:
            raise ConfigError(f"similarity.smiles: must be SMILES of molecules, got {targets}")
        self.generator = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=bits)
        self.targets = [self.generator.GetFingerprint(mol) for mol in mols]

    def __call__(self, molecule: Molecule) -> float:
        fingerprint = self.generator.GetFingerprint(molecule.mol)
        return float(max(DataStructs.BulkTanimotoSimilarity(fingerprint, self.targets)))


class Substructure:
    """1 where the molecule holds the SMARTS pattern, else 0."""

    unit_range = True

    def __init__(self, smarts: str) -> None:
        self.pattern = pattern_of("substructure.smarts", smarts)

    def __call__(self, molecule: Molecule) -> float:
        return float(molecule.mol.HasSubstructMatch(self.pattern))


def pattern_of(key: str, smarts: str) -> Chem.Mol:
    pattern = Chem.MolFromSmarts(smarts)
    if pattern is None:
        raise ConfigError(f"{key}: must be SMARTS, got {smarts}")
    return pattern


def catalog_of(patterns: Sequence[str]) -> FilterCatalog:
    catalog = FilterCatalog()
    for smarts in patterns:
        catalog.AddEntry(FilterCatalogEntry(smarts, SmartsMatcher(smarts, smarts)))
    return catalog


QED_ALERTS = catalog_of(QED.StructuralAlertSmarts)
HYDROGEN = Chem.MolFromSmarts("[#1]")


def qed(mol: Chem.Mol) -> float:
    """Quantitative estimate of drug-likeness (Bickerton et al., 2012): the very number of RDKit's QED.qed.

    Sooner, since all alerts are looked for in one call, and hydrogens are removed only where there are any.
    """
    if mol.HasSubstructMatch(HYDROGEN):
        return float(QED.qed(mol))
    properties = QED.QEDproperties(
        MW=rdMolDescriptors._CalcMolWt(mol),
        ALOGP=rdMolDescriptors.CalcCrippenDescriptors(mol)[0],
        HBA=sum(len(mol.GetSubstructMatches(acceptor)) for acceptor in QED.Acceptors),
        HBD=rdMolDescriptors.CalcNumHBD(mol),
        PSA=rdMolDescriptors.CalcTPSA(mol),
        ROTB=rdMolDescriptors.CalcNumRotatableBonds(mol, rdMolDescriptors.NumRotatableBondsOptions.Strict),
        AROM=len(Chem.GetSSSR(Chem.DeleteSubstructs(Chem.Mol(mol), QED.AliphaticRings))),
        ALERTS=len(QED_ALERTS.GetMatches(mol)),
    )
    return float(QED.qed(mol, qedProperties=properties))


def simple(function: Callable[[Chem.Mol], float], *, unit_range: bool = False) -> Callable[..., Component]:
    """A factory of a property without parameters."""

    def make(**parameters: Any) -> Component:
        if parameters:
            raise ConfigError(f"parameters: this component has none, got {', '.join(parameters)}")
        return Property(function, unit_range)

    return make


PROPERTIES: dict[str, Callable[..., Component]] = {
    "qed": simple(qed, unit_range=True),
    "sa_score": simple(sascorer.calculateScore),  # 1 easy to 10 hard; Ertl and Schuffenhauer, 2009
    "weight": simple(rdMolDescriptors._CalcMolWt),  # g/mol
    "logp": simple(lambda mol: rdMolDescriptors.CalcCrippenDescriptors(mol)[0]),  # Wildman and Crippen, 1999
    "tpsa": simple(rdMolDescriptors.CalcTPSA),  # square angstroms
    "donors": simple(rdMolDescriptors.CalcNumHBD),  # hydrogen-bond donors
    "acceptors": simple(rdMolDescriptors.CalcNumHBA),
    "rings": simple(rdMolDescriptors.CalcNumRings),  # smallest set of smallest rings
    "rotatable_bonds": simple(rdMolDescriptors.CalcNumRotatableBonds),
    "alerts": Alerts,
    "similarity": Similarity,
    "substructure": Substructure,
}
