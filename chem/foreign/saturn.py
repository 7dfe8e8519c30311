"""Configurations of Saturn (Guo and Schwaller, 2024, arXiv:2405.17066): goal-directed generation."""

from typing import Any

from chem.foreign.components import SATURN, find_converter, make_component, make_oracle
from chem.foreign.conversion import Conversion
from chem.foreign.ledger import NoCounterpart, Section, flag, number, text, texts, whole
from chem.foreign.transforms import convert_transform, saturn_double_sigmoid
from conf.schema.base import ConfigError

FILTERS = {"IdenticalMurckoScaffold": "identical_murcko"}
NOTES = [
    "Saturn learns from valid strings only; here an invalid one counts with reward 0, as in REINVENT.",
    "Saturn's diversity filter counts each time that a scaffold is sampled; here distinct molecules fill a bucket.",
    "Saturn resets the agent after 10 batches without a valid string; here stop.min_validity (off) ends the run.",
]


def convert_saturn(source: Section) -> Conversion:
    """Convert a configuration of Saturn.

    Raises:
        ConfigError: it is of another running mode, or a value is not of its kind.
    """
    mode = source.get("running_mode", "goal_directed_generation")
    if mode != "goal_directed_generation":
        raise ConfigError(
            f"running_mode: must be goal_directed_generation, got {mode}; train a prior by chem.pretrain data=FILE"
        )
    source.note("running_mode", "converted", "python -m chem")
    generation, oracle = source.section("goal_directed_generation"), source.section("oracle")
    budget = oracle.convert("budget", None, "budget", whole)
    experiment = _learning(generation.section("reinforcement_learning"), str(source.get("model_architecture", "rnn")))
    source.note("model_architecture", "none", "the network is that of the prior")
    replay, seeds = _replay(generation)
    experiment |= {"replay": replay, "diversity_filter": _diversity_filter(generation)}
    experiment |= {"budget": budget, "steps": budget, "duplicates": "drop", "stop": {"min_validity": None}}
    if experiment["diversity_filter"]["name"] == "none":
        replay["purge"] = False
    beams = generation.section("beam_enumeration")
    unused = not beams.get("execute_beam_enumeration", False)
    beams.note_all("same" if unused else "none", "unused" if unused else "there is no beam enumeration")
    if source.get("seed") is not None:
        experiment["seed"] = source.convert("seed", None, "seed", whole)
    source.note("device", "same" if source.get("device") == "cpu" else "none", "chem runs on the processor's cores")
    source.note("logging", "none", "a run's folder holds all files; name it with hydra.run.dir")
    source.note("distribution_learning", "same", "unused in this running mode")
    return Conversion(source.ledger, experiment=experiment, oracle=_oracle(oracle), seeds=seeds, notes=NOTES)


def _learning(section: Section, architecture: str) -> dict[str, Any]:
    readable = architecture.lower() in ("rnn", "lstm")
    if readable:
        prior = section.convert("prior", None, "prior", text)
        agent = section.convert("agent", prior, "agent", lambda given: None if given == prior else text(given))
    else:
        prior, agent = "shipped", None
        reason = f"a prior of {architecture} cannot be read; prior=shipped is used; train another by chem.pretrain"
        section.note("prior", "none", reason)
        section.note("agent", "none", reason)
    section.note("margin_threshold", "same", "Saturn does not use it")
    return {
        "prior": prior,
        "agent": agent,
        "batch_size": section.convert("batch_size", None, "batch_size", whole),
        "optimizer": {"lr": section.convert("learning_rate", 1e-4, "optimizer.lr", number), "max_grad_norm": None},
        "objective": {
            "beta": section.convert(
                "sigma", 128.0, "objective.beta", lambda given: 1 / number(given), " (1 / sigma)"
            ),
            "direction": "reverse",
        },
    }


def _replay(generation: Section) -> tuple[dict[str, Any], list[str]]:
    learning, memory = generation.section("reinforcement_learning"), generation.section("experience_replay")
    size = memory.convert("memory_size", None, "replay.size", whole)
    replay: dict[str, Any] = {
        "size": size,
        "sample": memory.convert("sample_size", None, "replay.sample", lambda given: min(whole(given), size)),
    }
    if learning.convert("augmented_memory", True, "replay.augmentations", flag, " (0 if false)"):
        rounds = learning.convert("augmentation_rounds", 100, "replay.augmentations", whole)
    else:
        rounds = 0
        learning.note("augmentation_rounds", "same", "unused without augmented memory")
    replay["augmentations"] = rounds
    purge = learning.convert("selective_memory_purge", True, "replay.purge", flag)
    replay["purge"] = purge and rounds > 0  # Saturn purges before its augmented updates only
    seeds = memory.convert("smiles", [], "replay.seeds", texts, " (a file)")
    offspring = _offspring(generation.section("hallucinated_memory"))
    if offspring:
        replay["genetic"] = {"offspring": offspring, "mutation": 0.1}
    return replay, seeds


def _offspring(section: Section) -> int:
    """Molecules that are bred from the memory in a step; 0: none."""
    if not section.get("execute_hallucinated_memory", False):
        section.note_all("same", "unused")
        return 0
    if section.get("hallucination_method", "ga") != "ga":
        section.note_all("none", "only the genetic algorithm is offered: replay.genetic.offspring")
        return 0
    section.note("execute_hallucinated_memory", "converted", "replay.genetic")
    section.note("hallucination_method", "converted", "replay.genetic")
    section.note("num_hallucinations", "none", "as many are bred as are scored; parents are drawn by rank")
    section.note("selection_criterion", "none", "all that are bred are scored, as with random")
    return section.convert("num_selected", 10, "replay.genetic.offspring", whole)


def _diversity_filter(generation: Section) -> dict[str, Any]:
    section = generation.section("diversity_filter")
    kind = section.get("name", "IdenticalMurckoScaffold")
    if kind not in FILTERS:
        section.note_all("none", f"there is no filter {kind}; diversity_filter.name=none is used")
        return {"name": "none"}
    section.note("min_similarity", "same", f"{kind} does not use it")
    section.note("minsimilarity", "same", f"{kind} does not use it")
    return {
        "name": section.convert("name", kind, "diversity_filter.name", lambda given: FILTERS[given]),
        "penalty": "step",
        "bucket_size": section.convert(  # Saturn penalises what meets more than bucket_size others
            "bucket_size",
            None,
            "diversity_filter.bucket_size",
            lambda given: whole(given) + 1,
            ", full beyond it there",
        ),
        "min_score": 0.0,
    }


def _oracle(oracle: Section) -> dict[str, Any]:
    names = {"product": "geometric", "sum": "arithmetic"}
    remark = ", of normalised weights as there"
    aggregation = oracle.convert("aggregator", "product", "aggregation", lambda given: names.get(str(given)), remark)
    if aggregation is None:
        raise ConfigError(f"{oracle.key('aggregator')}: must be product or sum, got {oracle.get('aggregator')}")
    repeats = oracle.get("allow_oracle_repeats", False)
    oracle.note("allow_oracle_repeats", "none" if repeats else "same", "a molecule is scored once")
    components = []
    for component in oracle.sections("components"):
        try:
            components.append(_component(component))
        except NoCounterpart as reason:
            component.leave_out(str(component.get("name")), reason)
    return make_oracle(components, aggregation, None)


def _component(component: Section) -> dict[str, Any]:
    kind = component.convert("name", None, "name", text)
    match = find_converter(SATURN, kind)(component.section("specific_parameters"))
    component.note("name", "converted", f"name={match.name}")
    shaping = component.section("reward_shaping_function_parameters")
    name = str(shaping.get("transformation_function", "no_transformation"))
    options = None
    if name == "no_transformation":
        shaping.note_all("same", "no transform")
    else:
        options = convert_transform(shaping.section("parameters"), name, saturn_double_sigmoid)
        shaping.note("transformation_function", "converted", f"transform.name={options['name']}")
    checked = component.get("preliminary_check", False)
    reason = "no molecule is left out before it is scored; after a score of 0, later components are not asked"
    component.note("preliminary_check", "none" if checked else "same", reason)
    if not component.get("specific_parameters"):
        component.note("specific_parameters", "same", "none are needed")
    return make_component(match, options, component.convert("weight", 1.0, "weight", number), kind)
