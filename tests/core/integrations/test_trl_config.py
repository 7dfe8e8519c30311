"""MaraGRPOConfig: which keys are refused, by name and with a reason."""

import importlib
import sys

import pytest

pytest.importorskip("trl", reason="needs the extra trl")

from core.integrations.trl import ALLOWED, MaraGRPOConfig

CPU = {"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no", "disable_tqdm": True}
MARA = {"mara_beta": 0.3, "mara_threshold": 0.8}

REFUSED = {
    "beta": 0.1,
    "scale_rewards": "group",
    "multi_objective_aggregation": "normalize_then_sum",
    "loss_type": "dapo",
    "num_iterations": 2,
    "entropy_coef": 0.01,
    "use_adaptive_entropy": True,
    "top_entropy_quantile": 0.2,
    "off_policy_mask_threshold": 0.5,
    "sync_ref_model": True,
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 50,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "generation_kwargs": {"min_new_tokens": 4},
    "steps_per_generation": 2,
    "delta": 0.5,
    "mara_beta": 0.0,
    "mara_threshold": None,
    "mara_quantile": 0.5,
    "mara_floor": 0.1,
    "mara_direction": "sideways",
    "mara_algorithm": "3",
    "mara_reference_quantile": 0.5,
    "mara_reference_samples": 0,
    "mara_level": "token",
    "mara_mass": "guessed",
    "mara_anchor": "first",
    "mara_max_log_weight": 5.0,
}


def test_without_a_number_the_weights_have_the_cap_of_core(tmp_path):
    legal = {"output_dir": str(tmp_path), **CPU, **MARA, "mara_direction": "forward"}
    for given, cap in ((None, "auto"), (5.0, 5.0), (float("inf"), None)):
        arguments = MaraGRPOConfig(**legal, mara_max_log_weight=given, mara_reward_range=3.0).objective_arguments()
        assert (arguments["max_log_weight"], arguments["reward_range"]) == (cap, 3.0)


@pytest.mark.parametrize("key", REFUSED)
def test_options_that_change_the_optimum_are_refused_by_name(tmp_path, key):
    legal = {"output_dir": str(tmp_path), **CPU, **MARA}
    MaraGRPOConfig(**legal)  # control
    other_names = {"mara_beta": "beta", "mara_direction": "direction"}
    other_names |= {"mara_quantile": "mara_threshold", "mara_reference_quantile": "mara_threshold"}
    name = other_names.get(key, key.removeprefix("mara_"))
    with pytest.raises(ValueError, match=rf"{name}.*got") as refusal:
        MaraGRPOConfig(**legal | {key: REFUSED[key]})
    assert "\n" not in str(refusal.value)


def test_every_refused_key_of_trl_is_tested():
    assert ALLOWED.keys() <= REFUSED.keys()


def test_without_trl_the_import_says_what_to_install(monkeypatch):
    for module in ("trl", "trl_config"):
        monkeypatch.delitem(sys.modules, f"core.integrations.{module}")
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(ImportError, match=r"^core\.integrations\.trl: trl is not installed: pip install 'trl>=1\.16"):
        importlib.import_module("core.integrations.trl")
