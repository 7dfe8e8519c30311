"""The suggested change fits, is the smallest one, and is written as overrides."""

from dataclasses import replace

from llm.plan.advice import candidate_changes, change_overrides, describe_change, halvings, peak_bytes, suggest_change

from .examples import plan_settings


def test_the_suggestion_fits_and_is_the_smallest_change():
    settings = plan_settings(micro_batch=32)
    available = peak_bytes(replace(settings, micro_batch=8))
    assert suggest_change(settings, available) == {"micro_batch": 8}
    assert peak_bytes(replace(settings, micro_batch=16)) > available  # control
    weights = plan_settings(micro_batch=1, new_tokens=2, vocabulary=400_000, prompts=16)
    change = suggest_change(weights, 0.7 * peak_bytes(weights))
    assert {"engine", "ranks"} <= set(change)
    assert peak_bytes(replace(weights, **change)) <= 0.7 * peak_bytes(weights)
    assert suggest_change(weights, 1000) is None


def test_halvings_end_at_one():
    assert list(halvings(12)) == [12, 6, 3, 1]
    assert list(halvings(1)) == [1]


def test_candidates_start_without_a_change_and_respect_ranks_and_devices():
    on_cpu = list(candidate_changes(plan_settings(prompts=4, evaluation_rows=9)))
    assert on_cpu[:3] == [{}, {"evaluation_rows": 4}, {"evaluation_rows": 4, "checkpointing": True}]
    assert not any("reference_on_cpu" in change for change in on_cpu)
    assert {change["ranks"] for change in on_cpu if "ranks" in change} == {1, 2, 4}  # a rank needs a prompt
    assert {"engine": "zero3_offload", "ranks": 1} in on_cpu
    assert {"engine": "zero2", "ranks": 1} not in on_cpu  # one rank has nothing to partition
    on_gpu = list(candidate_changes(plan_settings(cuda=True)))
    assert on_gpu[2] == {"evaluation_rows": 4, "reference_on_cpu": True}
    with_lora = list(candidate_changes(plan_settings(cuda=True, lora=(2, ("q_proj",)))))
    assert not any("reference_on_cpu" in change for change in with_lora)  # it has no reference of its own
    zero2 = [change for change in candidate_changes(plan_settings(engine="zero2", ranks=2)) if "engine" in change]
    assert {"engine": "zero2", "ranks": 2} not in zero2  # not a change
    assert {"engine": "zero2", "ranks": 4} in zero2


def test_a_change_is_written_with_configuration_keys_and_present_values():
    settings = plan_settings(micro_batch=8)
    change = {"evaluation_rows": 2, "checkpointing": True, "micro_batch": 4}
    assert describe_change(settings, change) == (
        "evaluation_completions=2 (now 4) and model.gradient_checkpointing=true (now false) and micro_batch=4 (now 8)"
    )
    overrides = ["evaluation_completions=2", "model.gradient_checkpointing=true", "micro_batch=4"]
    assert change_overrides(change) == overrides
