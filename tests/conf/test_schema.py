"""Each rule of the schema beside its legal neighbour, and the schema beside `core`."""

import re
from dataclasses import fields, is_dataclass, replace
from itertools import product
from typing import get_type_hints

import pytest
from omegaconf import OmegaConf

from conf.schema.base import OPTIONS, ConfigError, key_of
from conf.schema.commands import COMMANDS
from conf.schema.llm import RewardPartConfig
from conf.schema.objective import IdentityConfig, MaraConfig, ThresholdConfig
from conf.schema.run import CONFIG_KEYS, RunConfig
from core.advantages import ADVANTAGES as ADVANTAGE_FUNCTIONS
from core.divergences import DIVERGENCES
from core.objective import make_objective
from core.rules import ADVANTAGES, ALGORITHMS, DIVERGENCE_PLACEMENTS, LEVELS, PLACEMENTS, Choices
from launch.cli.compose import compose_typed

GOOD = "transform.threshold.value=1"
QUANTILE = "transform.threshold.kind=quantile"
MAX_AT_K, PASS_AT_K = "advantage=max_at_k", "advantage=pass_at_k advantage_k=1"
AUTOMATIC = f"beta_schedule=automatic {GOOD}"
EMBEDDING = "transform=darling transform.equivalence=embedding"
CLASSIFIER = "transform=darling transform.equivalence=classifier"
P, Q = "+reward.parts.p", "+reward.evaluation.q"
RULES = [  # what is refused, the key that the message names, its legal neighbour; overrides of python -m llm
    ("objective.beta=-.1", "objective.beta", "objective.beta=0"),
    ("objective.beta=nan", "objective.beta", "objective.beta=1e-9"),
    ("objective.beta=inf", "objective.beta", "objective.beta=1e9"),
    ("objective.direction=forward objective.beta=0", "objective.beta", "objective.direction=forward"),
    ("objective.entropy_coef=-1", "objective.entropy_coef", "objective.entropy_coef=1"),
    ("objective.gamma=0", "objective.gamma", "objective.gamma=.1"),
    ("objective.gamma=1.1", "objective.gamma", "objective.gamma=1"),
    ("objective.direction=alpha", "objective.alpha", "objective.direction=alpha objective.alpha=.5"),
    ("objective.alpha=.5", "objective.alpha", ""),
    ("objective.direction=alpha objective.alpha=1", "objective.alpha", "objective.direction=alpha objective.alpha=2"),
    (
        "objective.direction=alpha objective.alpha=0",
        "objective.alpha",
        "objective.direction=alpha objective.alpha=-1",
    ),
    (
        "objective.max_log_weight=2",
        "objective.max_log_weight",
        "objective.max_log_weight=2 objective.direction=forward",
    ),
    (
        "objective.direction=jensen_shannon objective.placement=loss",
        "objective.placement",
        "objective.direction=jensen_shannon",
    ),
    (
        "objective.length_normalised=true objective.level=token",
        "objective.length_normalised",
        "objective.length_normalised=true objective.level=token objective.placement=loss",
    ),
    ("objective.direction=sideways", "objective.direction", "objective.direction=my.module:name"),
    ("objective.level=word", "objective.level", "objective.level=token"),
    ("objective.placement=exact", "objective.placement", "objective.placement=reference"),
    (f"{QUANTILE} transform.threshold.value=1.5", "transform.threshold.value", "transform.threshold.value=1.5"),
    ("transform.threshold.floor=.1", "transform.threshold.floor", f"{QUANTILE} transform.threshold.floor=.1"),
    ("transform.threshold.value=inf", "transform.threshold.value", "transform.threshold.value=-5"),
    (
        f"{QUANTILE} transform.threshold.value=null transform.threshold.floor=.1",
        "transform.threshold.floor",
        f"{QUANTILE} transform.threshold.value=null",
    ),
    (
        f"{QUANTILE} transform.threshold.value=.9 transform.threshold.floor=nan",
        "transform.threshold.floor",
        f"{QUANTILE} transform.threshold.value=.9 transform.threshold.floor=-1",
    ),
    ("transform.threshold.kind=mean", "transform.threshold.kind", "transform.threshold.kind=constant"),
    ("transform.name=mara", "transform.name", "transform.name=identity"),
    ("beta_schedule.name=adaptive", "beta_schedule.name", "beta_schedule=adaptive beta_schedule.kl_target=1"),
    ("engine.name=none", "engine.name", "engine.name=torch"),
    ("seed=-1", "seed", f"seed={10**400}"),
    ("threads=0", "threads", "threads=1"),
    ("resume=maybe", "resume", "resume=never"),
    ("steps=0", "steps", "steps=1"),
    ("group_size=1", "group_size", "group_size=1 advantage=no_baseline"),
    (f"group_size=3 {MAX_AT_K} advantage_k=4", "group_size", f"group_size=4 {MAX_AT_K} advantage_k=4"),
    ("advantage=gae", "advantage", "advantage=my.module:name"),
    ("advantage_k=2", "advantage_k", f"{MAX_AT_K} advantage_k=2"),
    (f"{MAX_AT_K} advantage_k=1", "advantage_k", MAX_AT_K),
    ("advantage=pass_at_k", "advantage_k", PASS_AT_K),
    (f"{PASS_AT_K} transform.threshold.value=null", "transform.threshold.value", "transform.threshold.value=null"),
    (
        "beta_schedule=linear beta_schedule.final=-1",
        "beta_schedule.final",
        "beta_schedule=linear beta_schedule.final=0",
    ),
    (
        "beta_schedule=cosine beta_schedule.final=1 beta_schedule.name=linear",
        "beta_schedule.name",
        "beta_schedule=cosine beta_schedule.final=1",
    ),
    (
        "objective.direction=forward beta_schedule=linear beta_schedule.final=0",
        "beta_schedule.final",
        "beta_schedule=linear beta_schedule.final=0",
    ),
    (
        "transform=mara beta_schedule=cosine beta_schedule.final=0",
        "beta_schedule.final",
        "transform=mara beta_schedule=cosine beta_schedule.final=.1",
    ),
    ("transform=mara objective.beta=0", "objective.beta", "objective.beta=0"),
    (
        "beta_schedule=adaptive beta_schedule.kl_target=1 objective.beta=0",
        "objective.beta",
        "beta_schedule=adaptive beta_schedule.kl_target=1",
    ),
    (
        "beta_schedule=adaptive beta_schedule.kl_target=0",
        "beta_schedule.kl_target",
        "beta_schedule=adaptive beta_schedule.kl_target=1",
    ),
    (f"{AUTOMATIC} beta_schedule.quantile=1.5", "beta_schedule.quantile", f"{AUTOMATIC} beta_schedule.quantile=1"),
    (f"{AUTOMATIC} beta_schedule.low=0", "beta_schedule.low", f"{AUTOMATIC} beta_schedule.low=1e-9"),
    (f"{AUTOMATIC} beta_schedule.high=1e-4", "beta_schedule.high", f"{AUTOMATIC} beta_schedule.high=.1"),
    (
        "beta_schedule=automatic transform.threshold.value=null",
        "transform.threshold.value",
        "beta_schedule=automatic",
    ),
    ("objective.entropy_final=-.1", "objective.entropy_final", "objective.entropy_final=0"),
    ("update.epochs=0", "update.epochs", "update.epochs=3"),
    ("update.minibatches=0", "update.minibatches", "update.minibatches=3 prompts_per_step=3"),
    ("update.clip_low=1.5", "update.clip_low", "update.clip_low=null"),
    ("update.clip_high=-.1", "update.clip_high", "update.clip_high=3"),
    ("update.ratio=word", "update.ratio", "update.ratio=sequence"),
    ("update.minibatches=2", "update.minibatches", "update.minibatches=2 prompts_per_step=2"),
    ("update.epochs=2 objective.gamma=.9", "objective.gamma", "objective.gamma=.9"),
    ("reference_completions=4", "reference_completions", "reference_completions=4 objective.placement=reference"),
    ("objective.placement=reference objective.level=token", "objective.level", "objective.placement=reference"),
    ("transform=unlikely transform.strength=1.5", "transform.strength", "transform=unlikely transform.strength=1"),
    (
        "transform=unlikely transform.threshold.value=null",
        "transform.threshold.value",
        "transform=darling transform.threshold.value=null",
    ),
    ("transform=ucpo transform.coef=-.1", "transform.coef", "transform=ucpo transform.coef=0"),
    ("transform=darling transform.equivalence=x", "transform.equivalence", "transform=darling"),
    (EMBEDDING, "transform.embedder", f"{EMBEDDING} transform.embedder=some/embedder"),
    (CLASSIFIER, "transform.classifier", f"{CLASSIFIER} transform.classifier=some/classifier"),
    (
        "transform=differential_smoothing transform.correct_coef=-1",
        "transform.correct_coef",
        "transform=differential_smoothing transform.correct_coef=1",
    ),
    (
        "transform=differential_smoothing transform.wrong_coef=-1",
        "transform.wrong_coef",
        "transform=differential_smoothing transform.wrong_coef=1",
    ),
    ("group_size=0 advantage=no_baseline", "group_size", ""),
    ("prompts_per_step=0", "prompts_per_step", "prompts_per_step=3"),
    ("max_new_tokens=0", "max_new_tokens", "max_new_tokens=9"),
    ("truncated=cut", "truncated", "truncated=drop"),
    ("micro_batch=0", "micro_batch", "micro_batch=9"),
    ("micro_batch_tokens=0", "micro_batch_tokens", "micro_batch_tokens=9"),
    ("evaluation_completions=0", "evaluation_completions", "evaluation_completions=9"),
    ("sample_every=-1", "sample_every", "sample_every=9"),
    ("reward.batch_size=0", "reward.batch_size", "reward.batch_size=1"),
    ("reward.on_failure=wait", "reward.on_failure", "reward.on_failure=drop"),
    (f"{P}={{}}", "reward.parts.p", f"{P}.function=task"),
    (f"{P}.function='a:b' {P}.model=c", "reward.parts.p", f"{P}.model=c"),
    (f"{Q}.model=c {Q}.weight=0", "reward.evaluation.q.weight", f"{Q}.model=c {Q}.weight=-1"),
    (f"{P}.model=c +reward.evaluation.p.model=d", "reward.evaluation", f"{P}.model=c {Q}.model=d"),
    (f"{P}='a:b'", "reward.parts.p", f"{P}.function='a:b'"),
    (f"{P}.model=3", "reward.parts.p.model", f"{P}.model='3'"),
    (f"{P}.model=c {P}.wight=1", "reward.parts.p.wight", f"{P}.model=c {P}.weight=1"),
    (f"{P}.model=c {P}.weight=x", "reward.parts.p.weight", f"{P}.model=c {P}.weight=.5"),
    ("data.train.path=''", "data.train.path", "data.train.path=a.jsonl"),
    ("data.evaluation.count=0", "data.evaluation.count", "data.evaluation.count=1"),
    ("transform=mara transform.algorithm=3", "transform.algorithm", "transform=mara transform.algorithm=2"),
    ("transform=mara transform.threshold.value=null", "transform.threshold.value", f"transform=mara {GOOD}"),
    ("loggers=[tensorbord]", "loggers", "loggers=[wandb,tensorboard]"),
    ("checkpoint.every_seconds=-1", "checkpoint.every_seconds", "checkpoint.every_seconds=0"),
    ("checkpoint.every_steps=0", "checkpoint.every_steps", "checkpoint.every_steps=1"),
    ("checkpoint.keep=-1", "checkpoint.keep", "checkpoint.keep=0"),
    ("checkpoint.best_mode=most", "checkpoint.best_mode", "checkpoint.best_mode=min"),
    ("optimizer.lr=0", "optimizer.lr", "optimizer.lr=1e-9"),
    ("optimizer.beta2=1", "optimizer.beta2", "optimizer.beta2=0"),
    ("optimizer.weight_decay=-1", "optimizer.weight_decay", "optimizer.weight_decay=1"),
    ("optimizer.warmup_steps=-1", "optimizer.warmup_steps", "optimizer.warmup_steps=0"),
    ("optimizer.max_grad_norm=0", "optimizer.max_grad_norm", "optimizer.max_grad_norm=.5"),
    ("optimizer.decay=step", "optimizer.decay", "optimizer.decay=cosine"),
    ("model.dtype=int8", "model.dtype", "model.dtype=auto"),
    ("model.device=cuda:a", "model.device", "model.device=cuda:1"),
    ("model.lora.rank=0", "model.lora.rank", "model.lora.rank=4"),
    (
        "model.lora.rank=4 model.reference_on_cpu=true",
        "model.reference_on_cpu",
        "model.reference_on_cpu=true",
    ),
]


def words(overrides):
    return overrides.split() if overrides else []


@pytest.mark.parametrize(("refused", "key", "legal"), RULES)
def test_rule(refused, key, legal):
    with pytest.raises(ConfigError, match=f"^{re.escape(key)}: ") as error:
        compose_typed("llm", words(refused))
    assert "\n" not in str(error.value)
    compose_typed("llm", words(legal))


def test_the_message_of_a_rule_gives_the_value_or_the_way_out():
    for refused, _, _ in RULES:
        with pytest.raises(ConfigError, match=r"got |only used with|must be given with|use |allowed: "):
            compose_typed("llm", words(refused))


def test_a_combination_is_refused_exactly_where_core_refuses_it():
    """Every direction x level x placement x advantage x transform and algorithm x gamma x length normalisation."""
    base, _ = compose_typed("llm", [])
    transforms = {name: compose_typed("llm", [f"transform={name}", GOOD])[0].transform for name in OWN_TRANSFORMS}
    transforms |= {algorithm: replace(transforms["mara"], algorithm=algorithm) for algorithm in ALGORITHMS}
    del transforms["mara"]
    refused = legal = 0
    axes = (DIVERGENCE_PLACEMENTS, LEVELS, PLACEMENTS, ADVANTAGES, transforms, (1.0, 0.9), (False, True))
    for direction, level, placement, advantage, transform, gamma, normalised in product(*axes):
        chosen = {
            **{"direction": direction, "level": level, "placement": placement, "gamma": gamma},
            **{"alpha": 0.5 if direction == "alpha" else None, "length_normalised": normalised},
        }
        k = 2 if advantage == "pass_at_k" else None
        by_schema = by_core = None
        try:
            objective = replace(base.objective, **chosen)
            replace(base, objective=objective, transform=transforms[transform], advantage=advantage, advantage_k=k)
        except ConfigError as error:
            by_schema = error
        try:
            make_objective(
                transform=transforms[transform].name,
                transform_options=transforms[transform].options(),
                threshold=transforms[transform].threshold.options(),
                advantage=advantage,
                advantage_k=k,
                **chosen,
            )
        except ValueError as error:
            by_core = error
        case = (direction, level, placement, advantage, transform, gamma, normalised)
        assert (by_schema is None) == (by_core is None), (case, by_schema, by_core)
        refused, legal = refused + (by_core is not None), legal + (by_core is None)
    assert refused > 100
    assert legal > 100


OWN_TRANSFORMS = ("identity", "mara", "unlikely", "differential_smoothing", "ucpo", "darling")


def test_the_names_in_the_rules_are_those_of_the_functions():
    assert set(ADVANTAGES) == set(ADVANTAGE_FUNCTIONS)
    forms = {
        name: tuple(placement for placement in PLACEMENTS if getattr(divergence, placement) is not None)
        for name, divergence in DIVERGENCES.items()
    }
    assert forms == DIVERGENCE_PLACEMENTS


def test_every_choice_of_a_rule_is_a_key():
    config, _ = compose_typed("llm", ["transform=mara", "beta_schedule=linear", "beta_schedule.final=1"])
    composed = OmegaConf.structured(config)
    for name in vars(Choices(direction="reverse")):
        key = {"transform": "transform.name", "beta_schedule": "beta_schedule.name"}.get(name, name)
        if name not in ("loss", "updates"):  # of chem, and computed
            assert OmegaConf.select(composed, CONFIG_KEYS.get(name, key), default="no") != "no", name


def sections(section, seen=()):
    """A dataclass of the schema and all those below it."""
    yield section
    for hint in get_type_hints(section).values():
        for kind in (hint, *getattr(hint, "__args__", ())):
            if is_dataclass(kind) and kind not in seen:
                yield from sections(kind, (*seen, section))


ALL_SECTIONS = {kind for command in COMMANDS.values() for kind in sections(command)} | set(OPTIONS.values())


@pytest.mark.parametrize("section", sorted(ALL_SECTIONS, key=lambda kind: kind.__name__))
def test_every_key_has_a_meaning(section):
    for field in fields(section):
        if field.name not in ("_target_", "name"):
            assert len(key_of(field).help) > 5, f"{section.__name__}.{field.name}"


def test_a_base_class_does_not_know_its_subclasses():
    class Small(RunConfig):
        samples_reference = False

    config, _ = compose_typed("llm", ["objective.placement=reference"])
    shared = {field.name: getattr(config, field.name) for field in fields(RunConfig)}
    with pytest.raises(ConfigError, match=r"^objective\.placement: must be reward or loss in this package"):
        Small(**shared)
    Small(**shared | {"objective": replace(config.objective, placement="loss")})


def test_sections_may_be_built_by_code():
    threshold = ThresholdConfig(kind="constant", value=1.0, floor=None)
    assert IdentityConfig(threshold=threshold).options() == {}
    assert MaraConfig(threshold=threshold, algorithm="2").options() == {"algorithm": "2"}
    assert threshold.options() == {"kind": "constant", "value": 1.0, "floor": None}
    assert RewardPartConfig(model="m").weight == 1.0
