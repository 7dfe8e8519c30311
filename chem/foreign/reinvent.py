"""Configurations of REINVENT 4: staged learning, sampling, scoring and transfer learning.

Keys and defaults: reinvent/runmodes/RL/validation.py of REINVENT 4; its semantics: Loeffler et al., 2024,
doi:10.1186/s13321-024-00812-5.
"""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from chem.foreign.components import REINVENT, find_converter, make_component, make_oracle
from chem.foreign.conversion import Conversion
from chem.foreign.ledger import NoCounterpart, Section, flag, number, text, whole
from chem.foreign.transforms import convert_transform, reinvent_double_sigmoid
from conf.schema.base import ConfigError

AGGREGATIONS = {
    "geometric_mean": "geometric",
    "custom_product": "geometric",
    "arithmetic_mean": "arithmetic",
    "custom_sum": "arithmetic",
}
FILTERS = {
    "IdenticalMurckoScaffold": "identical_murcko",
    "IdenticalTopologicalScaffold": "topological",
    "ScaffoldSimilarity": "similarity",
}
FILES = "a run's folder holds all files; name it with hydra.run.dir"
OTHER_MODELS = (
    "only priors of model type Reinvent write molecules here; LibInvent, LinkInvent and Mol2Mol are out of scope"
)
NOTES = [
    "REINVENT 4 gives a score of 0 to a molecule that its diversity filter has met with minscore or more; here its "
    "score is that of its bucket.",
    "REINVENT 4 raises each score to at least 1e-8 before a geometric mean; here a component of 0 makes the score 0.",
]
LAST_STAGE = (
    "REINVENT 4 ends the whole run when a stage reaches max_steps; here the next stage follows. Give max_score a "
    "value that is reached."
)


def read_configuration(path: Path) -> dict[str, Any]:
    """Read a TOML, JSON or YAML file.

    Raises:
        ConfigError: it cannot be read, or is not a table.
    """
    readers: dict[str, Callable[[str], Any]] = {".toml": tomllib.loads, ".json": json.loads}
    try:
        content = readers.get(path.suffix.lower(), yaml.safe_load)(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold a table of keys")
    return content


def convert_reinvent(source: Section, folder: Path) -> Conversion:
    """Convert a configuration of REINVENT 4.

    Args:
        source: the configuration, with its ledger.
        folder: where files that it names are looked up, beside the working folder.

    Raises:
        ConfigError: it is of no known run type, or a value is not of its kind.
    """
    modes = {
        "staged_learning": _staged_learning,
        "sampling": _sampling,
        "scoring": _scoring,
        "transfer_learning": _transfer_learning,
    }
    mode = source.get("run_type")
    if mode not in modes:
        raise ConfigError(f"run_type: must be one of {', '.join(modes)}, got {mode}")
    source.note("device", "same" if source.get("device") == "cpu" else "none", "chem runs on the processor's cores")
    source.note("use_cuda", "none", "chem runs on the processor's cores")
    source.note("responder", "none", "nothing is sent to a server; metrics.jsonl has a line for each step")
    source.note("tb_logdir", "none", f"{FILES}; loggers=[tensorboard] logs to TensorBoard")
    source.note("json_out_config", "same", "a run's folder holds config.yaml")
    conversion = modes[mode](source, folder)
    source.note("run_type", "converted", f"python -m {conversion.module}")
    if source.get("seed") is not None:
        conversion.arguments.append(f"seed={source.convert('seed', None, 'seed', whole)}")
    return conversion


def _staged_learning(source: Section, folder: Path) -> Conversion:
    experiment: dict[str, Any] = {**_parameters(source.section("parameters")), **_learning(source)}
    experiment["replay"] = _inception(source)
    stages = source.sections("stage")
    if not stages:
        raise ConfigError("stage: must hold at least one stage")
    experiment["diversity_filter"] = _diversity_filter(source, stages)
    keep = source.section("parameters").convert(
        "purge_memories", True, "stages.keep_buckets", lambda given: not flag(given)
    )
    entries = [_stage(stage, keep, folder) for stage in stages]
    experiment |= {"budget": None, "duplicates": "zero", "steps": sum(entry["steps"] for entry in entries)}
    ends = {name: entries[0][name] for name in ("max_score", "min_steps")}
    experiment["stop"] = {"window": 1, "min_validity": None, **ends}
    notes = [*NOTES, *([LAST_STAGE] if len(entries) > 1 else [])]
    if len(entries) > 1:
        experiment["stop"] |= {"max_score": None, "min_steps": 1}
        experiment["stages"] = entries
    return Conversion(source.ledger, experiment=experiment, oracle=entries[-1]["oracle"], notes=notes)


def _parameters(parameters: Section) -> dict[str, Any]:
    prior = parameters.convert("prior_file", None, "prior", text, _found(parameters.get("prior_file")))
    agent = parameters.convert(
        "agent_file", prior, "agent", lambda given: None if given == prior else text(given), " (null: at the prior)"
    )
    parameters.note("summary_csv_prefix", "none", FILES)
    for key in ("smiles_file", "sample_strategy", "distance_threshold"):
        parameters.note(key, "none", OTHER_MODELS)
    memory = parameters.get("use_checkpoint", False)
    parameters.note(
        "use_checkpoint",
        "none" if memory else "same",
        "the diversity filter starts without a memory; a killed run resumes by the same command",
    )
    repeats = parameters.get("unique_sequences", False)
    parameters.note(
        "unique_sequences",
        "none" if repeats else "same",
        "repeats of a molecule have reward 0, as there (duplicates=zero); duplicates=drop leaves out all of them",
    )
    parameters.note("randomize_smiles", "same", "it concerns input molecules, which model type Reinvent has none of")
    parameters.note("tb_isim", "none", "iSIM is not computed; IntDiv1 is in the final metrics")
    batch_size = parameters.convert("batch_size", 100, "batch_size", whole)
    return {"prior": prior, "agent": agent, "batch_size": batch_size}


def _found(path: object) -> str:
    return "" if path is None or Path(str(path)).exists() else " (not found from here)"


def _learning(source: Section) -> dict[str, Any]:
    strategy = source.section("learning_strategy")
    kind = strategy.get("type", "dap")
    status = "converted" if kind == "dap" else "none"
    strategy.note("type", status, "loss=reinvent" if kind == "dap" else "only dap; loss=reinvent is used")
    beta = strategy.convert("sigma", 128, "objective.beta", lambda given: 1 / number(given), " (1 / sigma)")
    rate = strategy.convert("rate", 1e-4, "optimizer.lr", number)
    return {"objective": {"beta": beta, "direction": "reverse"}, "optimizer": {"lr": rate, "max_grad_norm": None}}


def _inception(source: Section) -> dict[str, Any]:
    inception = source.section("inception")
    if not inception.values:
        return {"size": 0, "sample": 0}
    size = inception.convert("memory_size", 50, "replay.size", whole)
    sample = inception.convert("sample_size", 10, "replay.sample", lambda given: min(whole(given), size))
    replay: dict[str, Any] = {"size": size, "sample": sample}
    if inception.get("smiles_file") and not sample:
        inception.note("smiles_file", "none", "seeds that are never replayed have no use; give sample_size")
    elif inception.get("smiles_file"):
        name = inception.get("smiles_file")
        replay["seeds"] = inception.convert("smiles_file", None, "replay.seeds", text, _found(name))
    repeated = inception.get("deduplicate", True) is False
    inception.note("deduplicate", "none" if repeated else "same", "a molecule is remembered once")
    return replay


def _diversity_filter(source: Section, stages: list[Section]) -> dict[str, Any]:
    """That of the run, which there replaces those of the stages; or else that of the first stage."""
    sections = [source.section("diversity_filter"), *(stage.section("diversity_filter") for stage in stages)]
    chosen = next((section for section in sections if section.values), sections[0])
    whole_run = bool(sections[0].values)
    for section in sections[1:]:
        if section is not chosen and whole_run:
            section.note_all("same", "REINVENT 4 uses the filter of the run instead")
        elif section is not chosen and section.values != chosen.values:
            section.note_all("none", "all stages share one filter; this one was not used")
        elif section is not chosen:
            section.note_all("converted", "diversity_filter, the same for all stages")
    kind = chosen.get("type")
    if kind is None:
        return {"name": "none"}
    if kind not in FILTERS:
        reason = "repeats of a molecule are not penalised, and"
        chosen.note_all("none", f"there is no filter {kind}; {reason} diversity_filter.name=none is used")
        return {"name": "none"}
    remark = (
        "; by Tanimoto similarity of Morgan fingerprints, there by Dice of atom pairs"
        if kind == "ScaffoldSimilarity"
        else ""
    )
    result: dict[str, Any] = {
        "name": chosen.convert("type", None, "diversity_filter.name", lambda given: FILTERS[given], remark)
    }
    result["penalty"] = "step"
    result["bucket_size"] = chosen.convert("bucket_size", 25, "diversity_filter.bucket_size", whole)
    result["min_score"] = chosen.convert("minscore", 0.4, "diversity_filter.min_score", number)
    if kind == "ScaffoldSimilarity":
        result["min_similarity"] = chosen.convert("minsimilarity", 0.4, "diversity_filter.min_similarity", number)
    else:
        chosen.note("minsimilarity", "same", f"{kind} does not use it")
    chosen.note("penalty_multiplier", "same", f"{kind} does not use it")
    return result


def _stage(stage: Section, keep_buckets: bool, folder: Path) -> dict[str, Any]:
    steps = stage.convert("max_steps", None, "steps", whole)
    wait = stage.convert("min_steps", 50, "min_steps", whole)
    stage.note("chkpt_file", "none", "the policy is in the folder policy of the run, for agent=RUN/policy")
    kind = str(stage.get("termination", "simple")).lower()
    ends = {"simple": "converted", "null": "converted"}.get(kind, "none")
    reason = "there is no end at a plateau; max_score and steps end the stage"
    stage.note("termination", ends, reason if ends == "none" else "max_score")
    if kind == "simple":
        score = stage.convert("max_score", 1.0, "max_score", number)
    else:
        score = None
        stage.note("max_score", "same", f"{kind} does not use it")
    oracle = convert_scoring(stage.section("scoring"), folder)
    limits = {"steps": steps, "max_score": score, "min_steps": max(wait, 1)}
    return {"oracle": oracle, **limits, "keep_buckets": keep_buckets}


def convert_scoring(scoring: Section, folder: Path) -> dict[str, Any]:
    """An oracle from a table `scoring`, or from the file that it names.

    Raises:
        ConfigError: the file cannot be read, or nothing has a counterpart.
    """
    if scoring.get("filename"):
        name = scoring.convert("filename", None, "oracle", text, ", whose keys follow")
        scoring.note("filetype", "same", "told by the name of the file")
        path = next((path for path in (Path(name), folder / name) if path.is_file()), Path(name))
        content = {**scoring.values, **read_configuration(path)}
        values = {key: value for key, value in content.items() if key not in ("filename", "filetype")}
        scoring = Section(scoring.ledger, values, scoring.path, scoring.program)
        scoring.ledger.add(scoring)
    aggregation = scoring.convert("type", "geometric_mean", "aggregation", lambda given: AGGREGATIONS.get(given))
    if aggregation is None:
        raise ConfigError(
            f"{scoring.key('type')}: must be one of {', '.join(AGGREGATIONS)}, got {scoring.get('type')}"
        )
    parallel = scoring.get("parallel", False)
    several = not isinstance(parallel, bool) and whole(parallel) > 1
    scoring.note("parallel", "converted" if several else "same", "oracle.workers; null: one for each core")
    scoring.note("pumas_scoring", "same", "the same formulas")
    scoring.note("use_pumas", "same", "the same formulas")
    components = []
    for component in scoring.sections("component"):
        for name in component.values:
            components += _component(name, component.section(name))
    return make_oracle(components, aggregation, whole(parallel) if several else None)


def _component(kind: str, component: Section) -> list[dict[str, Any]]:
    """The components here of one there, a component for each endpoint that has a counterpart."""
    converted = []
    for endpoint in component.sections("endpoint"):
        try:
            converted.append(_endpoint(kind, component, endpoint))
        except NoCounterpart as reason:
            endpoint.leave_out(kind, reason)
            component.note("params", "none", f"as {kind}, which is left out")
    return converted


def _endpoint(kind: str, component: Section, endpoint: Section) -> dict[str, Any]:
    shared, own = component.section("params"), endpoint.section("params")
    for name in shared.values:
        shared.note(name, "same" if name in own.values else "converted", "parameters of each endpoint")
    values = {**shared.values, **own.values}
    parameters = Section(
        own.ledger, values, own.path if own.values or not shared.values else shared.path, own.program
    )
    match = find_converter(REINVENT, kind)(parameters)
    transform = endpoint.section("transform")
    options = None
    if transform.values:
        options = convert_transform(transform, str(transform.get("type")), reinvent_double_sigmoid)
    label = endpoint.convert("name", kind, "label", text)
    if match.role == "scorer":
        weight = endpoint.convert("weight", 1.0, "weight", number)
        if weight == 0:
            raise NoCounterpart("a weight of 0, which only reports; chem.score computes it afterwards")
    else:
        weight = 1.0
        endpoint.note("weight", "same", f"REINVENT 4 ignores the weight of {kind}, a {match.role}; penalty=true")
    return make_component(match, options, weight, label)


def _sampling(source: Section, folder: Path) -> Conversion:
    parameters = source.section("parameters")
    prior = parameters.convert("model_file", None, "prior", text, _found(parameters.get("model_file")))
    count = parameters.convert("num_smiles", None, "count", whole)
    unique = parameters.convert("unique_molecules", True, "unique", flag)
    parameters.note("output_file", "none", FILES)
    parameters.note("randomize_smiles", "same", "it concerns input molecules, which model type Reinvent has none of")
    plain = parameters.get("temperature", 1.0) == 1
    parameters.note("temperature", "same" if plain else "none", "molecules are drawn at temperature 1")
    for key in ("smiles_file", "sample_strategy"):
        parameters.note(key, "none", OTHER_MODELS)
    arguments = [f"prior={prior}", f"count={count}", f"unique={str(unique).lower()}"]
    return Conversion(source.ledger, "chem.sample", arguments)


def _scoring(source: Section, folder: Path) -> Conversion:
    parameters = source.section("parameters")
    file = parameters.convert("smiles_file", None, "file", text, _found(parameters.get("smiles_file")))
    parameters.note("output_csv", "none", FILES)
    parameters.note("standardize_smiles", "none", "molecules are scored in RDKit's canonical form")
    oracle = convert_scoring(source.section("scoring"), folder)
    return Conversion(source.ledger, "chem.score", [f"file={file}"], oracle=oracle, notes=NOTES[1:])


def _transfer_learning(source: Section, folder: Path) -> Conversion:
    parameters = source.section("parameters")
    file, model = parameters.get("smiles_file"), parameters.get("input_model_file")
    arguments = [
        f"data={parameters.convert('smiles_file', None, 'data', text, _found(file))}",
        f"init={parameters.convert('input_model_file', None, 'init', text, _found(model))}",
        f"epochs={parameters.convert('num_epochs', None, 'epochs', whole)}",
        f"batch_size={parameters.convert('batch_size', 50, 'batch_size', whole)}",
        "filter.min_token_count=1",
        f"optimizer.lr={source.section('scheduler').convert('start', 1e-4, 'optimizer.lr', number)}",
        f"optimizer.max_grad_norm={parameters.convert('clip_gradient_norm', 1.0, 'optimizer.max_grad_norm', number)}",
    ]
    for key in ("min", "gamma", "step"):
        source.section("scheduler").note(key, "none", "the learning rate falls by optimizer.decay, a cosine")
    parameters.note("randomize_smiles", "none", "spelling=randomised spells each molecule anew in each epoch")
    for key in ("ranking_loss_penalty", "n_cpus"):
        parameters.note(key, "same", "it concerns other model types")
    for key in ("starting_epoch", "internal_diversity", "max_sequence_length"):
        parameters.note(key, "none", "a killed run resumes by itself; see max_tokens, and the report at the end")
    parameters.note("shuffle_each_epoch", "same", "molecules are drawn in a new order in each epoch")
    if "randomize_all_smiles" in parameters.values:
        spelling = parameters.convert(
            "randomize_all_smiles", False, "spelling", lambda given: "randomised" if flag(given) else "canonical"
        )
        arguments.append(f"spelling={spelling}")
    parameters.note("output_model_file", "none", f"{FILES}; the prior is in its folder prior")
    parameters.note("save_every_n_epochs", "none", "the best weights by validation loss are kept")
    parameters.note("validation_smiles_file", "none", "a share of the molecules is held out (validation_share)")
    parameters.note("num_refs", "none", "the report compares samples with the training set")
    parameters.note("sample_batch_size", "none", "report_samples molecules are sampled at the end")
    parameters.note("standardize_smiles", "same", "molecules are read and filtered by RDKit")
    parameters.note("pairs", "none", OTHER_MODELS)
    return Conversion(source.ledger, "chem.pretrain", arguments)
