"""Each rule of the schema beside its legal neighbour, and the schema beside `core`."""

import re
from itertools import product

import pytest

from conf import schema
from conf.schema import ConfigError
from core.objective import make_objective

OBJECTIVE = {
    "beta": 0.1,
    "direction": schema.Direction.reverse,
    "level": schema.Level.sequence,
    "placement": schema.Placement.reward,
    "entropy_coef": 0.0,
    "alpha": None,
    "max_log_weight": None,
    "gamma": 1.0,
    "length_normalised": False,
    "mask_tied": False,
}
THRESHOLD = {"kind": schema.ThresholdKind.constant, "value": 1.0, "floor": None}
OPTIMIZER = {
    **{"lr": 0.1, "weight_decay": 0.0, "beta1": 0.9, "beta2": 0.999, "warmup_steps": 0},
    **{"decay": schema.Decay.constant, "max_grad_norm": None},
}


def objective(**changes):
    return schema.ObjectiveConfig(**{**OBJECTIVE, **changes})


def threshold(**changes):
    return schema.ThresholdConfig(**{**THRESHOLD, **changes})


def mara(algorithm="auto", **changes):
    return schema.MaraConfig(algorithm=algorithm, threshold=threshold(**changes))


def method(name, value=1.0, **options):
    shipped = {
        "unlikely": (schema.UnlikelyConfig, {"strength": 0.5}),
        "differential_smoothing": (schema.DifferentialSmoothingConfig, {"correct_coef": 0.1, "wrong_coef": 0.0}),
        "ucpo": (schema.UcpoConfig, {"coef": 0.1}),
        "darling": (
            schema.DarlingConfig,
            {
                "equivalence": "answer",
                "embedder": None,
                "embedding_threshold": 0.8,
                "classifier": None,
                "classifier_tokenizer": None,
                "classifier_threshold": 0.102,
            },
        ),
    }
    config, defaults = shipped[name]
    return config(threshold=threshold(value=value), **{**defaults, **options})


def optimizer(**changes):
    return schema.OptimizerConfig(**{**OPTIMIZER, **changes})


def checkpoint(**changes):
    values = {"every_seconds": 60.0, "every_steps": None, "keep": 2, "best": None, "best_mode": schema.BestMode.max}
    return schema.CheckpointConfig(**{**values, **changes})


def llm_objective(**changes):
    return schema.LlmObjectiveConfig(**{**OBJECTIVE, **changes})


def update(**changes):
    values = {"epochs": 1, "minibatches": 1, "clip_low": 0.2, "clip_high": 0.2, "ratio": "token"}
    return schema.UpdateConfig(**{**values, **changes})


def automatic(**changes):
    return schema.AutomaticBetaConfig(**{"quantile": 0.5, "low": 0.1, "high": 1.0, **changes})


def reward(**changes):
    values = {"parts": {}, "evaluation": {}, "on_failure": schema.RewardFailure.stop, "batch_size": 8}
    return schema.RewardConfig(**{**values, **changes})


def part(name="p", **values):
    return {name: values}


def source(**changes):
    return schema.SourceConfig(**{"path": None, "subset": None, "split": "train", "count": None, **changes})


def data(**changes):
    return schema.DataConfig(**{"root": None, "train": source(), "evaluation": source(), **changes})


def llm(**changes):
    values = {
        **{"seed": 0, "threads": None, "steps": 1, "prompts_per_step": 1, "group_size": 2, "max_new_tokens": 1},
        **{
            "micro_batch": 1,
            "micro_batch_tokens": None,
            "evaluation_completions": 1,
            "sample_every": 0,
            "truncated": schema.Truncated.keep,
        },
        **{"objective": llm_objective(), "optimizer": optimizer(), "advantage": schema.Advantage.leave_one_out},
        **{"advantage_k": None, "update": update(), "reference_completions": None},
        **{"transform": schema.IdentityConfig(threshold=threshold()), "beta_schedule": schema.ConstantBetaConfig()},
        **{"engine": schema.EngineConfig(name="torch"), "task": schema.TaskConfig(name="one_two")},
        **{"model": schema.ModelConfig(name_or_path="tiny", dtype="auto", device="auto"), "writers": []},
        **{"resume": schema.Resume.auto, "checkpoint": checkpoint()},
        **{"data": data(), "reward": reward()},
    }
    return schema.LlmConfig(**{**values, **changes})


QUANTILE = schema.ThresholdKind.quantile
FORWARD, ALPHA = schema.Direction.forward, schema.Direction.alpha
LOSS, TOKEN, REFERENCE = schema.Placement.loss, schema.Level.token, schema.Placement.reference
RULES = [  # what is refused, the key it names, its legal neighbour
    (lambda: objective(beta=-0.1), "objective.beta", lambda: objective(beta=0.0)),
    (lambda: objective(beta=float("nan")), "objective.beta", lambda: objective(beta=1e-9)),
    (lambda: objective(beta=float("inf")), "objective.beta", lambda: objective(beta=1e9)),
    (lambda: objective(beta=0.0, direction=FORWARD), "objective.beta", lambda: objective(direction=FORWARD)),
    (lambda: objective(entropy_coef=-1.0), "objective.entropy_coef", lambda: objective(entropy_coef=1.0)),
    (lambda: objective(gamma=0.0), "objective.gamma", lambda: objective(gamma=0.1)),
    (lambda: objective(gamma=1.1), "objective.gamma", lambda: objective(gamma=1.0)),
    (lambda: objective(direction=ALPHA), "objective.alpha", lambda: objective(direction=ALPHA, alpha=0.5)),
    (lambda: objective(alpha=0.5), "objective.alpha", lambda: objective()),
    (lambda: objective(direction=ALPHA, alpha=1.0), "objective.alpha", lambda: objective(direction=ALPHA, alpha=2.0)),
    (
        lambda: objective(direction=ALPHA, alpha=0.0),
        "objective.alpha",
        lambda: objective(direction=ALPHA, alpha=-1.0),
    ),
    (
        lambda: objective(max_log_weight=2.0),
        "objective.max_log_weight",
        lambda: objective(max_log_weight=2.0, direction=FORWARD),
    ),
    (
        lambda: objective(direction=schema.Direction.jensen_shannon, placement=LOSS),
        "objective.placement",
        lambda: objective(direction=schema.Direction.jensen_shannon),
    ),
    (
        lambda: objective(length_normalised=True, level=TOKEN),
        "objective.length_normalised",
        lambda: objective(length_normalised=True, level=TOKEN, placement=LOSS),
    ),
    (lambda: threshold(kind=QUANTILE, value=1.5), "transform.threshold.value", lambda: threshold(value=1.5)),
    (lambda: threshold(floor=0.1), "transform.threshold.floor", lambda: threshold(kind=QUANTILE, floor=0.1)),
    (lambda: threshold(value=float("inf")), "transform.threshold.value", lambda: threshold(value=-5.0)),
    (
        lambda: threshold(kind=QUANTILE, value=None, floor=0.1),
        "transform.threshold.floor",
        lambda: threshold(kind=QUANTILE, value=None),
    ),
    (
        lambda: threshold(kind=QUANTILE, value=0.9, floor=float("nan")),
        "transform.threshold.floor",
        lambda: threshold(kind=QUANTILE, value=0.9, floor=-1.0),
    ),
    (
        lambda: schema.IdentityConfig(name="mara", threshold=threshold()),
        "transform.name",
        lambda: schema.IdentityConfig(name="identity", threshold=threshold()),
    ),
    (
        lambda: schema.ConstantBetaConfig(name="adaptive"),
        "beta_schedule.name",
        lambda: schema.AdaptiveBetaConfig(name="adaptive", kl_target=1.0),
    ),
    (lambda: schema.EngineConfig(name="none"), "engine.name", lambda: schema.EngineConfig(name="torch")),
    (lambda: llm(seed=-1), "seed", lambda: llm(seed=10**400)),
    (lambda: llm(threads=0), "threads", lambda: llm(threads=1)),
    (lambda: llm(steps=0), "steps", lambda: llm(steps=1)),
    (lambda: llm(group_size=1), "group_size", lambda: llm(group_size=1, advantage=schema.Advantage.no_baseline)),
    (
        lambda: llm(group_size=3, advantage=schema.Advantage.max_at_k, advantage_k=4),
        "group_size",
        lambda: llm(group_size=4, advantage=schema.Advantage.max_at_k, advantage_k=4),
    ),
    (lambda: llm(advantage_k=2), "advantage_k", lambda: llm(advantage=schema.Advantage.max_at_k, advantage_k=2)),
    (
        lambda: llm(advantage=schema.Advantage.max_at_k, advantage_k=1),
        "advantage_k",
        lambda: llm(advantage=schema.Advantage.max_at_k),
    ),
    (
        lambda: llm(advantage=schema.Advantage.pass_at_k),
        "advantage_k",
        lambda: llm(advantage=schema.Advantage.pass_at_k, advantage_k=1),
    ),
    (
        lambda: llm(
            **{"advantage": schema.Advantage.pass_at_k, "advantage_k": 1},
            transform=schema.IdentityConfig(threshold=threshold(value=None)),
        ),
        "transform.threshold.value",
        lambda: llm(transform=schema.IdentityConfig(threshold=threshold(value=None))),
    ),
    (
        lambda: schema.LinearBetaConfig(final=-1.0),
        "beta_schedule.final",
        lambda: schema.LinearBetaConfig(final=0.0),
    ),
    (
        lambda: schema.CosineBetaConfig(name="linear", final=1.0),
        "beta_schedule.name",
        lambda: schema.CosineBetaConfig(final=1.0),
    ),
    (
        lambda: llm(
            objective=llm_objective(direction=FORWARD),
            beta_schedule=schema.LinearBetaConfig(final=0.0),
        ),
        "beta_schedule.final",
        lambda: llm(beta_schedule=schema.LinearBetaConfig(final=0.0)),
    ),
    (
        lambda: llm(transform=mara(), beta_schedule=schema.CosineBetaConfig(final=0.0)),
        "beta_schedule.final",
        lambda: llm(transform=mara(), beta_schedule=schema.CosineBetaConfig(final=0.1)),
    ),
    (lambda: automatic(quantile=1.5), "beta_schedule.quantile", lambda: automatic(quantile=1.0)),
    (lambda: automatic(low=0.0), "beta_schedule.low", lambda: automatic(low=1e-9)),
    (lambda: automatic(high=0.05), "beta_schedule.high", lambda: automatic(high=0.1)),
    (
        lambda: llm(beta_schedule=automatic(), transform=schema.IdentityConfig(threshold=threshold(value=None))),
        "transform.threshold.value",
        lambda: llm(beta_schedule=automatic()),
    ),
    (
        lambda: llm_objective(entropy_final=-0.1),
        "objective.entropy_final",
        lambda: llm_objective(entropy_final=0.0),
    ),
    (lambda: update(epochs=0), "update.epochs", lambda: update(epochs=3)),
    (lambda: update(minibatches=0), "update.minibatches", lambda: update(minibatches=3)),
    (lambda: update(clip_low=1.5), "update.clip_low", lambda: update(clip_low=None)),
    (lambda: update(clip_high=-0.1), "update.clip_high", lambda: update(clip_high=3.0)),
    (lambda: update(ratio="word"), "update.ratio", lambda: update(ratio="sequence")),
    (
        lambda: llm(update=update(minibatches=2)),
        "update.minibatches",
        lambda: llm(update=update(minibatches=2), prompts_per_step=2),
    ),
    (
        lambda: llm(update=update(epochs=2), objective=llm_objective(gamma=0.9)),
        "objective.gamma",
        lambda: llm(objective=llm_objective(gamma=0.9)),
    ),
    (
        lambda: llm(reference_completions=4),
        "reference_completions",
        lambda: llm(reference_completions=4, objective=llm_objective(placement=REFERENCE)),
    ),
    (lambda: method("unlikely", strength=1.5), "transform.strength", lambda: method("unlikely", strength=1.0)),
    (lambda: method("unlikely", value=None), "transform.threshold.value", lambda: method("darling", value=None)),
    (lambda: method("ucpo", coef=-0.1), "transform.coef", lambda: method("ucpo", coef=0.0)),
    (lambda: method("darling", equivalence="x"), "transform.equivalence", lambda: method("darling")),
    (
        lambda: method("darling", equivalence="embedding"),
        "transform.embedder",
        lambda: method("darling", equivalence="embedding", embedder="some/embedder"),
    ),
    (
        lambda: method("darling", equivalence="classifier"),
        "transform.classifier",
        lambda: method("darling", equivalence="classifier", classifier="some/classifier"),
    ),
    (
        lambda: method("differential_smoothing", correct_coef=-1.0),
        "transform.correct_coef",
        lambda: method("differential_smoothing", correct_coef=1.0),
    ),
    (
        lambda: method("differential_smoothing", wrong_coef=-1.0),
        "transform.wrong_coef",
        lambda: method("differential_smoothing", wrong_coef=1.0),
    ),
    (lambda: llm(group_size=0, advantage=schema.Advantage.no_baseline), "group_size", lambda: llm()),
    (lambda: llm(prompts_per_step=0), "prompts_per_step", lambda: llm(prompts_per_step=3)),
    (lambda: llm(max_new_tokens=0), "max_new_tokens", lambda: llm(max_new_tokens=9)),
    (lambda: llm(micro_batch=0), "micro_batch", lambda: llm(micro_batch=9)),
    (lambda: llm(micro_batch_tokens=0), "micro_batch_tokens", lambda: llm(micro_batch_tokens=9)),
    (lambda: llm(evaluation_completions=0), "evaluation_completions", lambda: llm(evaluation_completions=9)),
    (lambda: llm(sample_every=-1), "sample_every", lambda: llm(sample_every=9)),
    (lambda: reward(batch_size=0), "reward.batch_size", lambda: reward(batch_size=1)),
    (lambda: reward(parts=part()), "reward.parts.p", lambda: reward(parts=part(function="task"))),
    (lambda: reward(parts=part(function="a:b", model="c")), "reward.parts.p", lambda: reward(parts=part(model="c"))),
    (
        lambda: reward(evaluation=part(model="c", weight=0.0)),
        "reward.evaluation.p.weight",
        lambda: reward(evaluation=part(model="c", weight=-1.0)),
    ),
    (
        lambda: reward(parts=part(model="c"), evaluation=part(model="d")),
        "reward.evaluation",
        lambda: reward(parts=part(model="c"), evaluation=part("q", model="d")),
    ),
    (lambda: reward(parts={"p": "a:b"}), "reward.parts.p", lambda: reward(parts=part(function="a:b"))),
    (lambda: reward(parts=part(model=3)), "reward.parts.p.model", lambda: reward(parts=part(model="3"))),
    (
        lambda: reward(parts=part(model="c", wight=1)),
        "reward.parts.p.wight",
        lambda: reward(parts=part(model="c", weight=1)),
    ),
    (
        lambda: reward(parts=part(model="c", weight="x")),
        "reward.parts.p.weight",
        lambda: reward(parts=part(model="c", weight=0.5)),
    ),
    (lambda: data(train=source(path="")), "data.train.path", lambda: data(train=source(path="a.jsonl"))),
    (lambda: data(evaluation=source(count=0)), "data.evaluation.count", lambda: data(evaluation=source(count=1))),
    (lambda: mara(algorithm="3"), "transform.algorithm", lambda: mara(algorithm="2")),
    (lambda: mara(value=None), "transform.threshold.value", lambda: mara(value=0.0)),
    (lambda: llm(writers=["tensorbord"]), "writers", lambda: llm(writers=["wandb", "tensorboard"])),
    (lambda: checkpoint(every_seconds=-1.0), "checkpoint.every_seconds", lambda: checkpoint(every_seconds=0.0)),
    (lambda: checkpoint(every_steps=0), "checkpoint.every_steps", lambda: checkpoint(every_steps=1)),
    (lambda: checkpoint(keep=-1), "checkpoint.keep", lambda: checkpoint(keep=0)),
    (lambda: optimizer(lr=0.0), "optimizer.lr", lambda: optimizer(lr=1e-9)),
    (lambda: optimizer(beta2=1.0), "optimizer.beta2", lambda: optimizer(beta2=0.0)),
    (lambda: optimizer(weight_decay=-1.0), "optimizer.weight_decay", lambda: optimizer(weight_decay=1.0)),
    (lambda: optimizer(warmup_steps=-1), "optimizer.warmup_steps", lambda: optimizer(warmup_steps=0)),
    (lambda: optimizer(max_grad_norm=0.0), "optimizer.max_grad_norm", lambda: optimizer(max_grad_norm=0.5)),
    (
        lambda: schema.AdaptiveBetaConfig(kl_target=0.0),
        "beta_schedule.kl_target",
        lambda: schema.AdaptiveBetaConfig(kl_target=1.0),
    ),
    (
        lambda: schema.ModelConfig(name_or_path="x", dtype="int8", device="cpu"),
        "model.dtype",
        lambda: schema.ModelConfig(name_or_path="x", dtype="auto", device="cpu"),
    ),
    (
        lambda: schema.ModelConfig(name_or_path="x", dtype="auto", device="cuda:a"),
        "model.device",
        lambda: schema.ModelConfig(name_or_path="x", dtype="auto", device="cuda:1"),
    ),
]


@pytest.mark.parametrize(("refused", "key", "legal"), RULES)
def test_rule(refused, key, legal):
    with pytest.raises(ConfigError, match=f"^{re.escape(key)}: .*found") as error:
        refused()
    assert "\n" not in str(error.value)
    legal()


def test_a_combination_is_refused_exactly_where_core_refuses_it():
    """Every direction x level x placement x advantage x transform and algorithm x gamma x length normalisation."""
    refused = legal = 0
    for direction, level, placement, advantage, transform, gamma, normalised in product(
        schema.Direction,
        schema.Level,
        schema.Placement,
        schema.Advantage,
        ("identity", "auto", "1", "2", "unlikely", "differential_smoothing", "ucpo", "darling"),
        (1.0, 0.9),
        (False, True),
    ):
        alpha = 0.5 if direction is schema.Direction.alpha else None
        by_schema = by_core = None
        if transform == "identity":
            chosen = schema.IdentityConfig(threshold=threshold())
        else:
            chosen = mara(transform) if transform in ("auto", "1", "2") else method(transform)
        try:
            config = objective(
                direction=direction,
                level=level,
                placement=placement,
                alpha=alpha,
                gamma=gamma,
                length_normalised=normalised,
            )
            schema.check_objective(config, chosen, advantage, schema.ConstantBetaConfig())
        except ConfigError as error:
            by_schema = error
        try:
            make_objective(
                transform=chosen.name,
                transform_options=chosen.options(),
                advantage=advantage.name,
                advantage_k=2 if advantage is schema.Advantage.pass_at_k else None,
                direction=direction.name,
                level=level.name,
                placement=placement.name,
                alpha=alpha,
                gamma=gamma,
                length_normalised=normalised,
            )
        except ValueError as error:
            by_core = error
        case = (direction, level, placement, advantage, transform, gamma, normalised)
        assert (by_schema is None) == (by_core is None), (case, by_schema, by_core)
        refused, legal = refused + (by_core is not None), legal + (by_core is None)
    assert refused > 100 and legal > 100  # both happen


def test_mara_and_adaptive_beta_need_a_coefficient():
    reverse = objective(beta=0.0)
    leave_one_out, constant = schema.Advantage.leave_one_out, schema.ConstantBetaConfig()
    plain = schema.IdentityConfig(threshold=threshold())
    schema.check_objective(reverse, plain, leave_one_out, constant)
    with pytest.raises(ConfigError, match=r"objective\.beta: must be > 0 with transform=mara"):
        schema.check_objective(reverse, mara(), leave_one_out, constant)
    with pytest.raises(ConfigError, match=r"objective\.beta: must be > 0 with beta_schedule=adaptive"):
        schema.check_objective(reverse, plain, leave_one_out, schema.AdaptiveBetaConfig(kl_target=1.0))
