"""The keys of llm.diagnose, and what they say of a run."""

import pytest

from conf.schema.base import ConfigError
from llm.diagnosis.request import KEYS, known_run, read_request, trainer_settings
from llm.diagnosis.rollout_files import OURS, Reading


def run_of(reading=None, **values):
    return known_run(read_request(values), reading or Reading(), "the same text")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"betta": "1"}, r"betta: no such key \(did you mean beta"),
        ({"trainer": "other"}, "trainer: must be one of trl, verl, openrlhf, got other"),
        ({"beta": "-1"}, "beta: must be a finite number >= 0, got -1"),
        ({"threshold": "nan"}, "threshold: must be a finite number, got nan"),
        ({"equivalence": "magic"}, "equivalence: must be exact or embedding"),
        ({"from_reference": "perhaps"}, "from_reference: must be true or false"),
    ],
)
def test_a_wrong_key_is_one_line(values, message):
    with pytest.raises(ConfigError, match=message):
        read_request(values)


def test_beta_is_that_of_the_trainers_setting():
    trl = run_of(trainer="trl", beta="0.04", use_bias_correction_kl="false")
    assert (trl.beta, trl.kl.row) == (0.04, "TRL 1")
    verl = run_of(trainer="verl", use_kl_loss="true")
    assert (verl.beta, verl.kl.row, verl.direction) == (0.001, "verl 7", "forward")
    assert run_of(Reading(trainer="openrlhf"), **{"algo.kl.use_loss": "true"}).kl.row == "OpenRLHF 1"
    unknown = run_of(Reading(trainer="verl"))
    assert (unknown.beta, unknown.kl) == (None, None)  # defaults are not guessed
    assert run_of(beta="0.1").kl is None
    with pytest.raises(ConfigError, match="kl_loss_type: no setting of trainer=trl"):
        run_of(trainer="trl", kl_loss_type="k1")
    with pytest.raises(ConfigError, match="a coefficient must be a number"):
        run_of(trainer="verl", use_kl_loss="true", kl_loss_coef="much")


def test_a_configuration_of_verl_or_of_wandb_is_read(tmp_path):
    hydra = tmp_path / "config.yaml"
    hydra.write_text(
        "critic: {loss_agg_mode: token-mean}\n"
        "actor_rollout_ref: {actor: {use_kl_loss: true, kl_loss_type: k1, kl_loss_coef: 0.02, "
        "loss_agg_mode: seq-mean-token-mean}}\nalgorithm: {adv_estimator: grpo, kl_ctrl: {kl_coef: 0.5}}\n"
    )
    run = run_of(trainer="verl", config=str(hydra))
    assert (run.beta, run.kl.row) == (0.02, "verl 2")  # the mode of the actor, not of the critic
    assert run_of(trainer="verl", config=str(hydra), kl_loss_type="k3").kl.row == "verl 8"  # what is typed wins
    wandb = tmp_path / "wandb.yaml"
    wandb.write_text("beta: {value: 0.04}\nloss_type: {value: grpo}\nuse_bias_correction_kl: {value: false}\n")
    assert run_of(trainer="trl", config=str(wandb)).kl.row == "TRL 2"
    (tmp_path / "none.yaml").write_text("a: 1\n")
    with pytest.raises(ConfigError, match="has none of the settings of trainer=trl"):
        trainer_settings("trl", tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="file not found"):
        trainer_settings("trl", tmp_path / "nowhere.yaml")


def test_a_run_folder_says_everything():
    config = {
        "objective": {"beta": 0.03, "direction": "forward", "level": "sequence"},
        "transform": {"name": "historical_exploration", "threshold": {"kind": "constant", "value": 0.8}},
    }
    reading = Reading(trainer=OURS, config=config)
    run = run_of(reading)
    assert (run.beta, run.threshold, run.trainer, run.direction) == (0.03, 0.8, "", "forward")
    assert run_of(Reading(trainer=OURS, config=config), beta="0.1").beta == 0.1
    assert any("transform=historical_exploration" in note for note in reading.notes)


def test_keys_are_known_once():
    assert len(KEYS) == len(set(KEYS))
