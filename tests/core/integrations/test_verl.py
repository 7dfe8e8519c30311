"""MARA through verl's registries: the expected gradient over all groups is core's, and bad settings are refused.

verl is tested where it is on the path:

    pip install --no-deps --target trainers verl==0.9.1
    python -m pytest -o "pythonpath=. trainers" tests/core/integrations/test_verl.py
"""

import importlib
from dataclasses import replace
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

if find_spec("verl") is None:
    pytest.skip("verl is not on the path", allow_module_level=True)

from benchmarks.kl_conformance.problem import all_sequences, expected_gradient, random_logits
from benchmarks.kl_conformance.stand_ins import load
from core.classes import StepMasses, make_class_memory

core_algos, ray_trainer = load("verl", "trainer.ppo.core_algos", "trainer.ppo.ray_trainer")

mara_verl: Any = importlib.import_module("core.integrations.verl")

SEQUENCES = all_sequences(2, 3)
POLICY, REFERENCE = random_logits(SEQUENCES, 0, 0.8), random_logits(SEQUENCES, 1, 0.8)
REWARD = torch.tensor([0.2, 1.0, 1.0, 0.0], dtype=torch.float64)[: len(SEQUENCES.tokens)]
GROUP, BETA, WIDE = 3, 0.3, 1e9


class Section(dict):
    """A section of verl's configuration."""

    __getattr__ = dict.__getitem__


def algorithm(beta=BETA, *, use_kl_in_reward=True, kind="fixed", **mara):
    controller = Section(type=kind, kl_coef=beta)
    return Section(use_kl_in_reward=use_kl_in_reward, kl_ctrl=controller, mara=mara)


def actor(**changes):
    clip = dict.fromkeys(("clip_ratio", "clip_ratio_low", "clip_ratio_high", "clip_ratio_c"), WIDE)
    return Section({**clip, "global_batch_info": {}, "use_kl_loss": False, "entropy_coeff": 0.0, **changes})


def answers_of(batch):
    """An answer that several completions share: whether it has more than two tokens."""
    return ["long" if length > 2 else "short" for length in batch.mask.sum(-1).tolist()]


def data_of(batch, order=None, **extra):
    """The batch as verl's trainer holds it after `apply_kl_penalty`; `order` permutes its rows."""
    order = torch.arange(len(batch.tokens)) if order is None else order
    last = batch.mask.sum(-1, keepdim=True) - 1
    scores = torch.zeros_like(batch.old_logp).scatter(1, last, batch.reward[:, None])
    fields = {
        "response_mask": batch.mask.long(),
        "token_level_scores": scores,
        "old_log_probs": batch.old_logp,
        "ref_log_prob": batch.ref_logp,
    }
    groups = (torch.arange(len(batch.tokens)) // batch.group)[order]
    columns = {"uid": np.array([f"group {i}" for i in groups.tolist()], dtype=object)}
    data = SimpleNamespace(batch={name: value[order] for name, value in fields.items()}, non_tensor_batch=columns)
    data.batch["token_level_rewards"] = data.batch["token_level_scores"] - BETA * (
        data.batch["old_log_probs"] - data.batch["ref_log_prob"]
    )
    columns |= {name: np.array(values, dtype=object)[order.numpy()] for name, values in extra.items()}
    return data


def verl_loss(config, shuffled=False):
    """The loss of a batch: verl's `compute_advantage`, then its policy loss."""

    def loss(batch):
        count = len(batch.tokens)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0)) if shuffled else torch.arange(count)
        data = data_of(batch, order, answer=answers_of(batch))
        data = ray_trainer.compute_advantage(data, "mara", config=config)
        value, _ = core_algos.get_policy_loss_fn("mara")(
            old_log_prob=batch.old_logp[order],
            log_prob=batch.policy_logp[order],
            advantages=data.batch["advantages"],
            response_mask=batch.mask[order],
            loss_agg_mode="token-mean",
            config=actor(),
        )
        return value

    return loss


def core_loss(settings, **changes):
    """The loss of core on the same batch."""
    settings = replace(settings, **changes)
    objective, memory = settings.objective(), make_class_memory(settings.choices())

    def loss(batch):
        shape = (-1, batch.group, batch.tokens.shape[1])
        labels = answers_of(batch)
        labels = [labels[i : i + batch.group] for i in range(0, len(labels), batch.group)]
        value, _ = objective.loss(
            batch.reward.view(shape[:2]),
            batch.policy_logp.view(shape),
            batch.ref_logp.view(shape),
            batch.mask.view(shape),
            beta=settings.beta,
            masses=None if memory is None else StepMasses(memory, ["x"] * len(labels), labels),
        )
        return value

    return loss


def gradient(loss):
    return expected_gradient(SEQUENCES, loss, POLICY, REFERENCE, reward=REWARD, beta=BETA, group=GROUP)


CASES: dict[str, dict[str, Any]] = {
    "reverse": {},
    "forward": {"direction": "forward", "anchor": "group"},
    "reverse, answers": {"level": "answer", "mass": "group", "anchor": "group"},
    "forward, answers": {"level": "answer", "mass": "group", "anchor": "group", "direction": "forward"},
    "quantile": {"threshold": None, "quantile": 0.6, "floor": 0.1},
}


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_the_expected_gradient_over_all_groups_is_that_of_core(case, shuffled):
    config = algorithm(**{"threshold": 0.9, **CASES[case]})
    settings, _ = mara_verl.read_settings(config)
    ours, expected = gradient(verl_loss(config, shuffled)), gradient(core_loss(settings))
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)
    controls = [gradient(core_loss(settings, beta=2 * BETA))]
    if settings.level == "answer":
        controls.append(gradient(core_loss(settings, level="sequence")))
    if settings.threshold is not None:
        controls.append(gradient(core_loss(settings, threshold=2.0)))  # nothing is good: no MARA
    for control in controls:
        assert float((ours - control).norm() / ours.norm()) > 1e-3


def small_batch():
    rows = torch.tensor([0, 1, 2, 1, 2, 2])
    tokens, mask = SEQUENCES.tokens[rows], SEQUENCES.mask[rows]
    logp = [SEQUENCES.token_logp(logits)[rows] for logits in (POLICY, REFERENCE)]
    return SimpleNamespace(tokens=tokens, mask=mask, old_logp=logp[0], ref_logp=logp[1], reward=REWARD[rows], group=3)


def advantages(config, data=None, **changes):
    data = data_of(small_batch(), answer=answers_of(small_batch())) if data is None else data
    data.batch |= changes
    return ray_trainer.compute_advantage(data, "mara", config=config).batch["advantages"]


def test_groups_of_different_sizes_and_rows_that_do_not_count():
    config = algorithm(threshold=0.9)
    whole = advantages(config)
    data = data_of(small_batch())
    data.batch["response_mask"][5] = 0
    fewer = advantages(config, data)
    assert (fewer[5] == 0).all()
    data = data_of(small_batch())
    data.batch = {name: value[:5] for name, value in data.batch.items()}
    data.non_tensor_batch = {name: value[:5] for name, value in data.non_tensor_batch.items()}
    torch.testing.assert_close(advantages(config, data), fewer[:5])
    assert not torch.allclose(whole[3:5], fewer[3:5])  # control: the sixth row counts


def test_a_completion_at_the_longest_length_is_never_good():
    longest = int(small_batch().mask.sum(-1).max())
    plain = advantages(algorithm(threshold=0.9))
    limited = advantages(algorithm(threshold=0.9, max_response_length=longest))
    assert not torch.allclose(plain, limited)
    torch.testing.assert_close(advantages(algorithm(threshold=0.9, max_response_length=99)), plain)


def test_facts_of_a_trainer_are_used_and_metrics_are_returned():
    config, batch = algorithm(threshold=0.9, level="answer"), small_batch()
    metrics: dict[str, float] = {}
    prompts = [[1, 2]] * 3 + [[3]] * 3
    with mara_verl.step_facts(mara_verl.StepFacts(answers_of(batch), prompts, metrics)):
        advantages(config, data_of(batch))
    assert metrics["mara/good_share"] == pytest.approx(5 / 6)
    memory = mara_verl._estimators[mara_verl.read_settings(config)].memory
    assert len(memory.prompts) == 2


REFUSED = [
    ({"use_kl_in_reward": False, "threshold": 0.9}, r"^algorithm\.use_kl_in_reward: must be True"),
    ({"kind": "adaptive", "threshold": 0.9}, r"^algorithm\.kl_ctrl\.type: must be fixed with MARA, got adaptive"),
    ({}, r"^algorithm\.mara\.threshold: give one of"),
    ({"treshold": 0.9}, r"^algorithm\.mara\.treshold: no such key; the keys are"),
    ({"threshold": 0.9, "mass": "reference"}, r"^algorithm\.mara\.mass: must be remembered or group"),
    ({"threshold": 0.9, "direction": "forward"}, r"^algorithm\.mara\.mass and .*passes on no prompts"),
    ({"threshold": 0.9, "beta": 0.0}, r"^MARA needs a finite beta > 0"),
]


@pytest.mark.parametrize(("keys", "message"), REFUSED)
def test_settings_without_the_optimum_are_refused(keys, message):
    with pytest.raises(ValueError, match=message) as error:
        advantages(algorithm(**keys))
    assert "\n" not in str(error.value)


def directly(*arguments):
    return mara_verl.mara_advantage(*arguments)


def test_what_the_batch_lacks_is_named():
    data = data_of(small_batch())
    del data.batch["ref_log_prob"]
    with pytest.raises(ValueError, match=r"^ref_log_prob: the batch must have"):
        advantages(algorithm(threshold=0.9), data)
    with pytest.raises(ValueError, match=r"^algorithm\.mara\.level=answer: the reward function must return"):
        advantages(algorithm(threshold=0.9, level="answer", mass="group", anchor="group"), data_of(small_batch()))
    with pytest.raises(ValueError, match=r"^adv_estimator: mara must be called by verl's compute_advantage"):
        directly(*(torch.ones(6, 3) for _ in range(2)), ["a"] * 6, algorithm(threshold=1))


@pytest.mark.parametrize(("key", "value"), [("use_kl_loss", True), ("entropy_coeff", 0.01)])
def test_further_terms_in_the_loss_are_refused(key, value):
    one = torch.zeros(1, 1)
    with pytest.raises(ValueError, match=rf"^actor\.{key}: must be .* with MARA"):
        mara_verl.mara_policy_loss(one, one, one, one, config=actor(**{key: value}))
