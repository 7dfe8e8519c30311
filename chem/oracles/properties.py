"""Properties computed by RDKit."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rdkit import Chem, DataStructs
from rdkit.Chem import QED, rdFingerprintGenerator, rdMolDescriptors
from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogEntry, FilterCatalogParams, SmartsMatcher
from rdkit.Contrib.SA_Score import sascorer

from chem.oracles.base import Component, Molecule
from conf.schema.base import ConfigError

VERSION = "4475921a9811684a"  # change it whenever a value below changes; first a hash of this file, as runs record it


class Property:
    """A property that is a function of RDKit's molecule.

    Args:
        function: the property.
        unit_range: whether all its values are in [0, 1].
    """

    version = VERSION

    def __init__(self, function: Callable[[Chem.Mol], float], unit_range: bool = False) -> None:
        self.function = function
        self.unit_range = unit_range

    def __call__(self, molecule: Molecule) -> float:
        """The value of the function."""
        return float(self.function(molecule.mol))


class Alerts:
    """Number of structural alerts that the molecule raises, or the sum of their weights.

    Args:
        catalogs: RDKit's catalogues by name, such as PAINS, BRENK, NIH, CHEMBL_Glaxo. Each alert counts as 1.
        smarts: further patterns, each of them an alert: a list, or a mapping from pattern to weight.
    """

    version = VERSION

    def __init__(
        self, catalogs: Sequence[str] = ("PAINS", "BRENK"), smarts: Sequence[str] | Mapping[str, float] = ()
    ) -> None:
        known = FilterCatalogParams.FilterCatalogs.names
        parameters = FilterCatalogParams()
        for name in catalogs:
            if name not in known:
                raise ConfigError(f"catalogs: each must be one of {', '.join(known)}, got {name}")
            parameters.AddCatalog(known[name])
        self.catalog = FilterCatalog(parameters)
        weights = smarts if isinstance(smarts, Mapping) else dict.fromkeys(smarts, 1)
        self.patterns = [(parse_smarts(pattern), weight) for pattern, weight in weights.items()]

    def __call__(self, molecule: Molecule) -> float:
        """Count the alerts."""
        matches = sum(weight * molecule.mol.HasSubstructMatch(pattern) for pattern, weight in self.patterns)
        return float(len(self.catalog.GetMatches(molecule.mol)) + matches)


class Similarity:
    """Largest Tanimoto similarity to the given molecules, from Morgan fingerprints.

    Args:
        smiles: the molecules.
        radius: of the fingerprints.
        bits: length of the fingerprints.
        counts: count each environment of an atom instead of noting whether it is there. These fingerprints are not
            folded: each environment has a place of its own, whatever `bits` is.
        features: describe atoms by their role (donor, acceptor, aromatic, halogen, basic, acidic) instead of by
            element and bonds, as in the fingerprints FCFP.
    """

    unit_range = True
    version = VERSION

    def __init__(
        self,
        smiles: Sequence[str],
        radius: int = 2,
        bits: int = 2048,
        counts: bool = False,
        features: bool = False,
    ) -> None:
        targets = [smiles] if isinstance(smiles, str) else list(smiles)
        mols = [Chem.MolFromSmiles(target) for target in targets]
        if not targets or None in mols:
            raise ConfigError(f"smiles: must be SMILES of at least one molecule, got {targets}")
        invariants = rdFingerprintGenerator.GetMorganFeatureAtomInvGen() if features else None
        generator = rdFingerprintGenerator.GetMorganGenerator(
            radius=radius, fpSize=bits, atomInvariantsGenerator=invariants
        )
        self.fingerprint = generator.GetSparseCountFingerprint if counts else generator.GetFingerprint
        self.targets = [self.fingerprint(mol) for mol in mols]

    def __call__(self, molecule: Molecule) -> float:
        """Similarity to the most similar target."""
        return float(max(DataStructs.BulkTanimotoSimilarity(self.fingerprint(molecule.mol), self.targets)))


class Substructure:
    """1 if the molecule matches a SMARTS pattern, else 0."""

    unit_range = True
    version = VERSION

    def __init__(self, smarts: str) -> None:
        self.pattern = parse_smarts(smarts)

    def __call__(self, molecule: Molecule) -> float:
        """Match the pattern."""
        return float(molecule.mol.HasSubstructMatch(self.pattern))


class GroupCount:
    """Number of times that a SMARTS pattern matches; matches of the same atoms count once."""

    unit_range = False
    version = "1"

    def __init__(self, smarts: str) -> None:
        self.pattern = parse_smarts(smarts)

    def __call__(self, molecule: Molecule) -> float:
        """Count the matches."""
        return float(len(molecule.mol.GetSubstructMatches(self.pattern, maxMatches=10**6)))


class RingsOfSize:
    """Number of rings, of the smallest set of smallest rings, with a number of atoms from `low` to `high`."""

    unit_range = False
    version = "1"

    def __init__(self, low: int, high: int | None = None) -> None:
        if low < 3 or (high is not None and high < low):
            raise ConfigError(f"low, high: need 3 <= low <= high, or high null for no limit, got {low} and {high}")
        self.low, self.high = low, high

    def __call__(self, molecule: Molecule) -> float:
        """Count the rings."""
        sizes = [len(ring) for ring in molecule.mol.GetRingInfo().AtomRings()]
        return float(sum(self.low <= size and (self.high is None or size <= self.high) for size in sizes))


class Stereocentres:
    """Number of tetrahedral stereocentres.

    Args:
        unspecified: count only those whose configuration the SMILES leaves open.
    """

    unit_range = False
    version = "1"

    def __init__(self, unspecified: bool = False) -> None:
        self.count = (
            rdMolDescriptors.CalcNumUnspecifiedAtomStereoCenters
            if unspecified
            else rdMolDescriptors.CalcNumAtomStereoCenters
        )

    def __call__(self, molecule: Molecule) -> float:
        """Count the stereocentres."""
        return float(self.count(molecule.mol))


def largest_ring(mol: Chem.Mol) -> int:
    """Number of atoms of the largest ring of the smallest set of smallest rings; 0 without a ring."""
    return max(map(len, mol.GetRingInfo().AtomRings()), default=0)


def parse_smarts(smarts: str) -> Chem.Mol:
    """Parse a SMARTS pattern.

    Raises:
        ConfigError: it is not valid.
    """
    pattern = Chem.MolFromSmarts(smarts)
    if pattern is None:
        raise ConfigError(f"smarts: not a valid SMARTS pattern: {smarts}")
    return pattern


def make_catalog(patterns: Sequence[str]) -> FilterCatalog:
    """A catalogue that finds all SMARTS patterns in one call."""
    catalog = FilterCatalog()
    for smarts in patterns:
        catalog.AddEntry(FilterCatalogEntry(smarts, SmartsMatcher(smarts, smarts)))
    return catalog


QED_ALERTS = make_catalog(QED.StructuralAlertSmarts)
HYDROGEN = Chem.MolFromSmarts("[#1]")


def qed(mol: Chem.Mol) -> float:
    """Quantitative estimate of drug-likeness (Bickerton et al., 2012), bit for bit that of RDKit's QED.qed.

    It is faster, because it looks for all alerts in one call and removes hydrogens only if there are any.
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


def without_parameters(
    function: Callable[[Chem.Mol], float], *, unit_range: bool = False
) -> Callable[..., Component]:
    """A factory that makes a `Property` and takes no parameters."""

    def make(**parameters: Any) -> Component:
        if parameters:
            raise ConfigError(f"this component takes no parameters, got {', '.join(parameters)}")
        return Property(function, unit_range)

    return make


PROPERTIES: dict[str, Callable[..., Component]] = {
    "qed": without_parameters(qed, unit_range=True),
    "sa_score": without_parameters(sascorer.calculateScore),  # 1 easy to 10 hard; Ertl and Schuffenhauer, 2009
    "weight": without_parameters(rdMolDescriptors._CalcMolWt),  # g/mol
    "logp": without_parameters(
        lambda mol: rdMolDescriptors.CalcCrippenDescriptors(mol)[0]
    ),  # Wildman and Crippen, 1999
    "tpsa": without_parameters(rdMolDescriptors.CalcTPSA),  # square angstroms
    "donors": without_parameters(rdMolDescriptors.CalcNumHBD),  # hydrogen-bond donors
    "acceptors": without_parameters(rdMolDescriptors.CalcNumHBA),
    "rings": without_parameters(rdMolDescriptors.CalcNumRings),  # smallest set of smallest rings
    "rotatable_bonds": without_parameters(rdMolDescriptors.CalcNumRotatableBonds),
    "csp3": without_parameters(rdMolDescriptors.CalcFractionCSP3, unit_range=True),  # share of sp3 carbons
    "largest_ring": without_parameters(largest_ring),  # atoms
    "rings_of_size": RingsOfSize,
    "stereocentres": Stereocentres,
    "alerts": Alerts,
    "similarity": Similarity,
    "substructure": Substructure,
    "group_count": GroupCount,
}
