"""Keys of every run: each rule beside a legal neighbour, and the schema's rules beside those of core."""

from dataclasses import fields, replace
from itertools import product

import pytest
from omegaconf import OmegaConf

from conf.schema.base import ConfigError
from conf.schema.run import RunConfig
from core.objective import make_objective
from core.rules import ADVANTAGES, ALGORITHMS, DIVERGENCE_PLACEMENTS, LEVELS, PLACEMENTS, Choices

from .legality import assert_rejected, make_config, rejection

GOOD = "transform.threshold.value=1"
MAX_AT_K, PASS_AT_K = "advantage=max_at_k", "advantage=pass_at_k advantage_k=1"
OWN_TRANSFORMS = ("identity", "mara", "unlikely", "differential_smoothing", "ucpo", "darling", "gapo", "uniqueness")
CASES = [  # rejected overrides, the key that the message names, legal overrides
    ("engine.name=none", "engine.name", "engine.name=torch"),
    ("seed=-1", "seed", f"seed={10**400}"),
    ("threads=0", "threads", "threads=1"),
    ("resume=maybe", "resume", "resume=never"),
    ("steps=0", "steps", "steps=1"),
    ("advantage=gae", "advantage", "advantage=my.module:name"),
    ("advantage_k=2", "advantage_k", f"{MAX_AT_K} advantage_k=2"),
    (f"{MAX_AT_K} advantage_k=1", "advantage_k", MAX_AT_K),
    ("advantage=pass_at_k", "advantage_k", PASS_AT_K),
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
]


@pytest.mark.parametrize(("rejected", "key", "legal"), CASES)
def test_a_rule_rejects_and_its_neighbour_is_legal(rejected, key, legal):
    assert_rejected("llm", rejected, key, legal)


def test_a_combination_is_rejected_exactly_where_core_rejects_it():
    """Every direction x level x placement x advantage x transform and algorithm x gamma x length normalisation."""
    base = make_config("llm")
    transforms = {name: make_config("llm", f"transform={name} {GOOD}").transform for name in OWN_TRANSFORMS}
    transforms |= {algorithm: replace(transforms["mara"], algorithm=algorithm) for algorithm in ALGORITHMS}
    del transforms["mara"]
    rejected = legal = 0
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
        rejected, legal = rejected + (by_core is not None), legal + (by_core is None)
    assert rejected > 100
    assert legal > 100


def test_every_choice_of_a_rule_is_a_key():
    config = make_config("llm", "rollout=vllm transform=mara beta_schedule=linear beta_schedule.final=1")
    composed = OmegaConf.structured(config)
    for name in vars(Choices(direction="reverse")):
        key = {"transform": "transform.name", "beta_schedule": "beta_schedule.name"}.get(name, name)
        if name != "updates":  # a product of keys
            assert OmegaConf.select(composed, config.config_keys.get(name, key), default="no") != "no", name


def test_the_choices_of_a_configuration():
    overrides = "transform=mara transform.algorithm=2 beta_schedule=cosine beta_schedule.final=.5"
    config = make_config("llm", f"{overrides} objective.beta=.25 objective.entropy_coef=.1")
    expected = Choices(
        direction="reverse",
        transform="mara",
        algorithm="2",
        threshold=True,
        beta=0.25,
        beta_schedule="cosine",
        final_beta=0.5,
        entropy_coef=0.1,
        kl_samples=0,
    )
    assert config.choices() == expected
    assert make_config("llm", "transform.threshold.value=null").choices() == Choices(
        direction="reverse", beta=0.03, kl_samples=0
    )


def test_a_message_of_core_names_the_key_of_the_configuration():
    for overrides, message in {
        "objective.alpha=.5": "objective.alpha: is only used with direction=alpha; set it to null, got 0.5 with "
        "direction=reverse",
        "transform=mara transform.threshold.value=null": "transform.threshold.value: must be given with "
        "transform=mara, which treats good samples differently; set it to the lowest reward that counts as good or, "
        "with kind=quantile, to a number in [0, 1]",
        "advantage_k=2": "advantage_k: is only used with advantage=max_at_k or pass_at_k; set it to null, got 2 with "
        "advantage=leave_one_out",
    }.items():
        assert rejection("llm", overrides) == message


def test_a_base_class_does_not_know_its_subclasses():
    class Small(RunConfig):
        samples_reference = False

    config = make_config("llm", "objective.placement=reference")
    shared = {field.name: getattr(config, field.name) for field in fields(RunConfig)}
    with pytest.raises(ConfigError, match=r"^objective\.placement: must be reward or loss in this package"):
        Small(**shared)
    Small(**shared | {"objective": replace(config.objective, placement="loss")})


def test_a_package_that_compares_no_texts_has_answers_only():
    class Small(RunConfig):
        equivalences = ("answer",)

    config = make_config("llm", "transform=darling transform.equivalence=exact")
    shared = {field.name: getattr(config, field.name) for field in fields(RunConfig)}
    with pytest.raises(ConfigError, match=r"^transform\.equivalence: must be answer in this package, got exact$"):
        Small(**shared)
    Small(**shared | {"transform": replace(config.transform, equivalence="answer")})


@pytest.mark.parametrize(
    ("advantage", "k", "smallest"),
    [("no_baseline", None, 1), ("leave_one_out", None, 2), ("max_at_k", 5, 5), ("max_at_k", None, 2)],
)
def test_a_group_is_large_enough_for_its_advantage(advantage, k, smallest):
    base = make_config("llm")
    config = replace(base, advantage=advantage, advantage_k=k)
    config.check_group_size("group_size", smallest)
    with pytest.raises(ConfigError, match=rf"^group_size: must be >= {smallest} .*, got {smallest - 1}$"):
        config.check_group_size("group_size", smallest - 1)


def test_the_arguments_make_the_objective():
    config = make_config("llm", "transform=ucpo objective.direction=forward objective.max_log_weight=2")
    objective = make_objective(**config.objective_arguments())
    assert (objective.direction, objective.max_log_weight, objective.bonus is None) == ("forward", 2.0, False)
    unbounded = make_config("llm", "objective.direction=forward").objective_arguments()
    assert unbounded["max_log_weight"] == "auto"
    custom = "transform=custom transform.function=core.transforms:identity transform.arguments={}"
    arguments = make_config("llm", custom).objective_arguments()
    assert (arguments["transform"], arguments["transform_options"]) == ("core.transforms:identity", {})
    make_objective(**arguments)


@pytest.mark.parametrize(("command", "key"), [("llm", "group_size"), ("chem", "batch_size")])
def test_halves_of_a_group_have_baselines_of_their_own(command, key):
    cross_fitted = "transform=mara transform.threshold.value=1 transform.anchor=cross_fitted"
    for size in (2, 5):
        message = rejection(command, f"{cross_fitted} {key}={size}")
        assert message.startswith(f"{key}: must be even and >= 4 with transform.anchor=cross_fitted")
    make_config(command, f"{cross_fitted} {key}=4")
    make_config(command, f"{cross_fitted} {key}=2 advantage=no_baseline")
    make_config(command, f"transform=mara transform.threshold.value=1 {key}=5")  # control
