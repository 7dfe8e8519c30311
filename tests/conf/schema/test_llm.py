"""Training, evaluation and averaging of language models: each rule beside a legal neighbour."""

from dataclasses import fields, replace

import pytest

from conf.schema.base import ConfigError
from conf.schema.llm import RewardConfig, RewardPartConfig, reward_part

from .legality import assert_rejected, make_config, rejection

MAX_AT_K = "advantage=max_at_k"
P, Q = "+reward.parts.p", "+reward.evaluation.q"
CASES = [  # rejected overrides, the key that the message names, legal overrides
    ("group_size=1", "group_size", "group_size=1 advantage=no_baseline"),
    (f"group_size=3 {MAX_AT_K} advantage_k=4", "group_size", f"group_size=4 {MAX_AT_K} advantage_k=4"),
    ("objective.entropy_final=-.1", "objective.entropy_final", "objective.entropy_final=0"),
    ("update.epochs=0", "update.epochs", "update.epochs=3"),
    ("update.minibatches=0", "update.minibatches", "update.minibatches=3 prompts_per_step=3"),
    ("update.clip_low=1.5", "update.clip_low", "update.clip_low=null"),
    ("update.clip_high=-.1", "update.clip_high", "update.clip_high=3"),
    ("update.ratio=word", "update.ratio", "update.ratio=sequence"),
    ("update.minibatches=2", "update.minibatches", "update.minibatches=2 prompts_per_step=2"),
    ("update.epochs=2 objective.gamma=.9", "objective.gamma", "objective.gamma=.9"),
    ("reference_completions=4", "reference_completions", "reference_completions=4 objective.placement=reference"),
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
    ("model.dtype=int8", "model.dtype", "model.dtype=auto"),
    ("model.device=cuda:a", "model.device", "model.device=cuda:1"),
    ("model.lora.rank=0", "model.lora.rank", "model.lora.rank=4"),
    (
        "model.lora.rank=4 model.reference_on_cpu=true",
        "model.reference_on_cpu",
        "model.reference_on_cpu=true",
    ),
]
MORE = [
    ("model.lora.target_modules=[]", "model.lora.target_modules", "model.lora.target_modules=[q_proj]"),
    (
        "engine=zero3 model.compile_decoding=true",
        "model.compile_decoding",
        "engine=zero2 model.compile_decoding=true",
    ),
    (
        "model.cuda_graphs=true model.device=cuda model.compile_decoding=true",
        "model.cuda_graphs",
        "model.cuda_graphs=true model.device=cuda",
    ),
    ("model.cuda_graphs=true model.device=cpu", "model.cuda_graphs", "model.cuda_graphs=true model.device=cuda"),
    (
        "engine=zero3 model.device=cuda model.cuda_graphs=true",
        "model.cuda_graphs",
        "engine=zero2 model.device=cuda model.cuda_graphs=true",
    ),
    ("model.attention=flash", "model.attention", "model.attention=sdpa"),
]


@pytest.mark.parametrize(("rejected", "key", "legal"), [*CASES, *MORE])
def test_a_rule_rejects_and_its_neighbour_is_legal(rejected, key, legal):
    assert_rejected("llm", rejected, key, legal)


@pytest.mark.parametrize(
    ("rejected", "message"),
    [
        (
            "update.minibatches=2",
            "update.minibatches: must be <= prompts_per_step, because groups are never split, got 2 and 1",
        ),
        (
            "reference_completions=4",
            "reference_completions: is only used with objective.placement=reference; set it to null, got 4",
        ),
        (
            "model.lora.rank=4 model.reference_on_cpu=true",
            "model.reference_on_cpu: must be false with model.lora.rank, because the reference is then the policy "
            "without its adapter, got true",
        ),
        ("group_size=1", "group_size: must be >= 2 with advantage=leave_one_out, got 1"),
        (f"{P}={{}}", "reward.parts.p: must have either function or model, got function=null, model=null"),
        (f"{P}='a:b'", "reward.parts.p: must be a mapping of function, model, weight, got a:b"),
        (f"{P}.model=c {P}.wight=1", "reward.parts.p.wight: no such key; allowed: function, model, weight"),
        (
            f"{P}.model=c +reward.evaluation.p.model=d",
            "reward.evaluation: must have other names than reward.parts, got p in both",
        ),
    ],
)
def test_a_message_in_full(rejected, message):
    assert rejection("llm", rejected) == message


def test_parts_of_the_reward_become_typed():
    parts = {"a": {"model": "m", "weight": 2}, "b": RewardPartConfig(function="task")}
    reward = RewardConfig(parts=parts, evaluation={}, on_failure="stop", batch_size=1)
    assert reward.parts == {"a": RewardPartConfig(model="m", weight=2), "b": RewardPartConfig(function="task")}
    assert RewardPartConfig(model="m").weight == 1.0
    part = RewardPartConfig(model="m")
    assert reward_part("reward.parts.a", part) is part
    with pytest.raises(ConfigError, match=r"^reward\.parts\.a\.weight: must be a finite number and not 0, got true$"):
        reward_part("reward.parts.a", {"model": "m", "weight": True})


def test_the_objective_gets_the_clipping_range_and_the_number_of_updates():
    config = make_config("llm", "update.epochs=3 update.minibatches=2 prompts_per_step=2")
    assert config.choices().updates == config.update.count == 6
    arguments = config.objective_arguments()
    assert (arguments["clip_low"], arguments["clip_high"], arguments["ratio"]) == (0.2, 0.2, "token")
    unclipped = replace(config, update=replace(config.update, clip_low=None)).objective_arguments()
    assert "clip_low" not in unclipped  # the default of core: no clipping
    assert unclipped["clip_high"] == 0.2


EVALUATE = "generations=a.jsonl equivalence=exact"
SAMPLED = "model=m prompts=p.jsonl max_new_tokens=3 equivalence=exact"


@pytest.mark.parametrize(
    ("rejected", "key", "legal"),
    [
        ("equivalence=exact", "generations", EVALUATE),
        (f"{EVALUATE} run=r", "generations", EVALUATE),
        (f"{EVALUATE} prompts=p.jsonl", "prompts", EVALUATE),
        (f"{EVALUATE} max_new_tokens=3", "max_new_tokens", EVALUATE),
        ("model=m prompts=p.jsonl max_new_tokens=3", "equivalence", SAMPLED),
        ("model=m prompts=p.jsonl equivalence=exact", "max_new_tokens", SAMPLED),
        ("model=m max_new_tokens=3 equivalence=exact", "prompts", f"{SAMPLED} prompts=null experiment=one_two"),
        ("run=r equivalence=exact experiment=one_two", "experiment", "run=r equivalence=exact"),
        (f"{EVALUATE} device=tpu", "device", f"{EVALUATE} device=cuda:0"),
        (
            f"{EVALUATE} score_thresholds=[1,2]",
            "score_thresholds",
            f"{EVALUATE} score_thresholds=[1,2,3,4,5,6,7,8,9]",
        ),
        (
            f"{EVALUATE} score_thresholds=[1,2,3,4,5,6,7,9,8]",
            "score_thresholds",
            f"{EVALUATE} score_thresholds=[-9,-8,-7,-6,-5,-4,-3,-2,-1]",
        ),
        (f"{EVALUATE} pass_at=[1,1]", "pass_at", f"{EVALUATE} pass_at=[1,2]"),
        (f"{EVALUATE} pass_at=[0]", "pass_at", f"{EVALUATE} pass_at=[1]"),
        (f"{EVALUATE} vocabulary=1", "vocabulary", f"{EVALUATE} vocabulary=2"),
        (f"{EVALUATE} patience=0", "patience", f"{EVALUATE} patience=1"),
    ],
)
def test_a_rule_of_the_evaluation(rejected, key, legal):
    assert_rejected("llm.evaluate", rejected, key, legal)


def test_a_weight_of_the_average_is_a_share():
    models = "policy=p reference=r"
    assert_rejected("llm.ensemble", f"{models} weight=1.1", "weight", f"{models} weight=1")
    assert_rejected("llm.ensemble", "reference=r", "policy", models)


def test_the_evaluation_has_no_key_twice():
    config = make_config("llm.evaluate", EVALUATE)
    names = [field.name for field in fields(config)]
    assert len(names) == len(set(names))
