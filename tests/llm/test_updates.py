"""Several updates of a batch, completions of the reference, and values that change over a run."""

import copy
import itertools
import json
import shutil

import pytest
import torch

from core.objective import make_objective
from launch.cli.groups import options as files_of
from launch.engines.factory import make_engine
from llm.batch import BatchSettings, draw_batch
from llm.inference.logprobs import completion_logp
from llm.inference.sampling import sample

from .helpers import one_step, parameters, train_rows

SMALL = ("group_size=4", "prompts_per_step=3", "max_new_tokens=4", "steps=3", "threads=null", "objective.beta=.1")

BOTH = ("update.epochs=2", "update.minibatches=2")


@pytest.fixture
def models(models):
    """Models with a quarter of the bytes as EOS, so that most completions are complete."""
    return models._replace(eos_ids=torch.arange(64))


def by_hand(models, task, config):
    """The policy's parameters after a step with plain autograd over whole batches.

    A single update is on-policy; with several, all of them use the off-policy loss.
    """
    models = models._replace(policy=copy.deepcopy(models.policy))
    engine = make_engine("torch", models.policy, config.optimizer, config.steps)
    objective = make_objective(**config.objective_arguments())
    batch, G = draw_batch(BatchSettings.from_config(config), models, task, step=0), config.group_size
    ends = {"eos_ids": models.eos_ids, "pad_id": models.pad_id}
    rollout = sample(models.policy, batch.prompts, batch.uniforms, group_size=G, **ends)
    texts = rollout.texts(models.tokenizer)
    reward = torch.tensor([task.reward([], text) for text in texts]).view(-1, G)
    mask, complete = rollout.mask.view(len(reward), G, -1), rollout.complete.view(-1, G)

    def logp(model, prompts=batch.prompts, sampled=rollout):
        return completion_logp(model, prompts, sampled.tokens, sampled.mask)

    with torch.no_grad():
        ref, old = logp(models.reference).view(mask.shape), logp(models.policy).view(mask.shape)
    reference_rollout = None
    if batch.reference_uniforms is not None:
        count = len(batch.reference_uniforms) // len(reward)
        reference_rollout = sample(
            models.reference, batch.prompts, batch.reference_uniforms, group_size=count, **ends
        )
        with torch.no_grad():
            sampled_ref = logp(models.reference, sampled=reference_rollout)
    for groups in batch.updates:
        policy = logp(models.policy).view(mask.shape)[groups]
        options = {"behaviour_logp": old[groups]} if len(batch.updates) > 1 else {}
        if config.truncated == "drop":
            options["valid"] = complete[groups]
        loss, _ = objective.loss(
            reward[groups],
            policy,
            ref[groups],
            mask[groups],
            beta=config.objective.beta,
            complete=complete[groups],
            **options,
        )
        if reference_rollout is not None:
            rows = [group * count + i for group in groups for i in range(count)]
            own = logp(models.policy, sampled=reference_rollout)
            extra, _ = objective.reference_loss(
                own[rows], sampled_ref[rows], reference_rollout.mask[rows], beta=config.objective.beta
            )
            loss = loss + extra
        engine.backward(loss)
        engine.step()
    return parameters(models.policy)


def test_a_single_update_ignores_the_options_of_several(models, odd_length, make_config):
    """Bit for bit: a single update is on-policy, so that there is nothing to clip."""
    plain = one_step(models, odd_length, make_config(*SMALL, "transform=mara"))
    for options in (["update.clip_low=0", "update.clip_high=0"], ["update.ratio=sequence", "update.clip_low=null"]):
        other = one_step(models, odd_length, make_config(*SMALL, "transform=mara", *options))
        assert torch.equal(other[1], plain[1])
        assert len(other[2]) == 1
        assert other[0].metrics == plain[0].metrics
        assert "update/clipped_share" not in plain[0].metrics
    assert float((plain[1] - by_hand(models, odd_length, make_config(*SMALL, "transform=mara"))).abs().max()) < 2e-6
    several = one_step(models, odd_length, make_config(*SMALL, "transform=mara", "update.epochs=2"))
    assert len(several[2]) == 2
    assert not torch.equal(several[1], plain[1])
    torch.testing.assert_close(several[2][0], plain[2][0], atol=1e-6, rtol=1e-4)  # the first update is the same


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("update.ratio=sequence", "update.clip_low=null", "update.clip_high=null"),
        ("objective.placement=loss", "truncated=drop"),
        ("objective.level=token", "micro_batch=4"),
        ("advantage=group_normalised", "micro_batch=7"),
    ],
)
def test_several_updates_equal_those_written_out(models, odd_length, make_config, options):
    config = make_config(*SMALL, *BOTH, *options)
    result, ours, gradients = one_step(models, odd_length, config)
    assert len(gradients) == 4
    torch.testing.assert_close(ours, by_hand(models, odd_length, config), atol=5e-5, rtol=0)
    assert float(result.metrics["update/kl_from_sampling_nats"]) != 0
    assert 0 <= float(result.metrics["update/clipped_share"]) <= 1
    once = by_hand(models, odd_length, make_config(*SMALL, *options))  # control
    assert float((ours - once).abs().max()) > 1e-4
    # Metrics of the completions are those of the policy that they were sampled from.
    single = one_step(models, odd_length, make_config(*SMALL, *options))[0]
    assert result.texts == single.texts
    for name in ("reward/raw", "kl/reverse_nats", "policy/entropy_nats", "policy/token_entropy_nats"):
        assert float(result.metrics[name]) == pytest.approx(float(single.metrics[name]), abs=1e-4)


@pytest.mark.parametrize("direction", ["forward", "jensen_shannon"])
def test_the_divergence_comes_from_completions_of_the_reference(models, odd_length, make_config, direction):
    options = (*SMALL, "objective.placement=reference", f"objective.direction={direction}")
    config = make_config(*options, "reference_completions=5")
    with torch.no_grad():
        for parameter in models.policy.parameters():  # away from the reference
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    result, ours, gradients = one_step(models, odd_length, config)
    torch.testing.assert_close(ours, by_hand(models, odd_length, config), atol=5e-5, rtol=0)
    assert float(result.metrics[f"kl/{direction}_from_reference_nats"]) != 0
    in_parts = one_step(models, odd_length, make_config(*options, "reference_completions=5", "micro_batch=3"))
    torch.testing.assert_close(in_parts[2][0], gradients[0], atol=1e-6, rtol=1e-4)
    several = make_config(*options, *BOTH)
    torch.testing.assert_close(
        one_step(models, odd_length, several)[1],
        by_hand(models, odd_length, several),
        atol=5e-5,
        rtol=0,
    )
    none = one_step(models, odd_length, make_config(*options, "objective.beta=1e-9"))[2][0]  # control
    assert float((none - gradients[0]).abs().max()) > 1e-3


def test_every_method_takes_a_different_step(models, odd_length, make_config):
    own = (*SMALL, "transform.threshold.value=.5", "group_size=12")
    odd_length.answer = lambda completion: str(len(completion))  # so that some answers are equal
    with torch.no_grad():
        for parameter in models.policy.parameters():  # away from the reference, so that the KL term pulls
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    gradients = {}
    for method in (*files_of("llm", "method"), None):
        _, updated, (gradients[method],) = one_step(
            models, odd_length, make_config(*own, *([f"method={method}"] if method else []))
        )
        assert bool(updated.isfinite().all())
    same = [{"rloo", None}, {"ips_grpo", "dra_grpo"}]  # the default; answers are equal or not, rewards normalised
    same += [{"dr_grpo", "grpo_no_std"}]  # at the same beta, which `own` sets
    same += [set(pair) for pair in itertools.combinations(("cispo", "dapo", "kl_cov"), 2)]  # until the second update
    for first, second in itertools.combinations(gradients, 2):
        difference = (gradients[first] - gradients[second]).norm() / gradients[first].norm()
        equal = bool(difference < 3e-6)  # rounding
        assert equal == ({first, second} in same), (first, second)


# --- values that change over a run -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "key", "expected"),
    [
        (("beta_schedule=linear", "beta_schedule.final=.01"), "beta", [0.1, 0.07, 0.04, 0.01]),
        (("beta_schedule=cosine", "beta_schedule.final=.01"), "beta", [0.1, 0.0775, 0.0325, 0.01]),
        (
            ("objective.entropy_coef=.3", "objective.entropy_final=0"),
            "entropy_coef",
            [0.3, 0.2, 0.1, 0.0],
        ),
        (("beta_schedule=automatic", "beta_schedule.quantile=1", "transform.threshold.value=-1"), "beta", None),
        (("beta_schedule=adaptive", "beta_schedule.kl_target=1"), "beta", None),
        (("beta_schedule=adaptive", "beta_schedule.kl_target=1", "objective.direction=forward"), "beta", None),
    ],
)
def test_the_value_in_force_is_logged_used_and_survives_a_resume(
    models, odd_length, make_config, tmp_path, options, key, expected
):
    whole = tmp_path / "whole"
    options = ("steps=4", "transform=mara", "transform.threshold.value=.5", *options)
    options = tuple({option.partition("=")[0]: option for option in options}.values())  # the last one wins
    rows = train_rows(whole, models, odd_length, make_config, *SMALL, *options)
    values = [row[key] for row in rows]
    if expected is None:
        assert values[0] == 0.1
        assert len(set(values)) > 2
    else:
        assert values == pytest.approx(expected, abs=1e-6)
    part = tmp_path / "part"
    shutil.copytree(whole, part)
    for step in (3, 4):
        shutil.rmtree(part / "checkpoints" / f"step_{step:08}")
    record = json.loads((part / "run.json").read_text())
    (part / "run.json").write_text(json.dumps({**record, "state": "preempted"}))
    assert train_rows(part, models, odd_length, make_config, *SMALL, *options) == rows
    steady = ("steps=2", "transform=mara", "transform.threshold.value=.5")
    if "objective.direction=forward" in options:  # steered by the completions of the reference
        ratio = rows[1]["beta"] / rows[0]["beta"]
        expected_kl = rows[0]["kl/forward_from_reference_nats"]
        assert ratio == pytest.approx(1 + 0.1 * min(max(expected_kl - 1, -0.2), 0.2))
    constant = train_rows(tmp_path / "constant", models, odd_length, make_config, *SMALL, *steady)
    assert constant[1][key] == constant[0][key]  # control
