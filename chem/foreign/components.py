"""Scoring components of REINVENT 4 and Saturn as components of an oracle here."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rdkit import Chem
from rdkit.Chem import Descriptors
from rdkit.rdBase import BlockLogs

from chem.foreign.ledger import NoCounterpart, Section, flag, text, texts, whole
from chem.foreign.transforms import Options, shape_of
from chem.oracles.descriptors import find_descriptor
from conf.schema.base import ConfigError

DOCKING = "use the component docking, or batch_program for another program (docs/oracles.md)"
RETROSYNTHESIS = "use the component synthesis (docs/oracles.md)"
BITS = 2**16  # of fingerprints; REINVENT's are not folded, and with so many bits collisions are rare


@dataclass(frozen=True)
class Match:
    """The counterpart of a component.

    Attributes:
        name: of the component here.
        parameters: of the component here.
        unit: whether its values are within [0, 1].
        values: pairs of a value here and the value there, if they differ.
        role: scorer, which is aggregated; penalty, which multiplies; filter, which multiplies by 0 or 1 and has no
            weight.
    """

    name: str
    parameters: dict[str, Any]
    unit: bool = False
    values: Sequence[tuple[float, float]] = ()
    role: str = "scorer"


Converter = Callable[[Section], Match]


def plain(name: str, unit: bool = False) -> Converter:
    """A component without parameters."""
    return lambda parameters: Match(name, {}, unit)


def descriptor(name: str) -> Converter:
    """A descriptor of RDKit."""
    return lambda parameters: Match("descriptor", {"name": name})


def matches(smarts: str) -> Converter:
    """The number of matches of a pattern."""
    return lambda parameters: Match("group_count", {"smarts": smarts})


def absent(reason: str) -> Converter:
    """A component that has no counterpart."""

    def refuse(parameters: Section) -> Match:
        raise NoCounterpart(reason)

    return refuse


def convert_alerts(parameters: Section) -> Match:
    """Unwanted patterns, as a filter. REINVENT leaves out patterns that RDKit does not read."""
    given = parameters.convert("smarts", None, "parameters.smarts", texts)
    with BlockLogs():
        readable = [smarts for smarts in given if Chem.MolFromSmarts(smarts) is not None]
    if len(readable) < len(given):
        lost = ", ".join(smarts for smarts in given if smarts not in readable)
        parameters.note("smarts", "converted", f"parameters.smarts without those that RDKit cannot read: {lost}")
    if not readable:
        raise NoCounterpart("it has no pattern that RDKit reads")
    return Match("alerts", {"catalogs": [], "smarts": readable}, role="filter")


def convert_substructure(parameters: Section) -> Match:
    """A wanted pattern: without it, the score is halved."""
    smarts = parameters.convert("smarts", None, "parameters.smarts", text)
    if parameters.get("use_chirality", False):
        raise NoCounterpart("use_chirality is not offered; write the component substructure without it")
    parameters.note("use_chirality", "same", "patterns are matched without stereochemistry")
    return Match("substructure", {"smarts": smarts}, True, ((0, 0.5), (1, 1)), "penalty")


def convert_group_count(parameters: Section) -> Match:
    """The number of matches of a pattern."""
    return Match("group_count", {"smarts": parameters.convert("smarts", None, "parameters.smarts", text)})


def convert_similarity(parameters: Section) -> Match:
    """Tanimoto similarity of Morgan fingerprints."""
    given = parameters.get("smiles", [])
    several = isinstance(given, list) and len(given) > 1
    remark = ", of which the nearest counts; REINVENT 4 scores each, and uses the first" if several else ""
    counts = parameters.convert("use_counts", None, "parameters.counts", flag)
    options = {
        "smiles": parameters.convert("smiles", None, "parameters.smiles", texts, remark),
        "radius": parameters.convert("radius", None, "parameters.radius", whole),
        "counts": counts,
        "features": parameters.convert("use_features", None, "parameters.features", flag),
    }
    return Match("similarity", options if counts else {**options, "bits": BITS}, True)


def convert_descriptor(parameters: Section) -> Match:
    """A descriptor of RDKit by name, in whatever case."""
    known = {name.lower(): name for name, _ in Descriptors.descList}
    name = parameters.convert(
        "descriptor", None, "parameters.name", lambda given: known.get(text(given).lower(), given)
    )
    try:
        find_descriptor("name", name)
    except ConfigError as error:
        raise NoCounterpart(str(error)) from error
    return Match("descriptor", {"name": name})


def convert_process(parameters: Section) -> Match:
    """A program that reads SMILES and prints {"payload": {"predictions": [...]}}."""
    program = parameters.convert("executable", None, "parameters.command", text, ", which gets SMILES as before")
    arguments = parameters.convert("args", "", "parameters.command", lambda given: shlex.split(str(given)))
    if parameters.get("property") not in (None, "predictions"):
        raise NoCounterpart("property must be predictions; write batch_program with a pattern (docs/oracles.md)")
    parameters.note("property", "same", "predictions are read")
    escaped = [argument.replace("{", "{{").replace("}", "}}") for argument in (program, *arguments)]
    feed = 'cut -d\' \' -f1 "$0" | "$@"'
    options = {"command": ["sh", "-c", feed, "{smi_list}", *escaped], "source": "stdout"}
    return Match("batch_program", {**options, "pattern": r"[\[,]\s*([^\s,\[\]\"{}]+)"})


REINVENT: dict[str, Converter] = {  # by the name in lower case, without hyphens and underscores
    "qed": plain("qed", unit=True),
    "molecularweight": plain("weight"),
    "slogp": plain("logp"),
    "tpsa": plain("tpsa"),
    "hbondacceptors": plain("acceptors"),
    "hbonddonors": plain("donors"),
    "numrotbond": plain("rotatable_bonds"),
    "csp3": plain("csp3", unit=True),
    "numrings": plain("rings"),
    "largestringsize": plain("largest_ring"),
    "numatomstereocenters": plain("stereocentres"),
    "sascore": plain("sa_score"),
    "numaromaticrings": descriptor("NumAromaticRings"),
    "numaliphaticrings": descriptor("NumAliphaticRings"),
    "numheavyatoms": descriptor("HeavyAtomCount"),
    "numheteroatoms": descriptor("NumHeteroatoms"),
    "numsp": matches("[^1]"),
    "numsp2": matches("[^2]"),
    "numsp3": matches("[^3]"),
    "customalerts": convert_alerts,
    "matchingsubstructure": convert_substructure,
    "groupcount": convert_group_count,
    "tanimotodistance": convert_similarity,
    "tanimotosimilarity": convert_similarity,
    "rdkitdescriptors": convert_descriptor,
    "externalprocess": convert_process,
    "graphlength": absent("there is no longest path; a descriptor such as Kappa1 or HeavyAtomCount is near"),
    "molvolume": absent("there is no volume; the descriptor LabuteASA (a surface) is near"),
    "pmi": absent("there are no moments of inertia of conformers; write a component (docs/extending.md)"),
    "rocssimilarity": absent("OpenEye is not called; use the component shape with the same reference"),
    "mmp": absent("matched molecular pairs are not computed; the component similarity is near"),
    "ringprecedence": absent("there is no database of rings; use alerts or rings_of_size"),
    "dockstream": absent(f"DockStream is not called; {DOCKING}"),
    "icolos": absent(f"Icolos is not called; {DOCKING}"),
    "maize": absent(f"Maize is not called; {DOCKING}"),
    "qptuna": absent("its model is a pickle; write it as ONNX or skops for the component qsar"),
    "chemprop": absent("it names a folder of Chemprop 1; use the component chemprop with a model of Chemprop 2"),
    "genericrest": absent("no web service is called; use batch_program with a program that asks it"),
    "synthsense": absent(RETROSYNTHESIS),
    "cazp": absent(RETROSYNTHESIS),
    "reactionfilter": absent("it is for LibInvent's reactions, which are out of scope"),
    "mordreddescriptors": absent("use the component descriptor with one of RDKit, or qsar"),
    "pharm2dfp": absent("pharmacophore fingerprints are not offered; similarity with features: true is near"),
}


def convert_saturn_alerts(parameters: Section) -> Match:
    """Unwanted patterns: 0 with one of them, else 1; a component with a weight, as others."""
    return replace(convert_alerts(parameters), role="scorer")


def convert_saturn_substructure(parameters: Section) -> Match:
    """A wanted pattern: 1 with it and 1/2 without; a component with a weight, as others."""
    smarts = parameters.convert("smarts", None, "parameters.smarts", texts)
    if len(smarts) != 1:
        raise NoCounterpart(
            "one of several patterns is meant; write them as one pattern in the component substructure"
        )
    return Match("substructure", {"smarts": smarts[0]}, True, ((0, 0.5), (1, 1)))


QUICKVINA = (
    "use the component docking, or batch_program with QuickVina2-GPU's command, centre and box (docs/oracles.md)"
)
SATURN: dict[str, Converter] = {
    "qed": plain("qed", unit=True),
    "sascore": plain("sa_score"),
    "mw": plain("weight"),
    "molecularweight": plain("weight"),
    "slogp": plain("logp"),
    "tpsa": plain("tpsa"),
    "numhba": plain("acceptors"),
    "numhbd": plain("donors"),
    "numrings": plain("rings"),
    "numrotatablebonds": plain("rotatable_bonds"),
    "numstereocenters": plain("stereocentres"),
    "numstereocenteres": plain("stereocentres"),
    "numaromaticrings": descriptor("NumAromaticRings"),
    "numaliphaticrings": descriptor("NumAliphaticRings"),
    "numheavyatoms": descriptor("HeavyAtomCount"),
    "heavyatoms": descriptor("HeavyAtomCount"),
    "smartsalerts": convert_saturn_alerts,
    "matchingsubstructure": convert_saturn_substructure,
    "tanimotosimilarity": absent("its molecules are not in the file; use the component similarity with radius 3"),
    "jaccarddistance": absent("use the component similarity with transform reverse_sigmoid or interval"),
    "quickvina2": absent(QUICKVINA),
    "quickvina2gpu": absent(QUICKVINA),
    "gnina": absent(QUICKVINA),
    "geam": absent(QUICKVINA),
    "dockstream": absent(f"DockStream is not called; {DOCKING}"),
    "syntheseus": absent(RETROSYNTHESIS),
    "aizynthfinder": absent(RETROSYNTHESIS),
}


def find_converter(known: dict[str, Converter], name: str) -> Converter:
    """The converter of a component; that of one which nobody knows refuses it."""
    converter = known.get(name.lower().replace("-", "").replace("_", ""))
    return converter or absent(f"component {name} is unknown; docs/oracles.md lists those here")


def make_component(match: Match, transform: Options | None, weight: float, label: str) -> dict[str, Any]:
    """A component of `conf.schema.oracle.OracleConfig`, as YAML has it.

    Args:
        match: the component here.
        transform: that of the source, converted; None: it has none.
        weight: in the aggregation. Filters and penalties have none in REINVENT 4.
        label: name in output files.

    Raises:
        NoCounterpart: the scores would not be within [0, 1].
    """
    if match.name == "alerts":
        if transform is not None:
            raise NoCounterpart("alerts with a transform; they are 1 without an alert, else 0")
        transform = {"name": "step", "edge": 1, "side": "below"}
    elif match.values:
        shape = shape_of(transform) if transform else shape_of({"name": "identity"})
        transform = {"name": "value_mapping", "mapping": [[here, shape(there)] for here, there in match.values]}
    elif transform is None and not match.unit:
        raise NoCounterpart("it has no transform, and its values are not within [0, 1]; give it one")
    component: dict[str, Any] = {"name": match.name, "label": label}
    if match.parameters:
        component["parameters"] = match.parameters
    if transform is not None:
        component["transform"] = transform
    if match.role == "scorer":
        return {**component, "weight": weight}
    return {**component, "penalty": True}


def make_oracle(components: Sequence[dict[str, Any]], aggregation: str, workers: int | None) -> dict[str, Any]:
    """An oracle, with the filters first and labels that differ.

    Raises:
        ConfigError: no component was converted.
    """
    if not components:
        raise ConfigError("scoring: none of its components has a counterpart, so that there is nothing to convert")
    ordered = sorted(components, key=lambda component: component["name"] != "alerts")
    labels: list[str] = []
    for component in ordered:
        label, count = component["label"], 1
        while component["label"] in labels:
            count += 1
            component["label"] = f"{label} ({count})"
        labels.append(component["label"])
    if all("penalty" in component for component in ordered):  # their product; an oracle needs one that is aggregated
        aggregation = "product"
        for component in ordered:
            del component["penalty"]
    oracle: dict[str, Any] = {"aggregation": aggregation, "components": ordered}
    return oracle if workers is None else {**oracle, "workers": workers}
